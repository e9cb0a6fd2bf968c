//! Which cases trained, which were held out and which were set aside, with the digests of their files:
//! what a hospital keeps to prove later what a model learnt from, and what keeps every patient on the
//! side it once was on. It stays at the site.
//!
//! The same data, sides, salt and fraction give the same bytes. They have their digest with them, see
//! [`seal`]: a patient whose hash lost a bit would be a stranger, and dealt anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Side;
use crate::data::told::words;
use crate::failpoint::reach;
use crate::seal;

/// The format. Version 1 had no `sides`; it is read too.
pub const VERSION: u32 = 2;

/// The longest manifest that is read: that of as many cases as a data folder may have.
const BYTES_MAX: u64 = 256 << 20;

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
    /// The side of everybody who ever had one, also of those whose scans are gone, by [`key`].
    pub sides: BTreeMap<String, Side>,
    /// The cases, by name.
    pub cases: Vec<Entry>,
}

/// A manifest that does not read.
#[derive(Debug, thiserror::Error)]
#[error("the split {}: {reason}; {REMEDY}", path.display())]
pub struct ReadError {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub reason: Unread,
}

/// What to do about it.
const REMEDY: &str = "bring it back from a backup, or delete it and who was held out may train";

/// Why a manifest does not read. No text quotes what it says: it names cases.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The file does not read.
    #[error("{}", words(.0))]
    Io(#[from] io::Error),
    /// It is too long.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    /// It has another digest than when it was written.
    #[error("it is not what was written: its digest is another")]
    Changed,
    /// It is no JSON of a manifest.
    #[error("line {line} column {column} is not of a split")]
    Parse {
        /// Where, from 1.
        line: usize,
        /// Likewise.
        column: usize,
    },
    /// It is of another version.
    #[error("its version is {0}")]
    Version(u32),
}

impl ReadError {
    /// The same for a log, which may be sent to others: it names no path.
    pub fn told(&self) -> String {
        format!("the split, `data.split`: {}; {REMEDY}", self.reason)
    }
}

/// What an earlier manifest says of who is on which side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    sides: BTreeMap<String, Side>,
    cases: BTreeMap<String, Side>,
}

impl Known {
    /// Reads a manifest; nobody is known where there is none.
    ///
    /// # Errors
    /// If it is there and does not read: a split that nobody remembers must not be made anew in silence.
    pub fn read(path: &Path) -> Result<Known, ReadError> {
        #[derive(Deserialize)]
        struct Written {
            version: u32,
            #[serde(default)]
            sides: BTreeMap<String, Side>,
            cases: Vec<Case>,
        }
        #[derive(Deserialize)]
        struct Case {
            case: String,
            part: Part,
        }
        let wrong = |reason: Unread| ReadError { path: path.to_owned(), reason };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            Err(error) => return Err(wrong(error.into())),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.into()))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(wrong(Unread::TooLong));
        }
        let content = seal::content(&bytes).ok_or_else(|| wrong(Unread::Changed))?;
        let written: Written =
            serde_json::from_slice(content).map_err(|error: serde_json::Error| {
                wrong(Unread::Parse { line: error.line(), column: error.column() })
            })?;
        if !(1..=VERSION).contains(&written.version) {
            return Err(wrong(Unread::Version(written.version)));
        }
        let side = |Case { case, part }| match part {
            Part::Training => Some((case, Side::Training)),
            Part::HeldOut => Some((case, Side::HeldOut)),
            Part::SetAside => None,
        };
        let cases = written.cases.into_iter().filter_map(side).collect();
        Ok(Known { sides: written.sides, cases })
    }

    /// The side of the patient that this case is of, as far as the case tells.
    pub fn side(&self, salt: &str, case: &str, patient: &str) -> Option<Side> {
        let named = [self.sides.get(&key(salt, case, patient)), self.cases.get(case)];
        named.into_iter().flatten().min().copied()
    }

    /// Everybody who is known, with those that are so `now`.
    pub fn with(&self, now: impl IntoIterator<Item = (String, Side)>) -> BTreeMap<String, Side> {
        let mut sides = self.sides.clone();
        sides.extend(now);
        sides
    }
}

