//! The driver over a real database and a real directory, with a clock that is moved by hand.

mod aggregation;
mod created;
mod declined;
mod doubt;
mod growth;
mod kept;
mod late;
mod members;
mod resent;
mod signed;
mod updates;

use std::path::Path;

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::reason::Reason;
use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::round::{Member, Phase, Report, Withdrawal};
use crate::run::{Directive, State};
use crate::testing::{START, plan, write_model};

/// The weights of the model every run starts from.
const BASE: f32 = 1.0;

/// A coordinator that can be stopped and started again over what it left on the disk.
struct Coordinator {
    folder: TempDir,
    clock: ManualClock,
    notary: Option<Arc<Notary>>,
    handle: Handle,
    store: Store,
    blobs: Blobs,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn brain() -> RunName {
    "brain".parse().unwrap()
}

fn ada() -> OperatorName {
    "ada".parse().unwrap()
}

fn round(number: u32, attempt: u32) -> RoundId {
    RoundId { run: brain(), number, attempt }
}

type Running = (Handle, Store, Blobs, CancellationToken, JoinHandle<()>);

async fn serve(folder: &Path, clock: &ManualClock, notary: Option<Arc<Notary>>) -> Running {
    let store = Store::open(&format!("sqlite:{}/db", folder.display())).await.unwrap();
    let blobs = Blobs::open(folder, clock.now()).await.unwrap();
    let shutdown = CancellationToken::new();
    let rules = TwoPersons::default();
    let options = Options { heartbeat: Duration::from_secs(5), rules, notary };
    let started =
        start(options, store.clone(), blobs.clone(), Arc::new(clock.clone()), shutdown.clone());
    let (handle, task) = started.await.unwrap();
    (handle, store, blobs, shutdown, task)
}

impl Coordinator {
    /// With sites aachen, kyoto, mayo enrolled, and run `brain` of `rounds` rounds for 2 to 3 sites.
    async fn start(rounds: u32) -> Coordinator {
        Coordinator::start_with(plan(rounds, 2)).await
    }

    /// The same with another plan.
    async fn start_with(plan: RunPlan) -> Coordinator {
        Coordinator::start_at(START, plan, None).await
    }

    /// The same at another time, and with somebody who signs.
    async fn start_at(now: Timestamp, plan: RunPlan, notary: Option<Arc<Notary>>) -> Coordinator {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(now);
        let (handle, store, blobs, shutdown, task) =
            serve(folder.path(), &clock, notary.clone()).await;
        let coordinator =
            Coordinator { folder, clock, notary, handle, store, blobs, shutdown, task };
        for name in ["aachen", "kyoto", "mayo"] {
            coordinator.handle.enroll_site(&ada(), &site(name), None).await.unwrap();
        }
        let base = coordinator.put("base", BASE);
        let created = coordinator.handle.create_run(&ada(), &brain(), plan, base).await;
        created.unwrap();
        coordinator
    }

    async fn restart(self) -> Coordinator {
        let Coordinator { folder, clock, notary, handle, store, shutdown, task, .. } = self;
        shutdown.cancel();
        task.await.unwrap();
        drop(handle);
        store.close().await;
        let (handle, store, blobs, shutdown, task) =
            serve(folder.path(), &clock, notary.clone()).await;
        Coordinator { folder, clock, notary, handle, store, blobs, shutdown, task }
    }

    /// A model of one value among the blobs, as if it had been uploaded.
    fn put(&self, name: &str, value: f32) -> Blob {
        let scratch = self.blobs.scratch(name);
        let model = write_model(&scratch, &[("w", &[value, -value])]);
        self.blobs.adopt(&scratch, &model).unwrap();
        model
    }

    async fn beat(&self, name: &str, activity: Activity) -> Directive {
        let beat = Beat { activity, ..idle("0.1.0".to_owned()) };
        self.handle.heartbeat(&site(name), beat).await.unwrap().directive
    }

    async fn join(&self, names: &[&str]) {
        for name in names {
            let Directive::Join { round, .. } = self.beat(name, Activity::Idle).await else {
                panic!("{name} is not asked to join");
            };
            self.beat(name, Activity::Joining(round)).await;
        }
    }

