use super::{Damaged, Error, Prepared, Scan, build};
use crate::data::compose::code;
use crate::data::example::Region;
use crate::data::grid;
use crate::data::mask::Room;
use crate::data::normalise::{self, Window};
use crate::data::phantom_for_tests::{brain, tumour};
use crate::data::volume::Volume;

fn open(scans: &[Scan<'_>], lesion: Option<&[Option<Region>]>) -> Prepared {
    Prepared::open(Box::new(build(scans, lesion).unwrap())).unwrap()
}

/// The whole slices of a contrast put back into a volume of the crop.
fn voxels(case: &Prepared, contrast: usize) -> Vec<f32> {
    let mut voxels = Vec::new();
    case.scan(contrast).unwrap().read(0, case.dims().iter().product(), &mut voxels);
    voxels
}

#[test]
fn every_voxel_of_brain_comes_back_exactly_in_each_storage() {
    let image = brain();
    let scaled = |by: f32, whole: bool| {
        let value = |v: &f32| if whole { (v * by).round() } else { v * by };
        image.with_voxels(image.voxels.iter().map(value).collect())
    };
    // 255 at most, 65,535 at most, not whole.
    let images = [scaled(0.1, true), scaled(20.0, true), scaled(1.0 / 3.0, false)];
    for (image, width) in images.iter().zip([1, 2, 4]) {
        let case = open(&[Scan { contrast: 1, image }], None);
        let scan = case.scan(1).unwrap();
        assert_eq!(scan.intensities.len(), width * case.dims().iter().product::<usize>());
        let kept: Vec<f32> = image.voxels.iter().copied().filter(|&v| v > 0.0).collect();
        let found = voxels(&case, 1);
        assert!(found.iter().copied().filter(|&v| v > 0.0).eq(kept.iter().copied()));
        assert!((0..found.len()).all(|i| scan.at(i) == found[i]));
        let all = case.dims().iter().product::<usize>();
        assert!(all < image.voxels.len(), "the background around the brain is left out");
    }
}

#[test]
fn negative_voxels_count_as_background_and_the_window_is_that_of_the_whole_volume() {
    let mut image = brain();
    image.voxels[0] = -136.0;
    let case = open(&[Scan { contrast: 0, image: &image }], None);
    let scan = case.scan(0).unwrap();
    let expected = Window::of(image.voxels.iter().copied()).unwrap();
    assert_eq!(scan.tails().unwrap().0.window(0, |_| 0, &[]), Some(Ok(expected)));
    assert_eq!(scan.window_of_all(|_| false), Ok(expected));
    assert!(voxels(&case, 0).iter().all(|&v| v >= 0.0));
}

#[test]
fn the_lesion_and_the_room_are_those_of_the_case() {
    let image = brain();
    let lesion = tumour(&image);
    let case = open(&[Scan { contrast: 0, image: &image }], Some(&lesion));
    let found = case.lesion().unwrap();
    assert!(!found.has_mixed);
    for region in [Region::Necrosis, Region::Oedema, Region::Enhancing] {
        let expected = lesion.iter().filter(|&&l| l == Some(region)).count();
        assert_eq!(found.codes.iter().filter(|&&c| c == code(region)).count(), expected);
    }
    assert!(case.room().is_some());
    let mixed: Vec<Option<Region>> = lesion.iter().map(|l| l.map(|_| Region::Mixed)).collect();
    let case = open(&[Scan { contrast: 0, image: &image }], Some(&mixed));
    assert!(case.lesion().unwrap().has_mixed);
    let nothing = vec![None; lesion.len()];
    assert!(open(&[Scan { contrast: 0, image: &image }], Some(&nothing)).lesion().is_none());
}

#[test]
fn a_healthy_mask_lies_where_every_contrast_has_brain() {
    let image = brain();
    let mut half = image.clone();
    half.voxels[..image.voxels.len() / 2].fill(0.0);
    let scans = [Scan { contrast: 0, image: &image }, Scan { contrast: 3, image: &half }];
    let both = open(&scans, None);
    assert!(both.contrasts().eq([0, 3]));
    let common: Vec<f32> = voxels(&both, 0)
        .iter()
        .zip(voxels(&both, 3))
        .map(|(&a, b)| if a > 0.0 && b > 0.0 { 1.0 } else { 0.0 })
        .collect();
    let dims = both.dims();
    let common = Volume { dims, spacing_mm: image.spacing_mm, origin_mm: [0.0; 3], voxels: common };
    let expected = Room::new(&common, |_| false).unwrap();
    assert_eq!(both.room().unwrap().to_bytes(), expected.to_bytes());
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let image = brain();
    let refused =
        |scans: &[Scan<'_>], lesion: Option<&[Option<Region>]>| build(scans, lesion).unwrap_err();
    let scan = Scan { contrast: 0, image: &image };
    assert_eq!(refused(&[], None), Error::Contrasts(vec![]));
    assert_eq!(refused(&[scan, scan], None), Error::Contrasts(vec![0, 0]));
    assert_eq!(refused(&[Scan { contrast: 4, ..scan }], None), Error::Contrasts(vec![4]));
    let short = vec![None; 5];
    let error = refused(&[scan], Some(&short));
    assert!(matches!(error, Error::Shape { what: "lesion map", found: 5, .. }), "{error}");
    let healthy = vec![Some(Region::Healthy); image.voxels.len()];
    assert_eq!(refused(&[scan], Some(&healthy)), Error::Label(Region::Healthy));
    let torn = Volume { dims: [1, 2, 3], ..image.clone() };
    let error = refused(&[Scan { image: &torn, ..scan }], None);
    assert!(matches!(error, Error::Grid(grid::Error::Shape { .. })), "{error}");
    let with = |value: f32| image.with_voxels(vec![value; image.voxels.len()]);
    for (volume, expected) in [
        (with(0.0), Error::Grid(grid::Error::NoBrain)),
        (with(f32::NAN), Error::Window(normalise::Error::NotFinite)),
        (with(7.0), Error::Window(normalise::Error::Flat { value: 7.0 })),
    ] {
        assert_eq!(refused(&[Scan { image: &volume, ..scan }], None), expected);
        // One bad contrast is enough.
        let both = [scan, Scan { contrast: 1, image: &volume }];
        assert_eq!(refused(&both, None), expected);
    }
}

#[test]
fn a_block_that_is_cut_off_or_garbage_is_damaged_and_never_a_panic() {
    let image = brain();
    let lesion = tumour(&image);
    let block = build(&[Scan { contrast: 0, image: &image }], Some(&lesion)).unwrap();
    for length in [0, 7, 8, 40, 400, block.len() / 2, block.len() - 1] {
        assert!(Prepared::open(Box::new(block[..length].to_vec())).is_err(), "{length}");
    }
    assert_eq!(Prepared::open(Box::new(vec![0xff; 64])).err(), Some(Damaged("header too long")));
    // The header is what a flipped bit could mislead by.
    for at in 0..1000.min(block.len()) {
        let mut harmed = block.clone();
        harmed[at] ^= 1 << (at % 8);
        if let Ok(case) = Prepared::open(Box::new(harmed)) {
            let contrasts: Vec<usize> = case.contrasts().collect();
            for scan in contrasts.into_iter().filter_map(|contrast| case.scan(contrast)) {
                let _ = (scan.tails(), scan.areas().len(), scan.at(0));
            }
            let _ = (case.lesion(), case.room());
        }
    }
}
