//! The slices of all of a site's training patients, drawn so that every patient counts the same.
//!
//! It never draws from a clock: an example depends on seed, round, step and place in the batch only.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};

use super::example::Example;
use super::scan::Error;
use super::slices::CaseSlices;
use super::stream::stream;

/// The most memory the slices of a site may take.
pub const POOL_BYTES_MAX: usize = 2 << 30;

/// The training slices of a site.
pub struct SlicePool {
    /// The cases of each patient, patients by name.
    patients: Vec<Vec<CaseSlices>>,
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

impl SlicePool {
    /// The pool of `cases`, which are grouped by patient.
    ///
    /// # Errors
    /// [`Error::NothingToLearn`] without a case, [`Error::TooLarge`] beyond [`POOL_BYTES_MAX`].
    pub fn new(cases: Vec<CaseSlices>) -> Result<SlicePool, Error> {
        let bytes = cases.iter().map(CaseSlices::bytes).sum();
        if bytes > POOL_BYTES_MAX {
            return Err(Error::TooLarge { bytes, max: POOL_BYTES_MAX });
        }
        let mut patients: BTreeMap<String, Vec<CaseSlices>> = BTreeMap::new();
        for case in cases {
            patients.entry(case.patient().to_owned()).or_default().push(case);
        }
        if patients.is_empty() {
            return Err(Error::NothingToLearn);
        }
        Ok(SlicePool { patients: patients.into_values().collect() })
    }

    /// An example of a patient by chance, then of one of the patient's scans.
    pub fn draw(&self, rng: &mut impl Rng) -> Example {
        let cases = &self.patients[rng.random_range(0..self.patients.len())];
        cases[rng.random_range(0..cases.len())].draw(rng)
    }

    /// The `count` examples of one batch. Each has its own stream, so that the first examples of a
    /// larger batch are those of a smaller one.
    pub fn batch(&self, key: BatchKey, count: usize) -> Vec<Example> {
        (0..count as u64)
            .map(|place| {
                let BatchKey { seed, round, step } = key;
                let parts = [seed, round, step, place].map(u64::to_le_bytes);
                let parts = parts.each_ref().map(|part| part.as_slice());
                self.draw(&mut stream("fedpaint 2026 training examples", &parts))
            })
            .collect()
    }

    /// Patients in the pool.
    pub fn patients(&self) -> usize {
        self.patients.len()
    }

    /// Axial slices in the pool, over all patients and contrasts.
    pub fn slices(&self) -> usize {
        self.patients.iter().flatten().map(CaseSlices::slices).sum()
    }

    /// About how much memory the pool takes.
    pub fn bytes(&self) -> usize {
        self.patients.iter().flatten().map(CaseSlices::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchKey, SlicePool};
    use crate::data::phantom_for_tests::brain;
    use crate::data::scan::{CaseScan, Error, SliceOptions};
    use crate::data::slices::CaseSlices;

    const KEY: BatchKey = BatchKey { seed: 1, round: 2, step: 3 };

    fn case(patient: &str, contrast: usize) -> CaseSlices {
        let options = SliceOptions { size: 16, masks: 1, seed: 1, round: 1 };
        let scan = CaseScan { patient, image: &brain(), lesion: None, contrast };
        CaseSlices::build(&scan, &options).unwrap()
    }

    #[test]
    fn a_batch_depends_on_its_key_and_not_on_its_size_or_on_the_order_of_patients() {
        let pool = SlicePool::new(vec![case("a", 0), case("b", 1)]).unwrap();
        let turned = SlicePool::new(vec![case("b", 1), case("a", 0)]).unwrap();
        let batch = pool.batch(KEY, 8);
        assert_eq!(batch[..3], turned.batch(KEY, 3));
        for other in
            [BatchKey { seed: 9, ..KEY }, BatchKey { round: 9, ..KEY }, BatchKey { step: 9, ..KEY }]
        {
            assert_ne!(batch, pool.batch(other, 8));
        }
    }

    #[test]
    fn every_patient_counts_the_same_however_many_scans_it_has() {
        let cases = vec![case("a", 0), case("a", 1), case("a", 2), case("b", 3)];
        let pool = SlicePool::new(cases).unwrap();
        assert_eq!((pool.patients(), pool.slices() % 4), (2, 0));
        let drawn = pool.batch(KEY, 1000);
        let of_b = drawn.iter().filter(|example| example.condition[3] == 1.0).count();
        assert!((430..570).contains(&of_b), "{of_b}");
    }

    #[test]
    fn a_pool_without_a_case_is_refused() {
        assert_eq!(SlicePool::new(Vec::new()).err(), Some(Error::NothingToLearn));
    }
}
