//! Uploads that break, lie and compete.

mod orphans;
mod rot;

use bytes::Bytes;

use super::*;
use crate::testing::{START, blob, write_model};

fn role(name: &str) -> Role {
    Role::Site(name.parse().unwrap())
}

async fn open(folder: &Path) -> Blobs {
    Blobs::open(folder, START).await.unwrap()
}

async fn send(blobs: &Blobs, text: &str, pieces: &[&str], offset: u64) -> Result<u64, Error> {
    let mut upload = blobs.upload(&role("mayo"), blob(text), offset).await?;
    for piece in pieces {
        upload.write(Bytes::copy_from_slice(piece.as_bytes())).await?;
    }
    upload.finish().await
}

#[tokio::test]
async fn an_upload_that_breaks_goes_on_where_its_bytes_end_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    assert_eq!(send(&blobs, "hello world", &["hel", "lo"], 0).await.unwrap(), 5);
    drop(blobs);

    let blobs = open(folder.path()).await;
    let status = blobs.upload_status(&role("mayo"), &blob("hello world")).await.unwrap();
    assert_eq!(status, UploadStatus { committed_size: 5, complete: false });
    let other = blobs.upload_status(&role("oslo"), &blob("hello world")).await.unwrap();
    assert_eq!(other.committed_size, 0, "nobody goes on with another's upload");
    let wrong = send(&blobs, "hello world", &["hello"], 0).await.unwrap_err();
    assert!(matches!(wrong, Error::WrongOffset { committed_size: 5 }), "{wrong}");
    assert_eq!(blobs.find(&blob("hello world").digest).await.unwrap(), None);

    assert_eq!(send(&blobs, "hello world", &[" world"], 5).await.unwrap(), 11);
    assert_eq!(blobs.find(&blob("hello world").digest).await.unwrap(), Some(blob("hello world")));
    let status = blobs.upload_status(&role("oslo"), &blob("hello world")).await.unwrap();
    assert_eq!(status, UploadStatus { committed_size: 11, complete: true });
    for offset in [0, 5, 11] {
        let again = blobs.upload(&role("mayo"), blob("hello world"), offset).await.unwrap();
        assert!(again.was_here());
        assert_eq!(again.finish().await.unwrap(), 11, "again is no error");
    }
    let beyond = send(&blobs, "hello world", &[], 12).await.unwrap_err();
    assert!(matches!(beyond, Error::WrongOffset { committed_size: 11 }), "{beyond}");

    let mut download = blobs.download(&blob("hello world").digest, 6).await.unwrap();
    assert_eq!(download.size(), 11);
    let pieces = [download.next(3).await.unwrap(), download.next(3).await.unwrap()];
    assert_eq!(pieces, ["wor", "ld"]);
    assert_eq!(download.next(3).await.unwrap(), "");
    let behind = blobs.download(&blob("hello world").digest, 12).await.unwrap_err();
    assert!(matches!(behind, Error::BehindTheEnd { offset: 12, size: 11 }));
    let unknown = blobs.download(&blob("nothing").digest, 0).await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::BlobUnknown);
}

#[tokio::test]
async fn bytes_that_are_not_what_their_digest_says_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let lie = send(&blobs, "hello", &["jello"], 0).await.unwrap_err();
    assert_eq!(lie.reason(), Reason::WrongDigest);
    let status = blobs.upload_status(&role("mayo"), &blob("hello")).await.unwrap();
    assert_eq!(status, UploadStatus { committed_size: 0, complete: false });
    assert_eq!(send(&blobs, "hello", &["hello"], 0).await.unwrap(), 5);
}

#[tokio::test]
async fn more_bytes_than_the_blob_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let long = send(&blobs, "hello", &["hello", "!"], 0).await.unwrap_err();
    assert!(matches!(long, Error::Longer { size: 5 }));
    assert_eq!(long.reason(), Reason::TooLarge);
    let huge = Blob { size: u64::MAX, ..blob("hello") };
    let huge = blobs.upload(&role("mayo"), huge, 0).await.unwrap_err();
    assert_eq!(huge.reason(), Reason::TooLarge);
    assert!(huge.to_string().ends_with("(MODEL_BYTES_MAX)"), "{huge}");
}

#[tokio::test]
async fn one_call_at_a_time_uploads_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let first = blobs.upload(&role("mayo"), blob("hello"), 0).await.unwrap();
    let second = blobs.upload(&role("mayo"), blob("hello"), 0).await.unwrap_err();
    assert_eq!(second.reason(), Reason::UploadBusy);
    blobs.upload(&role("oslo"), blob("hello"), 0).await.unwrap();
    drop(first);
    blobs.upload(&role("mayo"), blob("hello"), 0).await.unwrap();
}

#[tokio::test]
async fn a_sender_keeps_its_newest_parts_and_those_it_is_writing() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let mut writing = Vec::new();
    for i in 0..STAGED_PARTS_MAX {
        writing.push(blobs.upload(&role("mayo"), blob(&format!("{i}x")), 0).await.unwrap());
    }
    let busy = blobs.upload(&role("mayo"), blob("one more"), 0).await.unwrap_err();
    assert_eq!(busy.reason(), Reason::UploadBusy);
    assert!(busy.to_string().contains("4 blobs and 17179869184 bytes"), "{busy}");
    writing.pop().unwrap().keep().await.unwrap();
    blobs.upload(&role("mayo"), blob("one more"), 0).await.unwrap();
    let parts = std::fs::read_dir(folder.path().join("staging/site-mayo")).unwrap().count();
    assert_eq!(parts, STAGED_PARTS_MAX);
}

#[tokio::test]
async fn what_a_senders_parts_are_to_become_is_counted_and_not_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let size = fedpaint_proto::limits::MODEL_BYTES_MAX;
    let begin = async |text: &str| {
        let blob = Blob { size, ..blob(text) };
        blobs.upload(&role("mayo"), blob, 0).await.map_err(|error| error.reason())
    };
    let (mut first, _second) = (begin("first").await.unwrap(), begin("second").await.unwrap());
    assert_eq!(begin("third").await.err(), Some(Reason::UploadBusy), "no byte has come yet");
    first.keep().await.unwrap();
    begin("third").await.unwrap();
    let parts = std::fs::read_dir(folder.path().join("staging/site-mayo")).unwrap().count();
    assert_eq!(parts, 2, "the first one has made room");
}

#[tokio::test]
async fn a_start_empties_scratch_and_forgets_parts_that_nobody_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    send(&blobs, "hello", &["he"], 0).await.unwrap();
    std::fs::write(blobs.scratch("half"), "x").unwrap();
    drop(blobs);
    #[expect(clippy::disallowed_methods, reason = "the file system tells real times")]
    let now = Timestamp::now();
    let committed = async |now| {
        let blobs = Blobs::open(folder.path(), now).await.unwrap();
        assert!(!blobs.scratch("half").exists());
        blobs.upload_status(&role("mayo"), &blob("hello")).await.unwrap().committed_size
    };
    assert_eq!(committed(now).await, 2);
    let later = now.checked_add(PART_AGE_MAX).unwrap();
    assert_eq!(committed(later.checked_add(jiff::SignedDuration::from_mins(1)).unwrap()).await, 0);
}

#[tokio::test]
async fn a_model_written_by_the_coordinator_becomes_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    for _ in 0..2 {
        let scratch = blobs.scratch("brain-1-1");
        let model = write_model(&scratch, &[("a", &[1.0])]);
        blobs.adopt(&scratch, &model).unwrap();
        assert_eq!(blobs.find(&model.digest).await.unwrap(), Some(model));
        assert!(!scratch.exists());
    }
}
