//! Reads what the system has in memory of a file, which never waits for a disk: so that the thread that serves others
//! can do it itself, and the way to a thread that may wait is for what has to be waited for.

use std::fs::File;
use std::io;

use crate::limits::PIECE_BYTES;

/// The most that is read so: the copy of more would keep others waiting.
pub const AT_ONCE_BYTES: usize = 4 * PIECE_BYTES;

/// Fills `room` from `at` bytes into the file on, if it can be done at once. If not, what stands in `room` means
/// nothing.
///
/// # Errors
/// If the file does not read.
#[cfg(target_os = "linux")]
pub fn read(file: &File, at: u64, room: &mut [u8]) -> io::Result<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let wanted = room.len();
    let mut rooms = [io::IoSliceMut::new(room)];
    match preadv2(file, &mut rooms, at, ReadWriteFlags::NOWAIT) {
        Ok(found) => Ok(found == wanted),
        // It is not in memory, or the file system knows no such reading.
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Other systems know no such reading.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn read(_: &File, _: u64, _: &mut [u8]) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_at_once_is_what_the_file_holds_and_nothing_is_read_beyond_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let mut room = vec![0; 1_000];
        let mut found = 0;
        for at in [0, 7, 99_000] {
            if read(&file, at as u64, &mut room).unwrap() {
                assert_eq!(room, bytes[at..at + 1_000]);
                found += 1;
            }
        }
        if found == 0 {
            eprintln!(
                "the file system here reads nothing at once: that it is read right is not proven"
            );
        }
        assert!(!read(&file, 99_001, &mut room).unwrap());
        assert!(!read(&file, 1_000_000, &mut room).unwrap());
    }

    #[test]
    fn what_cannot_be_read_at_all_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        // It may be written and not read.
        let file = File::create(folder.path().join("file")).unwrap();
        let read = read(&file, 0, &mut [0; 8]);
        assert!(read.is_err() || cfg!(not(target_os = "linux")));
    }
}