/// What a patient is known by: with a salt a hash that is of no use to who has not the salt, without one
/// the name of each of its cases, which the manifest holds anyway.
pub fn key(salt: &str, case: &str, patient: &str) -> String {
    if salt.is_empty() { case.to_owned() } else { patient_hash(salt, patient) }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub fn new(held_out: f64, sides: BTreeMap<String, Side>, mut cases: Vec<Entry>) -> Manifest {
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        Manifest { version: VERSION, digest: "blake3", held_out, sides, cases }
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
        // Opened here, because `tempfile` puts the path in the place of the error's number, by which a disk
        // that may be well again is known.
        let open =
            |path: &Path| File::options().write(true).create_new(true).mode(0o600).open(path);
        reach("split.create")?;
        let mut temporary = tempfile::Builder::new().prefix(".writing-").make_in(folder, open)?;
        reach("split.write")?;
        temporary.as_file_mut().write_all(&seal::sealed(self)?)?;
        reach("split.sync")?;
        temporary.as_file().sync_all()?;
        reach("split.rename")?;
        temporary.persist(path)?;
        reach("split.folder")?;
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
    use std::collections::BTreeMap;

    use super::{Entry, Known, Manifest, Part, Side, key, patient_hash};

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
        Manifest::new(0.2, BTreeMap::new(), cases.clone()).write(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        cases.reverse();
        let again = Manifest::new(0.2, BTreeMap::new(), cases);
        again.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        assert_eq!((again.count(Part::Training), again.count(Part::HeldOut)), (1, 0));
        let json: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!((&json["cases"][0]["case"], &json["version"]), (&"a".into(), &2.into()));
        assert_eq!(json["cases"][0]["part"], "set_aside");
    }

    #[test]
    fn sides_are_read_back_by_patient_or_by_case_and_who_has_trained_is_never_held_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.json");
        assert_eq!(Known::read(&path).unwrap(), Known::default());
        let sides = [("P-1", Side::HeldOut), ("P-2", Side::Training)]
            .map(|(patient, side)| (key("s", "any", patient), side));
        let cases = vec![entry("a", Part::Training), entry("b", Part::SetAside)];
        Manifest::new(0.2, sides.into(), cases).write(&path).unwrap();
        let known = Known::read(&path).unwrap();
        let side = |case, patient| known.side("s", case, patient);
        assert_eq!(side("new", "P-1"), Some(Side::HeldOut));
        assert_eq!(side("a", "P-1"), Some(Side::Training));
        assert_eq!(side("a", "P-3"), Some(Side::Training));
        assert_eq!((side("b", "P-3"), side("new", "P-3")), (None, None));
        assert_eq!(known.with([("P-9".to_owned(), Side::Training)]).len(), 3);
        // What was written before there were sides.
        std::fs::write(&path, r#"{"version":1,"cases":[{"case":"a","part":"held_out"}]}"#).unwrap();
        assert_eq!(Known::read(&path).unwrap().side("", "a", "P-1"), Some(Side::HeldOut));
        for text in ["{", r#"{"version":3,"cases":[]}"#] {
            std::fs::write(&path, text).unwrap();
            let refused = Known::read(&path).unwrap_err().to_string();
            assert!(refused.contains("split.json") && refused.contains("delete"), "{refused}");
        }
    }

    #[test]
    fn a_split_with_one_bit_flipped_anywhere_is_refused_and_nobody_is_dealt_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.json");
        let sides = [(key("s", "any", "P-1"), Side::HeldOut)].into();
        Manifest::new(0.2, sides, vec![entry("a", Part::Training)]).write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            let Err(refused) = Known::read(&path) else { panic!("bit {bit} is believed") };
            let refused = refused.to_string();
            assert!(refused.contains("bring it back from a backup"), "bit {bit}: {refused}");
        }
        // An older trainer ended a split with the end of a line and no digest.
        let older = [whole.trim_ascii_end(), b"\n"].concat();
        std::fs::write(&path, older).unwrap();
        assert_eq!(Known::read(&path).unwrap().side("s", "new", "P-1"), Some(Side::HeldOut));
    }

    #[test]
    fn what_is_told_of_a_split_that_does_not_read_names_no_case_and_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.json");
        for text in [
            r#"{"version":2,"cases":[{"case":"secret","part":"secret"}]}"#,
            r#"{"version":2,"cases":"secret"}"#,
            r#"{"version":2,"cases":[{"case":"secret","#,
            r#"{"version":"secret","cases":[]}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let told = Known::read(&path).unwrap_err().told();
            assert!(told.contains("line 1") && told.contains("data.split"), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let told = Known::read(&path).unwrap_err().told();
        assert!(told.contains("directory") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn a_folder_that_takes_no_file_is_told_by_the_systems_own_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("split.json");
        let error = Manifest::new(0.2, BTreeMap::new(), Vec::new()).write(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(2), "{error}");
    }

    #[test]
    fn a_patient_is_told_by_the_salt_alone() {
        assert_eq!(patient_hash("s", "P-1"), patient_hash("s", "P-1"));
        assert_ne!(patient_hash("s", "P-1"), patient_hash("t", "P-1"));
        assert_ne!(patient_hash("s", "P-1"), patient_hash("s", "P-2"));
        assert!(!patient_hash("s", "P-1").contains("P-1"));
    }
}
