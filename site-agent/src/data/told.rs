//! What of an error may be logged. A log may be sent to others, and the path of data may be a patient's name.

use std::io;

/// What the system said, without the path that a library may have put into it.
pub fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number).to_string(),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_quoted_without_the_path_that_failed() {
        let missing = "/nonexistent/secret";
        let named = tempfile::NamedTempFile::new_in(missing).unwrap_err();
        assert!(named.to_string().contains("secret") && !words(&named).contains("secret"));
        let broken = io::Error::from_raw_os_error(5);
        assert_eq!(words(&broken), broken.to_string());
    }
}
