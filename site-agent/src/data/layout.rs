//! Finds the cases in a folder: laid out as BraTS lays out its own, or listed in a manifest.
//!
//! Only names and links are looked at: no scan is opened here, and nothing is guessed from voxels. A
//! case that cannot be used is set aside with its reason, and never stops the others.

mod listed;
mod names;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::labels::LabelScheme;
use crate::data::layout::names::Role;
use crate::data::manifest;
use crate::data::problem::{Kind, Problem};

/// Entries that are looked at below a data folder: BraTS 2021 has 10,000.
pub const ENTRIES_MAX: usize = 100_000;

/// How many folders deep the folder of a case may lie in the data folder.
pub const DEPTH_MAX: usize = 4;

/// What a folder without cases should have looked like.
const EXPECTED: &str = "files X-{t1n,t1c,t2w,t2f,seg}.nii.gz (BraTS 2023), \
                        X_{t1,t1ce,t2,flair,seg}.nii.gz (BraTS 2021), or manifest.csv";

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
}

/// A word that names no contrast.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no contrast has this name, choose t1n, t1c, t2w or t2f")]
pub struct NoSuchContrast;

impl std::str::FromStr for Contrast {
    type Err = NoSuchContrast;

    fn from_str(word: &str) -> Result<Contrast, NoSuchContrast> {
        Contrast::ALL.into_iter().find(|c| c.name() == word).ok_or(NoSuchContrast)
    }
}

/// The files of one exam. Its name and patient may not leave the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What its files' names begin with, or its name in the manifest. No other case has it.
    pub name: String,
    /// The patient's key: equal for all exams of one patient.
    pub patient: String,
    /// The scans there are, at least one: a NIfTI file, or a folder with one DICOM series.
    pub scans: BTreeMap<Contrast, PathBuf>,
    /// The segmentation, if there is one.
    pub segmentation: Option<PathBuf>,
    /// What its labels mean, where the case itself says so.
    pub label_scheme: Option<LabelScheme>,
    /// Files of the inpainting set that training does not read.
    pub companions: BTreeMap<Companion, PathBuf>,
}

/// A file of the BraTS inpainting set that training does not read: it draws its own masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Companion {
    /// The scan with everything hidden set to 0.
    Voided,
    /// Everything hidden: `MaskHealthy` and the tumour.
    Mask,
    /// The hidden healthy tissue.
    MaskHealthy,
}

impl Case {
    /// The scheme of its labels: its own, else that of the whole cohort, if anybody gave one.
    pub fn scheme(&self, configured: Option<LabelScheme>) -> Option<LabelScheme> {
        self.label_scheme.or(configured)
    }
}

/// A case that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Its name.
    pub case: String,
    /// Why.
    pub problem: Problem,
}

/// What there is in a data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// The cases whose files are there, sorted by name.
    pub cases: Vec<Case>,
    /// The others, sorted by name.
    pub set_aside: Vec<SetAside>,
    /// NIfTI files that belong to no case by their names.
    pub files_passed_over: usize,
}

impl Discovery {
    /// Leaves the `wanted` contrasts; a case that has none of them is set aside.
    pub fn keep_contrasts(&mut self, wanted: &BTreeSet<Contrast>) {
        for case in &mut self.cases {
            case.scans.retain(|contrast, _| wanted.contains(contrast));
        }
        let without = self.cases.extract_if(.., |case| case.scans.is_empty());
        let problem = Problem::note(Kind::NoContrast, "none of the contrasts asked for is there");
        let without = without.map(|case| SetAside { case: case.name, problem: problem.clone() });
        self.set_aside.extend(without);
        self.set_aside.sort_by(|a, b| a.case.cmp(&b.case));
    }
}

/// Why a folder yields nothing at all. Local: it names files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or its manifest cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There are more entries than are looked at.
    #[error(
        "{path}: more than {ENTRIES_MAX} files and folders, name a folder with fewer",
        path = path.display()
    )]
    TooMany {
        /// The data folder.
        path: PathBuf,
    },
    /// There are two manifests.
    #[error("{path}: there are a manifest.csv and a manifest.toml, keep one", path = path.display())]
    TwoManifests {
        /// The data folder.
        path: PathBuf,
    },
    /// The manifest cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: manifest::Error,
    },
    /// A file that is no manifest was named.
    #[error(
        "{path}: not a folder and not a manifest, name a folder or a .csv or .toml file",
        path = path.display()
    )]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// The folder has no case, good or bad.
    #[error(
        "{path}: no cases found within {DEPTH_MAX} folders, expected {EXPECTED}; DICOM comes in by \
         `data import`",
        path = path.display()
    )]
    NoCases {
        /// The folder.
        path: PathBuf,
    },
}

