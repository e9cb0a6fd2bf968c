use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Shelf;
use crate::data::cache::Cache;
use crate::data::exam;
use crate::data::example::Example;
use crate::data::labels::LabelScheme;
use crate::data::layout::{Case, Contrast};
use crate::data::mask::Mode;
use crate::data::mask::bank::Bank;
use crate::data::nifti::{self, Storage};
use crate::data::phantom_for_tests::{brain, tumour};
use crate::data::pool::{BatchKey, PoolCase, SlicePool};
use crate::data::prefetch::{Ahead, ahead};
use crate::data::scan::SliceOptions;
use crate::data::volume::Volume;

const SCHEME: Option<LabelScheme> = Some(LabelScheme::Brats2023);

const OPEN_BYTES: usize = 1 << 30;

/// A case of two contrasts and a tumour on the disk; `gain` makes its voxels its own.
fn case(folder: &Path, name: &str, gain: f32) -> Case {
    let image = brain();
    let labels = tumour(&image).into_iter().map(|l| l.map_or(0.0, |region| region as u8 as f32));
    let write = |kind: &str, volume: &Volume| -> PathBuf {
        let path = folder.join(format!("{name}-{kind}.nii.gz"));
        nifti::write_new(&path, volume, Storage::I16, "").unwrap();
        path
    };
    let scaled =
        |by: f32| image.with_voxels(image.voxels.iter().map(|v| (v * by).round()).collect());
    let scans = BTreeMap::from([
        (Contrast::T1n, write("t1n", &scaled(gain))),
        (Contrast::T2f, write("t2f", &scaled(2.0 * gain))),
    ]);
    let segmentation = Some(write("seg", &image.with_voxels(labels.collect())));
    let patient = name.to_owned();
    Case {
        name: name.into(),
        patient,
        scans,
        segmentation,
        label_scheme: None,
        companions: BTreeMap::new(),
    }
}

fn examples(shelf: &Shelf, cases: &[Case], threads: usize) -> Vec<Example> {
    let open = |index: usize| shelf.case(&cases[index], SCHEME).map_err(Into::into);
    let pooled = cases.iter().enumerate().map(|(index, case)| PoolCase {
        patient: case.patient.clone(),
        index,
        contrasts: case.scans.keys().map(|&contrast| contrast as usize).collect(),
    });
    let options = SliceOptions {
        size: 24,
        masks: 2,
        seed: 5,
        round: 1,
        mode: Mode::Corrected,
        augment: false,
    };
    let shapes = cases.iter().flat_map(|case| shelf.shapes(case, SCHEME, options.mode).unwrap());
    let bank = Bank::new(shapes.collect()).map(Arc::new);
    let pool = SlicePool::new(pooled.collect(), options, bank, &open).unwrap();
    let make = |step| pool.batch(BatchKey { seed: 5, round: 1, step: step as u64 }, 4).unwrap();
    ahead(Ahead { threads, queue: 3 }, 8, make, |ready| {
        std::iter::from_fn(|| ready.take()).flatten().collect()
    })
}

#[test]
fn examples_are_the_same_cold_or_warm_kept_or_not_with_one_thread_or_four() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Vec<Case> =
        (1..4).map(|i| case(folder.path(), &format!("C-{i}"), 1.0 + 0.1 * i as f32)).collect();
    let expected = examples(&Shelf::new(None, OPEN_BYTES), &cases, 1);
    assert_eq!(expected.len(), 32);
    let shapes = |mode| Shelf::new(None, OPEN_BYTES).shapes(&cases[0], SCHEME, mode).unwrap().len();
    assert!(shapes(Mode::Corrected) > 0, "masks may take the shape of a tumour");
    // Nothing is kept: every case is read again for every example.
    assert_eq!(examples(&Shelf::new(None, 0), &cases[..], 4), expected);
    let cache = folder.path().join("cache");
    for (mib_max, threads) in [(100, 4), (100, 1), (100, 4), (1, 2)] {
        let shelf = Shelf::new(Some(Cache::open(&cache, mib_max).unwrap()), OPEN_BYTES);
        assert_eq!(examples(&shelf, &cases, threads), expected, "{mib_max} MiB");
    }
}

