//! Which blobs are deleted, and which never.

use jiff::SignedDuration;

use super::*;
use crate::share::Share;

/// The file system's own time, which the ages of files are told in.
fn real_now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the file system tells real times")]
    Timestamp::now()
}

fn after(age: SignedDuration) -> Timestamp {
    real_now().checked_add(age).unwrap()
}

const OLD: SignedDuration = SignedDuration::from_hours(7 * 24 + 1);

/// Finds what nobody needs, and deletes it.
async fn sweep(
    collection: &Arc<Collection>,
    share: Share,
    (named, spent): (HashSet<Digest>, HashSet<Digest>),
    now: Timestamp,
) -> Freed {
    let found = collection.find(share, named, spent, now).await.unwrap();
    let digests = found.orphans.iter().chain(&found.spent).map(|blob| blob.digest);
    collection.delete(digests.collect()).await.unwrap()
}

async fn collect(blobs: &Blobs, named: &[&str], spent: &[&str], now: Timestamp) -> Freed {
    let digests = |texts: &[&str]| texts.iter().map(|text| blob(text).digest).collect::<Vec<_>>();
    let named = digests(named).into_iter().collect();
    let (collection, spent) = (blobs.collection(), digests(spent).into_iter().collect());
    let freed = sweep(&collection, Share::ALL, (named, spent), now).await;
    collection.end(now).await.unwrap();
    freed
}

fn is_here(blobs: &Blobs, text: &str) -> bool {
    blobs.path(&blob(text).digest).exists()
}

#[tokio::test]
async fn a_blob_that_no_row_names_goes_when_it_is_old_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    for text in ["named", "orphan"] {
        send(&blobs, text, &[text], 0).await.unwrap();
    }
    // A start forgets who was told of what.
    let blobs = open(folder.path()).await;
    assert_eq!(collect(&blobs, &["named"], &[], real_now()).await, Freed::default());
    let freed = collect(&blobs, &["named"], &[], after(OLD)).await;
    assert_eq!(freed, Freed { files: 1, bytes: 6 });
    assert!(is_here(&blobs, "named") && !is_here(&blobs, "orphan"));
}

#[tokio::test]
async fn a_blob_that_somebody_was_told_of_stays_until_the_collection_after_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    send(&blobs, "update", &["update"], 0).await.unwrap();
    let blobs = open(folder.path()).await;
    // The site asks whether its upload is whole, and is about to submit it.
    let status = blobs.upload_status(&role("mayo"), &blob("update")).await.unwrap();
    assert!(status.complete);
    for still_here in [true, true, false] {
        collect(&blobs, &[], &["update"], after(OLD)).await;
        assert_eq!(is_here(&blobs, "update"), still_here);
    }
}

#[tokio::test]
async fn a_claim_ends_when_a_row_names_its_blob_but_not_while_a_collection_may_not_know_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let update = blob("update").digest;
    let send = || send(&blobs, "update", &["update"], 0);
    send().await.unwrap();
    let collection = blobs.collection();
    blobs.are_named([update].into_iter());
    // It asked which blobs are named before the row was there.
    let spent = HashSet::from([update]);
    sweep(&collection, Share::ALL, (HashSet::new(), spent), after(OLD)).await;
    drop(collection);
    assert!(is_here(&blobs, "update"));
    blobs.are_named([update].into_iter());
    collect(&blobs, &[], &["update"], after(OLD)).await;
    assert!(!is_here(&blobs, "update"));
}

#[tokio::test]
async fn what_was_found_stays_if_somebody_is_told_of_it_before_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    send(&blobs, "update", &["update"], 0).await.unwrap();
    let blobs = open(folder.path()).await;
    let collection = blobs.collection();
    let none = HashSet::new;
    let found = collection.find(Share::ALL, none(), none(), after(OLD)).await.unwrap();
    assert_eq!(found.orphans, [blob("update")]);
    assert!(is_here(&blobs, "update"), "to find it deletes nothing");
    blobs.find(&blob("update").digest).await.unwrap();
    let freed = collection.delete(vec![blob("update").digest]).await.unwrap();
    assert_eq!(freed, Freed::default());
    assert!(is_here(&blobs, "update"));
}

#[tokio::test]
async fn what_lies_outside_of_a_share_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    let texts: Vec<String> = (0..16).map(|i| format!("update {i}")).collect();
    for text in &texts {
        send(&blobs, text, &[text], 0).await.unwrap();
    }
    let blobs = open(folder.path()).await;
    let collection = blobs.collection();
    for share in Share::of(1 << 17) {
        sweep(&collection, share.clone(), Default::default(), after(OLD)).await;
        let gone = texts.iter().filter(|text| share.has(&blob(text).digest));
        assert!(gone.clone().count() > 0);
        assert!(gone.into_iter().all(|text| !is_here(&blobs, text)));
        if share.bounds().0 == "00" {
            assert!(texts.iter().any(|text| is_here(&blobs, text)));
        }
    }
}

#[tokio::test]
async fn what_was_set_aside_is_left_to_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path()).await;
    send(&blobs, "update", &["update"], 0).await.unwrap();
    let path = blobs.path(&blob("update").digest);
    std::fs::write(&path, "updatf").unwrap();
    blobs.verify(&blob("update").digest).unwrap_err();
    let blobs = open(folder.path()).await;
    assert_eq!(collect(&blobs, &[], &[], after(OLD)).await, Freed::default());
    assert!(path.with_extension("rotten").exists());
    let (named, spent) = (HashSet::new(), HashSet::new());
    let found = blobs.collection().find(Share::ALL, named, spent, real_now()).await.unwrap();
    assert_eq!(found.aside, [blob("update").digest], "and told of");
}
