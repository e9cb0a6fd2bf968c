//! PURE: which trouble of a disk may pass by itself. What is done until it has is for whoever met it.

use std::io::{self, ErrorKind};

use rustix::io::Errno;

/// What the system says of a disk that is full, for everybody or for this user, broken or read-only.
const PASSING: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS];

/// The same as kinds, which are left where a library has put the path into the error: its number is lost
/// then. A broken disk has no kind of its own.
const PASSING_KINDS: [ErrorKind; 3] =
    [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];

/// Whether the disk is full, broken or read-only now, which may pass without anybody touching a
/// configuration.
pub fn may_pass(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(number) => PASSING.iter().any(|errno| errno.raw_os_error() == number),
        None => PASSING_KINDS.contains(&error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file on a disk that fails so.
    struct Failing(Errno);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_a_broken_and_a_read_only_disk_may_pass_and_a_missing_folder_does_not() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS] {
            assert!(may_pass(&errno.into()), "{errno}");
        }
        assert!(!may_pass(&Errno::NOENT.into()) && !may_pass(&Errno::ACCESS.into()));
        assert!(!may_pass(&io::Error::other("no space left on device")));
    }

    #[test]
    fn a_disk_that_is_full_or_read_only_may_pass_also_where_a_library_names_the_path_alone() {
        let folder = tempfile::tempdir().unwrap();
        let told = |errno| {
            let file = tempfile::Builder::new().make_in(folder.path(), |_| Ok(Failing(errno)));
            let error = file.unwrap().write_all(b"x").unwrap_err();
            assert_eq!(error.raw_os_error(), None, "{error}");
            may_pass(&error)
        };
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
            assert!(told(errno), "{errno}");
        }
        assert!(!told(Errno::ACCESS));
    }
}
