//! A site's scans: which there are, which train, which are held out, and their voxels.
//!
//! Errors here name files and cases, so they are for the site's own log and terminal alone; what may
//! leave the site is [`Error::failure`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::data::example::Region;
use crate::data::labels::{self, LabelScheme};
use crate::data::layout::{self, Case, Contrast, Discovery, SetAside};
use crate::data::nifti;
use crate::data::nifti::header::FileGeometry;
use crate::data::pool::SlicePool;
use crate::data::scan::{CaseScan, Error as ScanError, SliceOptions};
use crate::data::slices::CaseSlices;
use crate::data::split;
use crate::data::volume::Volume;
use crate::pipe::{CohortSummary, Failure};
use crate::settings::DataSettings;

/// Voxels of scans are kept between rounds up to this many bytes; the rest is read again every round.
const SCANS_BYTES_MAX: usize = 1 << 30;

/// Why a cohort cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A word of the settings has no meaning.
    #[error("{field} names {word:?}, it must be one of {known}")]
    Word {
        /// The field as written in the configuration.
        field: &'static str,
        /// The word.
        word: String,
        /// The words there are.
        known: &'static str,
    },
    /// The folder has no cases, or does not read.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// The part held out is not a part.
    #[error(transparent)]
    Split(#[from] split::Error),
    /// No case has a contrast that is asked for.
    #[error("{}: no case has one of the contrasts asked for", path.display())]
    NoContrast {
        /// The cohort's folder.
        path: PathBuf,
    },
    /// A file is not a scan, or does not fit the others of its case.
    #[error(transparent)]
    Nifti(#[from] nifti::Error),
    /// A segmentation has labels without meaning.
    #[error(transparent)]
    Labels(#[from] labels::Error),
    /// A scan cannot be learnt from.
    #[error("case {case}, {contrast}: {source}", contrast = contrast.name())]
    Scan {
        /// The case.
        case: String,
        /// Which of its scans.
        contrast: Contrast,
        /// Why.
        source: ScanError,
    },
    /// All scans together cannot be learnt from.
    #[error("the training scans: {0}")]
    Pool(ScanError),
    /// The caller does not want it any more.
    #[error("reading the scans was stopped")]
    Stopped,
}

impl Error {
    /// The error in a form that may leave the site.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Stopped => Failure::Cancelled,
            _ => Failure::NoData,
        }
    }
}

/// One scan in memory.
#[derive(Debug)]
pub struct Exam {
    /// The voxels.
    pub image: Volume,
    /// The file's own grid.
    pub geometry: FileGeometry,
    /// The lesion's component per voxel, where there is a segmentation.
    pub lesion: Option<Vec<Option<Region>>>,
}

impl Exam {
    fn bytes(&self) -> usize {
        let lesion = self.lesion.as_ref().map_or(0, Vec::len);
        self.image.voxels.len() * size_of::<f32>() + lesion * size_of::<Option<Region>>()
    }
}

/// The scans of a site.
#[derive(Debug)]
pub struct Cohort {
    cases: Vec<Case>,
    held_out: BTreeSet<String>,
    scheme: Option<LabelScheme>,
    kept: Mutex<BTreeMap<(usize, Contrast), Arc<Exam>>>,
}

impl Cohort {
    /// Finds the cases that the settings ask for. No scan is opened.
    ///
    /// # Errors
    /// If a setting has no meaning or there is no case.
    pub fn discover(settings: &DataSettings) -> Result<Cohort, Error> {
        let known = "brats2021, brats2023, brats_post, lesion";
        let scheme = settings.label_scheme.as_deref();
        let scheme = scheme.map(|word| parse("data.label_scheme", word, known)).transpose()?;
        let known = "t1n, t1c, t2w, t2f";
        let wanted = settings
            .contrasts
            .as_deref()
            .map(|words| words.iter().map(|word| parse("data.contrasts", word, known)).collect());
        let wanted: Option<BTreeSet<Contrast>> = wanted.transpose()?;
        let Discovery { mut cases, set_aside, .. } = layout::discover(&settings.path)?;
        for SetAside { case, problem } in set_aside {
            tracing::warn!(case, kind = problem.kind.name(), "set aside: {}", problem.detail);
        }
        if let Some(wanted) = &wanted {
            for case in &mut cases {
                case.scans.retain(|contrast, _| wanted.contains(contrast));
            }
            cases.retain(|case| !case.scans.is_empty());
        }
        if cases.is_empty() {
            return Err(Error::NoContrast { path: settings.path.clone() });
        }
        let patients = cases.iter().map(|case| case.patient.as_str());
        let held_out = match settings.held_out {
            0.0 => BTreeSet::new(),
            part => split::held_out(patients, &settings.split_salt, part)?,
        };
        Ok(Cohort { cases, held_out, scheme, kept: Mutex::default() })
    }

    /// How much there is.
    pub fn summary(&self) -> CohortSummary {
        let patients: BTreeSet<&str> = self.cases.iter().map(|c| c.patient.as_str()).collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        CohortSummary {
            cases: count(self.cases.len()),
            patients: count(patients.len()),
            patients_held_out: count(self.held_out.len()),
            scans_training: count(self.scans(false).count()),
        }
    }

    /// The scans of the held-out patients, or of all others, in the order of the cases.
    pub fn scans(&self, held_out: bool) -> impl Iterator<Item = (usize, &Case, Contrast)> {
        self.cases
            .iter()
            .enumerate()
            .filter(move |(_, case)| self.held_out.contains(&case.patient) == held_out)
            .flat_map(|(i, case)| case.scans.keys().map(move |&contrast| (i, case, contrast)))
    }

