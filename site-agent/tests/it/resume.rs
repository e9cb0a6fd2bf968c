//! Trainers that are killed and disks that are full: the update comes late, and is the same.

use std::path::Path;
use std::process::{Command, Stdio};

use fedpaint_proto::failpoint;
use fedpaint_proto::names::Digest;
use fedpaint_site_agent::checkpoints::{Checkpoints, build};
use fedpaint_site_agent::model::precision::Precision;
use fedpaint_site_agent::pipe::{self, FromTrainer, PIPE_VERSION, Setup, ToTrainer, Trained};
use fedpaint_site_agent::settings::RehearsalSettings;
use fedpaint_site_agent::supervisor::{Error, Supervisor};
use fedpaint_site_agent::train::optimiser::Memory;
use fedpaint_site_agent::train::report::Course;
use fedpaint_site_agent::train::scaling::LossScale;
use fedpaint_site_agent::train::snapshot::{Key, Snapshot};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::site::{PLAN, PROGRAM, obeys, setup, trainers};
use crate::trainer::assignment;

/// A plan of enough steps to be killed in.
fn plan() -> String {
    PLAN.replace("steps = 3", "steps = 12")
}

/// Trains, killing the trainer at each of these steps; gives the first step that each trainer told of.
async fn trained(setup: Setup, kills: &[u32]) -> (Trained, Vec<u32>) {
    let assignment = assignment(&setup.workspace, &plan());
    let folder = setup.workspace.clone();
    let mut supervisor = Supervisor::new(PROGRAM.into(), setup);
    let never = CancellationToken::new();
    let (mut kills, mut firsts) = (kills.iter().copied(), Vec::new());
    loop {
        let (kill_at, mut first) = (kills.next(), None);
        let mut progress = |progress: pipe::Progress| {
            first.get_or_insert(progress.step);
            if Some(progress.step) == kill_at {
                for id in trainers(&folder) {
                    kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
                }
            }
        };
        let done = supervisor.train(&assignment, &never, &mut progress).await;
        firsts.extend(first);
        match done {
            Ok(trained) => {
                supervisor.stop().await;
                return (trained, firsts);
            }
            Err(Error::Died(_)) if kill_at.is_some() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_whose_trainer_is_killed_goes_on_from_its_checkpoint_to_the_same_bytes() {
    let folders = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let [whole, again] = folders.each_ref().map(|folder| {
        let mut setup = setup(folder.path());
        setup.compute.checkpoint_steps = 2;
        setup
    });
    let (whole, firsts) = trained(whole, &[]).await;
    assert_eq!(firsts, [1]);
    let (again, firsts) = trained(again, &[3, 7]).await;
    // The report too: it is made of all steps, those before the deaths as well.
    assert_eq!(again, whole);
    assert!(firsts.len() == 3 && firsts[1] > 2 && firsts[2] > firsts[1], "{firsts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_not_gone_on_with_once_other_scans_train() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = setup(folder.path());
    setup.compute.checkpoint_steps = 2;
    let assignment = assignment(folder.path(), &plan());
    let never = CancellationToken::new();
    let first_after = async |setup: &Setup| {
        let mut supervisor = Supervisor::new(PROGRAM.into(), setup.clone());
        let mut first = None;
        let mut progress = |progress: pipe::Progress| {
            first.get_or_insert(progress.step);
            if progress.step == 7 {
                for id in trainers(folder.path()) {
                    kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
                }
            }
        };
        let killed = supervisor.train(&assignment, &never, &mut progress).await;
        assert!(matches!(killed, Err(Error::Died(_))), "{killed:?}");
        first
    };
    assert_eq!(first_after(&setup).await, Some(1));
    assert!(first_after(&setup).await > Some(2), "the checkpoint was not gone on with");
    setup.data.held_out = 0.0;
    assert_eq!(first_after(&setup).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_opens_no_scan_and_its_update_follows_from_its_assignment() {
    let rehearsing = |folder: &Path| {
        let mut setup = setup(folder);
        setup.data.path = folder.join("nowhere");
        setup.rehearsal =
            Some(RehearsalSettings { steps_ms: 0, checkpoint_steps: Some(3), weights_max: None });
        setup
    };
    let folders = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let (whole, _) = trained(rehearsing(folders[0].path()), &[]).await;
    assert_eq!((whole.examples, whole.report.steps), (24, 12));
    let mut slow = rehearsing(folders[1].path());
    slow.rehearsal.as_mut().unwrap().steps_ms = 20;
    let (again, firsts) = trained(slow, &[5]).await;
    assert_eq!(again, whole);
    assert!(firsts[1] > 3, "{firsts:?}");
}

/// Rehearses in a trainer whose disk fails by `rules`.
fn rehearsed_with(rules: &str) -> Trained {
    rehearsed(&plan(), rules)
}

fn rehearsed(plan: &str, rules: &str) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal =
        Some(RehearsalSettings { steps_ms: 0, checkpoint_steps: Some(3), weights_max: None });
    trained_on(rules, plan, Setup { rehearsal, ..setup(folder.path()) })
}

/// Trains in a trainer of its own whose disk fails by `rules`.
pub(crate) fn trained_on(rules: &str, plan: &str, setup: Setup) -> Trained {
    let file = setup.workspace.join("rules");
    std::fs::write(&file, rules).unwrap();
    let assignment = assignment(&setup.workspace, plan);
    let mut command = Command::new(PROGRAM);
    command.arg("trainer").env_clear().env(failpoint::VARIABLE, &file);
    command.current_dir(&setup.workspace);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut trainer = pipes.spawn().unwrap();
    let (mut stdin, mut stdout) = (trainer.stdin.take().unwrap(), trainer.stdout.take().unwrap());
    pipe::write(&mut stdin, &ToTrainer::Hello { version: PIPE_VERSION, setup }).unwrap();
    pipe::write(&mut stdin, &ToTrainer::Train(assignment)).unwrap();
    loop {
        match pipe::read(&mut stdout).unwrap() {
            FromTrainer::Trained(trained) => {
                drop(stdin);
                assert!(trainer.wait().unwrap().success());
                return trained;
            }
            FromTrainer::Failed { detail, .. } => panic!("{rules}: {detail}"),
            FromTrainer::Hello { .. } | FromTrainer::Progress(_) => {}
        }
    }
}

#[test]
fn a_disk_that_fails_holds_an_update_back_or_costs_a_checkpoint_and_ends_no_training() {
    let whole = rehearsed_with("");
    for trouble in ["enospc", "eio", "erofs"] {
        assert_eq!(rehearsed_with(&format!("checkpoint.* {trouble}")), whole, "{trouble}");
    }
    // One after the other: each attempt comes one place further.
    let places = ["create enospc", "write enospc", "sync eio", "rename erofs", "folder eio"];
    let rules = places.map(|place| format!("train.update_{place}@1\n")).concat();
    assert_eq!(rehearsed_with(&rules), whole);
}

#[test]
fn an_update_in_fewer_bits_is_made_again_where_the_disk_fails_to_the_same_bytes() {
    let int4 = format!("{}[exchange]\nencoding = \"int4\"\n", plan());
    let whole = rehearsed(&int4, "");
    assert!(whole.remainder.is_some() && whole.update != rehearsed_with("").update);
    // Writing, syncing and naming of either file, and what comes after.
    let places = [
        "model.create enospc@1",
        "model.write enospc@9",
        "model.sync eio@1",
        "model.folder eio@1",
        "train.encoded_rename erofs@1",
        "train.encoded_folder eio@1",
        "train.encoded_rename eio@4",
        "train.trained_drop eio@1",
    ];
    assert_eq!(rehearsed(&int4, &places.join("\n")), whole);
}

#[test]
fn an_unfit_checkpoint_that_the_disk_keeps_ends_nothing_and_is_dropped_the_next_time() {
    let name =
        "resume::an_unfit_checkpoint_that_the_disk_keeps_ends_nothing_and_is_dropped_the_next_time";
    if !obeys("checkpoint.drop_unfit eio@1", name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("training")).unwrap();
    let checkpoints = Checkpoints::of(folder.path());
    let key = Key {
        run: "brain".parse().unwrap(),
        number: 1,
        site: "mayo".parse().unwrap(),
        plan: Digest::of(b"plan"),
        base: Digest::of(b"base"),
        data: Digest::of(b"scans"),
        machine: "cpu".into(),
        build: build(),
    };
    let losses = vec![0.5; 3];
    let snapshot = Snapshot {
        course: Course { losses, norms: vec![1.0; 3], ..Course::default() },
        scale: LossScale::new(Precision::F32),
        memory: Memory { steps: 3, tensors: vec![vec![1.0_f32; 100]], stock: None },
    };
    checkpoints.keep(&key, &snapshot);
    for is_dropped in [false, true] {
        let mut begun = Vec::new();
        let ended: Result<(), String> = checkpoints.go_on(
            &key,
            |_| true,
            |from| {
                begun.push(from.is_some());
                from.map_or(Ok(()), |_| Err("nothing goes on from this".to_owned()))
            },
        );
        assert_eq!(ended, Ok(()));
        assert_eq!(begun, [true, false], "it begins anew");
        assert_eq!(checkpoints.find(&key).is_none(), is_dropped);
    }
}
