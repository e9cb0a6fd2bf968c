//! A file that grows by the pieces that come: written and hashed a few pieces behind whoever brings them, so
//! that neither the network waits for each write nor the bytes are read again. What has gathered is taken at once,
//! and is in the file when its block is full or nothing comes for a moment. Nobody has a thread meanwhile: however many
//! files grow slowly, others are served.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::failpoint::reach;
use crate::names::Digest;
use crate::weights::BUFFER_BYTES;
use crate::weights::passing::Passing;
use crate::writeback::Writeback;

/// How many pieces wait to be written.
const PIECES_BEHIND: usize = 8;

/// From how many pieces on they are worth the way to a thread that may wait for the disk.
const PIECES_AT_ONCE: usize = 4;

/// How long nothing may come until what has come is written, though it fills no block.
const QUIET: Duration = Duration::from_millis(50);

/// How often others are let go first where fewer have gathered: a piece that has come is with the connection's
/// task, then with the call's, then here.
const TURNS_MAX: u32 = 3;

/// The file, and what is known of its bytes.
#[derive(Debug)]
pub struct Growing {
    file: Writeback,
    hasher: Box<blake3::Hasher>,
    /// How many bytes the hasher has seen, from the first one on.
    hashed: u64,
    /// What its numbers are like, where that is looked at, and all of them have come since it grows here.
    passing: Option<Passing>,
}

impl Growing {
    /// A file that is open for reading and appending, as long as it is now.
    ///
    /// # Errors
    /// If the system does not say how long it is.
    pub fn of(file: File) -> io::Result<Growing> {
        let length = file.metadata()?.len();
        Ok(Growing::written(Writeback::new(file, length)))
    }

    /// The same of a file that nobody syncs: when it reaches the disk is left to the system.
    ///
    /// # Errors
    /// As [`Growing::of`].
    pub fn unhurried(file: File) -> io::Result<Growing> {
        let length = file.metadata()?.len();
        Ok(Growing::written(Writeback::unhurried(file, length)))
    }

    fn written(file: Writeback) -> Growing {
        Growing { file, hasher: Box::default(), hashed: 0, passing: None }
    }

    /// The same, where the numbers of a model are looked at as they come.
    #[must_use]
    pub fn looked_at(self) -> Growing {
        Growing { passing: Some(Passing::default()), ..self }
    }

    /// Whether every byte has been seen, and they are finite numbers behind a header if they are f32 numbers at all.
    pub fn are_finite(&self) -> bool {
        self.hashed == self.length() && self.passing.as_ref().is_some_and(Passing::are_finite)
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.file.length()
    }

    /// Brings it to the disk.
    ///
    /// # Errors
    /// If the disk does not say that it holds it.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.whole()?.sync_all()
    }

    /// The digest of all its bytes. What it had before it grew here is read, and with it the rest.
    ///
    /// # Errors
    /// If it does not read.
    pub fn digest(&mut self) -> io::Result<Digest> {
        let length = self.length();
        if self.hashed != length {
            self.hasher.reset();
            self.hashed = 0;
            self.passing = None;
            let mut buffer = vec![0; BUFFER_BYTES];
            let file = self.file.whole()?;
            while self.hashed < length {
                let left = usize::try_from(length - self.hashed).unwrap_or(usize::MAX);
                let part = &mut buffer[..left.min(BUFFER_BYTES)];
                file.read_exact_at(part, self.hashed)?;
                self.hasher.update(part);
                self.hashed += part.len() as u64;
            }
        }
        Ok(Digest::from(self.hasher.finalize()))
    }

    fn append(&mut self, piece: Bytes) -> io::Result<()> {
        if self.hashed == self.length() {
            self.hasher.update(&piece);
            self.hashed += piece.len() as u64;
            if let Some(passing) = &mut self.passing {
                passing.see(&piece);
            }
        }
        self.file.append(piece)
    }
}

/// The writer has failed; [`Appender::end`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Writes pieces to a file. Dropping it has what was handed over written all the same, and then lets go of
/// the file and of `K`, which is whatever gives the right to write it.
#[derive(Debug)]
pub struct Appender<K> {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<io::Result<(Growing, K)>>,
}

