//! A site's scans: which there are, which train, which are held out, which are set aside.
//!
//! One bad file sets its case aside and never stops the site. Errors and reasons here name files and
//! cases, so they are for the site's own log, terminal and folder alone; what may leave the site is
//! [`Error::failure`] and [`Cohort::summary`].

mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fedpaint_proto::disk::may_pass;
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::data::cache::{self, Cache};
use crate::data::exam::{self, Exam};
use crate::data::labels::LabelScheme;
use crate::data::layout::{self, Case, Contrast, Discovery, SetAside};
use crate::data::mask::bank::Bank;
use crate::data::pool::{self, PoolCase, SlicePool};
use crate::data::problem::{Problem, Severity};
use crate::data::scan::SliceOptions;
use crate::data::shelf::{OPEN_BYTES_DEFAULT, Shelf};
use crate::data::split::manifest::{self, Known};
use crate::data::split::{self, Side};
use crate::pipe::{CohortSummary, Failure};
use crate::settings::DataSettings;

/// How much of a word that has no meaning is quoted.
const WORD_CHARS_MAX: usize = 40;

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
    /// The split that holds so far does not read.
    #[error(transparent)]
    Known(#[from] manifest::ReadError),
    /// The cache's folder is of no use.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// No case has a contrast that is asked for.
    #[error("{}: no case has one of the contrasts asked for", path.display())]
    NoContrast {
        /// The cohort's folder.
        path: PathBuf,
    },
    /// Every case that could train is set aside.
    #[error(
        "{}: none of the {cases} cases that could be used is sound: {}", path.display(),
        reasons.join("; ")
    )]
    NoneSound {
        /// The cohort's folder.
        path: PathBuf,
        /// How many were looked at.
        cases: usize,
        /// Why some of them were set aside.
        reasons: Vec<String>,
    },
    /// All scans together cannot be learnt from.
    #[error("the training scans: {0}")]
    Pool(#[from] pool::Error),
    /// The caller does not want it any more.
    #[error("reading the scans was stopped")]
    Stopped,
}

impl Error {
    /// The error in a form that may leave the site.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Stopped => Failure::Cancelled,
            Error::Cache(_) | Error::Known(_) => Failure::Disk,
            _ => Failure::NoData,
        }
    }
}

/// The scans of a site.
#[derive(Debug)]
pub struct Cohort {
    settings: DataSettings,
    cases: Vec<Case>,
    /// The side of every patient that was found, whatever its contrasts.
    sides: BTreeMap<String, Side>,
    /// What was known of sides before, and the keys of who was found.
    known: Known,
    keys: BTreeMap<String, Side>,
    scheme: Option<LabelScheme>,
    shelf: Shelf,
    /// What is wrong with a case that is set aside, by its name.
    aside: Mutex<BTreeMap<String, Problem>>,
}

