//! A join token, as people paste it.

use fedpaint_proto::enrolment::Token;

/// A text is a token that is printed as it was read, or a refusal that repeats none of it.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match text.parse::<Token>() {
        Ok(token) => {
            assert_eq!(token.to_string(), text.trim());
            true
        }
        Err(refusal) => {
            super::is_a_line(&refusal.to_string(), 200);
            false
        }
    }
}
