//! The scans of all of a site's training patients, drawn so that every patient counts the same.
//!
//! An example depends on seed, round, step and place in the batch only: not on threads, not on what
//! is in memory, not on which case was planned first. Cases are opened and planned when drawn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rand::{Rng, RngExt};

use super::example::Example;
use super::lru::Lru;
use super::mask::Masks;
use super::mask::bank::Bank;
use super::plan::{CasePlans, Scratch};
use super::prepared::Prepared;
use super::scan::{self, MASKS_PER_CASE_MAX, SliceOptions};
use super::slices;
use super::stream::stream;

/// Cases whose plans are kept through a round; a plan takes about half a megabyte.
const PLANNED_CASES_MAX: usize = 512;

/// Scans drawn for one example before the pool is called useless: most teach something.
const DRAWS_MAX: usize = 1000;

/// Why there is no batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no case, or none has anything to hide.
    #[error("no scan has a slice with enough brain and room to hide anything: use other scans")]
    NothingToLearn,
    /// The options do not fit.
    #[error(transparent)]
    Options(#[from] scan::Error),
    /// A case cannot be opened any more.
    #[error("a case that was found sound cannot be read any more: {0}")]
    Open(Box<dyn std::error::Error + Send + Sync>),
}

/// One case of the pool.
#[derive(Clone, Debug)]
pub struct PoolCase {
    /// The patient, constant over exams. It seeds the masks and groups cases; it goes nowhere else.
    pub patient: String,
    /// What `open` is asked for.
    pub index: usize,
    /// The contrasts to draw from, by index.
    pub contrasts: Vec<usize>,
}

/// Opens a case by its index.
pub type Open<'a> =
    dyn Fn(usize) -> Result<Arc<Prepared>, Box<dyn std::error::Error + Send + Sync>> + Sync + 'a;

/// The training scans of a site in one round.
pub struct SlicePool<'a> {
    patients: Vec<Patient>,
    options: SliceOptions,
    masks: Masks,
    open: &'a Open<'a>,
    plans: Mutex<Lru<usize, Arc<OnceLock<CasePlans>>>>,
}

struct Patient {
    name: String,
    /// Case and contrast.
    scans: Vec<(usize, usize)>,
}

/// Which batch of a run is drawn.
#[derive(Clone, Copy, Debug)]
pub struct BatchKey {
    /// The run's seed.
    pub seed: u64,
    /// The round.
    pub round: u64,
    /// The step within the round.
    pub step: u64,
}

