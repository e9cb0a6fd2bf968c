//! Finds scans that are there twice, voxel for voxel.
//!
//! A scan that two patients share is a mistake somebody has to mend: one of them is not whose it says,
//! and where one trains and the other is held out, the score is a lie.

use std::collections::BTreeMap;

use super::layout::Contrast;
use super::problem::{Kind, Problem};
use super::volume::Volume;

/// BLAKE3 of shape and voxels of each scan of a case.
pub type Digests = BTreeMap<Contrast, blake3::Hash>;

/// A case as this module sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The case's name.
    pub case: &'a str,
    /// The patient's key.
    pub patient: &'a str,
    /// Its scans.
    pub digests: &'a Digests,
}

/// What is wrong with which of `cases`. A case that has a scan of another patient gets an error: of two
/// the later in the order of names. Two exams of one patient that share a scan may both be used, and
/// the later gets a warning.
pub fn find(cases: &[Seen<'_>]) -> Vec<(usize, Problem)> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|&index| cases[index].case);
    let mut first_with: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    let mut found = Vec::new();
    for later in order {
        let scans = cases[later].digests.iter().map(|(contrast, d)| (contrast, *d.as_bytes()));
        let known =
            scans.clone().rev().filter_map(|(c, d)| first_with.get(&d).map(|&first| (c, first)));
        let is_other = |first: usize| cases[first].patient != cases[later].patient;
        // Another patient's scan matters more than the patient's own; of equals the last is taken.
        let worst = known.max_by_key(|&(_, first)| is_other(first));
        let Some((contrast, first)) = worst else {
            first_with.extend(scans.map(|(_, digest)| (digest, later)));
            continue;
        };
        let what = format!("{} is that of {}, voxel for voxel", contrast.name(), cases[first].case);
        if is_other(first) {
            let detail = format!("{what}, which is another patient: keep the true one");
            found.push((later, Problem::error(Kind::Duplicate, detail)));
        } else {
            for (_, digest) in scans {
                first_with.entry(digest).or_insert(later);
            }
            found.push((later, Problem::warning(Kind::Duplicate, what)));
        }
    }
    found
}

/// BLAKE3 of a volume's shape and voxels.
pub fn digest(volume: &Volume) -> blake3::Hash {
    const AT_ONCE: usize = 1 << 14;
    let mut hasher = blake3::Hasher::new();
    for &dim in &volume.dims {
        hasher.update(&(dim as u64).to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(4 * AT_ONCE);
    for voxels in volume.voxels.chunks(AT_ONCE) {
        bytes.clear();
        bytes.extend(voxels.iter().flat_map(|voxel| voxel.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::problem::Severity;

    /// Names of cases with their patients and the content of their scans, as words.
    fn find_in(cases: &[(&str, &str, &[&str])]) -> Vec<(usize, Severity, String)> {
        let digests: Vec<Digests> = cases
            .iter()
            .map(|(_, _, scans)| {
                let contents = scans.iter().map(|scan| blake3::hash(scan.as_bytes()));
                Contrast::ALL.into_iter().zip(contents).collect()
            })
            .collect();
        let seen: Vec<Seen<'_>> = cases
            .iter()
            .zip(&digests)
            .map(|((case, patient, _), digests)| Seen { case, patient, digests })
            .collect();
        find(&seen).into_iter().map(|(i, p)| (i, p.severity, p.detail)).collect()
    }

    #[test]
    fn of_two_patients_with_one_scan_the_later_name_is_wrong_and_its_other_scans_accuse_nobody() {
        let cases: [(&str, &str, &[&str]); 3] =
            [("C", "C", &["x", "third"]), ("A", "A", &["x", "first"]), ("D", "D", &["third"])];
        let found = find_in(&cases);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, found[0].1), (0, Severity::Error));
        assert!(found[0].2.starts_with("t1n is that of A, voxel"), "{found:?}");
    }

    #[test]
    fn exams_of_one_patient_may_share_a_scan_and_each_later_one_warns() {
        let cases: [(&str, &str, &[&str]); 3] =
            [("A-2", "A", &["x", "new"]), ("A-1", "A", &["x"]), ("B", "B", &["new"])];
        let found = find_in(&cases);
        let expected = [(0, Severity::Warning), (2, Severity::Error)];
        assert_eq!(found.iter().map(|f| (f.0, f.1)).collect::<Vec<_>>(), expected, "{found:?}");
    }

    #[test]
    fn a_scan_of_another_patient_is_told_before_one_of_the_same() {
        let cases: [(&str, &str, &[&str]); 3] =
            [("A", "A", &["a"]), ("B-1", "B", &["b"]), ("B-2", "B", &["b", "a"])];
        let found = find_in(&cases);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1), (2, Severity::Error), "{found:?}");
        assert!(found[0].2.starts_with("t1c is that of A,"), "{found:?}");
    }

    #[test]
    fn a_digest_tells_voxels_and_shapes_apart() {
        let volume = |dims: [usize; 3], first: f32| {
            let mut voxels = vec![0.0; dims.iter().product()];
            voxels[0] = first;
            digest(&Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels })
        };
        assert_eq!(volume([2, 3, 4], 1.0), volume([2, 3, 4], 1.0));
        assert_ne!(volume([2, 3, 4], 1.0), volume([2, 3, 4], 2.0));
        assert_ne!(volume([2, 3, 4], 1.0), volume([3, 2, 4], 1.0));
    }
}
