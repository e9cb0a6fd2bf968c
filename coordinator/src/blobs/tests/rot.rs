//! Bits that flip on the disk.

use super::*;
use crate::testing::Dice;

/// As many bytes as make three pieces.
const PIECE: usize = 1_000;

fn content(dice: &mut Dice) -> Vec<u8> {
    (0..2 * PIECE + 1 + dice.roll(PIECE as u64 - 1) as usize)
        .map(|_| dice.roll(256) as u8)
        .collect()
}

fn put(blobs: &Blobs, bytes: &[u8]) -> Blob {
    let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    std::fs::write(blobs.path(&blob.digest), bytes).unwrap();
    blob
}

async fn upload(blobs: &Blobs, bytes: &[u8]) -> Blob {
    let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    let mut upload = blobs.upload(&role("mayo"), blob, 0).await.unwrap();
    upload.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    assert_eq!(upload.finish().await.unwrap(), blob.size);
    blob
}

fn flip(path: &Path, dice: &mut Dice) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = dice.roll(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << dice.roll(8);
    std::fs::write(path, bytes).unwrap();
}

/// What a download gives from `offset` on, and how it ends.
async fn read(blobs: &Blobs, blob: &Blob, offset: u64) -> (usize, Result<(), Error>) {
    let mut given = 0;
    let mut download = match blobs.download(&blob.digest, offset).await {
        Ok(download) => download,
        Err(error) => return (0, Err(error)),
    };
    loop {
        match download.next(PIECE).await {
            Ok(piece) if piece.is_empty() => return (given, Ok(())),
            Ok(piece) => given += piece.len(),
            Err(error) => return (given, Err(error)),
        }
    }
}

#[tokio::test]
async fn every_flipped_bit_is_found_before_the_blob_is_used_whole() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    for seed in 0..1_000 {
        let mut dice = Dice(seed);
        let bytes = content(&mut dice);
        let blob = put(&blobs, &bytes);
        let offset = dice.roll(blob.size + 1);
        assert_eq!(read(&blobs, &blob, offset).await.0 as u64, blob.size - offset, "seed {seed}");
        blobs.verify(&blob.digest).unwrap();
        flip(&blobs.path(&blob.digest), &mut dice);
        if dice.roll(2) == 0 {
            let error = blobs.verify(&blob.digest).unwrap_err();
            assert!(matches!(error, Error::Rotten(_)), "seed {seed}: {error}");
        } else {
            let (given, end) = read(&blobs, &blob, offset).await;
            assert!(matches!(end, Err(Error::Rotten(_))), "seed {seed}: {end:?}");
            assert!(given as u64 <= blob.size - offset, "seed {seed}");
            assert!(
                given == 0 || (given as u64) < blob.size - offset,
                "seed {seed}: all was given"
            );
        }
        // It is set aside, whoever asks is told why, and the right bytes may come again.
        assert!(!blobs.path(&blob.digest).exists(), "seed {seed}");
        let gone = blobs.download(&blob.digest, 0).await.unwrap_err();
        assert_eq!(gone.reason(), Reason::BlobRotten, "seed {seed}");
        if seed % 100 == 0 {
            blobs.verify(&upload(&blobs, &bytes).await.digest).unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_that_lost_its_end_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let blob = put(&blobs, &content(&mut Dice(7)));
    let path = blobs.path(&blob.digest);
    File::options().write(true).open(&path).unwrap().set_len(PIECE as u64).unwrap();
    let (_, end) = read(&blobs, &blob, 0).await;
    assert!(matches!(end, Err(Error::Rotten(_))), "{end:?}");
}

#[tokio::test]
async fn what_has_the_name_once_the_file_that_was_read_is_found_changed_keeps_it_and_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let mut dice = Dice(11);
    let bytes = content(&mut dice);
    for is_back in [false, true] {
        let blob = put(&blobs, &bytes);
        let path = blobs.path(&blob.digest);
        flip(&path, &mut dice);
        let opened = blobs.open_to_verify(&blob.digest).unwrap();
        std::fs::remove_file(&path).unwrap();
        if is_back {
            put(&blobs, &bytes);
        }
        let error = opened.verify().unwrap_err();
        assert!(matches!(error, Error::Rotten(_)), "{error}");
        assert_eq!((path.exists(), path.with_extension("rotten").exists()), (is_back, false));
        assert!(blobs.untold().is_empty());
        if is_back {
            blobs.verify(&blob.digest).unwrap();
        }
    }
}
