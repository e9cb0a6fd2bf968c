//! Checking, saving, bringing back and computing again, by the program itself beside a federation that
//! goes on; and one coordinator per database.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fedpaint_proto::names::Blob;
use fedpaint_proto::v1;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::models;
use fedpaint_tests::process::{output, program};
use serde_json::Value;
use sqlx::{AnyConnection, Connection};

use crate::plan;

const SITES: [&str; 2] = ["alpha", "beta"];

/// A coordinator with a run of `rounds` rounds for both sites, in `folder`.
async fn federation(folder: &Path, rounds: u32) -> Lab {
    let lab = Lab::start(folder).unwrap();
    create_run(&lab, folder, rounds).await;
    lab
}

/// Creates the run `brain` of `rounds` rounds for both sites.
pub(crate) async fn create_run(lab: &Lab, folder: &Path, rounds: u32) {
    let file = folder.join("base.safetensors");
    let base = models::write(&file, models::specs(), |t, i| (t * 100 + i) as f32).unwrap();
    lab.create_run("brain", &plan(rounds, 2, 2, ""), &file, base).await.unwrap();
}

/// Both sites, as they are known to the coordinator that runs now.
pub(crate) async fn sites(lab: &Lab) -> Vec<FakeSite> {
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(FakeSite::enroll(lab, name).await.unwrap());
    }
    sites
}

pub(crate) async fn all_join(lab: &Lab, sites: &mut [FakeSite], number: u32) {
    let selecting = |_: &v1::Run, round: &v1::Round| {
        let is_it = round.r#ref.as_ref().is_some_and(|r| r.number == number);
        is_it && round.phase() == v1::RoundPhase::Selecting
    };
    lab.watch("brain", selecting).await.unwrap();
    for site in sites {
        site.join().await.unwrap();
    }
}

/// Uploads and submits the site's update of the round that it is to train.
async fn report(folder: &Path, site: &mut FakeSite) -> Blob {
    let train = site.task().await.unwrap();
    let (base, round) = (Blob::try_from(&train.base_model.unwrap()).unwrap(), train.round.unwrap());
    let value = site.name().len() as f32 + round.number as f32 / 8.0;
    let file = folder.join(format!("update-{}-{}", site.name(), round.number));
    let update = models::write(&file, models::specs(), |t, i| value + (t + i) as f32).unwrap();
    site.upload(&round, update, &file).await.unwrap();
    site.submit(&round, base.digest, update, 8).await.unwrap();
    update
}

async fn whole_round(lab: &Lab, folder: &Path, sites: &mut [FakeSite], number: u32) -> Vec<Blob> {
    all_join(lab, sites, number).await;
    let mut updates = Vec::new();
    for site in sites {
        updates.push(report(folder, site).await);
    }
    let committed = |run: &v1::Run, _: &v1::Round| run.rounds_committed >= number;
    lab.watch("brain", committed).await.unwrap();
    updates
}

pub(crate) fn coordinator(lab: &Lab, verb: &str, config: &str, more: &[&str]) -> Output {
    let config = lab.path(config);
    let args = [&[verb, "--config", &config, "--output", "json"], more].concat();
    output("fedpaint-coordinator", &args).unwrap()
}

/// The result of a verb that ends with `code`.
pub(crate) fn told(output: Output, code: i32) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// Calls until the coordinator that was started again answers: a call on the old connection fails.
pub(crate) async fn hears_again(site: &mut FakeSite) {
    for _ in 0..100 {
        if site.beat(Activity::Idle(v1::Idle {})).await.is_ok() {
            return;
        }
    }
    panic!("{} does not reach the coordinator", site.name());
}

pub(crate) fn file_of(folder: &Path, blob: &Blob) -> PathBuf {
    let digest = blob.digest.to_string();
    folder.join("coordinator/blobs").join(&digest[..2]).join(digest)
}

