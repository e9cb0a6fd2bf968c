//! What a coordinator has told is on the disk: which calls it makes before it tells, watched by strace. A process
//! that is killed proves nothing of it, because the kernel keeps what was never synced.

use std::path::Path;

use fedpaint_proto::names::Blob;
use fedpaint_proto::v1;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{Lab, LabOptions};
use fedpaint_tests::models;
use fedpaint_tests::syncs::{self, DiskCall};

use crate::canaries::has_strace;
use crate::storage::{all_join, create_run, file_of, sites};

/// What strace has written so far. It writes a call's line before it lets the caller go on, so whatever was done
/// before an answer is in it once the answer is here.
fn so_far(trace: &Path) -> Vec<DiskCall> {
    let text = std::fs::read_to_string(trace).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    syncs::read(whole).unwrap()
}

fn lines(trace: &Path) -> usize {
    std::fs::read_to_string(trace).unwrap().lines().count()
}

fn is_database(path: &str) -> bool {
    path.ends_with("/coordinator.db-wal") || path.ends_with("/coordinator.db")
}

/// The line at which a blob was whole on the disk under its name.
fn named(calls: &[DiskCall], folder: &Path, blob: &Blob) -> usize {
    let path = file_of(folder, blob).display().to_string();
    syncs::named(calls, &path).unwrap_or_else(|error| panic!("{error}: {calls:#?}"))
}

/// A traced coordinator with a run whose round both sites train, in a folder as the kernel names it, which strace
/// shows.
async fn training(folder: &Path, trace: &Path) -> (Lab, Vec<FakeSite>) {
    let options = LabOptions { trace: Some(trace.to_owned()), ..LabOptions::default() };
    let mut lab = Lab::prepare(folder, options).unwrap();
    lab.start_coordinator().unwrap();
    create_run(&lab, folder, 1).await;
    let mut members = sites(&lab).await;
    all_join(&lab, &mut members, 1).await;
    (lab, members)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_and_a_model_are_synced_named_and_in_a_synced_row_before_anyone_is_told() {
    if !has_strace("what the coordinator syncs before it answers") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = std::fs::canonicalize(folder.path()).unwrap();
    let trace = folder.join("trace");
    let (lab, mut members) = training(&folder, &trace).await;
    let mut all_named = 0;
    for (site, value) in members.iter_mut().zip([0.25_f32, 0.75]) {
        let train = site.task().await.unwrap();
        let base = Blob::try_from(&train.base_model.unwrap()).unwrap();
        let round = train.round.unwrap();
        let file = folder.join(site.name());
        let update = models::write(&file, models::specs(), |t, i| value + (t + i) as f32).unwrap();
        site.upload(&round, update, &file).await.unwrap();
        // Told that it is here, a site does not send it again.
        all_named = named(&so_far(&trace), &folder, &update).max(all_named);
        let uploaded = lines(&trace);
        site.submit(&round, base.digest, update, 8).await.unwrap();
        let calls = so_far(&trace);
        let row = syncs::sync_from(&calls, uploaded, is_database);
        assert!(row.is_some(), "{} was told and its row not synced: {calls:#?}", site.name());
    }
    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    let model = Blob::try_from(&finished.unwrap().0.model.unwrap()).unwrap();
    let calls = so_far(&trace);
    let at = named(&calls, &folder, &model);
    assert!(at > all_named, "the average is made of both updates");
    let row = syncs::sync_from(&calls, at + 1, is_database);
    assert!(row.is_some(), "the model was told and its row not synced: {calls:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_of_an_upload_is_here_is_synced_each_time_before_its_sender_is_told() {
    if !has_strace("what the coordinator syncs before it says where an upload goes on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = std::fs::canonicalize(folder.path()).unwrap();
    let trace = folder.join("trace");
    let (_lab, mut members) = training(&folder, &trace).await;
    let site = &mut members[0];
    let round = site.task().await.unwrap().round.unwrap();
    let file = folder.join("update");
    let update = models::write(&file, models::specs(), |t, i| (t + i) as f32).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let half = bytes.len() / 2;
    let staging = folder.join("coordinator/staging/site-alpha");
    let part = staging.join(format!("{}.{}.part", update.digest, update.size));
    // The bytes, the name of the part, and that of its sender's folder.
    let lasting = [&*part, &*staging, staging.parent().unwrap()].map(|path| {
        let path = path.display().to_string();
        move |calls: &[DiskCall], from| syncs::sync_from(calls, from, |it| it == path).is_some()
    });
    // At the end of a call, by one that asks, and by one that begins elsewhere.
    for asked in 0..3 {
        let from = lines(&trace);
        let told = match asked {
            0 => site.begin_upload(&round, update, &bytes[..half]).await.unwrap(),
            1 => site.uploaded(&round, update).await.unwrap(),
            _ => {
                let refused = site.begin_upload(&round, update, &bytes[..half]).await.unwrap_err();
                assert!(refused.message().contains(&format!("byte {half}")), "{refused}");
                half as u64
            }
        };
        assert_eq!(told, half as u64);
        let calls = so_far(&trace);
        assert!(lasting.iter().all(|is_synced| is_synced(&calls, from)), "{asked}: {calls:#?}");
    }
    site.upload(&round, update, &file).await.unwrap();
    assert!(!part.exists());
}
