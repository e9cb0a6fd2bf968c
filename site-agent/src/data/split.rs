//! Which patients are held out of training, decided by patient and never by exam or slice, and once for
//! each: who was on a side stays there.
//!
//! Pure: the same patients, sides, salt and fraction give the same split on every machine.

pub mod manifest;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The domain of the hash that ranks patients.
const DOMAIN: &str = "fedpaint held-out patients v1";

/// A fraction that holds out nobody or everybody.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("held-out fraction {0} is not between 0 and 1, both excluded")]
pub struct Error(pub f64);

/// The side of a patient. Of two claims the lesser one holds: who has trained cannot be held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It trains.
    Training,
    /// No training may see it.
    HeldOut,
}

/// The side of every patient. Those that are `known` keep theirs; of the others those with the smallest
/// hash of (salt, patient) are held out, as many as bring the held-out part nearest to `fraction`.
///
/// Of two or more patients at least one is to be held out and at least one to train; a single patient
/// trains. Duplicates count once, so all exams of a patient stay together.
///
/// # Errors
/// [`Error`] if `fraction` is not between 0 and 1.
pub fn sides<'a>(
    patients: impl IntoIterator<Item = &'a str>,
    known: &BTreeMap<&str, Side>,
    salt: &str,
    fraction: f64,
) -> Result<BTreeMap<String, Side>, Error> {
    // NaN is in no range.
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error(fraction));
    }
    let patients: BTreeSet<&str> = patients.into_iter().collect();
    let wanted = match patients.len() {
        0 | 1 => 0,
        count => ((count as f64 * fraction).round() as usize).clamp(1, count - 1),
    };
    let (old, new): (Vec<&str>, Vec<&str>) =
        patients.into_iter().partition(|patient| known.contains_key(patient));
    let mut sides: BTreeMap<String, Side> =
        old.into_iter().map(|patient| (patient.to_string(), known[patient])).collect();
    let kept = sides.values().filter(|side| **side == Side::HeldOut).count();
    let mut ranked: Vec<([u8; 32], &str)> =
        new.into_iter().map(|patient| (rank(salt, patient), patient)).collect();
    ranked.sort_unstable();
    for (place, (_, patient)) in ranked.into_iter().enumerate() {
        let is_held_out = place < wanted.saturating_sub(kept);
        let side = if is_held_out { Side::HeldOut } else { Side::Training };
        sides.insert(patient.to_owned(), side);
    }
    Ok(sides)
}

/// The hash of a salt and a patient; the salt's length keeps "ab" + "c" apart from "a" + "bc".
fn rank(salt: &str, patient: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
    hasher.update(&(salt.len() as u64).to_le_bytes());
    hasher.update(salt.as_bytes());
    hasher.update(patient.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Who is held out of patients of whom nothing is known.
    fn held_out<'a>(
        patients: impl IntoIterator<Item = &'a str>,
        salt: &str,
        fraction: f64,
    ) -> Result<BTreeSet<String>, Error> {
        Ok(held(&sides(patients, &BTreeMap::new(), salt, fraction)?))
    }

    fn held(sides: &BTreeMap<String, Side>) -> BTreeSet<String> {
        let held = sides.iter().filter(|(_, side)| **side == Side::HeldOut);
        held.map(|(patient, _)| patient.clone()).collect()
    }

    proptest! {
        #[test]
        fn two_or_more_patients_leave_some_on_both_sides(
            patients in prop::collection::btree_set("[A-Z]{1,3}-[0-9]{1,3}", 2..40),
            salt in ".{0,8}",
            fraction in 0.001..0.999_f64,
        ) {
            let held = held_out(patients.iter().map(String::as_str), &salt, fraction).unwrap();
            prop_assert!(!held.is_empty() && held.len() < patients.len());
            prop_assert!(held.is_subset(&patients));
            let wanted = patients.len() as f64 * fraction;
            let clamped = held.len() == 1 || held.len() == patients.len() - 1;
            prop_assert!(clamped || (held.len() as f64 - wanted).abs() <= 0.5);
        }

        #[test]
        fn order_and_repeated_exams_change_nothing(
            patients in prop::collection::vec("[A-Z]{1,3}", 1..20),
        ) {
            let forward = held_out(patients.iter().map(String::as_str), "s", 0.3).unwrap();
            let twice = patients.iter().rev().chain(&patients).map(String::as_str);
            prop_assert_eq!(held_out(twice, "s", 0.3).unwrap(), forward);
        }

        #[test]
        fn further_patients_move_nobody_and_bring_the_part_to_the_fraction(
            first in prop::collection::btree_set("[A-Z]{3}", 2..30),
            further in prop::collection::btree_set("[a-z]{3}", 1..30),
            fractions in (0.05..0.5_f64, 0.05..0.5_f64),
        ) {
            let names = |patients: &BTreeSet<String>| patients.iter().cloned().collect::<Vec<_>>();
            let (first, further) = (names(&first), names(&further));
            let before =
                sides(first.iter().map(String::as_str), &BTreeMap::new(), "s", fractions.0).unwrap();
            let known: BTreeMap<&str, Side> =
                before.iter().map(|(patient, side)| (patient.as_str(), *side)).collect();
            let all = first.iter().chain(&further).map(String::as_str);
            let after = sides(all, &known, "other salt", fractions.1).unwrap();
            for (patient, side) in &before {
                prop_assert_eq!(after[patient], *side);
            }
            let count = first.len() + further.len();
            let wanted = ((count as f64 * fractions.1).round() as usize).clamp(1, count - 1);
            let most = held(&before).len() + further.len();
            prop_assert_eq!(held(&after).len(), wanted.clamp(held(&before).len(), most));
        }
    }

    #[test]
    fn a_single_patient_trains() {
        assert!(held_out(["LJ-MS-07", "LJ-MS-07"], "s", 0.5).unwrap().is_empty());
        assert!(held_out([], "s", 0.5).unwrap().is_empty());
    }

    #[test]
    fn another_salt_is_another_split() {
        let names: Vec<String> = (0..100).map(|i| format!("P-{i}")).collect();
        let split = |salt| held_out(names.iter().map(String::as_str), salt, 0.5).unwrap();
        assert_ne!(split("a"), split("b"));
    }

    #[test]
    fn the_split_is_the_same_on_every_machine() {
        // From an independent BLAKE3 (derive-key mode); a change of this set moves held-out patients into
        // training of every run that goes on.
        let held = held_out(["A", "B", "C", "D", "E", "F", "G", "H"], "run", 0.25).unwrap();
        assert_eq!(held.into_iter().collect::<Vec<_>>(), ["B", "G"]);
    }

    #[test]
    fn a_fraction_of_nobody_or_everybody_is_refused() {
        for fraction in [0.0, 1.0, -0.1, 2.0, f64::NAN] {
            assert!(held_out(["a", "b"], "s", fraction).is_err(), "{fraction}");
        }
    }
}
