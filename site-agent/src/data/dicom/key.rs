//! What a patient is called outside of DICOM: a number that only the holder of the salt can tie to the
//! PatientID. It never holds an id.

use blake3::Hasher;

/// The secret of a site's import; whoever has it can test whether a PatientID belongs to a key.
pub type Salt = [u8; 32];

/// Names have this many digits: of a million patients one pair in two collides, and collisions are
/// looked for.
const DIGITS: u64 = 1_000_000_000_000;

/// The key of a patient, in the form in which BraTS names its own, so that exams of one patient are
/// found to belong together.
pub(super) fn patient(salt: &Salt, patient_id: &str) -> String {
    format!("dicom-{:012}", number(Hasher::new_keyed(salt).update(patient_id.as_bytes())))
}

fn number(hasher: &Hasher) -> u64 {
    let mut low = [0; 8];
    hasher.finalize_xof().fill(&mut low);
    u64::from_le_bytes(low) % DIGITS
}

/// A UID that follows from `parts` alone (PS3.5 B.2: a UUID as a decimal number below 2.25).
pub(super) fn uid(parts: &[&[u8]]) -> String {
    let mut hasher = Hasher::new_derive_key("fedpaint 2026-11 DICOM UID of a derived object");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut raw = [0; 16];
    hasher.finalize_xof().fill(&mut raw);
    // The bits of a UUID of version 8, made by whoever makes it, and of variant 1 (RFC 9562).
    raw[6] = raw[6] & 0x0F | 0x80;
    raw[8] = raw[8] & 0x3F | 0x80;
    format!("2.25.{}", u128::from_be_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::layout::patient_of;

    #[test]
    fn a_key_needs_the_salt_and_is_the_patient_of_its_cases() {
        let key = patient(&[7; 32], "4MR1");
        assert_eq!(key, patient(&[7; 32], "4MR1"));
        assert_ne!(key, patient(&[8; 32], "4MR1"));
        assert_ne!(key, patient(&[7; 32], "4MR2"));
        assert_eq!(patient_of(&format!("{key}-001")), key);
        assert!(!key.contains("4MR1"));
    }

    #[test]
    fn a_uid_is_valid_and_follows_from_its_parts() {
        let made = uid(&[b"ab", b"c"]);
        assert_eq!(made, uid(&[b"ab", b"c"]));
        assert_ne!(made, uid(&[b"a", b"bc"]));
        assert!(made.starts_with("2.25.") && made.len() <= 64, "{made}");
        assert!(!made[5..].starts_with('0'));
        assert!(made[5..].bytes().all(|digit| digit.is_ascii_digit()));
    }
}
