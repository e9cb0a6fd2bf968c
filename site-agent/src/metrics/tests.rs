use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Error, Reference, Scores, score};
use crate::data::volume::Volume;

/// What `tests/reference/metrics.py` had the challenge's package and torchmetrics say.
const GOLDEN: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/model/metrics.json"));

#[derive(Deserialize)]
struct Golden {
    voxels: u64,
    single: Scores,
    double: Scores,
    stored_y_first: Scores,
    stored_z_first: Scores,
}

struct Fixture {
    truth: Volume,
    prediction: Volume,
    voided: Volume,
    mask: Volume,
}

impl Fixture {
    /// From what a voxel is: its truth, its prediction, its voided value, whether it is scored.
    fn new(dims: [usize; 3], voxel: impl Fn(f64, f64, f64) -> (f64, f64, f64, bool)) -> Fixture {
        let volume = Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels: vec![] };
        let [mut truth, mut prediction, mut voided, mut mask] =
            [volume.clone(), volume.clone(), volume.clone(), volume];
        for i in 0..dims.iter().product() {
            let [x, y, z] = [i % dims[0], i / dims[0] % dims[1], i / dims[0] / dims[1]];
            let (t, p, v, m) = voxel(x as f64, y as f64, z as f64);
            truth.voxels.push(t as f32);
            prediction.voxels.push(p as f32);
            voided.voxels.push(v as f32);
            mask.voxels.push(f32::from(u8::from(m)));
        }
        Fixture { truth, prediction, voided, mask }
    }

    fn score(&self) -> Result<Scores, Error> {
        score(&self.reference()?, &self.prediction)
    }

    fn reference(&self) -> Result<Reference<'_>, Error> {
        Reference::new(&self.truth, &self.voided, &self.mask)
    }
}

fn in_ball(at: [f64; 3], centre: [f64; 3], radius_squared: f64) -> bool {
    at.iter().zip(centre).map(|(a, c)| (a - c).powi(2)).sum::<f64>() <= radius_squared
}

/// A smooth brain, the mask within it, a lesion beside it.
fn smooth() -> Fixture {
    Fixture::new([20, 24, 18], |x, y, z| {
        let brain = (x - 9.5).powi(2) / 81.0 + (y - 11.5).powi(2) / 121.0;
        let brain = brain + (z - 8.5).powi(2) / 64.0 <= 1.0;
        let texture = (7.0 * x + 13.0 * y + 29.0 * z) % 17.0 * 12.0;
        let waves = 250.0 * (0.4 * x).sin() * (0.3 * y).cos() + 120.0 * (0.5 * z).sin();
        let truth = if brain { 600.0 + waves + texture } else { 0.0 };
        let healthy = in_ball([x, y, z], [7.0, 12.0, 9.0], 16.0);
        let wrong = ((3.0 * x + 5.0 * y + 11.0 * z) % 7.0 - 3.0) * 20.0;
        if healthy || in_ball([x, y, z], [14.0, 10.0, 9.0], 6.25) {
            (truth, 0.93 * truth + wrong + 15.0, 0.0, healthy)
        } else {
            (truth, truth, truth, healthy)
        }
    })
}

