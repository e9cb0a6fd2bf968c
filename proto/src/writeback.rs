//! A file whose bytes begin their way to the disk while more are written, so that the sync at its end has
//! little left to wait for; or a file that nobody syncs, with whose bytes the system is left alone.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

/// How many bytes are written before the system is first told to begin with them: few, so that a small file too
/// has little left for its sync. Telling takes a moment, so every further time is after twice as many.
const STEP_BYTES_FIRST: u64 = 512 << 10;

/// The most.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// A file that is written from its end on.
#[derive(Debug)]
pub struct Writeback {
    file: File,
    length: u64,
    /// Up to where the system was told.
    begun: u64,
    /// How far from there it is told again; none where it is not.
    step: Option<u64>,
}

impl Writeback {
    /// A file of `length` bytes, positioned at its end.
    pub fn new(file: File, length: u64) -> Writeback {
        Writeback { file, length, begun: length, step: Some(STEP_BYTES_FIRST) }
    }

    /// The same for a file that nobody syncs: the system is told nothing, and writes it when it likes, or never
    /// where it is deleted before.
    pub fn unhurried(file: File, length: u64) -> Writeback {
        Writeback { step: None, ..Writeback::new(file, length) }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Write for Writeback {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
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
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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
            let mut file = begin(File::create(&path).unwrap(), 0);
            for part in bytes.chunks(1_000_003) {
                file.write_all(part).unwrap();
            }
            file.file().sync_all().unwrap();
            assert_eq!(file.length(), bytes.len() as u64);
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }
}
