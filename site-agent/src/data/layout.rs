//! Finds the cases in a folder laid out as BraTS lays out its own.
//!
//! A case is a folder `X` with files `X_t1.nii.gz` (names of 2021) or `X-t1n.nii.gz` (names since
//! 2023). Only names are looked at: no scan is opened here, and nothing is guessed from voxels.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::labels::LabelScheme;

/// Entries of a cohort's folder that are looked at.
pub const COHORT_ENTRIES_MAX: usize = 100_000;

/// Entries of one case's folder that are looked at: BraTS has 5, the inpainting set 10.
pub const CASE_ENTRIES_MAX: usize = 1_000;

/// What a folder without cases should have looked like.
const EXPECTED: &str = "folders X with files X-{t1n,t1c,t2w,t2f,seg}.nii.gz (BraTS 2023) or \
                        X_{t1,t1ce,t2,flair,seg}.nii.gz (BraTS 2021)";

/// An MRI contrast, in the order of the model's one-hot condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contrast {
    /// T1-weighted, native.
    T1n = 0,
    /// T1-weighted after gadolinium.
    T1c = 1,
    /// T2-weighted.
    T2w = 2,
    /// T2 FLAIR.
    T2f = 3,
}

impl Contrast {
    /// Every contrast, in order.
    pub const ALL: [Contrast; 4] = [Contrast::T1n, Contrast::T1c, Contrast::T2w, Contrast::T2f];

    /// Its name in BraTS files since 2023.
    pub fn name(self) -> &'static str {
        ["t1n", "t1c", "t2w", "t2f"][self as usize]
    }

    /// Its name in BraTS files of 2021.
    fn name_of_2021(self) -> &'static str {
        ["t1", "t1ce", "t2", "flair"][self as usize]
    }
}

/// A convention of file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `X_{t1,t1ce,t2,flair,seg}`.
    Brats2021,
    /// `X-{t1n,t1c,t2w,t2f,seg}`.
    Brats2023,
}

/// The files of one exam. Its name and patient may not leave the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The patient's key: equal for all exams of one patient.
    pub patient: String,
    /// How its files are named.
    pub naming: Naming,
    /// The scans there are; at least one.
    pub scans: BTreeMap<Contrast, PathBuf>,
    /// The segmentation, if there is one.
    pub segmentation: Option<PathBuf>,
}

impl Case {
    /// The scheme of its labels: the configured one, else that of the year whose names it has.
    pub fn label_scheme(&self, configured: Option<LabelScheme>) -> LabelScheme {
        configured.unwrap_or(match self.naming {
            Naming::Brats2021 => LabelScheme::Brats2021,
            Naming::Brats2023 => LabelScheme::Brats2023,
        })
    }
}

/// Why a folder yields no cases. Local: it names files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or an entry cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There are more entries than are looked at.
    #[error("{path}: more than {limit} entries, split the folder", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A name is not UTF-8, so no case can be named after it.
    #[error("{path}: the name is not UTF-8, rename it", path = path.display())]
    Name {
        /// The entry.
        path: PathBuf,
    },
    /// Two files claim to be the same image of one case.
    #[error(
        "case {case}: {first} and {second} are the same image, keep one",
        first = first.display(), second = second.display()
    )]
    Twice {
        /// The case.
        case: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The folder has no case.
    #[error("{path}: no cases found, expected {EXPECTED}", path = path.display())]
    NoCases {
        /// The folder.
        path: PathBuf,
    },
}

/// The cases of a cohort, sorted by name. Folders without scans are passed over, as are hidden ones.
/// Links are followed one level down, never further, so a loop of links ends.
///
/// # Errors
/// [`Error`] naming the folder, the entry or the case.
pub fn discover(cohort: &Path) -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    for name in entries(cohort, COHORT_ENTRIES_MAX)? {
        let folder = cohort.join(&name);
        if name.starts_with('.') || !metadata(&folder)?.is_dir() {
            continue;
        }
        let files = entries(&folder, CASE_ENTRIES_MAX)?;
        let Some(case) = case_of(&folder, &name, &files)? else { continue };
        for path in case.scans.values().chain(&case.segmentation) {
            if !metadata(path)?.is_file() {
                let source = std::io::Error::other("not a file");
                return Err(Error::Io { path: path.clone(), source });
            }
        }
        cases.push(case);
    }
    if cases.is_empty() {
        return Err(Error::NoCases { path: cohort.to_path_buf() });
    }
    Ok(cases)
}

