//! The agent's loop with a real trainer, against a coordinator that is made up.

use std::sync::Arc;

use fedpaint_proto::budget::Budget;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::{Uploading, WithdrawalReason};
use fedpaint_site_agent::agent::job::{Bench, Delivery};
use fedpaint_site_agent::agent::line::{Channels, Line};
use fedpaint_site_agent::agent::{Stop, Trusted, serve};
use fedpaint_site_agent::gate::Gate;
use fedpaint_site_agent::pipe::Setup;
use fedpaint_site_agent::policy::Policy;
use fedpaint_site_agent::settings::RehearsalSettings;
use fedpaint_site_agent::supervisor::Supervisor;
use fedpaint_site_agent::workspace::Workspace;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::fake::{Fake, State, has_stepped, round};
use crate::site::{ENDLESS, PLAN, PROGRAM, model, obeys, program, scans, setup, trainers};

/// A site that allows everything.
pub(crate) fn open_gate(workspace: &TempDir) -> Gate {
    Gate::new(Policy::open(), workspace.path(), || Timestamp::UNIX_EPOCH)
}

/// What an agent works with that signs nothing.
pub(crate) fn bench(gate: Gate, workspace: &TempDir, line: impl Into<Line>, setup: Setup) -> Bench {
    Bench {
        line: line.into(),
        site: "mayo".parse().unwrap(),
        workspace: Arc::new(Workspace::open(workspace.path()).unwrap()),
        supervisor: Arc::new(Mutex::new(Supervisor::new(PROGRAM.into(), setup))),
        budget: Budget::default(),
        gate: Arc::new(gate),
        trust: Trusted::new(None).1,
        delivery: Delivery::default(),
    }
}

