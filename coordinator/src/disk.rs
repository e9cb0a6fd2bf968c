//! PURE: trouble of a disk that may pass by itself.

use std::io;

use rustix::io::Errno;

/// Whether the disk is full, broken or read-only now, which may pass without anybody touching a
/// configuration.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS]
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_a_broken_and_a_read_only_disk_may_pass_and_a_missing_folder_does_not() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS] {
            assert!(may_pass(&errno.into()), "{errno}");
        }
        assert!(!may_pass(&Errno::NOENT.into()) && !may_pass(&Errno::ACCESS.into()));
        assert!(!may_pass(&io::Error::other("no space left on device")));
    }
}
