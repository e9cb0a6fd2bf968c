//! A file that is written by whole blocks, and whose bytes begin their way to the disk while more are written, so that
//! the sync at its end has little left to wait for; or a file that nobody syncs, with whose bytes the system is left
//! alone.
//!
//! A system keeps a file's bytes in runs that are the larger the more is written at once and the rounder the place:
//! by blocks, it needs half the time that it needs for pieces that begin anywhere, and less to read, sync and delete
//! them.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::take;
use std::num::NonZeroU64;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

/// How much is written at once, from a multiple of it on.
pub const BLOCK_BYTES: usize = 256 << 10;

/// How many bytes are written before the system is first told to begin with them: few, so that a small file too
/// has little left for its sync. Telling takes a moment, so every further time is after twice as many.
const STEP_BYTES_FIRST: u64 = 512 << 10;

/// The most.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// A file that is written from its end on. What waits for its block to be full when this is dropped, without
/// [`Writeback::whole`], is not written.
#[derive(Debug)]
pub struct Writeback {
    file: File,
    /// The end of what was written, which is not in the file yet.
    waiting: Vec<Bytes>,
    /// With what waits.
    length: u64,
    /// Up to where the system was told.
    begun: u64,
    /// How far from there it is told again; none where it is not.
    step: Option<u64>,
}

impl Writeback {
    /// A file of `length` bytes, positioned at its end.
    pub fn new(file: File, length: u64) -> Writeback {
        let (waiting, step) = (Vec::new(), Some(STEP_BYTES_FIRST));
        Writeback { file, waiting, length, begun: length, step }
    }

    /// The same for a file that nobody syncs: the system is told nothing, and writes it when it likes, or never
    /// where it is deleted before.
    pub fn unhurried(file: File, length: u64) -> Writeback {
        Writeback { step: None, ..Writeback::new(file, length) }
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether bytes wait for their block to be full.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes a piece, of which no byte is copied before the system does.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append(&mut self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            let room = self.room();
            let taken = piece.split_to(piece.len().min(room));
            self.length += taken.len() as u64;
            let is_full = taken.len() == room;
            self.waiting.push(taken);
            if is_full {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// How many bytes the block has room for that is being filled.
    fn room(&self) -> usize {
        BLOCK_BYTES - (self.length % BLOCK_BYTES as u64) as usize
    }

    /// The file, with every byte in it.
    ///
    /// # Errors
    /// If the disk does not take them.
    pub fn whole(&mut self) -> io::Result<&File> {
        self.flush()?;
        Ok(&self.file)
    }

    /// Has the system begin with what has gathered, which is in the file.
    fn hurry(&mut self) {
        if let Some(step) = self.step
            && self.length - self.begun >= step
        {
            // Pages that are said to be of no more use are written out and, while that goes on, kept. It
            // is a hint: a file system that does not know it writes all of it at the sync.
            let span = NonZeroU64::new(self.length - self.begun);
            let _ = fadvise(&self.file, self.begun, span, Advice::DontNeed);
            self.begun = self.length;
            self.step = Some((2 * step).min(STEP_BYTES_MAX));
        }
    }
}

impl Write for Writeback {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(self.room())];
        if taken.len() == BLOCK_BYTES {
            self.file.write_all(taken)?;
            self.length += taken.len() as u64;
            self.hurry();
        } else {
            self.append(Bytes::copy_from_slice(taken))?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // How much of it a write that failed has written nobody knows, and nothing is to come behind a gap.
        let written = write_all(&self.file, &take(&mut self.waiting));
        self.hurry();
        written
    }
}

/// Writes pieces, as many at once as the system takes.
fn write_all(mut file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_file_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..4 * STEP_BYTES_MAX + 7).map(|i| (i % 251) as u8).collect();
        for begin in [Writeback::new, Writeback::unhurried] {
            for piece in [1_003, BLOCK_BYTES, 1_000_003] {
                let mut file = begin(File::create(&path).unwrap(), 0);
                // What is copied and what is not, one after the other.
                for (at, part) in bytes.chunks(piece).enumerate() {
                    match at % 3 {
                        0 => file.write_all(part).unwrap(),
                        _ => file.append(Bytes::copy_from_slice(part)).unwrap(),
                    }
                }
                assert_eq!(file.length(), bytes.len() as u64);
                file.whole().unwrap().sync_all().unwrap();
                assert!(std::fs::read(&path).unwrap() == bytes);
            }
        }
    }

    #[test]
    fn a_file_that_goes_on_is_written_by_blocks_from_their_own_multiples_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [1; 100]).unwrap();
        let length = || std::fs::metadata(&path).unwrap().len();
        let file = File::options().append(true).open(&path).unwrap();
        let mut file = Writeback::new(file, 100);
        file.write_all(&[2; BLOCK_BYTES - 101]).unwrap();
        assert_eq!((length(), file.length()), (100, BLOCK_BYTES as u64 - 1));
        file.write_all(&[3; 3]).unwrap();
        assert_eq!(length(), BLOCK_BYTES as u64);
        file.whole().unwrap();
        assert_eq!(length(), BLOCK_BYTES as u64 + 2);
    }

    #[test]
    fn more_pieces_than_the_system_takes_at_once_are_all_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = Writeback::new(File::create(&path).unwrap(), 0);
        // Linux takes 1,024.
        let bytes: Vec<u8> = (0..5_000).map(|i| (i % 251) as u8).collect();
        bytes.iter().for_each(|byte| file.write_all(&[*byte]).unwrap());
        file.whole().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_waits_any_more_after_a_write_that_failed() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut file = Writeback::new(full, 0);
        file.write_all(b"abc").unwrap();
        assert!(file.is_waiting());
        assert_eq!(file.whole().unwrap_err().kind(), io::ErrorKind::StorageFull);
        // It would come behind a gap.
        assert!(!file.is_waiting());
    }
}