/// A running agent.
pub(crate) struct Site {
    pub(crate) workspace: TempDir,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Site {
    pub(crate) fn start(channel: Channel) -> Site {
        Site::start_in(tempfile::tempdir().unwrap(), channel)
    }

    pub(crate) fn start_in(workspace: TempDir, channel: Channel) -> Site {
        let setup = setup(workspace.path());
        Site::start_with(workspace, channel, setup)
    }

    fn start_with(workspace: TempDir, channel: Channel, setup: Setup) -> Site {
        Site::start_behind(open_gate(&workspace), workspace, channel, setup)
    }

    pub(crate) fn start_behind(
        gate: Gate,
        workspace: TempDir,
        line: impl Into<Line>,
        setup: Setup,
    ) -> Site {
        let bench = bench(gate, &workspace, line, setup);
        let supervisor = Arc::clone(&bench.supervisor);
        let stop = Stop::default();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            serve(bench, &stopped).await.unwrap();
            supervisor.lock().await.stop().await;
        });
        Site { workspace, stop, task }
    }

    fn kill_trainer(&self) {
        for id in trainers(self.workspace.path()) {
            kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
        }
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.stop.now.cancel();
        self.task.await.unwrap();
        assert!(trainers(self.workspace.path()).is_empty(), "a trainer is left");
        // File work that was under way may have the workspace for a moment yet, which ends with a process.
        if let Ok(lock) = std::fs::File::open(self.workspace.path().join("lock")) {
            lock.lock().unwrap();
        }
        self.workspace
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_round_is_the_same_training_as_alone_bit_for_bit() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let site = Site::start(channel);
    fake.until(|state| !state.submitted.is_empty()).await;
    let workspace = site.stop().await;
    let submission = fake.state().submitted[0].clone();
    assert_eq!(submission.examples, 6);
    assert_eq!(submission.report.unwrap().steps, 3);

    let path = |name: &str| workspace.path().join(name).to_str().unwrap().to_owned();
    let (plan, base, out) = (path("plan.toml"), path("base"), path("out"));
    std::fs::write(&plan, PLAN).unwrap();
    std::fs::write(&base, model()).unwrap();
    let data = scans().to_str().unwrap();
    let alone = program(&[
        "train",
        "--plan",
        &plan,
        "--model",
        &base,
        "--out",
        &out,
        "--data",
        data,
        "--label-scheme",
        "brats2023",
        "--site",
        "mayo",
        "--contrasts",
        "t1n",
        "--held-out",
        "0.5",
        "--device",
        "cpu",
    ]);
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    assert!(fake.update(&submission) == std::fs::read(&out).unwrap(), "the models differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_trainer_is_followed_by_another_one_in_the_same_attempt() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let site = Site::start(channel);
    fake.until(|state| has_stepped(state, &round(1, 1))).await;
    fake.state().plan = PLAN.into();
    site.kill_trainer();
    fake.until(|state| !state.submitted.is_empty()).await;
    assert_eq!(fake.state().submitted[0].round, Some(round(1, 1)));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_over_is_given_up_and_the_next_one_trained_by_the_same_trainer() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let site = Site::start(channel);
    fake.until(|state| has_stepped(state, &round(1, 1))).await;
    let before = trainers(site.workspace.path());
    {
        let mut state = fake.state();
        state.plan = PLAN.into();
        state.round = Some(round(2, 1));
    }
    fake.until(|state| !state.submitted.is_empty()).await;
    assert_eq!(fake.state().submitted[0].round, Some(round(2, 1)));
    assert_eq!(trainers(site.workspace.path()), before);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_model_that_is_none_is_refused_before_it_is_trained() {
    let (fake, channel) = Fake::start(PLAN, b"not a model".to_vec()).await;
    let site = Site::start(channel);
    assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::BaseModel);
    fake.state().base = model();
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_diverges_is_withdrawn_as_not_finite() {
    let plan = PLAN.replace("steps = 3", "steps = 60\nlearning_rate = 1.0\nweight_decay = 1.0");
    let (fake, channel) = Fake::start(&plan, overflowing_model()).await;
    let site = Site::start(channel);
    assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::NotFinite);
    site.stop().await;
}

/// A model of finite weights whose output is not finite.
fn overflowing_model() -> Vec<u8> {
    use fedpaint_site_agent::model::checkpoint;
    let weights = checkpoint::from_bytes(&model()).unwrap();
    let values = weights.iter().map(|(_, values)| vec![1e38; values.len()]).collect();
    checkpoint::to_bytes(&weights.with_values(values).unwrap()).unwrap()
}

/// A plan of so many steps that a heartbeat sees one of them, however busy the machine is.
fn seen_training() -> String {
    PLAN.replace("steps = 3", "steps = 40")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_update_is_told_and_trained_again() {
    let (fake, channel) = Fake::start(&seen_training(), model()).await;
    fake.state().refusal = Some(Reason::NotFinite);
    let site = Site::start(channel);
    assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::UpdateRefused);
    fake.until(|state| !state.submitted.is_empty()).await;
    assert!(has_stepped(&fake.state(), &round(1, 2)), "the refused update was sent again");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_update_that_the_disk_keeps_is_refused_again_and_then_trained_again() {
    let name =
        "agent::a_refused_update_that_the_disk_keeps_is_refused_again_and_then_trained_again";
    if !obeys("workspace.forget eio@1", name) {
        return;
    }
    let (fake, channel) = Fake::start(&seen_training(), model()).await;
    {
        let mut state = fake.state();
        (state.refusal, state.refusals_more) = (Some(Reason::NotFinite), 1);
    }
    let site = Site::start(channel);
    for attempt in [1, 2] {
        let told = fake.withdrawal(round(1, attempt)).await;
        assert_eq!(told, WithdrawalReason::UpdateRefused, "{attempt}");
    }
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    let state = fake.state();
    assert_eq!(state.submitted[0].round, Some(round(1, 3)));
    assert!(!has_stepped(&state, &round(1, 2)), "what the disk has kept was trained again");
    assert!(has_stepped(&state, &round(1, 3)), "the refused update was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_came_too_late_is_kept_and_answers_the_next_attempt() {
    for reason in [Reason::ReportingOver, Reason::RoundOver, Reason::NotAMember] {
        let (fake, channel) = Fake::start(PLAN, model()).await;
        fake.state().refusal = Some(reason);
        let site = Site::start(channel);
        assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::Internal);
        fake.until(|state| !state.submitted.is_empty()).await;
        site.stop().await;
        let state = fake.state();
        assert_eq!(state.submitted[0].round, Some(round(1, 2)));
        assert!(!has_stepped(&state, &round(1, 2)), "{reason:?}: it was trained again");
        assert_eq!(state.uploads, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_trained_again_once_other_scans_train() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let site = Site::start(channel.clone());
    fake.until(|state| !state.submitted.is_empty()).await;
    let workspace = site.stop().await;
    fake.state().round = Some(round(1, 2));
    let mut other = setup(workspace.path());
    other.data.contrasts = Some(vec!["t2f".into()]);
    let site = Site::start_with(workspace, channel, other);
    fake.until(|state| state.submitted.len() == 2).await;
    site.stop().await;
    let state = fake.state();
    assert_ne!(state.submitted[0].weights, state.submitted[1].weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_tells_no_loss_of_fewer_than_sixteen_examples() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let site = Site::start(channel);
    let told = |state: &State| -> Vec<(u32, Option<f64>)> {
        let training = state.said.iter().filter_map(|said| match said {
            Activity::Training(training) => training.progress.as_ref(),
            _ => None,
        });
        training.map(|progress| (progress.step, progress.loss)).collect()
    };
    fake.until(|state| told(state).last().is_some_and(|&(step, _)| step > 50)).await;
    site.stop().await;
    let told = told(&fake.state());
    for (step, loss) in &told {
        assert_eq!(loss.is_some(), *step >= 16, "{told:?}");
    }
    // Within a group of sixteen steps nothing new is told.
    for pair in told.windows(2).filter(|pair| pair[0].0 / 16 == pair[1].0 / 16) {
        assert_eq!(pair[0].1, pair[1].1, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_was_trained_before_a_restart_is_sent_and_not_trained_again() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let site = Site::start(channel.clone());
    fake.until(|state| !state.submitted.is_empty()).await;
    let workspace = site.stop().await;
    fake.state().round = Some(round(1, 2));
    let site = Site::start_in(workspace, channel);
    fake.until(|state| state.submitted.len() == 2).await;
    site.stop().await;
    let state = fake.state();
    assert_eq!(state.submitted[0].weights, state.submitted[1].weights);
    assert!(!has_stepped(&state, &round(1, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_remembered_while_it_is_sent_so_that_a_stalled_upload_costs_no_training() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().uploads_stall = true;
    let workspace = tempfile::tempdir().unwrap();
    let record = workspace.path().join("trained.json");
    let site = Site::start_in(workspace, channel.clone());
    fake.until(|state| state.uploads > 0 && record.exists()).await;
    let workspace = site.stop().await;
    fake.state().uploads_stall = false;
    fake.state().round = Some(round(1, 2));
    let site = Site::start_in(workspace, channel);
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert!(!has_stepped(&fake.state(), &round(1, 2)));
}

// In one thread, so that both answers have come when the agent next looks.
#[tokio::test]
async fn an_answer_from_before_a_submission_does_not_have_the_round_begun_again() {
    const ROUNDS: usize = 5;
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().answers_together = true;
    let workspace = tempfile::tempdir().unwrap();
    let rehearsal = RehearsalSettings { steps_ms: 0, checkpoint_steps: None, weights_max: None };
    let setup = Setup { rehearsal: Some(rehearsal), ..setup(workspace.path()) };
    let site = Site::start_with(workspace, channel, setup);
    fake.until(|state| state.submitted.len() >= ROUNDS).await;
    fake.state().answers_together = false;
    site.stop().await;
    for pair in fake.state().said.windows(2) {
        if let [Activity::Uploading(Uploading { round }), Activity::Training(next)] = pair {
            assert_ne!(next.round, *round);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_waited_for_though_the_round_is_told_to_be_over_before_its_answer() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().answers_last = true;
    let site = Site::start(channel);
    fake.until(|state| state.answered == 1).await;
    site.stop().await;
    assert_eq!(fake.state().submitted.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_remembered_is_not_submitted() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let workspace = tempfile::tempdir().unwrap();
    // Where the record is written before it has its name.
    std::fs::create_dir(workspace.path().join("trained.json.writing")).unwrap();
    let site = Site::start_in(workspace, channel);
    assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::Disk);
    site.stop().await;
    assert!(fake.state().submitted.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_withdraw_from_a_training_does_and_leaves_no_trainer() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let site = Site::start(channel);
    fake.until(|state| has_stepped(state, &round(1, 1))).await;
    site.stop.withdraw.cancel();
    site.stop().await;
    assert_eq!(fake.withdrawal(round(1, 1)).await, WithdrawalReason::Stopping);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_keeps_its_round_and_goes_on_from_its_checkpoint() {
    let plan = PLAN.replace("steps = 3", "steps = 40");
    let (fake, channel) = Fake::start(&plan, model()).await;
    let rehearsing = |workspace: &TempDir| Setup {
        rehearsal: Some(RehearsalSettings {
            steps_ms: 50,
            checkpoint_steps: Some(5),
            weights_max: None,
        }),
        ..setup(workspace.path())
    };
    let steps = |said: &[Activity]| -> Vec<u32> {
        let training = said.iter().filter_map(|said| match said {
            Activity::Training(t) if t.round == Some(round(1, 1)) => t.progress.as_ref(),
            _ => None,
        });
        training.map(|progress| progress.step).filter(|step| *step > 0).collect()
    };
    let workspace = tempfile::tempdir().unwrap();
    let told = rehearsing(&workspace);
    let site = Site::start_with(workspace, channel.clone(), told.clone());
    fake.until(|state| steps(&state.said).last() > Some(&10)).await;
    let workspace = site.stop().await;
    let before = fake.state().said.len();
    let site = Site::start_with(workspace, channel, told);
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    let state = fake.state();
    assert_eq!(state.submitted[0].round, Some(round(1, 1)));
    assert!(!state.said.iter().any(|said| matches!(said, Activity::Withdrawing(_))));
    let again = steps(&state.said[before..]);
    assert!(again.first() > Some(&10), "trained again from the beginning: {again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_a_full_coordinator_puts_off_comes_when_told_and_works_once_there_is_room() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    // As failures they would be minutes apart, which is longer than is waited here.
    fake.state().beats_put_off = 20;
    let site = Site::start(channel);
    fake.until(|state| !state.submitted.is_empty()).await;
    assert_eq!(fake.state().beats_put_off, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_stops_no_heartbeat() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().uploads_stall = true;
    let site = Site::start(channel);
    fake.until(|state| state.uploads > 0).await;
    let beats = fake.state().beats;
    fake.until(|state| state.beats >= beats + 10).await;
    assert!(matches!(fake.state().said.last(), Some(Activity::Uploading(_))));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_is_not_cut_when_a_renewed_certificate_has_another_connection_made() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().uploads_stall = true;
    let (replaced, line) = Line::new(Channels { calls: channel.clone(), blobs: channel });
    let workspace = tempfile::tempdir().unwrap();
    let (gate, setup) = (open_gate(&workspace), setup(workspace.path()));
    let site = Site::start_behind(gate, workspace, line, setup);
    fake.until(|state| state.uploads > 0).await;
    // From here on nobody has the first connection but the upload.
    replaced.send_replace(Channels { calls: fake.connect(), blobs: fake.connect() });
    let beats = fake.state().beats;
    fake.until(|state| state.beats >= beats + 5).await;
    fake.go_on();
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert_eq!(fake.state().uploads, 1, "it was begun anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_goes_on_over_the_newest_connection() {
    // The newest connection leads to another coordinator, so that each knows what came over which.
    let (old, channel) = Fake::start(PLAN, model()).await;
    let (new, next) = Fake::start(PLAN, model()).await;
    old.state().uploads_stall = true;
    old.state().uploads_cut = true;
    let (replaced, line) = Line::new(Channels { calls: channel.clone(), blobs: channel });
    let workspace = tempfile::tempdir().unwrap();
    let (gate, setup) = (open_gate(&workspace), setup(workspace.path()));
    let site = Site::start_behind(gate, workspace, line, setup);
    old.until(|state| state.uploads > 0).await;
    replaced.send_replace(Channels { calls: next.clone(), blobs: next });
    old.go_on();
    new.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert_eq!((old.state().uploads, new.state().uploads), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_answer_is_lost_is_repeated_and_nothing_is_sent_again() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().answers_lost = 2;
    let site = Site::start(channel);
    fake.until(|state| state.submitted.len() == 3).await;
    site.stop().await;
    let state = fake.state();
    assert!(state.submitted.iter().all(|submitted| *submitted == state.submitted[0]));
    assert_eq!(state.uploads, 1);
}