fn fixtures() -> [(&'static str, Fixture); 5] {
    let border = Fixture::new([16, 15, 13], |x, y, z| {
        let truth = 100.0 + (5.0 * x + 3.0 * y + 7.0 * z) % 23.0 * 20.0 + x * y;
        let healthy = x < 6.0 && y < 7.0 && z < 5.0;
        let prediction = 0.9 * truth + (2.0 * x + 7.0 * y + z) % 5.0 * 15.0;
        (truth, prediction, if healthy { 0.0 } else { truth }, healthy)
    });
    let two_blobs = Fixture::new([24, 20, 22], |x, y, z| {
        let waves = (11.0 * x + 5.0 * y + 3.0 * z) % 31.0 * 10.0;
        let truth = 400.0 + waves - 8.0 * (x - 12.0).abs();
        let healthy = in_ball([x, y, z], [6.0, 6.0, 7.0], 14.0)
            || in_ball([x, y, z], [17.0, 14.0, 15.0], 20.0);
        let prediction = truth + ((x + 2.0 * y + 3.0 * z) % 9.0 - 4.0) * 180.0;
        (truth, prediction, if healthy { 0.0 } else { truth }, healthy)
    });
    let near_constant = Fixture::new([18, 18, 18], |x, y, z| {
        if in_ball([x, y, z], [9.0, 8.0, 9.0], 30.0) {
            let truth = 700.0 + (x + y + z) % 2.0 * 0.5;
            return (truth, 702.0 + (x + 2.0 * y) % 3.0 * 0.25, 0.0, true);
        }
        let truth = 200.0 + (x + 3.0 * y + 5.0 * z) % 41.0 * 18.0;
        (truth, truth, truth, false)
    });
    let flat = Fixture::new([31, 9, 6], |x, y, z| {
        let truth = 90.0 + (13.0 * x + 17.0 * y + 19.0 * z) % 29.0 * 25.0;
        let healthy = x > 10.0 && x < 23.0 && (y - 4.0).abs() + (z - 2.0).abs() < 4.0;
        let prediction = truth + ((5.0 * x + y + 2.0 * z) % 6.0 - 2.5) * 30.0;
        (truth, prediction, if healthy { 120.0 } else { truth }, healthy)
    });
    [
        ("smooth", smooth()),
        ("border", border),
        ("two_blobs", two_blobs),
        ("near_constant", near_constant),
        ("flat", flat),
    ]
}

/// How far two sets of scores lie apart, relative to the second where that is above 1.
fn apart(found: &Scores, expected: &Scores) -> f64 {
    let mut largest = 0.0;
    let _ = Scores::each(|of| {
        largest = f64::max(largest, (of(found) - of(expected)).abs() / of(expected).abs().max(1.0));
        largest
    });
    largest
}

#[test]
fn the_scores_are_those_of_the_challenges_package() {
    let golden: BTreeMap<String, Golden> = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(golden.len(), fixtures().len());
    for (name, fixture) in fixtures() {
        let Golden { voxels, single, double, .. } = &golden[name];
        let found = fixture.score().unwrap();
        assert_eq!(fixture.reference().unwrap().voxels(), *voxels, "{name}");
        assert!(apart(&found, single) < 1e-6, "{name}: {found:?} {single:?}");
        assert!(apart(&found, double) < 1e-8, "{name}: {found:?} {double:?}");
    }
}

#[test]
fn windows_lie_as_the_package_lays_them_in_files_of_another_order_of_axes() {
    let golden: BTreeMap<String, Golden> = serde_json::from_str(GOLDEN).unwrap();
    let mut matters = 0;
    for (name, fixture) in fixtures() {
        let Golden { double, stored_y_first, stored_z_first, .. } = &golden[name];
        for (axis, expected) in [double, stored_y_first, stored_z_first].into_iter().enumerate() {
            let reference = fixture.reference().unwrap().across(axis);
            let found = score(&reference, &fixture.prediction).unwrap();
            assert!(apart(&found, expected) < 1e-8, "{name} {axis}: {found:?} {expected:?}");
        }
        matters += usize::from((stored_z_first.ssim - double.ssim).abs() > 1e-4);
    }
    assert_eq!(matters, 4, "the order of axes matters but where there is next to no contrast");
}

#[test]
fn a_flip_of_the_axes_changes_no_score() {
    let fixture = smooth();
    let flipped = |v: &Volume| {
        let mut voxels = v.voxels.clone();
        voxels.chunks_exact_mut(v.dims[0] * v.dims[1]).for_each(<[f32]>::reverse);
        v.with_voxels(voxels)
    };
    let mirror = Fixture {
        truth: flipped(&fixture.truth),
        prediction: flipped(&fixture.prediction),
        voided: flipped(&fixture.voided),
        mask: flipped(&fixture.mask),
    };
    assert!(apart(&fixture.score().unwrap(), &mirror.score().unwrap()) < 1e-12);
}

#[test]
fn what_lies_outside_the_mask_counts_nowhere() {
    let mut fixture = smooth();
    let before = fixture.score().unwrap();
    for (voxel, &mask) in fixture.prediction.voxels.iter_mut().zip(&fixture.mask.voxels) {
        if mask == 0.0 {
            *voxel = f32::NAN;
        }
    }
    assert_eq!(fixture.score().unwrap(), before);
}

#[test]
fn a_perfect_prediction_at_the_border_scores_perfectly() {
    let mut fixture = smooth();
    fixture.prediction = fixture.truth.clone();
    fixture.mask = Fixture::new([20, 24, 18], |x, y, z| (0.0, 0.0, 0.0, x + y + z < 20.0)).mask;
    let scores = fixture.score().unwrap();
    assert!((scores.ssim - 1.0).abs() < 1e-12 && (scores.ssim_3d - 1.0).abs() < 1e-12);
    assert_eq!((scores.mse, scores.psnr_01), (0.0, f64::INFINITY));
}

#[test]
fn volumes_that_cannot_be_scored_are_refused() {
    fn refused(truth: &Volume, voided: &Volume, mask: &Volume) -> Option<Error> {
        Reference::new(truth, voided, mask).err()
    }
    let Fixture { truth, prediction, voided, mask } = smooth();
    let none = truth.with_voxels(vec![0.0; truth.voxels.len()]);
    assert_eq!(refused(&truth, &voided, &none), Some(Error::EmptyMask));
    assert!(matches!(refused(&truth, &none, &mask), Some(Error::Window(_))));
    for dims in [[5, 24 * 4, 18], [20, 5, 24 * 18 / 5], [20, 24 * 18 / 5, 5]] {
        let voxels = vec![1.0; dims.iter().product()];
        let thin = Volume { dims, voxels, ..none.clone() };
        assert_eq!(refused(&thin, &thin, &thin), Some(Error::TooThin(dims)));
        let shape = refused(&truth, &voided, &thin);
        assert!(matches!(shape, Some(Error::Shape { what: "mask", .. })), "{shape:?}");
    }
    let reference = Reference::new(&truth, &voided, &mask).unwrap();
    let broken = prediction.with_voxels(vec![f32::NAN; prediction.voxels.len()]);
    assert_eq!(score(&reference, &broken), Err(Error::NotFinite("prediction")));
    let short = Volume { voxels: vec![0.0; 7], ..none };
    let refused = score(&reference, &short);
    assert!(matches!(refused, Err(Error::Shape { what: "prediction", .. })));
}