#[test]
fn a_warm_cache_opens_no_volume_and_a_changed_file_is_another_case() {
    let folder = tempfile::tempdir().unwrap();
    let one = case(folder.path(), "A", 1.0);
    let open = || {
        let cache = Cache::open(&folder.path().join("cache"), 100).unwrap();
        Shelf::new(Some(cache), OPEN_BYTES)
    };
    let entries = || fs::read_dir(folder.path().join("cache/prepared-v1")).unwrap().count();
    open().check(&one, SCHEME).unwrap();
    assert_eq!(entries(), 1);
    // The same bytes under other names are the same case: nothing is prepared again.
    let two = Case { name: "B".into(), ..one.clone() };
    let shelf = open();
    let (a, b) = (shelf.case(&one, SCHEME).unwrap(), shelf.case(&two, SCHEME).unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(entries(), 1);
    // Other labels, fewer scans or other voxels are not.
    shelf.check(&one, Some(LabelScheme::Lesion)).unwrap();
    let mut fewer = one.clone();
    fewer.scans.remove(&Contrast::T1n);
    shelf.check(&fewer, SCHEME).unwrap();
    assert_eq!(entries(), 3);
    case(folder.path(), "A", 1.5);
    shelf.check(&one, SCHEME).unwrap();
    assert_eq!(entries(), 4);
}

#[test]
fn a_damaged_entry_is_made_again_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [case(folder.path(), "A", 1.0)];
    let place = folder.path().join("cache");
    let expected = examples(&Shelf::new(None, OPEN_BYTES), &cases, 1);
    let open = || Shelf::new(Some(Cache::open(&place, 100).unwrap()), OPEN_BYTES);
    examples(&open(), &cases, 1);
    let entry = fs::read_dir(place.join("prepared-v1")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&entry).unwrap();
    let mut harmed = whole.clone();
    harmed[whole.len() / 2] ^= 4;
    fs::write(&entry, harmed).unwrap();
    assert_eq!(examples(&open(), &cases, 1), expected);
    assert_eq!(fs::read(&entry).unwrap(), whole);
}

#[test]
fn one_bad_file_sets_its_whole_case_aside_with_a_reason_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let good = case(folder.path(), "A", 1.0);
    let shelf = Shelf::new(None, OPEN_BYTES);
    shelf.check(&good, SCHEME).unwrap();
    let refused = |case: &Case, scheme| shelf.check(case, scheme).unwrap_err().to_string();
    assert!(refused(&good, Some(LabelScheme::Brats2021)).contains("label 3"));
    let with = |contrast: Contrast, path: PathBuf| {
        let mut case = good.clone();
        case.scans.insert(contrast, path);
        case
    };
    let absent = with(Contrast::T1c, folder.path().join("absent.nii.gz"));
    assert!(refused(&absent, SCHEME).contains("absent.nii.gz"));
    let cut = folder.path().join("cut.nii.gz");
    let bytes = fs::read(&good.scans[&Contrast::T1n]).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(&with(Contrast::T2w, cut), SCHEME).contains("truncated"));
    let write = |name: &str, volume: &Volume| {
        let path = folder.path().join(name);
        nifti::write_new(&path, volume, Storage::F32, "").unwrap();
        path
    };
    let image = brain();
    let moved = Volume { origin_mm: [9.0; 3], ..image.clone() };
    let text = refused(&with(Contrast::T2w, write("moved.nii", &moved)), SCHEME);
    assert!(text.contains("moved.nii") && text.contains("resample"), "{text}");
    let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
    let text = refused(&with(Contrast::T2w, write("empty.nii", &empty)), SCHEME);
    assert!(text.contains("case A") && text.contains("no brain"), "{text}");
    let none = Case { scans: BTreeMap::new(), ..good };
    assert!(matches!(shelf.check(&none, SCHEME), Err(exam::Error::NoScan { .. })));
}