    fn submission(&self, id: RoundId, name: &str, value: f32, examples: u64) -> Submission {
        let weights = self.put(name, value);
        let base = self.handle.run(&brain()).unwrap().model.digest;
        Submission {
            round: id,
            base,
            weights,
            examples,
            report: Report::default(),
            signature: None,
        }
    }

    async fn submit(&self, id: RoundId, name: &str, value: f32, examples: u64) {
        let submission = self.submission(id, name, value, examples);
        self.handle.submit(&site(name), submission).await.unwrap();
    }

    /// Waits until the run and its newest round are as wanted, and gives both.
    async fn until(&self, wanted: impl Fn(&RunView, &RoundView) -> bool) -> (RunView, RoundView) {
        let mut watch = self.handle.watch(&brain()).unwrap();
        loop {
            let (run, round) = watch.next().await.expect("the run goes on");
            if wanted(&run, &round) {
                return (run, round);
            }
        }
    }

    async fn until_committed(&self, number: u32) -> RunView {
        self.until(|run, _| run.rounds_committed >= number).await.0
    }

    fn values(&self, model: &Blob) -> Vec<f32> {
        let path = self.blobs.path(&model.digest);
        fedpaint_proto::weights::ModelFile::open(&path).unwrap().read(0).unwrap()
    }

    async fn kinds(&self) -> Vec<String> {
        let events = self.handle.events(0, 0).await.unwrap();
        let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "without a gap");
        events.into_iter().map(|event| event.kind).collect()
    }
}

#[tokio::test]
async fn a_run_goes_from_its_initial_model_to_the_average_of_its_last_round() {
    let coordinator = Coordinator::start(2).await;
    coordinator.join(&["mayo", "kyoto", "aachen"]).await;
    let train = coordinator.beat("mayo", Activity::Idle).await;
    let Directive::Train { base, .. } = train else { panic!("{train:?}") };
    assert_eq!(coordinator.values(&base), [1.0, -1.0]);
    coordinator.submit(round(1, 1), "mayo", 2.0, 1).await;
    coordinator.submit(round(1, 1), "aachen", 6.0, 3).await;
    coordinator.submit(round(1, 1), "kyoto", 2.0, 4).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [3.5, -3.5], "(2 + 18 + 8) / 8");

    coordinator.until(|_, round| round.id.number == 2).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    for name in ["aachen", "kyoto", "mayo"] {
        coordinator.submit(round(2, 1), name, 0.5, 7).await;
    }
    let run = coordinator.until_committed(2).await;
    assert_eq!(run.state, State::Finished);
    assert_eq!(coordinator.values(&run.model), [0.5, -0.5]);
    assert_eq!(coordinator.beat("mayo", Activity::Idle).await, Directive::Rest);
    let page = async |before, limit| {
        let page = coordinator.handle.models(&brain(), before, limit).await.unwrap();
        page.iter().map(|model| model.round).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 0).await, [0, 1, 2]);
    assert_eq!((page(None, 2).await, page(Some(1), 2).await), (vec![1, 2], vec![0]));
    assert_eq!((page(Some(2), 2).await, page(Some(2), 1).await), (vec![0, 1], vec![1]));
    let models = coordinator.handle.models(&brain(), None, 0).await.unwrap();
    assert_eq!(models[2].blob, run.model);
    let kinds = coordinator.kinds().await;
    assert_eq!(kinds.last().unwrap(), "run_finished");
    assert_eq!(kinds.iter().filter(|kind| *kind == "update_accepted").count(), 6);
}

#[tokio::test]
async fn a_round_with_quorum_commits_without_a_silent_site() {
    let coordinator = Coordinator::start(2).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "mayo", 4.0, 1).await;
    assert_eq!(coordinator.handle.run(&brain()).unwrap().rounds_committed, 0);
    coordinator.clock.advance(Duration::from_secs(1_000));
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [3.0, -3.0]);
    let view = coordinator.handle.round(&round(1, 0)).await.unwrap();
    assert_eq!(view.members[1].state, Member::Joined, "kyoto never reported");
}