/// The cases of a data folder, or of a manifest that is named instead of one. A folder whose manifest
/// lists cases holds these and nothing else.
///
/// A link that leads out of the folder sets its case aside; a link to a folder is not followed, since
/// what lies inside is found where it is. Hidden entries are passed over.
///
/// # Errors
/// [`Error`] if the folder as a whole cannot be used. What is wrong with a case sets it aside.
pub fn discover(dir: &Path) -> Result<Discovery, Error> {
    let (found, mut discovery) = match manifest_of(dir)? {
        Some((path, format)) => listed::found(&path, format)?,
        None => walk::found(dir)?,
    };
    let mut places: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for found in found {
        places.entry(found.name.clone()).or_default().push(found);
    }
    for (name, mut of_name) in places {
        let settled = match of_name.pop() {
            Some(only) if of_name.is_empty() => settle(only),
            last => {
                let of_name: Vec<Found> = of_name.into_iter().chain(last).collect();
                discovery.set_aside.extend(of_name.iter().map(|found| SetAside {
                    case: name.clone(),
                    problem: same_name(found, &of_name),
                }));
                continue;
            }
        };
        match settled {
            Ok(case) => discovery.cases.push(case),
            Err(problem) => discovery.set_aside.push(SetAside { case: name, problem }),
        }
    }
    discovery.set_aside.sort_by(|a, b| a.case.cmp(&b.case));
    if discovery.cases.is_empty() && discovery.set_aside.is_empty() {
        return Err(Error::NoCases { path: dir.to_path_buf() });
    }
    Ok(discovery)
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

/// What was found of one case, before it is known whether it can be used.
struct Found {
    name: String,
    /// The patient, where a manifest names one.
    patient: Option<String>,
    label_scheme: Option<LabelScheme>,
    /// Where it is, in words for people.
    place: String,
    files: Vec<FoundFile>,
}

/// A file of a case.
struct FoundFile {
    role: Role,
    path: PathBuf,
    /// Why it cannot be used, if that is known without opening it.
    flaw: Option<Problem>,
}

/// The manifest that `dir` is or holds.
fn manifest_of(dir: &Path) -> Result<Option<(PathBuf, manifest::Format)>, Error> {
    let failed = |source| Error::Io { path: dir.to_path_buf(), source };
    let format = |path: &Path| match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => Some(manifest::Format::Csv),
        Some("toml") => Some(manifest::Format::Toml),
        _ => None,
    };
    if !std::fs::metadata(dir).map_err(failed)?.is_dir() {
        let format = format(dir).ok_or_else(|| Error::NotAFolder { path: dir.to_path_buf() })?;
        return Ok(Some((dir.to_path_buf(), format)));
    }
    let mut here = manifest::FILE_NAMES.map(|name| dir.join(name)).into_iter();
    let mut here = here.by_ref().filter(|path| path.is_file());
    match (here.next(), here.next()) {
        (Some(_), Some(_)) => Err(Error::TwoManifests { path: dir.to_path_buf() }),
        (Some(path), None) => Ok(format(&path).map(|format| (path, format))),
        _ => Ok(None),
    }
}

fn same_name(found: &Found, all: &[Found]) -> Problem {
    let elsewhere = all.iter().map(|other| other.place.as_str()).find(|&p| p != found.place);
    let detail = format!(
        "the same case name is at {} and at {}, keep one or rename one",
        found.place,
        elsewhere.unwrap_or(&found.place)
    );
    Problem::error(Kind::Duplicate, detail)
}

/// The case, or why it cannot be used.
fn settle(found: Found) -> Result<Case, Problem> {
    let Found { name, patient, mut label_scheme, files, .. } = found;
    let mut of_role: BTreeMap<Role, PathBuf> = BTreeMap::new();
    let mut companions = BTreeMap::new();
    for FoundFile { role, path, flaw } in files {
        if let Some(companion) = role.companion() {
            // One that leads out of the folder is left alone.
            companions.extend(flaw.is_none().then_some((companion, path)));
            continue;
        }
        if let Some(flaw) = flaw {
            return Err(flaw.in_file(&path));
        }
        if let Some(first) = of_role.insert(role, path.clone()) {
            let first = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let detail = format!("it is the same image as {first}, keep one");
            return Err(Problem::error(Kind::Duplicate, detail).in_file(&path));
        }
    }
    let is_voided = companions.contains_key(&Companion::Voided);
    let unhealthy = of_role.remove(&Role::MaskUnhealthy);
    let mut segmentation = of_role.remove(&Role::Segmentation);
    if segmentation.is_none() && unhealthy.is_some() {
        // The mask of the inpainting set says by its name what it is: tumour, of no known component.
        segmentation = unhealthy;
        label_scheme = Some(LabelScheme::Lesion);
    }
    let scans: BTreeMap<Contrast, PathBuf> =
        of_role.into_iter().filter_map(|(role, path)| Some((role.contrast()?, path))).collect();
    if scans.is_empty() {
        return Err(if is_voided {
            let detail = "only a voided scan: it can be inpainted, not trained on";
            Problem::note(Kind::NoContrast, detail)
        } else {
            Problem::error(Kind::NoContrast, "none of its scans is there")
        });
    }
    let patient = patient.unwrap_or_else(|| patient_of(&name).to_string());
    Ok(Case { name, patient, scans, segmentation, label_scheme, companions })
}

#[cfg(test)]
mod tests;
