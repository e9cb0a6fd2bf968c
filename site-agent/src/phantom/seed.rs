//! Where the phantom's randomness comes from: one ChaCha stream per purpose, so that a change to one
//! step (more noise draws, say) leaves every other step of a patient as it was.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// The domain of the hash that seeds a patient. A new recipe takes a new version.
const DOMAIN: &str = "fedpaint phantom patient v2";

/// What a patient's random streams are derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatientSeed {
    /// The seed of the cohort.
    pub cohort: u64,
    /// The scanner's letter: two sites with one seed have different patients.
    pub scanner: char,
    /// The patient's number in the cohort.
    pub patient: u64,
}

impl PatientSeed {
    /// The stream for one purpose.
    pub fn stream(&self, purpose: &str) -> ChaCha12Rng {
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        hasher.update(&self.cohort.to_le_bytes());
        hasher.update(&u32::from(self.scanner).to_le_bytes());
        hasher.update(&self.patient.to_le_bytes());
        hasher.update(purpose.as_bytes());
        ChaCha12Rng::from_seed(*hasher.finalize().as_bytes())
    }
}