#[tokio::test]
async fn a_restart_goes_on_in_every_phase() {
    // Before anybody has joined, between two that join, while they train, while one has reported.
    let coordinator = Coordinator::start(1).await.restart().await;
    coordinator.join(&["aachen", "kyoto"]).await;
    let coordinator = coordinator.restart().await;
    coordinator.join(&["mayo"]).await;
    let coordinator = coordinator.restart().await;
    let told = coordinator.beat("kyoto", Activity::Idle).await;
    assert!(matches!(told, Directive::Train { .. }), "{told:?}");
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    let coordinator = coordinator.restart().await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    coordinator.submit(round(1, 1), "mayo", 6.0, 1).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [4.0, -4.0]);
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.handle.run(&brain()).unwrap(), run);
    let operator = Role::Operator(ada());
    assert!(coordinator.handle.may_download(&operator, &run.model.digest).await.is_ok());
    assert_eq!(coordinator.kinds().await.last().unwrap(), "run_finished");
}

#[tokio::test]
async fn a_restart_during_aggregation_makes_the_same_model() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "mayo", 4.0, 1).await;
    // What a crash leaves that comes right after the last report: a row that says "aggregating",
    // and half an average.
    let (before, after) = {
        let mut run = coordinator.store.load().await.unwrap().runs.remove(0);
        let before = run.clone();
        let now = START.checked_add(Duration::from_secs(5_000)).unwrap();
        run.tick(now);
        (before, run)
    };
    assert_eq!(after.round().phase(), &Phase::Aggregating);
    coordinator.shutdown.cancel();
    while coordinator.handle.is_alive() {
        tokio::task::yield_now().await;
    }
    let runs = vec![(Some(&before), &after)];
    let change = store::Change { runs, ..store::Change::default() };
    coordinator.store.save(&change).await.unwrap();
    std::fs::write(coordinator.blobs.scratch("brain-1-1.safetensors.writing"), "half").unwrap();
    let coordinator = coordinator.restart().await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [3.0, -3.0]);
}

#[tokio::test]
async fn a_failed_aggregation_abandons_the_round_with_its_reason_and_three_pause_the_run() {
    let coordinator = Coordinator::start(1).await;
    for attempt in 1..=3 {
        coordinator.until(|_, round| round.id.attempt == attempt).await;
        coordinator.join(&["aachen", "kyoto", "mayo"]).await;
        let id = round(1, attempt);
        // A file that is lost between its acceptance and the average.
        coordinator.submit(id.clone(), "aachen", 2.0, 1).await;
        let lost = coordinator.submission(id.clone(), "aachen", 2.0, 1).weights;
        coordinator.submit(id.clone(), "kyoto", 3.0, 1).await;
        std::fs::remove_file(coordinator.blobs.path(&lost.digest)).unwrap();
        coordinator.submit(id, "mayo", 4.0, 1).await;
    }
    let paused = |run: &RunView, _: &RoundView| matches!(run.state, State::Paused { .. });
    let (run, round) = coordinator.until(paused).await;
    let reason = round.reason().unwrap();
    let told = "aggregation failed: the update of site aachen cannot be used: there is no blob";
    assert!(reason.starts_with(told), "{reason}");
    assert!(run.reason().unwrap().starts_with("3 attempts in a row were abandoned"), "{run:?}");
    assert_eq!(coordinator.beat("mayo", Activity::Idle).await, Directive::Rest);

    coordinator.handle.resume_run(&ada(), &brain(), None).await.unwrap();
    coordinator.until(|_, round| round.id.attempt == 4).await;
}

#[tokio::test]
async fn time_alone_abandons_and_retries_until_the_run_pauses() {
    let coordinator = Coordinator::start(1).await;
    for attempt in 1..=3 {
        coordinator.until(|_, round| round.id.attempt == attempt).await;
        coordinator.clock.advance(Duration::from_secs(100));
    }
    let paused = |run: &RunView, _: &RoundView| matches!(run.state, State::Paused { .. });
    let (run, _) = coordinator.until(paused).await;
    assert!(run.reason().unwrap().contains("too few sites: 0 joined"), "{run:?}");
    let rounds = coordinator.handle.rounds(&brain(), None, 0).await.unwrap();
    assert_eq!(rounds.len(), 3);
}

