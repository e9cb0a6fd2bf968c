//! Which patients are held out of training, decided by patient and never by exam or slice.
//!
//! Pure: the same patients, salt and fraction give the same split on every machine.

pub mod manifest;

use std::collections::BTreeSet;

/// The domain of the hash that ranks patients.
const DOMAIN: &str = "fedpaint held-out patients v1";

/// A fraction that holds out nobody or everybody.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("held-out fraction {0} is not between 0 and 1, both excluded")]
pub struct Error(pub f64);

/// The patients that no training may see: those with the smallest hash of (salt, patient).
///
/// Of two or more patients at least one is held out and at least one trains; a single patient
/// trains. Duplicates count once, so all exams of a patient stay together.
///
/// # Errors
/// [`Error`] if `fraction` is not between 0 and 1.
pub fn held_out<'a>(
    patients: impl IntoIterator<Item = &'a str>,
    salt: &str,
    fraction: f64,
) -> Result<BTreeSet<String>, Error> {
    // NaN is in no range.
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error(fraction));
    }
    let patients: BTreeSet<&str> = patients.into_iter().collect();
    if patients.len() < 2 {
        return Ok(BTreeSet::new());
    }
    let count = (patients.len() as f64 * fraction).round() as usize;
    let mut ranked: Vec<([u8; 32], &str)> =
        patients.iter().map(|patient| (rank(salt, patient), *patient)).collect();
    ranked.sort_unstable();
    let count = count.clamp(1, patients.len() - 1);
    Ok(ranked[..count].iter().map(|(_, patient)| (*patient).to_string()).collect())
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
        fn a_further_patient_moves_at_most_one_other(
            patients in prop::collection::btree_set("[A-Z]{3}", 2..30), further in "[a-z]{3}",
        ) {
            let before = held_out(patients.iter().map(String::as_str), "s", 0.25).unwrap();
            let all = patients.iter().map(String::as_str).chain([further.as_str()]);
            let after = held_out(all, "s", 0.25).unwrap();
            prop_assert!(before.symmetric_difference(&after).filter(|p| **p != further).count() <= 1);
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