impl Cohort {
    /// Finds the cases that the settings ask for. No scan is opened.
    ///
    /// # Errors
    /// If a setting has no meaning, there is no case, or the cache cannot be opened.
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
        let mut found = layout::discover(&settings.path)?;
        // Before any case is left out, so that who is held out does not depend on the contrasts.
        let known = settings.split.as_deref().map(Known::read).transpose()?.unwrap_or_default();
        let sides = sides(&found.cases, &known, settings)?;
        let salt = &settings.split_salt;
        let key = |case: &Case| {
            let side = *sides.get(&case.patient)?;
            Some((manifest::key(salt, &case.name, &case.patient), side))
        };
        let keys = found.cases.iter().filter_map(key).collect();
        if let Some(wanted) = &wanted {
            found.keep_contrasts(wanted);
        }
        let Discovery { cases, set_aside, .. } = found;
        let cache = settings.cache.as_deref().filter(|_| settings.cache_mib_max > 0);
        let cache = cache.map(|folder| usable(Cache::open(folder, settings.cache_mib_max)));
        let shelf = Shelf::new(cache.transpose()?.flatten(), open_bytes());
        let settings = settings.clone();
        let aside = Mutex::default();
        let cohort = Cohort { settings, cases, sides, known, keys, scheme, shelf, aside };
        // What was not asked for, or can only be inpainted, is no loss worth telling.
        let is_error = |aside: &SetAside| aside.problem.severity == Severity::Error;
        for SetAside { case, problem } in set_aside.into_iter().filter(is_error) {
            cohort.set_case_aside(&case, problem);
        }
        if cohort.cases.is_empty() {
            let nobody = cohort.aside().is_empty();
            let path = cohort.settings.path.clone();
            return Err(if nobody { Error::NoContrast { path } } else { cohort.none_sound() });
        }
        Ok(cohort)
    }

    /// How much there is, and how much of it is known to be unusable so far.
    pub fn summary(&self) -> CohortSummary {
        let patients: BTreeSet<&str> = self.cases.iter().map(|c| c.patient.as_str()).collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let scans = self.usable(false).map(|(_, case)| case.scans.len()).sum();
        CohortSummary {
            cases: count(self.names().len()),
            cases_set_aside: count(self.aside().len()),
            patients: count(patients.len()),
            patients_held_out: count(patients.iter().filter(|p| self.is_held_out(p)).count()),
            scans_training: count(scans),
        }
    }

    /// The cases of the held-out patients, or of all others, that are not set aside so far, in the
    /// order of their names.
    pub fn usable(&self, held_out: bool) -> impl Iterator<Item = (usize, &Case)> {
        let aside: BTreeSet<String> = self.aside().keys().cloned().collect();
        let in_part = move |case: &Case| self.is_held_out(&case.patient) == held_out;
        let cases = self.cases.iter().enumerate();
        cases.filter(move |(_, case)| in_part(case) && !aside.contains(&case.name))
    }

    /// Whether no training may see a patient.
    fn is_held_out(&self, patient: &str) -> bool {
        self.sides.get(patient) == Some(&Side::HeldOut)
    }

    /// The cases that are set aside so far.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let aside = self.aside();
        let one = |(case, problem): (&String, &Problem)| SetAside {
            case: case.clone(),
            problem: problem.clone(),
        };
        aside.iter().map(one).collect()
    }

    /// Reads a whole case at its full size; none if it now has to be set aside.
    pub fn read(&self, case: &Case) -> Option<Exam> {
        let scheme = case.scheme(self.scheme);
        let read = self.shelf.check(case, scheme).and_then(|()| exam::read(case, scheme));
        read.map_err(|error| self.set_case_aside(&case.name, error.problem(case))).ok()
    }

    /// Has `used` draw from the training slices of one round, after every case was looked at.
    ///
    /// # Errors
    /// If no case is sound, or `is_stopped` says so.
    pub fn with_pool<R>(
        &self,
        options: SliceOptions,
        is_stopped: &(dyn Fn() -> bool + Sync),
        used: impl FnOnce(&SlicePool<'_>) -> R,
    ) -> Result<R, Error> {
        self.survey(is_stopped, &mut |_, _| {})?;
        let cases: Vec<PoolCase> = self
            .usable(false)
            .map(|(index, case)| PoolCase {
                patient: case.patient.clone(),
                index,
                contrasts: case.scans.keys().map(|&contrast| contrast as usize).collect(),
            })
            .collect();
        if cases.is_empty() {
            return Err(self.none_sound());
        }
        let mut shapes = Vec::new();
        for case in cases.iter().map(|pooled| &self.cases[pooled.index]) {
            let found = self.shelf.shapes(case, case.scheme(self.scheme), options.mode);
            // It was sound a moment ago; if it has gone since, drawing from it says so.
            shapes.extend(found.unwrap_or_default());
        }
        let bank = Bank::new(shapes).map(Arc::new);
        let open = |index: usize| {
            let case = &self.cases[index];
            self.shelf.case(case, case.scheme(self.scheme)).map_err(Into::into)
        };
        Ok(used(&SlicePool::new(cases, options, bank, &open)?))
    }

    /// The error that no case is sound, with the first reasons.
    pub fn none_sound(&self) -> Error {
        const REASONS_MAX: usize = 3;
        let aside = self.aside();
        let reasons = aside.values().take(REASONS_MAX).map(Problem::to_string).collect();
        Error::NoneSound { path: self.settings.path.clone(), cases: aside.len(), reasons }
    }

    /// Sets a case aside. Each reason is logged once, by its kind: a log may be sent to others, and names and
    /// paths may be a patient's.
    fn set_case_aside(&self, case: &str, problem: Problem) {
        let before = self.aside().insert(case.to_owned(), problem.clone());
        if before.as_ref() != Some(&problem) {
            let kind = problem.kind.name();
            tracing::warn!(kind, "a case is set aside: `data check` says which, and why");
        }
    }

    /// The names of all cases, used or not.
    fn names(&self) -> BTreeSet<String> {
        let aside = self.aside();
        self.cases.iter().map(|case| &case.name).chain(aside.keys()).cloned().collect()
    }

    fn aside(&self) -> MutexGuard<'_, BTreeMap<String, Problem>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of every patient of these cases.
fn sides(
    cases: &[Case],
    known: &Known,
    settings: &DataSettings,
) -> Result<BTreeMap<String, Side>, split::Error> {
    let (salt, patients) = (&settings.split_salt, cases.iter().map(|case| case.patient.as_str()));
    if settings.held_out == 0.0 {
        return Ok(patients.map(|patient| (patient.to_owned(), Side::Training)).collect());
    }
    let mut so_far: BTreeMap<&str, Side> = BTreeMap::new();
    for case in cases {
        if let Some(side) = known.side(salt, &case.name, &case.patient) {
            let found = so_far.entry(&case.patient).or_insert(side);
            *found = side.min(*found);
        }
    }
    split::sides(patients, &so_far, salt, settings.held_out)
}

/// The cache that was opened; none where its disk is full, broken or read-only now: a training goes on without,
/// slower and not other. A folder that can never be one is an error still.
fn usable(opened: Result<Cache, cache::Error>) -> Result<Option<Cache>, cache::Error> {
    match opened {
        Err(error) if may_pass(&error.source) => {
            let error = error.told();
            tracing::warn!("scans are prepared anew each time until the next start: {error}");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// What prepared cases may take of memory or address space: a quarter of what the process may have.
fn open_bytes() -> usize {
    let limit = getrlimit(Resource::As).current.and_then(|bytes| usize::try_from(bytes).ok());
    limit.map_or(OPEN_BYTES_DEFAULT, |bytes| OPEN_BYTES_DEFAULT.min(bytes / 4))
}

fn parse<'a, T: Deserialize<'a>>(
    field: &'static str,
    word: &'a str,
    known: &'static str,
) -> Result<T, Error> {
    let deserializer: StrDeserializer<'a, WordError> = word.into_deserializer();
    let unknown =
        |_| Error::Word { field, word: word.chars().take(WORD_CHARS_MAX).collect(), known };
    T::deserialize(deserializer).map_err(unknown)
}

#[cfg(test)]
mod tests;
