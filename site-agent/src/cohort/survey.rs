//! Looks at every case of a cohort once, several at a time, and says what became of each.
//!
//! A case that was found sound is not read again while its files stay as they are.

use std::collections::BTreeMap;
use std::path::Path;

use fedpaint_proto::names::Digest;

use super::{Cohort, Error};
use crate::data::duplicates::{self, Digests, Seen};
use crate::data::exam;
use crate::data::labels::LabelScheme;
use crate::data::layout::{Case, Contrast};
use crate::data::prefetch::{Ahead, ahead};
use crate::data::problem::{Problem, Severity};
use crate::data::readers::{READERS_MAX, readers};
use crate::data::split::manifest::{Entry, Manifest, Part, patient_hash};

impl Cohort {
    /// Reads every case that is not known to be sound, and sets aside those that are not, and those
    /// that have another patient's scan. `progress` hears how many of how many are done.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `is_stopped` says so.
    pub fn survey(
        &self,
        is_stopped: &(dyn Fn() -> bool + Sync),
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), Error> {
        let cases = &self.cases;
        let look = |index: usize| -> Option<Result<Digests, exam::Error>> {
            let case: &Case = &cases[index];
            (!is_stopped()).then(|| self.shelf.digests(case, case.scheme(self.scheme)))
        };
        let readers = Ahead { threads: readers(), queue: 2 * READERS_MAX };
        let mut sound: Vec<(&Case, Digests)> = Vec::new();
        ahead(readers, cases.len(), look, |looked| -> Result<(), Error> {
            for (index, case) in cases.iter().enumerate() {
                progress(index, cases.len());
                match looked.take().flatten().ok_or(Error::Stopped)? {
                    Ok(digests) => sound.push((case, digests)),
                    Err(error) => self.set_case_aside(&case.name, error.problem(case)),
                }
            }
            progress(cases.len(), cases.len());
            Ok(())
        })?;
        self.note_sound(&sound);
        Ok(())
    }

    /// Takes back cases that read again, except those that have another patient's scan.
    fn note_sound(&self, sound: &[(&Case, Digests)]) {
        let seen = sound.iter().map(|(case, digests)| Seen {
            case: &case.name,
            patient: &case.patient,
            digests,
        });
        let duplicates = duplicates::find(&seen.collect::<Vec<_>>());
        let mut wrong: BTreeMap<usize, Problem> = duplicates
            .into_iter()
            .filter(|(_, problem)| problem.severity == Severity::Error)
            .collect();
        for (index, (case, _)) in sound.iter().enumerate() {
            match wrong.remove(&index) {
                Some(problem) => self.set_case_aside(&case.name, problem),
                None => drop(self.aside().remove(&case.name)),
            }
        }
    }

    /// What a round learns from, as a digest: the cases that train, whose they are, what their files hold
    /// and what labels mean in them; after [`Cohort::survey`].
    pub fn training(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("fedpaint 2026 training data v1");
        // A length before every word keeps "ab" + "c" apart from "a" + "bc".
        let mut add = |word: &str| {
            hasher.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
        };
        for (_, case) in self.usable(false) {
            let scheme = case.scheme(self.scheme).map_or("none", LabelScheme::name);
            [case.name.as_str(), &case.patient, scheme].into_iter().for_each(&mut add);
            for (name, digest) in self.digests_of(case) {
                [name, &digest].into_iter().for_each(&mut add);
            }
            add("");
        }
        Digest::from(hasher.finalize())
    }

    /// The digests of a case's files by what they are; a file that does not read is left out.
    fn digests_of(&self, case: &Case) -> BTreeMap<&'static str, String> {
        let named = case.scans.iter().map(|(&contrast, path)| (Contrast::name(contrast), path));
        let files = named.chain(case.segmentation.iter().map(|path| ("seg", path)));
        let digest = |path: &Path| Some(self.shelf.digest(path).ok()?.to_string());
        files.filter_map(|(name, path)| Some((name, digest(path)?))).collect()
    }

    /// What became of each case, with the digests of its files; after [`Cohort::survey`].
    pub fn manifest(&self) -> Manifest {
        let salt = &self.settings.split_salt;
        let aside = |name: &str| self.aside().get(name).map(Problem::to_string);
        let entry = |case: &Case| {
            let reason = aside(&case.name);
            let part = match &reason {
                Some(_) => Part::SetAside,
                None if self.is_held_out(&case.patient) => Part::HeldOut,
                None => Part::Training,
            };
            // A hash without a salt would give the patient away to anybody who can guess names.
            let patient = (!salt.is_empty()).then(|| patient_hash(salt, &case.patient));
            Entry { case: case.name.clone(), patient, part, reason, files: self.digests_of(case) }
        };
        let mut entries: Vec<Entry> = self.cases.iter().map(entry).collect();
        // Those whose files could not even be told apart.
        for case in self.names() {
            if !self.cases.iter().any(|found| found.name == case) {
                let (reason, part, files) = (aside(&case), Part::SetAside, BTreeMap::new());
                entries.push(Entry { case, patient: None, part, reason, files });
            }
        }
        Manifest::new(self.settings.held_out, self.known.with(self.keys.clone()), entries)
    }
}
