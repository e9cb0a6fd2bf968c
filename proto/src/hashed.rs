//! A new file whose bytes are hashed on their way to it.
//!
//! BLAKE3 hashes sixteen chunks of 1 KiB side by side where it is given runs that begin at multiples of their own
//! length, and a part of that where they begin anywhere: a header before the weights is enough to make it take 1.7
//! times as long. So bytes gather here, and are hashed and written by the file's own blocks.

use std::fs::File;
use std::io::{self, Write};

use crate::names::{Blob, Digest};
use crate::writeback::{BLOCK_BYTES, Writeback};

/// A file that is written from its beginning, and what is known of its bytes.
#[derive(Debug)]
pub struct Hashed {
    file: Writeback,
    hasher: Box<blake3::Hasher>,
    /// What is neither hashed nor written yet: less than a block.
    gathered: Vec<u8>,
}

impl Hashed {
    /// An empty file.
    pub fn new(file: File) -> Hashed {
        let gathered = Vec::with_capacity(BLOCK_BYTES);
        Hashed { file: Writeback::new(file, 0), hasher: Box::default(), gathered }
    }

    /// The file, with every byte in it, and what it is.
    ///
    /// # Errors
    /// If the disk does not take what has gathered.
    pub fn whole(&mut self) -> io::Result<(&File, Blob)> {
        self.put()?;
        let blob = Blob { digest: Digest::from(self.hasher.finalize()), size: self.file.length() };
        Ok((self.file.whole()?, blob))
    }

    /// Hashes and writes what has gathered.
    fn put(&mut self) -> io::Result<()> {
        self.hasher.update(&self.gathered);
        let written = self.file.write_all(&self.gathered);
        // What could not be written is not to come behind a gap.
        self.gathered.clear();
        written
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(BLOCK_BYTES - self.gathered.len())];
        self.gathered.extend_from_slice(taken);
        if self.gathered.len() == BLOCK_BYTES {
            self.put()?;
        }
        Ok(taken.len())
    }

    /// Nothing is hurried: what gathers is written with the rest of its block, or when the file is
    /// [`Hashed::whole`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_whatever_parts_it_comes_the_file_holds_it_and_its_digest_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 7).map(|i| (i % 251) as u8).collect();
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, bytes.len()] {
            let bytes = &bytes[..length];
            for part in [1_003, BLOCK_BYTES - 1, BLOCK_BYTES, 1_000_003] {
                let mut file = Hashed::new(File::create(&path).unwrap());
                bytes.chunks(part).for_each(|part| file.write_all(part).unwrap());
                let (_, blob) = file.whole().unwrap();
                assert_eq!(blob, Blob { digest: Digest::of(bytes), size: length as u64 });
                assert!(std::fs::read(&path).unwrap() == bytes);
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_that_takes_nothing_is_told_of_with_the_block_that_it_does_not_take() {
        let full = || Hashed::new(File::options().write(true).open("/dev/full").unwrap());
        let mut file = full();
        file.write_all(b"abc").unwrap();
        assert_eq!(file.whole().unwrap_err().kind(), io::ErrorKind::StorageFull);
        let error = full().write_all(&vec![0; BLOCK_BYTES]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