fn flip_a_bit(path: &Path) -> Vec<u8> {
    let right = std::fs::read(path).unwrap();
    let mut wrong = right.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 4;
    std::fs::write(path, wrong).unwrap();
    right
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_the_middle_of_a_round_is_restored_elsewhere_and_the_run_finishes_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = federation(folder.path(), 3).await;
    let mut members = sites(&lab).await;
    whole_round(&lab, folder.path(), &mut members, 1).await;
    all_join(&lab, &mut members, 2).await;
    report(folder.path(), &mut members[0]).await;

    let found = told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 0);
    assert_eq!(
        (&found["clean"], &found["rounds"], &found["sites"]),
        (&true.into(), &2.into(), &2.into())
    );
    let backup = lab.path("backup");
    let saved = told(coordinator(&lab, "backup", "coordinator.toml", &["--out", &backup]), 0);
    // The initial model, what round 1 made and its average, three updates.
    assert_eq!(saved["blobs"], 6, "{saved}");
    let again = refusal(coordinator(&lab, "backup", "coordinator.toml", &["--out", &backup]));
    assert!(again.contains("is not empty"), "{again}");

    // The machine is lost with all that was done after the backup.
    report(folder.path(), &mut members[1]).await;
    lab.coordinator().unwrap().kill().unwrap();
    let config = std::fs::read_to_string(lab.path("coordinator.toml")).unwrap();
    let elsewhere = config.replace("\"coordinator\"", "\"elsewhere\"");
    std::fs::write(lab.path("elsewhere.toml"), &elsewhere).unwrap();
    let restored = told(coordinator(&lab, "restore", "elsewhere.toml", &["--from", &backup]), 0);
    assert_eq!((&restored["blobs"], &restored["fsck"]["clean"]), (&6.into(), &true.into()));
    let again = refusal(coordinator(&lab, "restore", "elsewhere.toml", &["--from", &backup]));
    assert!(again.contains("is not empty"), "{again}");

    std::fs::write(lab.path("coordinator.toml"), &elsewhere).unwrap();
    lab.start_coordinator().unwrap();
    for site in &mut members {
        hears_again(site).await;
    }
    report(folder.path(), &mut members[1]).await;
    whole_round(&lab, folder.path(), &mut members, 3).await;
    let found = told(coordinator(&lab, "fsck", "elsewhere.toml", &[]), 0);
    assert_eq!((&found["clean"], &found["rounds"]), (&true.into(), &3.into()));
    let replay = told(coordinator(&lab, "replay", "elsewhere.toml", &["--run", "brain"]), 0);
    let verdicts: Vec<&Value> =
        replay["rounds"].as_array().unwrap().iter().map(|round| &round["verdict"]).collect();
    assert_eq!(verdicts, ["equal"; 3]);
    // The backup is as it was.
    let third = elsewhere.replace("\"elsewhere\"", "\"third\"");
    std::fs::write(lab.path("third.toml"), third).unwrap();
    told(coordinator(&lab, "restore", "third.toml", &["--from", &backup]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_changed_is_found_by_name_and_one_that_is_gone_is_told_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let lab = federation(folder.path(), 3).await;
    let mut members = sites(&lab).await;
    let updates = whole_round(&lab, folder.path(), &mut members, 1).await;
    whole_round(&lab, folder.path(), &mut members, 2).await;
    let fsck = |code| told(coordinator(&lab, "fsck", "coordinator.toml", &[]), code);
    let replay = |round, code| {
        let args = ["--run", "brain", "--round", round];
        told(coordinator(&lab, "replay", "coordinator.toml", &args), code)
    };
    assert_eq!(replay("1", 0)["rounds"][0]["verdict"], "equal");
    // In the folder of its config a verb needs nobody to name it.
    let mut here = Command::new(program("fedpaint-coordinator").unwrap());
    here.args(["replay", "--run", "brain", "--output", "json"]).current_dir(folder.path());
    assert_eq!(told(here.output().unwrap(), 0)["rounds"].as_array().unwrap().len(), 2);

    let update = file_of(folder.path(), &updates[0]);
    let right = flip_a_bit(&update);
    let damage = fsck(1)["damage"].clone();
    assert_eq!(damage.as_array().unwrap().len(), 1, "{damage}");
    let what = damage[0]["what"].as_str().unwrap();
    assert!(what.contains("the update of alpha in round brain/1.1"), "{damage}");
    assert!(what.contains(&updates[0].digest.to_string()), "{damage}");
    let rotten = &replay("1", 1)["rounds"][0]["verdict"]["rotten"]["what"];
    assert_eq!(rotten, "the update of site alpha");
    assert_eq!(replay("2", 0)["rounds"][0]["verdict"], "equal", "another round is none the worse");

    std::fs::remove_file(&update).unwrap();
    assert!(fsck(1)["damage"][0]["found"].as_str().unwrap().contains("not there"));
    let gone = &replay("1", 0)["rounds"][0]["verdict"]["gone"]["what"];
    assert_eq!(gone, "the update of site alpha");
    std::fs::write(&update, right).unwrap();

    let (run, _) = lab.watch("brain", |_, _| true).await.unwrap();
    let model = file_of(folder.path(), &Blob::try_from(&run.model.unwrap()).unwrap());
    let right = flip_a_bit(&model);
    let damage = fsck(1)["damage"].clone();
    assert!(damage[0]["found"].as_str().unwrap().contains("changed"), "{damage}");
    std::fs::write(&model, right).unwrap();
    assert_eq!(fsck(0)["clean"], true);
    let none = refusal(coordinator(&lab, "replay", "coordinator.toml", &["--run", "heart"]));
    assert!(none.contains("no run heart"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_over_a_file_that_has_changed_publishes_nothing_and_the_next_attempt_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let lab = federation(folder.path(), 1).await;
    let mut members = sites(&lab).await;
    all_join(&lab, &mut members, 1).await;
    let update = report(folder.path(), &mut members[0]).await;
    flip_a_bit(&file_of(folder.path(), &update));
    report(folder.path(), &mut members[1]).await;
    let second =
        |_: &v1::Run, round: &v1::Round| round.r#ref.as_ref().is_some_and(|r| r.attempt == 2);
    lab.watch("brain", second).await.unwrap();
    let log = lab.log();
    assert!(log.contains("the update of site alpha cannot be used"), "{log}");
    whole_round(&lab, folder.path(), &mut members, 1).await;
    assert_eq!(told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 0)["clean"], true);
}

/// Edits the database behind its coordinator's back.
async fn edit(folder: &Path, sql: &'static str) {
    sqlx::any::install_default_drivers();
    let file = folder.join("coordinator/coordinator.db");
    let mut connection =
        AnyConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let edited = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    assert_eq!(edited.rows_affected(), 1, "{sql}");
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_has_changed_is_named_by_a_start_that_is_refused_and_by_fsck_until_it_is_right()
{
    let folder = tempfile::tempdir().unwrap();
    let mut lab = federation(folder.path(), 2).await;
    let mut members = sites(&lab).await;
    whole_round(&lab, folder.path(), &mut members, 1).await;
    all_join(&lab, &mut members, 2).await;
    lab.coordinator().unwrap().kill().unwrap();
    for (wrong, right, row) in [
        (
            "UPDATE run SET model_size = model_size + 1",
            "UPDATE run SET model_size = model_size - 1",
            "row brain of the table run",
        ),
        (
            "UPDATE round SET base_size = base_size + 1 WHERE number = 2",
            "UPDATE round SET base_size = base_size - 1 WHERE number = 2",
            "row brain/2/1 of the table round",
        ),
    ] {
        edit(folder.path(), wrong).await;
        assert!(lab.start_coordinator().is_err());
        assert_eq!(lab.coordinator().unwrap().wait().unwrap().code(), Some(1));
        let log = lab.log();
        assert!(log.contains(&format!("{row}: it is not what was written")), "{log}");
        let damage = told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 1)["damage"].clone();
        let damage = damage.as_array().unwrap();
        assert!(damage.iter().any(|one| one["what"] == row), "{damage:?}");
        edit(folder.path(), right).await;
    }
    lab.start_coordinator().unwrap();
    for site in &mut members {
        hears_again(site).await;
        report(folder.path(), site).await;
    }
    let committed = |run: &v1::Run, _: &v1::Round| run.rounds_committed >= 2;
    lab.watch("brain", committed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_of_one_database_hears_who_holds_it_and_a_restart_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = federation(folder.path(), 1).await;
    let pid = lab.coordinator().unwrap().id();
    let config = std::fs::read_to_string(lab.path("coordinator.toml")).unwrap();
    let other = config.replace(
        "data = \"coordinator\"",
        "data = \"other\"\ndatabase = \"sqlite:coordinator/coordinator.db\"",
    );
    std::fs::write(lab.path("other.toml"), other).unwrap();
    let other = lab.path("other.toml");
    let serve = || output("fedpaint-coordinator", &["serve", "--config", &other]).unwrap();
    let refused = refusal(serve());
    assert!(refused.contains(&format!("process id {pid} on ")), "{refused}");
    assert!(refused.contains("holds it until "), "{refused}");

    // The lease of a coordinator that was killed is another's only at its end, and its own at once.
    lab.coordinator().unwrap().kill().unwrap();
    let refused = refusal(serve());
    assert!(refused.contains(&format!("process id {pid} on ")), "{refused}");
    lab.start_coordinator().unwrap();
    let mut members = sites(&lab).await;
    whole_round(&lab, folder.path(), &mut members, 1).await;
}
