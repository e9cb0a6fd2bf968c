//! Any bytes are files of series that are read, or a refusal, never a panic; and what a refusal says
//! repeats nothing of the file.
//!
//! A classic file is one slice, and a volume needs three: the same bytes are written three times, with
//! the height of the slice, which the seeds have as [`HEIGHT`], set to 0, 1 and 2.

#![no_main]

use std::fs;

use fedpaint_site_agent_fuzz::data::dicom::{folder, intake, series};
use libfuzzer_sys::fuzz_target;

/// What stands for the height of a slice.
const HEIGHT: &[u8] = b"7777777";

/// What the seeds say of their patient.
const SECRET: &str = "Geheim";

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let places: Vec<usize> = bytes
        .windows(HEIGHT.len())
        .enumerate()
        .filter(|(_, w)| *w == HEIGHT)
        .map(|(at, _)| at)
        .collect();
    let copies = if places.is_empty() { 1 } else { 3 };
    for slice in 0..copies {
        let mut copy = bytes.to_vec();
        for &at in &places {
            copy[at..at + HEIGHT.len()].copy_from_slice(format!("{slice:07}").as_bytes());
        }
        fs::write(folder.path().join(slice.to_string()), copy)
            .expect("a small file can be written");
    }
    let found = folder::find(folder.path(), &mut |_, _| {}).expect("a folder of files is found");
    for (refusal, _) in &found.refused {
        assert!(!refusal.to_string().contains(SECRET));
    }
    let listed = intake::list(&found);
    assert!(
        listed
            .iter()
            .filter_map(|entry| entry.problem.as_ref())
            .all(|why| !why.to_string().contains(SECRET))
    );
    for one in &found.series {
        match series::read(one) {
            Ok(voxels) => {
                assert_eq!(voxels.values.len(), voxels.grid.dims.iter().product::<usize>())
            }
            Err(refusal) => assert!(!refusal.to_string().contains(SECRET)),
        }
    }
});
