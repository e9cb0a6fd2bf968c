//! One download under way. It hashes what it gives, from the blob's first byte whatever the offset,
//! and keeps the last piece back until the digest is right: nobody is ever given the whole of a file
//! that has changed on the disk.

use std::fs::File;
use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::Digest;

use super::{Blobs, Error, blocking, length};

/// A download that may be read from.
#[derive(Debug)]
pub struct Download {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    /// None after the end, or after a read failed or was given up.
    reader: Option<Reader>,
}

/// The file, and what is known of its bytes so far.
#[derive(Debug)]
struct Reader {
    file: File,
    hasher: Box<blake3::Hasher>,
    position: u64,
}

pub(super) async fn begin(blobs: Blobs, digest: Digest, offset: u64) -> Result<Download, Error> {
    blocking(move || {
        let path = blobs.path(&digest);
        let size = length(&path)?.ok_or_else(|| blobs.absence(digest))?;
        if offset > size {
            return Err(Error::BehindTheEnd { offset, size });
        }
        let file = reach("blob.open").and_then(|()| File::open(&path));
        let mut file = file.map_err(Error::io("open", &path))?;
        let mut hasher = Box::new(blake3::Hasher::new());
        let before = (&mut file).take(offset);
        hasher.update_reader(before).map_err(Error::io("read", &path))?;
        let reader = Reader { file, hasher, position: offset };
        if offset == size {
            check(&blobs, digest, &reader)?;
        }
        Ok(Download { blobs, digest, size, reader: Some(reader) })
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
        let Some(mut reader) = self.reader.take() else { return Ok(Bytes::new()) };
        let (blobs, digest, size) = (self.blobs.clone(), self.digest, self.size);
        let (piece, reader) = blocking(move || {
            let piece = reader.read(bytes_max, size);
            let piece = piece.map_err(Error::io("read", &blobs.path(&digest)))?;
            if reader.position >= size {
                check(&blobs, digest, &reader)?;
            }
            Ok((piece, reader))
        })
        .await?;
        self.reader = (!piece.is_empty()).then_some(reader);
        Ok(piece)
    }
}

impl Reader {
    fn read(&mut self, bytes_max: usize, size: u64) -> io::Result<Bytes> {
        reach("blob.read")?;
        let left = usize::try_from(size - self.position).unwrap_or(usize::MAX);
        let mut piece = BytesMut::zeroed(bytes_max.min(left));
        self.file.read_exact(&mut piece)?;
        self.hasher.update(&piece);
        self.position += piece.len() as u64;
        Ok(piece.freeze())
    }
}

fn check(blobs: &Blobs, digest: Digest, reader: &Reader) -> Result<(), Error> {
    match Digest::from(reader.hasher.finalize()) == digest {
        true => Ok(()),
        false => Err(blobs.set_aside(digest)),
    }
}