#[tokio::test]
async fn an_operator_pauses_resumes_closes_abandons_and_stops() {
    let coordinator = Coordinator::start(3).await;
    let handle = &coordinator.handle;
    coordinator.join(&["aachen", "kyoto"]).await;
    let early = handle.close_round(&ada(), &round(2, 1), None).await.unwrap_err();
    assert_eq!(early.reason(), Reason::RoundUnknown);
    let view = handle.close_round(&ada(), &round(1, 1), None).await.unwrap();
    assert!(matches!(view.phase, Phase::Reporting { .. }));
    let few = handle.close_round(&ada(), &round(1, 1), None).await.unwrap_err();
    assert_eq!(few.reason(), Reason::TooFewSites);
    let view = handle.abandon_round(&ada(), &round(1, 1), "wrong plan").await.unwrap();
    assert_eq!(view.reason().unwrap(), "given up by an operator: wrong plan");
    let over = handle.abandon_round(&ada(), &round(1, 1), "again").await.unwrap_err();
    assert_eq!(over.reason(), Reason::RoundOver);
    let long = handle.abandon_round(&ada(), &round(1, 1), &"x".repeat(501)).await.unwrap_err();
    assert_eq!(long.reason(), Reason::InvalidRequest);
    assert!(long.to_string().ends_with("(REASON_BYTES_MAX)"), "{long}");

    coordinator.until(|_, round| round.id.attempt == 2).await;
    let run = handle.pause_run(&ada(), &brain(), None).await.unwrap();
    assert_eq!(run.reason().unwrap(), "paused by an operator");
    assert_eq!(coordinator.beat("mayo", Activity::Idle).await, Directive::Rest);
    handle.resume_run(&ada(), &brain(), None).await.unwrap();
    coordinator.until(|_, round| round.id.attempt == 3).await;
    // A call that comes late, after the run was resumed and paused once more.
    handle.pause_run(&ada(), &brain(), None).await.unwrap();
    let late = handle.resume_run(&ada(), &brain(), Some(round(1, 2))).await.unwrap();
    assert_eq!(late.reason().unwrap(), "paused by an operator");
    let resumed = handle.resume_run(&ada(), &brain(), Some(round(1, 3))).await.unwrap();
    assert_eq!(resumed.state, State::Active);
    let mut watch = handle.watch(&brain()).unwrap();
    assert_eq!(handle.stop_run(&ada(), &brain()).await.unwrap().state, State::Stopped);
    assert_eq!(watch.next().await.unwrap().0.state, State::Stopped);
    assert_eq!(watch.next().await, None, "a watch ends with its run");
    let over = handle.resume_run(&ada(), &brain(), None).await.unwrap_err();
    assert_eq!(over.reason(), Reason::RunOver);
}

#[tokio::test]
async fn a_site_that_is_not_enrolled_or_revoked_gets_in_nowhere_and_counts_as_withdrawn() {
    let coordinator = Coordinator::start(1).await;
    let handle = &coordinator.handle;
    let stranger = handle.site_access(&site("oslo")).unwrap_err();
    assert_eq!(stranger.reason(), Reason::NotEnrolled);
    let unknown = handle.revoke_site(&ada(), &site("oslo"), Sight::Unsaid).await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::SiteUnknown);

    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    assert!(handle.may_upload(&site("mayo"), &round(1, 1)).is_ok());
    let view = handle.revoke_site(&ada(), &site("mayo"), Sight::Unsaid).await.unwrap();
    assert_eq!(view.revoked_at, Some(START));
    let member = handle.round(&round(1, 1)).await.unwrap().members.remove(2);
    assert_eq!(member.state, Member::Withdrawn(Withdrawal::Revoked));
    let beat = idle(String::new());
    let refused = [
        handle.heartbeat(&site("mayo"), beat).await.map(|_| ()),
        handle.may_upload(&site("mayo"), &round(1, 1)).map(|_| ()),
        handle
            .submit(&site("mayo"), coordinator.submission(round(1, 1), "m", 1.5, 1))
            .await
            .map(drop),
        handle.site_access(&site("mayo")),
    ];
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().reason(), Reason::Revoked);
    }
    let coordinator = coordinator.restart().await;
    let still = coordinator.handle.site_access(&site("mayo")).unwrap_err();
    assert_eq!(still.reason(), Reason::Revoked);
    // A call that was made before the site was revoked does not let it in again.
    for revoked in [None, Some(Timestamp::MAX)] {
        let late = coordinator.handle.enroll_site(&ada(), &site("mayo"), revoked).await;
        assert_eq!(late.unwrap_err().reason(), Reason::Revoked);
    }
    coordinator.handle.enroll_site(&ada(), &site("mayo"), Some(START)).await.unwrap();
    coordinator.handle.site_access(&site("mayo")).unwrap();
}

