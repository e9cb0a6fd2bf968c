//! A disk that fails under the coordinator: what was acknowledged stays, and work goes on by itself or,
//! after a failed sync, with the next start.

use std::path::Path;

use fedpaint_proto::failpoint;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason;
use fedpaint_proto::v1;
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{Lab, LabOptions};
use fedpaint_tests::models;
use fedpaint_tests::process::{output_with, run};

use crate::storage::{all_join, coordinator, create_run, file_of, hears_again, sites, told};

/// How often a call is made again that the coordinator's disk has failed.
const CALLS_MAX: u32 = 100;

/// A coordinator whose disk fails as the file of rules says, with a run whose round both sites train.
async fn training(folder: &Path) -> (Lab, Vec<FakeSite>) {
    let environment = vec![(failpoint::VARIABLE.to_owned(), folder.join("rules"))];
    let options = LabOptions { environment, ..LabOptions::default() };
    let mut lab = Lab::prepare(folder, options).unwrap();
    lab.start_coordinator().unwrap();
    create_run(&lab, folder, 1).await;
    let mut members = sites(&lab).await;
    all_join(&lab, &mut members, 1).await;
    (lab, members)
}

fn set_rules(folder: &Path, rules: &[String]) {
    // A file that is renamed into its place is read whole or not at all.
    std::fs::write(folder.join("rules.new"), rules.join("\n")).unwrap();
    std::fs::rename(folder.join("rules.new"), folder.join("rules")).unwrap();
}

/// How often a trace tells of a place.
fn passes(trace: &str, place: &str) -> usize {
    trace.lines().filter(|line| line.split_whitespace().next() == Some(place)).count()
}

/// Reports like an agent, which calls again whatever may succeed later.
async fn report_patiently(folder: &Path, site: &mut FakeSite) {
    let taken = report(folder, site, CALLS_MAX).await;
    assert!(taken, "the update of {} was not taken in {CALLS_MAX} calls", site.name());
}

/// Reports in at most so many calls; whether one of them said that the update was taken.
async fn report(folder: &Path, site: &mut FakeSite, calls: u32) -> bool {
    let train = site.task().await.unwrap();
    let (base, round) = (Blob::try_from(&train.base_model.unwrap()).unwrap(), train.round.unwrap());
    let file = folder.join(format!("update-{}", site.name()));
    let value = site.name().len() as f32;
    let update = models::write(&file, models::specs(), |t, i| value + (t + i) as f32).unwrap();
    site.upload(&round, update, &file).await.unwrap();
    for _ in 0..calls {
        match site.submit(&round, base.digest, update, 8).await {
            Ok(_) => return true,
            Err(status) => assert!(reason::is_transient(&status), "{status}"),
        }
    }
    false
}

async fn finished(lab: &Lab) -> Blob {
    let finished = |run: &v1::Run, _: &v1::Round| run.state() == v1::RunState::Finished;
    let (run, round) = lab.watch("brain", finished).await.unwrap();
    assert_eq!(round.r#ref.unwrap().attempt, 1, "a failing disk is no fault of the round's");
    Blob::try_from(&run.model.unwrap()).unwrap()
}

async fn undisturbed() -> Blob {
    let folder = tempfile::tempdir().unwrap();
    let (lab, mut members) = training(folder.path()).await;
    for site in &mut members {
        report_patiently(folder.path(), site).await;
    }
    finished(&lab).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_once_at_each_place_delays_a_round_and_changes_nothing_of_it() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().unwrap();
    let (lab, mut members) = training(folder.path()).await;
    let places = [
        "blob.part",
        "blob.write",
        "blob.hash",
        "blob.rename",
        "db.begin",
        "db.fence",
        "db.run",
        "db.round",
        "db.members",
        "db.event",
        "db.commit",
        "db.committed",
        "model.open",
        "model.read",
        "model.write",
        "publish.save",
    ];
    let faults = ["enospc", "eio", "erofs"].into_iter().cycle();
    let rules = places.iter().zip(faults).map(|(place, fault)| format!("{place} {fault}@1"));
    let trace = folder.path().join("trace");
    let rules: Vec<String> = rules.chain([format!("trace {}", trace.display())]).collect();
    set_rules(folder.path(), &rules);
    for site in &mut members {
        report_patiently(folder.path(), site).await;
    }
    assert_eq!(finished(&lab).await, expected);
    let trace = std::fs::read_to_string(trace).unwrap();
    for place in places {
        assert!(passes(&trace, place) > 0, "{place} was never passed");
    }
    let log = lab.log();
    assert!(log.contains("is begun again"), "the aggregation was disturbed: {log}");
    assert_eq!(told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 0)["clean"], true);
}

