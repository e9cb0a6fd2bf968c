//! A certificate request, as a site or a stranger sends it.

use fedpaint_coordinator::ca::PublicKey;
use fedpaint_proto::enrolment::CSR_BYTES_MAX;

/// Of a request a P-256 key is taken that is in it, and that is taken for the same a second time; or it is
/// refused.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    match PublicKey::of_request(bytes) {
        Ok(key) => {
            assert!(bytes.len() <= CSR_BYTES_MAX);
            assert!(bytes.windows(key.der().len()).any(|part| part == key.der()));
            assert_eq!(PublicKey::of_der(key.der()).as_ref(), Ok(&key));
            true
        }
        Err(refusal) => {
            super::is_a_line(&refusal.to_string(), 200);
            false
        }
    }
}
