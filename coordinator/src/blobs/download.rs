//! One download under way. It hashes what it gives, from the blob's first byte whatever the offset,
//! and keeps the last block back until the digest is right: nobody is ever given the whole of a file
//! that has changed on the disk.
//!
//! What lies before the offset is hashed beside what is given, so that a slow disk has the first byte of
//! a resumed download wait no longer than the others.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::limits::PIECE_BYTES;
use fedpaint_proto::names::Digest;
use fedpaint_proto::transfer::room::Room;
use fedpaint_proto::weights::BUFFER_BYTES;

use super::{Blobs, Error, blocking, length};

/// How much of what lies before the offset is hashed with each block that is read.
const CATCH_UP_BYTES: u64 = 8 << 20;

/// How much is read at a time: several pieces, because each read is a way to another thread.
const BLOCK_BYTES: usize = 8 * PIECE_BYTES;

/// A download that may be read from.
#[derive(Debug)]
pub struct Download {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    /// What has been read and not been given yet.
    ahead: Bytes,
    /// None after the end, or after a read failed or was given up.
    reader: Option<Reader>,
}

/// The file, and what is known of its bytes so far.
#[derive(Debug)]
struct Reader {
    file: File,
    hasher: Box<blake3::Hasher>,
    /// How many bytes are hashed, from the first one on; at most up to the position.
    hashed: u64,
    position: u64,
    room: Room,
}

pub(super) async fn begin(blobs: Blobs, digest: Digest, offset: u64) -> Result<Download, Error> {
    blocking(move || {
        let path = blobs.path(&digest);
        let size = length(&path)?.ok_or_else(|| blobs.absence(digest))?;
        if offset > size {
            return Err(Error::BehindTheEnd { offset, size });
        }
        let file = reach("blob.open").and_then(|()| File::open(&path));
        let file = file.map_err(Error::io("open", &path))?;
        let hasher = Box::new(blake3::Hasher::new());
        let reader = Reader { file, hasher, hashed: 0, position: offset, room: Room::default() };
        Ok(Download { blobs, digest, size, ahead: Bytes::new(), reader: Some(reader) })
    })
    .await
}

impl Download {
    /// The blob's whole size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece, of at most `bytes_max`; empty at the end.
    ///
    /// # Errors
    /// If the blob has changed since it was checked, or the disk fails.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Bytes, Error> {
        if self.ahead.is_empty() {
            self.ahead = self.block(bytes_max.max(BLOCK_BYTES)).await?;
        }
        Ok(self.ahead.split_to(self.ahead.len().min(bytes_max)))
    }

    /// The next bytes of the file; none at the end.
    async fn block(&mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(Bytes::new()) };
        let (blobs, digest, size) = (self.blobs.clone(), self.digest, self.size);
        let (block, reader) = blocking(move || {
            let block = reader.read(bytes_max, size);
            let block = block.map_err(Error::io("read", &blobs.path(&digest)))?;
            if reader.position >= size {
                check(&blobs, digest, &reader)?;
            }
            Ok((block, reader))
        })
        .await?;
        self.reader = (!block.is_empty()).then_some(reader);
        Ok(block)
    }
}

impl Reader {
    /// The next block. Where a part before it is not hashed yet, it is as long as leaves a byte for each
    /// step of that: bytes go on moving, and the last one waits for all.
    fn read(&mut self, bytes_max: usize, size: u64) -> io::Result<Bytes> {
        reach("blob.read")?;
        self.hash(CATCH_UP_BYTES.min(self.position - self.hashed))?;
        let steps = (self.position - self.hashed).div_ceil(CATCH_UP_BYTES);
        let share = (size - self.position).div_ceil(steps + 1);
        let bytes = usize::try_from(share).map_or(bytes_max, |share| share.min(bytes_max));
        let mut piece = self.room.take(bytes);
        self.file.read_exact_at(&mut piece, self.position)?;
        if self.hashed == self.position {
            self.hasher.update(&piece);
            self.hashed += piece.len() as u64;
        }
        self.position += piece.len() as u64;
        if self.position >= size {
            self.hash(self.position - self.hashed)?;
        }
        Ok(self.room.give(piece))
    }

    /// Hashes the next `bytes` of the file.
    fn hash(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.hashed + bytes;
        let at_once = usize::try_from(bytes).map_or(BUFFER_BYTES, |bytes| bytes.min(BUFFER_BYTES));
        let mut buffer = vec![0; at_once];
        while self.hashed < end {
            let left = usize::try_from(end - self.hashed).unwrap_or(usize::MAX);
            let part = &mut buffer[..left.min(at_once)];
            self.file.read_exact_at(part, self.hashed)?;
            self.hasher.update(part);
            self.hashed += part.len() as u64;
        }
        Ok(())
    }
}

fn check(blobs: &Blobs, digest: Digest, reader: &Reader) -> Result<(), Error> {
    match Digest::from(reader.hasher.finalize()) == digest {
        true => Ok(()),
        false => Err(blobs.set_aside(digest, &reader.file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::START;

    #[tokio::test]
    async fn the_first_piece_of_a_resumed_download_does_not_wait_for_all_that_lies_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let bytes: Vec<u8> = (0..3 * CATCH_UP_BYTES + 99).map(|i| (i % 251) as u8).collect();
        let whole = Digest::of(&bytes);
        std::fs::write(blobs.path(&whole), &bytes).unwrap();
        // With many pieces left, with fewer than it takes to catch up, and with none.
        for left in [3 * CATCH_UP_BYTES, 70, 2, 1, 0] {
            let offset = bytes.len() as u64 - left;
            let mut download = begin(blobs.clone(), whole, offset).await.unwrap();
            let mut given = Vec::new();
            let mut hashed = 0;
            loop {
                let piece = download.next(1 << 20).await.unwrap();
                let Some(reader) = download.reader.as_ref().filter(|_| !piece.is_empty()) else {
                    break;
                };
                let more = reader.hashed - hashed;
                let is_last = reader.position == bytes.len() as u64;
                assert!(is_last || more <= CATCH_UP_BYTES + (1 << 20), "{left}: {more} at once");
                hashed = reader.hashed;
                given.extend_from_slice(&piece);
            }
            assert!(given == bytes[offset as usize..], "{left}");
        }
        // What has changed before the offset is found all the same, before the last byte is given.
        let mut changed = bytes.clone();
        changed[7] ^= 1;
        std::fs::write(blobs.path(&whole), &changed).unwrap();
        let mut download = begin(blobs.clone(), whole, bytes.len() as u64 - 70).await.unwrap();
        let mut given = 0;
        let error = loop {
            match download.next(1 << 20).await {
                Ok(piece) => given += piece.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Rotten(digest) if digest == whole), "{error}");
        assert!(given < 70, "{given}");
    }
}