#[test]
fn a_disk_that_fails_once_at_each_place_of_a_first_start_delays_it_and_changes_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let environment = vec![(failpoint::VARIABLE.to_owned(), folder.join("rules"))];
    let options = LabOptions { environment, ..LabOptions::default() };
    let mut lab = Lab::prepare(folder, options).unwrap();
    // Each costs the start a try, and the next try comes to the next one.
    let places = [
        "folder.make",
        "folder.lock",
        "blob.empty",
        "blob.folders",
        "db.open",
        "db.migrate",
        "db.checksums",
    ];
    let faults = ["enospc", "eio", "erofs"].into_iter().cycle();
    let rules = places.iter().zip(faults).map(|(place, fault)| format!("{place} {fault}@1"));
    // The second try at the checksums passes their place twice, and fails as it commits.
    let commit = "db.checksums enospc@3".to_owned();
    let trace = folder.join("trace");
    let rules: Vec<String> = rules.chain([commit, format!("trace {}", trace.display())]).collect();
    set_rules(folder, &rules);
    lab.start_coordinator().unwrap();
    let trace = std::fs::read_to_string(trace).unwrap();
    for place in places {
        let passed = passes(&trace, place);
        let tries = if place == "db.checksums" { 5 } else { 2 };
        assert!(passed >= tries, "{place} was passed {passed} times");
    }
    let log = lab.log();
    assert!(log.contains("the disk can be used again"), "{log}");
    lab.enroll("alpha").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_open_while_it_is_averaged_gives_no_round_up_and_says_whose_it_is() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().unwrap();
    let (lab, mut members) = training(folder.path()).await;
    report_patiently(folder.path(), &mut members[0]).await;
    // Beta's check opens its update and the base model; the average the base model, then alpha's.
    set_rules(folder.path(), &["model.open eio@4".to_owned()]);
    report_patiently(folder.path(), &mut members[1]).await;
    assert_eq!(finished(&lab).await, expected);
    let log = lab.log();
    let told = "the update of site alpha cannot be used: cannot open the model file";
    assert!(log.contains(told) && log.contains("is begun again"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_may_have_as_many_files_open_as_its_user_lets_it() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Whatever this test was started with, the program is started with less than it may have.
    let less = maximum.map_or(100_000, |maximum| maximum - 1);
    setrlimit(Resource::Nofile, Rlimit { current: Some(less), maximum }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::start(folder.path()).unwrap();
    let process = lab.coordinator().unwrap().id();
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_an_average_stops_the_process_and_the_next_start_makes_the_same_model() {
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, mut members) = training(folder.path()).await;
    set_rules(folder.path(), &["model.sync eio@1".to_owned()]);
    report_patiently(folder.path(), &mut members[0]).await;
    // The average begins with the last update, and its end may come before the answer and the receipt in it.
    report(folder.path(), &mut members[1], 1).await;
    stopped(&mut lab, "cannot sync the model file");
    set_rules(folder.path(), &[]);
    lab.start_coordinator().unwrap();
    assert_eq!(finished(&lab).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_an_upload_stops_the_process_and_the_update_is_sent_from_its_start_again()
{
    let expected = undisturbed().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, mut members) = training(folder.path()).await;
    report_patiently(folder.path(), &mut members[0]).await;
    set_rules(folder.path(), &["blob.sync eio@1".to_owned()]);
    let (path, mut beta) = (folder.path().to_owned(), members.pop().unwrap());
    // It is cut by the end of the process, and goes on calling until the next start takes it.
    let reporting = tokio::spawn(async move { report_patiently(&path, &mut beta).await });
    stopped(&mut lab, "cannot sync");
    let parts = std::fs::read_dir(lab.path("coordinator/staging/site-beta")).unwrap().count();
    assert_eq!(parts, 0, "nothing is left that might be trusted");
    set_rules(folder.path(), &[]);
    lab.start_coordinator().unwrap();
    reporting.await.unwrap();
    assert_eq!(finished(&lab).await, expected);
    assert_eq!(told(coordinator(&lab, "fsck", "coordinator.toml", &[]), 0)["clean"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_what_a_site_is_told_stops_the_process_and_none_of_it_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, mut members) = training(folder.path()).await;
    let mut beta = members.pop().unwrap();
    let round = beta.task().await.unwrap().round.unwrap();
    let file = folder.path().join("half");
    let update = models::write(&file, models::specs(), |t, i| (t + i) as f32).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    set_rules(folder.path(), &["blob.part_sync eio@1".to_owned()]);
    let told = beta.begin_upload(&round, update, &bytes[..bytes.len() / 2]).await;
    assert!(reason::is_transient(&told.unwrap_err()));
    stopped(&mut lab, "cannot sync");
    let parts = std::fs::read_dir(lab.path("coordinator/staging/site-beta")).unwrap().count();
    assert_eq!(parts, 0, "nothing is left that might be trusted");
    set_rules(folder.path(), &[]);
    lab.start_coordinator().unwrap();
    hears_again(&mut beta).await;
    assert_eq!(beta.uploaded(&round, update).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_that_a_full_disk_keeps_are_never_taken_and_make_room_for_the_right_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (_lab, mut members) = training(folder.path()).await;
    let beta = &mut members[1];
    let round = beta.task().await.unwrap().round.unwrap();
    let file = folder.path().join("right");
    let update = models::write(&file, models::specs(), |t, i| (t + i) as f32).unwrap();
    let right = std::fs::read(&file).unwrap();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    set_rules(folder.path(), &["blob.wrong enospc@1".to_owned()]);
    let told = beta.begin_upload(&round, update, &wrong).await.unwrap_err();
    // Not that they are wrong: that is told once they are gone.
    assert!(reason::is_transient(&told), "{told}");
    assert!(!file_of(folder.path(), &update).exists());
    // It goes on where those end, is told that they are wrong, and sends all of it.
    beta.upload(&round, update, &file).await.unwrap();
    assert_eq!(std::fs::read(file_of(folder.path(), &update)).unwrap(), right);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_rots_and_cannot_be_set_aside_is_given_to_nobody_and_set_aside_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_lab, mut members) = training(folder.path()).await;
    let beta = &mut members[1];
    let base = Blob::try_from(&beta.task().await.unwrap().base_model.unwrap()).unwrap();
    let kept = file_of(folder.path(), &base);
    let mut bytes = std::fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    set_rules(folder.path(), &["blob.rot enospc@1".to_owned()]);
    let to = folder.path().join("downloaded");
    for is_set_aside in [false, true] {
        let refused = beta.download(base, &to).await.unwrap_err().to_string();
        assert!(refused.contains("has changed on the disk"), "{refused}");
        assert_eq!((to.exists(), kept.exists()), (false, !is_set_aside));
        assert_eq!(kept.with_extension("rotten").exists(), is_set_aside);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_export_finds_the_disk_full_is_exported_by_the_same_command_again() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, mut members) = training(folder.path()).await;
    for site in &mut members {
        report_patiently(folder.path(), site).await;
    }
    let model = finished(&lab).await;
    let mut points = Failpoints::new(folder.path(), "export").unwrap();
    // Where the name may not last the file is there all the same, and is the one that is wanted the second time.
    for place in ["download.sync", "download.folder"] {
        let out = lab.path(&format!("{place}.safetensors"));
        let mut export = lab.operator_flags();
        export.extend(["model", "export", "brain", "--out", &out].map(str::to_owned));
        points.arm(&format!("{place} enospc@1")).unwrap();
        let full = output_with("fedctl", &export, &[points.variable()]).unwrap();
        let said = String::from_utf8(full.stderr).unwrap();
        assert!(!full.status.success() && said.contains("No space left on device"), "{said}");
        points.disarm().unwrap();
        let again = output_with("fedctl", &export, &[points.variable()]).unwrap();
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(again.status.success(), "{place}: {said}");
        assert_eq!(said.contains("is there already"), place == "download.folder", "{said}");
        let exported = std::fs::read(&out).unwrap();
        assert_eq!(Digest::of(&exported), model.digest, "{place}");
        // It is seen to, too, that it lasts.
        let passed = points.reached().unwrap();
        let synced = passed.iter().filter(|passed| *passed == "download.folder").count();
        assert_eq!(synced, if place == "download.folder" { 2 } else { 1 }, "{place}");

        // Another file is nobody's to replace unless it is said, nor is what says that it is of another round.
        std::fs::write(&out, [&exported[..], b"."].concat()).unwrap();
        let refused = output_with("fedctl", &export, &[]).unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains("give --force"), "{said}");
        std::fs::write(&out, &exported).unwrap();
        let note = format!("{out}.json");
        let own = std::fs::read_to_string(&note).unwrap();
        std::fs::write(&note, own.replace("\"round\": 1", "\"round\": 7")).unwrap();
        assert!(!output_with("fedctl", &export, &[]).unwrap().status.success(), "{own}");
        export.push("--force".to_owned());
        run("fedctl", &export).unwrap();
        assert_eq!(std::fs::read_to_string(&note).unwrap(), own);
    }
}

/// Has a command find the disk full where a rule says, which it tells with a file below `folder`.
fn is_full(folder: &Path, points: &Failpoints, rule: &str, (program, words): (&str, &[String])) {
    points.arm(rule).unwrap();
    let full = output_with(program, words, &[points.variable()]).unwrap();
    let said = String::from_utf8(full.stderr).unwrap();
    assert!(!full.status.success() && said.contains("No space left on device"), "{rule}: {said}");
    assert!(said.contains(&*folder.to_string_lossy()), "{rule}: {said}");
    points.disarm().unwrap();
}

/// The names of the files in a folder and below it, in their order.
fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => found.extend(names(&entry.path())),
            false => found.push(entry.file_name().into_string().unwrap()),
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_to_a_full_disk_leaves_no_part_of_it_and_is_saved_by_the_same_command_again()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (lab, mut members) = training(folder).await;
    for site in &mut members {
        report_patiently(folder, site).await;
    }
    finished(&lab).await;
    let points = Failpoints::new(folder, "full").unwrap();
    let operator = |words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned());
        lab.operator_flags().into_iter().chain(words).collect::<Vec<String>>()
    };
    for (place, verb) in [
        ("audit.export_write", "export"),
        ("audit.export_sync", "export"),
        ("audit.head_write", "head"),
    ] {
        let out = folder.join(place);
        std::fs::create_dir(&out).unwrap();
        let command = operator(&["audit", verb, "--out", &out.join("log").to_string_lossy()]);
        is_full(folder, &points, &format!("{place} enospc@1"), ("fedctl", &command));
        assert_eq!(names(&out), [""; 0], "{place}");
        run("fedctl", &command).unwrap();
        assert_eq!(names(&out), ["log"], "{place}");
        // What is there already is nobody's to replace.
        let refused = output_with("fedctl", &command, &[]).unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains("is there already"), "{said}");
    }

    let out = folder.join("exported");
    std::fs::create_dir(&out).unwrap();
    let file = out.join("model").display().to_string();
    let export = operator(&["model", "export", "brain", "--out", &file]);
    let all = ["model", "model.json", "model.manifest.json"];
    // The note goes before the manifest; what is there is gone on with.
    is_full(folder, &points, "export.beside enospc@1", ("fedctl", &export));
    assert_eq!(names(&out), all[..1]);
    is_full(folder, &points, "export.beside enospc@2", ("fedctl", &export));
    assert_eq!(names(&out), all[..2]);
    run("fedctl", &export).unwrap();
    assert_eq!(names(&out), all);

    let config = lab.path("coordinator.toml");
    let save = |verb: &str, config: &str, with: &[&str]| {
        let words = [&[verb, "--config", config], with].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let out = lab.path("backup");
    let backup = save("backup", &config, &["--out", &out, "--copy"]);
    // The second blob, so that there is one before it.
    for rule in ["backup.database enospc@1", "backup.blob enospc@2", "backup.manifest enospc@1"] {
        is_full(folder, &points, rule, ("fedpaint-coordinator", &backup));
        assert_eq!(names(Path::new(&out)), [""; 0], "{rule}");
    }
    run("fedpaint-coordinator", &backup).unwrap();

    let text = std::fs::read_to_string(&config).unwrap();
    let config = lab.path("elsewhere.toml");
    std::fs::write(&config, text.replace("\"coordinator\"", "\"elsewhere\"")).unwrap();
    let restore = save("restore", &config, &["--from", &out]);
    for rule in ["restore.blob enospc@2", "restore.folder enospc@1", "restore.database enospc@1"] {
        is_full(folder, &points, rule, ("fedpaint-coordinator", &restore));
        assert_eq!(names(&folder.join("elsewhere/blobs")), [""; 0], "{rule}");
    }
    run("fedpaint-coordinator", &restore).unwrap();
    assert_eq!(told(coordinator(&lab, "fsck", "elsewhere.toml", &[]), 0)["clean"], true);
}

/// Waits until the coordinator has ended by itself because of `why`.
fn stopped(lab: &mut Lab, why: &str) {
    // Its output ends when it does.
    tokio::task::block_in_place(|| lab.coordinator().unwrap().line().unwrap_err());
    let status = lab.coordinator().unwrap().stop().unwrap();
    let log = lab.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the coordinator had to stop: ") && log.contains(why), "{log}");
}