impl<'a> SlicePool<'a> {
    /// The pool of `cases`, which are grouped by patient, patients by name. Healthy masks take the
    /// shapes of `bank` where there is one.
    ///
    /// # Errors
    /// [`Error::NothingToLearn`] without a case, [`Error::Options`] for too many masks.
    pub fn new(
        cases: Vec<PoolCase>,
        options: SliceOptions,
        bank: Option<Arc<Bank>>,
        open: &'a Open<'a>,
    ) -> Result<SlicePool<'a>, Error> {
        if options.masks > MASKS_PER_CASE_MAX {
            return Err(scan::Error::Masks(options.masks).into());
        }
        let mut patients: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        for case in cases {
            let scans = case.contrasts.into_iter().map(|contrast| (case.index, contrast));
            patients.entry(case.patient).or_default().extend(scans);
        }
        let patients = patients.into_iter().map(|(name, mut scans)| {
            scans.sort_unstable();
            Patient { name, scans }
        });
        let patients: Vec<Patient> = patients.filter(|p| !p.scans.is_empty()).collect();
        if patients.is_empty() {
            return Err(Error::NothingToLearn);
        }
        let plans = Mutex::new(Lru::new(PLANNED_CASES_MAX));
        let masks = Masks { mode: options.mode, bank };
        Ok(SlicePool { patients, options, masks, open, plans })
    }

    /// The `count` examples of one batch. Each has its own stream, so that the first examples of a
    /// larger batch are those of a smaller one.
    ///
    /// # Errors
    /// [`Error::Open`] if a case cannot be opened, [`Error::NothingToLearn`] if nothing can be drawn.
    pub fn batch(&self, key: BatchKey, count: usize) -> Result<Vec<Example>, Error> {
        let mut scratch = Scratch::default();
        let BatchKey { seed, round, step } = key;
        let one = |place: u64| {
            let parts = [seed, round, step, place].map(u64::to_le_bytes);
            let parts = parts.each_ref().map(|part| part.as_slice());
            self.draw(&mut scratch, &mut stream("fedpaint 2026 training examples", &parts))
        };
        (0..count as u64).map(one).collect()
    }

    /// An example of a patient by chance, then of one of the patient's scans.
    fn draw(&self, scratch: &mut Scratch, rng: &mut impl Rng) -> Result<Example, Error> {
        for _ in 0..DRAWS_MAX {
            let patient = &self.patients[rng.random_range(0..self.patients.len())];
            let (case, contrast) = patient.scans[rng.random_range(0..patient.scans.len())];
            let opened = (self.open)(case).map_err(Error::Open)?;
            let planned = self.planned(case);
            let plans = planned
                .get_or_init(|| CasePlans::new(&opened, &patient.name, &self.options, &self.masks));
            let example = slices::draw(&opened, plans, contrast, &self.options, scratch, rng);
            if let Some(example) = example {
                return Ok(example);
            }
        }
        Err(Error::NothingToLearn)
    }

    /// The place for a case's plans. They are made outside of the lock, by whoever needs them first.
    fn planned(&self, case: usize) -> Arc<OnceLock<CasePlans>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get(&case).unwrap_or_else(|| {
            let empty = Arc::new(OnceLock::new());
            plans.insert(case, Arc::clone(&empty), 1);
            empty
        })
    }

    /// Patients in the pool.
    pub fn patients(&self) -> usize {
        self.patients.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{BatchKey, Error, PoolCase, SlicePool};
    use crate::data::mask::Mode;
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::prepared::{Prepared, Scan, build};
    use crate::data::scan::SliceOptions;

    const KEY: BatchKey = BatchKey { seed: 1, round: 2, step: 3 };

    const OPTIONS: SliceOptions = SliceOptions {
        size: 16,
        masks: 1,
        seed: 1,
        round: 1,
        mode: Mode::Corrected,
        augment: false,
    };

    fn prepared(contrasts: &[usize]) -> Arc<Prepared> {
        let image = brain();
        let lesion = tumour(&image);
        let scans: Vec<Scan<'_>> =
            contrasts.iter().map(|&contrast| Scan { contrast, image: &image }).collect();
        let block = build(&scans, Some(&lesion)).unwrap();
        Arc::new(Prepared::open(Box::new(block)).unwrap())
    }

    fn case(patient: &str, index: usize, contrasts: &[usize]) -> PoolCase {
        PoolCase { patient: patient.into(), index, contrasts: contrasts.to_vec() }
    }

    #[test]
    fn a_batch_depends_on_its_key_and_not_on_its_size_the_order_of_patients_or_what_came_before() {
        let cases = [prepared(&[0]), prepared(&[1])];
        let open = |index: usize| Ok(Arc::clone(&cases[index]));
        let pool =
            SlicePool::new(vec![case("a", 0, &[0]), case("b", 1, &[1])], OPTIONS, None, &open);
        let turned =
            SlicePool::new(vec![case("b", 1, &[1]), case("a", 0, &[0])], OPTIONS, None, &open);
        let (pool, turned) = (pool.unwrap(), turned.unwrap());
        let batch = pool.batch(KEY, 8).unwrap();
        turned.batch(BatchKey { step: 1, ..KEY }, 5).unwrap();
        assert_eq!(batch[..3], turned.batch(KEY, 3).unwrap());
        for other in
            [BatchKey { seed: 9, ..KEY }, BatchKey { round: 9, ..KEY }, BatchKey { step: 9, ..KEY }]
        {
            assert_ne!(batch, pool.batch(other, 8).unwrap());
        }
    }

    #[test]
    fn slices_are_varied_where_the_plan_says_so_and_nowhere_else() {
        let case_of = [prepared(&[0])];
        let open = |index: usize| Ok(Arc::clone(&case_of[index]));
        let with = |augment: bool| {
            let options = SliceOptions { augment, ..OPTIONS };
            let pool = SlicePool::new(vec![case("a", 0, &[0])], options, None, &open).unwrap();
            pool.batch(KEY, 40).unwrap()
        };
        let (plain, varied) = (with(false), with(true));
        let alike = plain.iter().zip(&varied).filter(|(a, b)| a == b).count();
        assert!(alike < 4, "{alike} of 40 are as they were");
        assert_eq!(plain, with(false));
        // What the tumour's mask is of stays: only where it lies changes.
        assert!(plain.iter().zip(&varied).all(|(a, b)| a.condition[..4] == b.condition[..4]));
    }

    #[test]
    fn every_patient_counts_the_same_however_many_scans_it_has() {
        let cases = [prepared(&[0, 1, 2]), prepared(&[3])];
        let open = |index: usize| Ok(Arc::clone(&cases[index]));
        let cases = vec![case("a", 0, &[0, 1, 2]), case("b", 1, &[3])];
        let pool = SlicePool::new(cases, OPTIONS, None, &open).unwrap();
        assert_eq!(pool.patients(), 2);
        let drawn = pool.batch(KEY, 1000).unwrap();
        let of_b = drawn.iter().filter(|example| example.condition[3] == 1.0).count();
        assert!((430..570).contains(&of_b), "{of_b}");
    }

    #[test]
    fn a_scan_that_teaches_nothing_is_passed_over_and_a_pool_of_such_is_refused() {
        let cases = [prepared(&[0]), prepared(&[1])];
        let open = |index: usize| Ok(Arc::clone(&cases[index]));
        // Contrast 2 is not in any of them.
        let some = vec![case("a", 0, &[0]), case("b", 1, &[2])];
        let batch = SlicePool::new(some, OPTIONS, None, &open).unwrap().batch(KEY, 50).unwrap();
        assert!(batch.iter().all(|example| example.condition[0] == 1.0));
        let none = SlicePool::new(vec![case("b", 1, &[2])], OPTIONS, None, &open).unwrap();
        assert!(matches!(none.batch(KEY, 1), Err(Error::NothingToLearn)));
        let refused = SlicePool::new(Vec::new(), OPTIONS, None, &open);
        assert!(matches!(refused, Err(Error::NothingToLearn)));
        let options = SliceOptions { masks: 65, ..OPTIONS };
        let refused = SlicePool::new(vec![case("a", 0, &[0])], options, None, &open);
        assert!(matches!(refused, Err(Error::Options(_))));
    }

    #[test]
    fn a_case_that_cannot_be_opened_fails_the_batch() {
        let open = |_: usize| Err("gone".into());
        let pool = SlicePool::new(vec![case("a", 0, &[0])], OPTIONS, None, &open).unwrap();
        assert!(matches!(pool.batch(KEY, 1), Err(Error::Open(_))));
    }
}