    /// Reads a scan and its segmentation.
    ///
    /// # Errors
    /// If a file does not read or does not fit the others of its case.
    pub fn read(&self, case: &Case, contrast: Contrast) -> Result<Exam, Error> {
        let nifti::Scan { volume, geometry } = nifti::read(&case.scans[&contrast])?;
        let lesion = match &case.segmentation {
            None => None,
            Some(path) => {
                let segmentation = nifti::read_like(path, &geometry)?;
                Some(labels::regions(&segmentation, case.scheme(self.scheme), &case.name)?)
            }
        };
        Ok(Exam { image: volume, geometry, lesion })
    }

    /// The slices that train in one round. Scans with nothing to learn from are passed over.
    ///
    /// # Errors
    /// If a scan does not read, nothing can be learnt from any, or `is_stopped` says so.
    pub fn pool(
        &self,
        options: &SliceOptions,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<SlicePool, Error> {
        let scans: Vec<_> = self.scans(false).collect();
        let slices = scans.par_iter().map(|&(index, case, contrast)| {
            if is_stopped() {
                return Err(Error::Stopped);
            }
            let exam = self.keep(index, case, contrast)?;
            let scan = CaseScan {
                patient: &case.patient,
                image: &exam.image,
                lesion: exam.lesion.as_deref(),
                contrast: contrast as usize,
            };
            match CaseSlices::build(&scan, options) {
                Ok(slices) => Ok(Some(slices)),
                Err(ScanError::NothingToLearn) => {
                    tracing::warn!(
                        case = case.name,
                        contrast = contrast.name(),
                        "nothing to learn"
                    );
                    Ok(None)
                }
                Err(source) => Err(Error::Scan { case: case.name.clone(), contrast, source }),
            }
        });
        // Collected in the order of the cases, whichever thread was first.
        let slices: Result<Vec<Option<CaseSlices>>, Error> = slices.collect();
        SlicePool::new(slices?.into_iter().flatten().collect()).map_err(Error::Pool)
    }

    /// A scan, from memory if it is kept there.
    fn keep(&self, index: usize, case: &Case, contrast: Contrast) -> Result<Arc<Exam>, Error> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exam) = lock().get(&(index, contrast)) {
            return Ok(Arc::clone(exam));
        }
        let exam = Arc::new(self.read(case, contrast)?);
        let mut kept = lock();
        let bytes: usize = kept.values().map(|exam| exam.bytes()).sum();
        if bytes + exam.bytes() <= SCANS_BYTES_MAX {
            kept.insert((index, contrast), Arc::clone(&exam));
        }
        Ok(exam)
    }
}

fn parse<'a, T: Deserialize<'a>>(
    field: &'static str,
    word: &'a str,
    known: &'static str,
) -> Result<T, Error> {
    let deserializer: StrDeserializer<'a, WordError> = word.into_deserializer();
    let unknown = |_| Error::Word { field, word: word.chars().take(40).collect(), known };
    T::deserialize(deserializer).map_err(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cohort(cases: &[(&str, &[&str])]) -> (tempfile::TempDir, DataSettings) {
        let folder = tempfile::tempdir().unwrap();
        for (case, contrasts) in cases {
            std::fs::create_dir(folder.path().join(case)).unwrap();
            for contrast in *contrasts {
                let path = folder.path().join(case).join(format!("{case}-{contrast}.nii.gz"));
                std::fs::write(path, b"").unwrap();
            }
        }
        let path = folder.path().to_owned();
        let settings = DataSettings {
            path,
            label_scheme: None,
            contrasts: None,
            held_out: 0.34,
            split_salt: String::new(),
        };
        (folder, settings)
    }

    #[test]
    fn every_patient_either_trains_or_is_held_out() {
        let cases: &[(&str, &[&str])] = &[
            ("A-1-0", &["t1n"]),
            ("A-1-1", &["t1n", "t2f"]),
            ("A-2-0", &["t1n"]),
            ("A-3-0", &["t1c"]),
        ];
        let (_folder, settings) = cohort(cases);
        let found = Cohort::discover(&settings).unwrap();
        let patients = |held| -> BTreeSet<&str> {
            found.scans(held).map(|(_, case, _)| case.patient.as_str()).collect()
        };
        assert_eq!((patients(true).len(), patients(false).len()), (1, 2));
        assert!(patients(true).is_disjoint(&patients(false)));
        let summary = found.summary();
        assert_eq!((summary.cases, summary.patients, summary.patients_held_out), (4, 3, 1));
        let nobody = DataSettings { held_out: 0.0, ..settings };
        assert_eq!(Cohort::discover(&nobody).unwrap().scans(true).count(), 0);
    }

    #[test]
    fn only_the_contrasts_asked_for_are_used_and_unknown_words_are_refused() {
        let (_folder, settings) = cohort(&[("A-1", &["t1n", "t2f"]), ("A-2", &["t2f"])]);
        let with = |contrasts: &[&str], scheme: Option<&str>| {
            Cohort::discover(&DataSettings {
                contrasts: Some(contrasts.iter().map(ToString::to_string).collect()),
                label_scheme: scheme.map(str::to_owned),
                ..settings.clone()
            })
        };
        assert_eq!(with(&["t1n"], None).unwrap().summary().cases, 1);
        assert!(matches!(with(&["t1c"], None), Err(Error::NoContrast { .. })));
        let refused = with(&["T1"], None).unwrap_err().to_string();
        assert!(refused.contains("data.contrasts") && refused.contains("t1n"), "{refused}");
        let refused = with(&["t1n"], Some("brats")).unwrap_err().to_string();
        assert!(refused.contains("data.label_scheme"), "{refused}");
    }
}