/// What an agent of some version says that does nothing.
fn idle(agent_version: String) -> Beat {
    Beat {
        agent_version,
        wire_version: 1,
        activity: Activity::Idle,
        declined: Vec::new(),
        doubt: None,
        shown_until: None,
        signing_until: None,
    }
}

#[tokio::test]
async fn a_heartbeat_about_a_round_that_is_over_is_answered_with_what_to_do_now() {
    let coordinator = Coordinator::start(1).await;
    let gone = round(7, 7);
    for activity in [
        Activity::Joining(gone.clone()),
        Activity::Uploading(gone.clone()),
        Activity::Withdrawing(gone, Withdrawal::Disk),
    ] {
        let told = coordinator.beat("mayo", activity).await;
        let Directive::Join { round: id, until, .. } = told else { panic!("{told:?}") };
        assert_eq!((id, until), (round(1, 1), Timestamp::from_second(100).unwrap()));
    }
    let long = idle("x".repeat(65));
    let long = coordinator.handle.heartbeat(&site("mayo"), long).await.unwrap_err();
    assert_eq!(long.reason(), Reason::InvalidRequest);
    assert!(long.to_string().ends_with("(AGENT_VERSION_BYTES_MAX)"), "{long}");
}

#[tokio::test]
async fn progress_is_seen_while_a_site_trains() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let progress = Progress { step: 3, steps: 200, loss: Some(0.5) };
    coordinator.beat("kyoto", Activity::Training(round(1, 1), progress)).await;
    let view = coordinator.handle.active_rounds().remove(0);
    let told: Vec<Option<Progress>> = view.members.iter().map(|member| member.progress).collect();
    assert_eq!(told, [None, Some(progress), None]);
    let kyoto = &coordinator.handle.sites()[1];
    assert_eq!((kyoto.seen_at, kyoto.agent_version.as_deref()), (Some(START), Some("0.1.0")));
}

#[tokio::test]
async fn a_coordinator_that_stops_says_so() {
    let coordinator = Coordinator::start(1).await;
    coordinator.shutdown.cancel();
    coordinator.task.await.unwrap();
    let error = coordinator.handle.enroll_site(&ada(), &site("oslo"), None).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Draining);
    assert!(!coordinator.handle.is_alive());
}

#[tokio::test]
async fn what_the_database_does_not_save_is_not_shown() {
    let coordinator = Coordinator::start(1).await;
    let handle = &coordinator.handle;
    // When sites were heard of is no change of a round.
    let rounds = || {
        let mut rounds = handle.active_rounds();
        rounds.iter_mut().for_each(|round| round.missing.clear());
        rounds
    };
    let before = (handle.sites(), handle.runs(), rounds());
    coordinator.store.close().await;
    let joining = Beat { activity: Activity::Joining(round(1, 1)), ..idle("0.1.0".to_owned()) };
    for outcome in [
        handle.enroll_site(&ada(), &site("oslo"), None).await.map(|_| ()),
        handle.heartbeat(&site("mayo"), joining).await.map(|_| ()),
        handle.pause_run(&ada(), &brain(), None).await.map(|_| ()),
    ] {
        assert_eq!(outcome.unwrap_err().reason(), Reason::Storage);
    }
    let told = handle.pause_run(&ada(), &brain(), None).await.unwrap_err();
    assert!(matches!(told, Error::Store(store::Error::Doubt)), "it is not waited for: {told:?}");
    // Not even what time alone changes.
    coordinator.clock.advance(Duration::from_secs(100));
    let idle = idle("0.1.0".to_owned());
    assert_eq!(handle.heartbeat(&site("mayo"), idle).await.unwrap_err().reason(), Reason::Storage);
    let mut sites = handle.sites();
    sites.iter_mut().for_each(|site| {
        (site.seen_at, site.agent_version, site.wire_version) = (None, None, None)
    });
    // But that nothing is saved is.
    let told = handle.run(&brain()).unwrap().reason().unwrap();
    assert!(told.starts_with(&format!("nothing was saved since {START}: ")), "{told}");
    assert_eq!(handle.watch(&brain()).unwrap().next().await.unwrap().0.reason(), Some(told));
    let mut runs = handle.runs();
    runs.iter_mut().for_each(|run| run.trouble = None);
    assert_eq!((sites, runs, rounds()), before);
}
