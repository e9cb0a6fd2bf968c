//! The trainer as a process, and the supervisor that holds it.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fedpaint_site_agent::pipe::{
    self, Assignment, Failure, FromTrainer, PIPE_VERSION, Setup, ToTrainer,
};
use fedpaint_site_agent::settings::DataSettings;
use fedpaint_site_agent::supervisor::{Error, Supervisor};
use fedpaint_site_agent::workspace::{Workspace, model_path};
use tokio_util::sync::CancellationToken;

use crate::site::{ENDLESS, PROGRAM, blob, model, setup, trainers};

pub(crate) fn spawn(workspace: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg("trainer").env_clear().current_dir(workspace);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

pub(crate) fn assignment(workspace: &Path, plan: &str) -> Assignment {
    let base = blob(&model());
    Workspace::open(workspace).unwrap();
    std::fs::write(model_path(workspace, base.digest), model()).unwrap();
    Assignment {
        run: "brain".parse().unwrap(),
        number: 1,
        site: "mayo".parse().unwrap(),
        plan_toml: plan.into(),
        base,
        remainder: None,
    }
}

#[test]
fn a_trainer_ends_with_its_pipe_in_the_middle_of_a_training() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = spawn(folder.path());
    let mut stdin = trainer.stdin.take().unwrap();
    let mut stdout = trainer.stdout.take().unwrap();
    let hello = ToTrainer::Hello { version: PIPE_VERSION, setup: setup(folder.path()) };
    pipe::write(&mut stdin, &hello).unwrap();
    let assignment = assignment(folder.path(), ENDLESS);
    pipe::write(&mut stdin, &ToTrainer::Train(assignment)).unwrap();
    let hello = pipe::read(&mut stdout).unwrap();
    assert!(matches!(hello, FromTrainer::Hello { .. }), "{hello:?}");
    let step = pipe::read(&mut stdout).unwrap();
    assert!(matches!(step, FromTrainer::Progress(_)), "{step:?}");
    drop(stdin);
    assert!(trainer.wait().unwrap().success());
}

#[test]
fn a_trainer_ends_with_its_pipe_while_it_looks_for_scans() {
    let folder = tempfile::tempdir().unwrap();
    let endless = folder.path().join("scans.csv");
    assert!(Command::new("mkfifo").arg(&endless).status().unwrap().success());
    let mut trainer = spawn(folder.path());
    let mut stdin = trainer.stdin.take().unwrap();
    let good = setup(folder.path());
    let setup = Setup { data: DataSettings { path: endless.clone(), ..good.data.clone() }, ..good };
    pipe::write(&mut stdin, &ToTrainer::Hello { version: PIPE_VERSION, setup }).unwrap();
    // It has come to the list of cases when there is a reader, and waits for more of it.
    let list = std::fs::File::options().write(true).open(&endless).unwrap();
    drop(stdin);
    assert!(trainer.wait().unwrap().success());
    drop(list);
}

#[test]
fn a_trainer_refuses_garbage_and_another_version_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = spawn(folder.path());
    trainer.stdin.take().unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(trainer.wait().unwrap().code(), Some(1));

    let mut trainer = spawn(folder.path());
    let hello = ToTrainer::Hello { version: PIPE_VERSION + 1, setup: setup(folder.path()) };
    let mut stdin = trainer.stdin.take().unwrap();
    pipe::write(&mut stdin, &hello).unwrap();
    let answer = pipe::read(&mut trainer.stdout.take().unwrap()).unwrap();
    let FromTrainer::Failed { failure: Failure::Internal, detail } = answer else {
        panic!("{answer:?}")
    };
    assert!(detail.contains("version"), "{detail}");
    assert!(trainer.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_has_no_environment_and_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::new(PROGRAM.into(), setup(folder.path()));
    supervisor.start().await.unwrap();
    let id = supervisor.process_id().unwrap();
    assert_eq!(trainers(folder.path()), [i32::try_from(id).unwrap()]);
    let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap();
    for entry in environment.split(|&b| b == 0).filter(|entry| !entry.is_empty()) {
        let entry = String::from_utf8_lossy(entry);
        let (name, _) = entry.split_once('=').unwrap();
        let allowed = [
            "CUDA_VISIBLE_DEVICES",
            "LD_LIBRARY_PATH",
            "PATH",
            "RUST_BACKTRACE",
            "RUST_LOG",
            "TMPDIR",
        ];
        assert!(allowed.contains(&name), "{name}");
    }
    for entry in std::fs::read_dir(format!("/proc/{id}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!target.to_string_lossy().starts_with("socket:"), "{target:?}");
    }
    supervisor.stop().await;
    assert!(trainers(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_cannot_work_is_an_error_that_names_the_thing() {
    let folder = tempfile::tempdir().unwrap();
    let good = setup(folder.path());
    let no_scans = DataSettings { path: folder.path().join("none"), ..good.data.clone() };
    let mut no_gpu = good.clone();
    no_gpu.compute.device = "gpu:7".into();
    for (setup, failure, named) in [
        (Setup { data: no_scans, ..good }, Failure::NoData, "none"),
        (no_gpu, Failure::Device, "trainer.device"),
    ] {
        let error = Supervisor::new(PROGRAM.into(), setup).start().await.unwrap_err();
        let Error::Failed { failure: found, detail } = error else { panic!("{error}") };
        assert_eq!(found, failure);
        assert!(detail.contains(named), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_too_large_for_the_memory_is_refused_in_bytes_and_the_trainer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = setup(folder.path());
    setup.compute.memory_mib_max = Some(512);
    let mut supervisor = Supervisor::new(PROGRAM.into(), setup);
    let never = CancellationToken::new();
    let greedy = ENDLESS.replace("batch = 1", "batch = 1024");
    let greedy = assignment(folder.path(), &greedy);
    let error = supervisor.train(&greedy, &never, &mut |_| {}).await.unwrap_err();
    let Error::Failed { failure: Failure::Memory, detail } = error else { panic!("{error}") };
    let [needed, available]: [u64; 2] = {
        let numbers =
            detail.split(' ').filter_map(|word| word.parse().ok()).filter(|&n| n > 1 << 20);
        numbers.collect::<Vec<u64>>().try_into().unwrap()
    };
    assert!(needed > available && available < 512 << 20, "{detail}");

    let trainer = supervisor.process_id().unwrap();
    let modest = ENDLESS.replace("steps = 1000000", "steps = 2");
    assert_ne!(modest, ENDLESS);
    let modest = assignment(folder.path(), &modest);
    supervisor.train(&modest, &never, &mut |_| {}).await.unwrap();
    assert_eq!(supervisor.process_id(), Some(trainer));
}
