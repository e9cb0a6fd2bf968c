//! Which cases trained, which were held out and which were set aside, with the digests of their files:
//! what a hospital keeps to prove later what a model learnt from. It stays at the site.
//!
//! The same data, salt and fraction give the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// The format.
pub const VERSION: u32 = 1;

/// The domain of the keyed hash of patients.
const DOMAIN: &str = "fedpaint 2026 split manifest patient v1";

/// A split, case by case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// How files are digested. BLAKE3 names every other file of a federation too, and the scans have
    /// been digested so already; `b3sum FILE` checks one.
    pub digest: &'static str,
    /// The part of the patients that was to be held out.
    pub held_out: f64,
    /// The cases, by name.
    pub cases: Vec<Entry>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its name.
    pub case: String,
    /// The patient as a hash keyed by the salt: equal for all exams of one patient, and of no use to
    /// who has not the salt. None where it is not known whose case it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// What became of it.
    pub part: Part,
    /// Why it was set aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The BLAKE3 digest of each file by what it is: a contrast, or `seg`. A file that does not read
    /// is left out.
    pub files: BTreeMap<&'static str, String>,
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It trains.
    Training,
    /// It is kept for evaluation.
    HeldOut,
    /// It cannot be used.
    SetAside,
}

impl Manifest {
    /// The manifest of some cases, in any order.
    pub fn new(held_out: f64, mut cases: Vec<Entry>) -> Manifest {
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        Manifest { version: VERSION, digest: "blake3", held_out, cases }
    }

    /// Cases of a part.
    pub fn count(&self, part: Part) -> usize {
        self.cases.iter().filter(|case| case.part == part).count()
    }

    /// Writes it as JSON that its owner alone may read; it appears whole or not.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
        serde_json::to_writer_pretty(temporary.as_file_mut(), self)?;
        temporary.as_file_mut().write_all(b"\n")?;
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        File::open(folder)?.sync_all()
    }
}

/// A patient as a manifest names it.
pub fn patient_hash(salt: &str, patient: &str) -> String {
    let key = blake3::derive_key(DOMAIN, salt.as_bytes());
    blake3::keyed_hash(&key, patient.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Entry, Manifest, Part, patient_hash};

    fn entry(case: &str, part: Part) -> Entry {
        let files = [("t1n", blake3::hash(case.as_bytes()).to_string())].into();
        let patient = Some(patient_hash("s", case));
        Entry { case: case.into(), patient, part, reason: None, files }
    }

    #[test]
    fn the_order_in_which_cases_were_found_changes_no_byte() {
        let folder = tempfile::tempdir().unwrap();
        let mut cases = vec![entry("b", Part::Training), entry("a", Part::SetAside)];
        let path = folder.path().join("split.json");
        Manifest::new(0.2, cases.clone()).write(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        cases.reverse();
        let again = Manifest::new(0.2, cases);
        again.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        assert_eq!((again.count(Part::Training), again.count(Part::HeldOut)), (1, 0));
        let json: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!((&json["cases"][0]["case"], &json["version"]), (&"a".into(), &1.into()));
        assert_eq!(json["cases"][0]["part"], "set_aside");
    }

    #[test]
    fn a_patient_is_told_by_the_salt_alone() {
        assert_eq!(patient_hash("s", "P-1"), patient_hash("s", "P-1"));
        assert_ne!(patient_hash("s", "P-1"), patient_hash("t", "P-1"));
        assert_ne!(patient_hash("s", "P-1"), patient_hash("s", "P-2"));
        assert!(!patient_hash("s", "P-1").contains("P-1"));
    }
}