/// The patient of a case: BraTS since 2023 ends a name in `-<patient>-<timepoint>`, so where the last
/// two groups are both numbers the last one is a timepoint.
pub fn patient_of(case: &str) -> &str {
    let numeric = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    match case.rsplit_once('-') {
        Some((patient, timepoint))
            if numeric(timepoint) && patient.rsplit('-').next().is_some_and(numeric) =>
        {
            // A name of digits alone, "12-3", has no prefix: both numbers may be needed.
            if patient.contains('-') { patient } else { case }
        }
        _ => case,
    }
}

/// What a file is to a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Scan(Contrast),
    Segmentation,
}

/// The role of `file` in the case `name`, or `None` for a file that is no part of it.
fn role_of(name: &str, file: &str) -> Option<(Naming, Role)> {
    let rest = file.strip_prefix(name)?;
    let rest = rest.strip_suffix(".nii.gz").or_else(|| rest.strip_suffix(".nii"))?;
    let find = |kind: &str, of: fn(Contrast) -> &'static str| match kind {
        "seg" => Some(Role::Segmentation),
        _ => Contrast::ALL.into_iter().find(|&c| of(c) == kind).map(Role::Scan),
    };
    if let Some(kind) = rest.strip_prefix('-') {
        find(kind, Contrast::name).map(|role| (Naming::Brats2023, role))
    } else {
        let kind = rest.strip_prefix('_')?;
        find(kind, Contrast::name_of_2021).map(|role| (Naming::Brats2021, role))
    }
}

/// The case in `folder`, or `None` if it has no scan of its own name.
fn case_of(folder: &Path, name: &str, files: &[String]) -> Result<Option<Case>, Error> {
    let mut found: BTreeMap<Role, (Naming, PathBuf)> = BTreeMap::new();
    for file in files {
        let Some((naming, role)) = role_of(name, file) else { continue };
        if let Some((_, first)) = found.insert(role, (naming, folder.join(file))) {
            let case = name.to_string();
            return Err(Error::Twice { case, first, second: folder.join(file) });
        }
    }
    let segmentation = found.remove(&Role::Segmentation).map(|(_, path)| path);
    let mut naming = None;
    let mut scans = BTreeMap::new();
    for (role, (of, path)) in found {
        if let Role::Scan(contrast) = role {
            naming = naming.or(Some(of));
            scans.insert(contrast, path);
        }
    }
    Ok(naming.map(|naming| Case {
        name: name.to_string(),
        patient: patient_of(name).to_string(),
        naming,
        scans,
        segmentation,
    }))
}

/// The sorted names in a folder.
fn entries(folder: &Path, limit: usize) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        if names.len() == limit {
            return Err(Error::TooMany { path: folder.to_path_buf(), limit });
        }
        let name = entry.map_err(failed)?.file_name();
        let not_utf8 = |name: OsString| Error::Name { path: folder.join(name) };
        names.push(name.into_string().map_err(not_utf8)?);
    }
    names.sort_unstable();
    Ok(names)
}