impl<K: Send + 'static> Appender<K> {
    /// Begins to write; `place` is where a test may have a write fail.
    pub fn begin(mut growing: Growing, right: K, place: &'static str) -> Appender<K> {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(PIECES_BEHIND);
        let writer = tokio::spawn(async move {
            let mut gathered = Vec::with_capacity(PIECES_BEHIND);
            loop {
                let coming = queue.recv_many(&mut gathered, PIECES_BEHIND);
                let came = match growing.file.is_waiting() {
                    true => timeout(QUIET, coming).await.ok(),
                    false => Some(coming.await),
                };
                if !gathered.is_empty() {
                    gather(&mut queue, &mut gathered).await;
                }
                growing = write(growing, std::mem::take(&mut gathered), place).await?;
                if came == Some(0) {
                    return Ok((growing, right));
                }
            }
        });
        Appender { pieces, writer }
    }

    /// Hands a piece over, and waits while too many wait to be written.
    ///
    /// # Errors
    /// If the writer has failed.
    pub async fn push(&self, piece: Bytes) -> Result<(), Stopped> {
        self.pieces.send(piece).await.map_err(|_| Stopped)
    }

    /// Waits until every piece is written.
    ///
    /// # Errors
    /// If one could not be; what was written before it is in the file.
    pub async fn end(self) -> io::Result<(Growing, K)> {
        drop(self.pieces);
        self.writer.await.map_err(io::Error::other)?
    }
}

/// Writes pieces; without any, what waits of those before them.
async fn write(
    mut growing: Growing,
    pieces: Vec<Bytes>,
    place: &'static str,
) -> io::Result<Growing> {
    if pieces.is_empty() && !growing.file.is_waiting() {
        return Ok(growing);
    }
    let writing = tokio::task::spawn_blocking(move || {
        let has_pieces = !pieces.is_empty();
        let written = pieces.into_iter().try_for_each(|piece| {
            reach(place)?;
            growing.append(piece)
        });
        if written.is_ok() && has_pieces {
            return Ok(growing);
        }
        // After a failure too: what came before may go on from there.
        let whole = growing.file.whole().map(drop);
        written.and(whole).map(|()| growing)
    });
    writing.await.map_err(io::Error::other)?
}

/// Lets pieces be handed over that have come already. Nobody waits for one that has not.
async fn gather(queue: &mut mpsc::Receiver<Bytes>, gathered: &mut Vec<Bytes>) {
    for _ in 0..TURNS_MAX {
        if gathered.len() >= PIECES_AT_ONCE || queue.is_closed() {
            return;
        }
        tokio::task::yield_now().await;
        while gathered.len() < PIECES_BEHIND
            && let Ok(piece) = queue.try_recv()
        {
            gathered.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> Growing {
        let file = File::options().create(true).append(true).read(true).open(path).unwrap();
        Growing::of(file).unwrap()
    }

    #[tokio::test]
    async fn what_is_handed_over_is_in_the_file_with_its_digest_and_goes_on_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let mut sent = 0;
        for end in [100_000, 200_001, 300_000] {
            let appender = Appender::begin(open(&path), (), "workspace.part_write");
            for piece in bytes[sent..end].chunks(7_000) {
                appender.push(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            sent = end;
            let (mut growing, ()) = appender.end().await.unwrap();
            assert_eq!(growing.length(), end as u64);
            assert_eq!(growing.digest().unwrap(), Digest::of(&bytes[..end]));
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn what_has_come_is_in_the_file_soon_though_no_more_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let appender = Appender::begin(open(&path), (), "workspace.part_write");
        appender.push(Bytes::from_static(b"abc")).await.unwrap();
        let written = async {
            while std::fs::read(&path).unwrap() != b"abc" {
                tokio::task::yield_now().await;
            }
        };
        timeout(100 * QUIET, written).await.unwrap();
        appender.end().await.unwrap();
    }

    #[tokio::test]
    async fn who_drops_it_finds_every_piece_in_the_file_once_the_right_to_write_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let (right, free) = tokio::sync::oneshot::channel::<()>();
        let appender = Appender::begin(open(&path), right, "workspace.part_write");
        for _ in 0..PIECES_BEHIND {
            appender.push(Bytes::from_static(&[7; 1_000])).await.unwrap();
        }
        drop(appender);
        // The right is dropped with the writer.
        free.await.unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), [7; 1_000 * PIECES_BEHIND]);
    }

    #[tokio::test]
    async fn a_piece_about_to_come_is_written_with_those_before_it_and_none_is_waited_for() {
        let (pieces, mut queue) = mpsc::channel(PIECES_BEHIND);
        let mut gathered = vec![Bytes::from_static(b"a")];
        gather(&mut queue, &mut gathered).await;
        assert_eq!(gathered, ["a"]);
        let bringing = tokio::spawn(async move { pieces.send(Bytes::from_static(b"b")).await });
        gather(&mut queue, &mut gathered).await;
        assert_eq!(gathered, ["a", "b"]);
        bringing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_write_that_fails_stops_whoever_brings_more_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        std::fs::write(&path, "x").unwrap();
        // Open for reading alone: the first write fails.
        let growing = Growing::of(File::open(&path).unwrap()).unwrap();
        let appender = Appender::begin(growing, (), "workspace.part_write");
        while appender.push(Bytes::from_static(&[7; 60_000])).await.is_ok() {}
        assert_eq!(appender.end().await.unwrap_err().raw_os_error(), Some(9));
    }
}