/// What an entry is, behind a link if it is one.
fn metadata(path: &Path) -> Result<std::fs::Metadata, Error> {
    std::fs::metadata(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cohort(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        folder
    }

    #[test]
    fn names_of_2021_and_of_2023_are_found_sorted_and_bring_their_label_scheme() {
        let folder = cohort(&[
            "BraTS2021_00002/BraTS2021_00002_t1.nii.gz",
            "BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz",
            "BraTS2021_00002/BraTS2021_00002_t2.nii",
            "BraTS2021_00002/BraTS2021_00002_flair.nii.gz",
            "BraTS2021_00002/BraTS2021_00002_seg.nii.gz",
            "BraTS-GLI-00008-001/BraTS-GLI-00008-001-t2f.nii.gz",
            "BraTS-GLI-00008-001/BraTS-GLI-00008-001-t1c.nii.gz",
        ]);
        let cases = discover(folder.path()).unwrap();
        let [new, old] = &cases[..] else { panic!("{cases:?}") };
        assert_eq!(new.name, "BraTS-GLI-00008-001");
        assert_eq!(new.patient, "BraTS-GLI-00008");
        assert!(new.scans.keys().eq(&[Contrast::T1c, Contrast::T2f]));
        assert_eq!((new.segmentation.as_ref(), new.naming), (None, Naming::Brats2023));
        assert_eq!(new.label_scheme(None), LabelScheme::Brats2023);
        assert_eq!(new.label_scheme(Some(LabelScheme::Lesion)), LabelScheme::Lesion);
        assert!(old.scans.keys().eq(&Contrast::ALL));
        assert!(old.scans[&Contrast::T2w].ends_with("BraTS2021_00002_t2.nii"));
        assert!(old.segmentation.is_some());
        assert_eq!(old.label_scheme(None), LabelScheme::Brats2021);
    }

    #[test]
    fn the_last_of_two_numeric_groups_is_a_timepoint() {
        for (case, patient) in [
            ("BraTS-GLI-00008-000", "BraTS-GLI-00008"),
            ("LJL-01-2", "LJL-01"),
            ("LJ-MS-07", "LJ-MS-07"),
            ("LJ-MS-26", "LJ-MS-26"),
            ("BraTS2021_00000", "BraTS2021_00000"),
            ("12-3", "12-3"),
            ("a--1", "a--1"),
            ("", ""),
        ] {
            assert_eq!(patient_of(case), patient, "{case}");
        }
    }

    #[test]
    fn files_of_the_inpainting_set_and_of_other_names_are_passed_over() {
        let folder = cohort(&[
            "A-1/A-1-t1n.nii.gz",
            "A-1/A-1-t1n-voided.nii.gz",
            "A-1/A-1-mask.nii.gz",
            "A-1/A-1-mask-healthy.nii.gz",
            "A-1/notes.txt",
            "A-1/B-1-t2w.nii.gz",
            "A-1/healthy/A-1-t2w.nii.gz",
            ".hidden/.hidden-t1n.nii.gz",
            "empty/readme",
            "loose-t1n.nii.gz",
        ]);
        let cases = discover(folder.path()).unwrap();
        assert_eq!(cases.len(), 1);
        assert!(cases[0].scans.keys().eq(&[Contrast::T1n]));
    }

    #[test]
    fn two_files_of_the_same_image_are_refused() {
        for second in ["A-1/A-1-t1n.nii", "A-1/A-1_t1.nii.gz"] {
            let folder = cohort(&["A-1/A-1-t1n.nii.gz", second]);
            let refused = discover(folder.path());
            assert!(matches!(refused, Err(Error::Twice { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_folder_without_cases_says_what_was_expected() {
        let folder = cohort(&["x/only-a-mask-seg.nii.gz", "x/x-seg.nii.gz"]);
        let refused = discover(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("no cases found") && refused.contains("t1ce"), "{refused}");
        assert!(matches!(discover(&folder.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_crowded_case_folder_is_refused() {
        let names: Vec<String> = (0..=CASE_ENTRIES_MAX).map(|i| format!("x/{i}")).collect();
        let folder = cohort(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(matches!(discover(folder.path()), Err(Error::TooMany { .. })));
    }

    #[test]
    fn real_cohorts_are_found_with_their_patients() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        if !shared.is_dir() {
            println!("../shared/data is absent, so real cohorts are not looked for");
            return;
        }
        let patients = |cohort: &str| -> Vec<(String, bool)> {
            let cases = discover(&shared.join(cohort)).unwrap();
            cases.into_iter().map(|case| (case.patient, case.segmentation.is_some())).collect()
        };
        let seen = |name: &str, segmented| (name.to_string(), segmented);
        assert_eq!(patients("ljms"), [seen("LJ-MS-07", true), seen("LJ-MS-26", true)]);
        let two = [seen("LJL-01", false), seen("LJL-01", false)];
        assert_eq!(patients("ljl")[..2], two);
    }

    #[cfg(unix)]
    #[test]
    fn a_loop_of_links_ends() {
        let folder = cohort(&["A-1/A-1-t1n.nii.gz"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("A-2")).unwrap();
        assert_eq!(discover(folder.path()).unwrap().len(), 1);
    }
}
