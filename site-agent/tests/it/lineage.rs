//! What a site asks of the rounds that it missed before it trains on: a job as the agent does it, against a
//! coordinator that is made up and signs what each model is made of.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use fedpaint_proto::signing::{Signed, Signer};
use fedpaint_proto::statement::{Manifest, manifest_to_wire};
use fedpaint_proto::v1::ModelManifest;
use fedpaint_site_agent::agent::job::{self, Bench, Error, Task};
use fedpaint_site_agent::agent::{Trust, Trusted};
use fedpaint_site_agent::client::Activity;
use fedpaint_site_agent::gate::Gate;
use fedpaint_site_agent::lineage::Last;
use fedpaint_site_agent::pipe::Setup;
use fedpaint_site_agent::policy::Policy;
use fedpaint_site_agent::settings::RehearsalSettings;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::bench;
use crate::believes::Pki;
use crate::fake::Fake;
use crate::site::{PLAN, blob, model, setup};

const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

fn plan() -> String {
    PLAN.replace("rounds = 1", "rounds = 200")
}

fn run() -> RunName {
    "brain".parse().unwrap()
}

/// The models of a run: that of the last version is a real one.
fn models(versions: u32) -> Vec<Blob> {
    let made_up = (0..versions - 1).map(|version| blob(format!("model-{version}").as_bytes()));
    made_up.chain([blob(&model())]).collect()
}

/// What the site has trained: round `number` of the run of these models.
fn trained(models: &[Blob], number: u32) -> Last {
    let (base, plan) = (models[number as usize - 1].digest, Digest::of(plan().as_bytes()));
    Last { number, base, plan }
}

/// What each of them is made of, as it should be.
fn manifests(models: &[Blob]) -> Vec<Manifest> {
    let manifest = |(version, model): (u32, &Blob)| Manifest {
        federation: "brain".parse().unwrap(),
        run: run(),
        version,
        attempt: u32::from(version > 0),
        parent: version.checked_sub(1).map(|parent| models[parent as usize].digest),
        plan: Digest::of(plan().as_bytes()),
        model: *model,
        ema: None,
        contributors: Vec::new(),
    };
    (0..).zip(models).map(manifest).collect()
}

fn signed(by: &Signer, manifest: Manifest) -> ModelManifest {
    manifest_to_wire(&Signed::by(by, manifest))
}

/// What came of a job.
struct Done {
    result: Result<(), Error>,
    /// The versions whose manifests were asked for.
    asked: Vec<u32>,
    submitted: usize,
    /// What the site has noted.
    last: Last,
}

impl Done {
    /// Why the site did not train, which has changed nothing.
    fn refused(self) -> String {
        assert_eq!(self.submitted, 0);
        let error = self.result.unwrap_err();
        assert!(matches!(error, Error::Disbelieved(_)), "{error}");
        error.to_string()
    }
}

/// Has a site that has trained `last` do the round that begins from the last of these models.
async fn job(pki: &Pki, last: Last, shown: Vec<ModelManifest>, is_dry: bool) -> Done {
    job_by(|| NOW, pki, last, shown, is_dry).await
}

/// The same by the site's clock.
async fn job_by(
    now: fn() -> Timestamp,
    pki: &Pki,
    last: Last,
    shown: Vec<ModelManifest>,
    is_dry: bool,
) -> Done {
    let (fake, channel) = Fake::start(&plan(), model()).await;
    let number = shown.len() as u32;
    fake.state().manifests = shown;
    let workspace = tempfile::tempdir().unwrap();
    let gate = Gate::new(Policy::open(), workspace.path(), || NOW);
    let gate = if is_dry { gate.for_dry_run() } else { gate };
    let rehearsal = RehearsalSettings { steps_ms: 0, checkpoint_steps: None, weights_max: None };
    let setup = Setup { rehearsal: Some(rehearsal), ..setup(workspace.path()) };
    let trust = Trust { authority: pki.authority(), signer: pki.signer("site/mayo"), now };
    let trust = Trusted::new(Some(trust)).1;
    let bench = Bench { trust, ..bench(gate, &workspace, channel, setup) };
    bench.workspace.note(&run(), last).unwrap();

    let round = RoundId { run: run(), number, attempt: 1 };
    let task = Task { round, base: blob(&model()), cohort: 1 };
    let (cancel, activity) = (CancellationToken::new(), watch::Sender::new(Activity::Idle));
    let result = match is_dry {
        true => job::rehearse(&bench, &task, &workspace.path().join("dry"), &cancel).await,
        false => job::run(&bench, &task, None, &cancel, &activity).await,
    };
    bench.supervisor.lock().await.stop().await;
    let last = bench.workspace.history().unwrap().remove(&run()).unwrap();
    let state = fake.state();
    Done { result, asked: state.manifests_asked.clone(), submitted: state.submitted.len(), last }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_missed_rounds_follows_the_run_over_each_of_them_and_then_trains_on() {
    let (pki, models) = (Pki::new(), models(4));
    let main = pki.signer("coordinator/main");
    let shown: Vec<_> = manifests(&models).into_iter().map(|m| signed(&main, m)).collect();
    for (number, asked) in [(1, vec![3, 1, 2]), (2, vec![3, 2]), (3, vec![3]), (4, vec![3])] {
        let done = job(&pki, trained(&models, number), shown.clone(), false).await;
        done.result.unwrap();
        assert_eq!((done.asked, done.submitted), (asked, 1));
        assert_eq!(done.last, trained(&models, 4));
    }
    let done = job(&pki, trained(&models, 1), shown, true).await;
    done.result.unwrap();
    assert_eq!((done.asked, done.submitted), (vec![3, 1, 2], 0), "a dry run follows it likewise");
    assert_eq!(done.last, trained(&models, 1), "and notes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_off_in_a_missed_round_is_not_trained_whatever_the_last_model_says() {
    let (pki, models) = (Pki::new(), models(4));
    let [main, mayo] = ["coordinator/main", "site/mayo"].map(|role| pki.signer(role));
    let stranger = Pki::new().signer("coordinator/main");
    let honest = manifests(&models);
    let of = |version: usize| honest[version].clone();
    let elsewhere = Some(Digest::of(b"elsewhere"));
    let torn = |version| signed(&main, Manifest { parent: elsewhere, ..of(version) });
    let rootless = signed(&main, Manifest { parent: None, ..of(2) });
    let other_plan = signed(&main, Manifest { plan: Digest::of(b"another"), ..of(2) });
    let unsigned = |version| ModelManifest { signature: None, ..signed(&main, of(version)) };
    for (version, instead, word) in [
        (1, torn(1), "the model of round 1 was not made from the one before it"),
        (2, torn(2), "the model of round 2 was not made from the one before it"),
        (3, torn(3), "the base model was not made from the model"),
        (2, rootless, "the model of round 2 was not made from the one before it"),
        (1, unsigned(1), "no signature"),
        (3, unsigned(3), "no signature"),
        (2, signed(&mayo, of(2)), "only a coordinator may sign"),
        (1, signed(&stranger, of(1)), "not one of this federation's"),
        (2, signed(&main, of(1)), "the manifest is of version 1"),
        (2, other_plan, "not the one that the base model was made by"),
    ] {
        for is_dry in [false, true] {
            let mut shown: Vec<_> = honest.iter().map(|m| signed(&main, m.clone())).collect();
            shown[version] = instead.clone();
            let done = job(&pki, trained(&models, 1), shown, is_dry).await;
            assert_eq!(done.last, trained(&models, 1), "{word}");
            let told = done.refused();
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_run_was_followed_is_noted_so_that_the_next_job_goes_on_from_there() {
    let (pki, models) = (Pki::new(), models(160));
    let main = pki.signer("coordinator/main");
    let mut shown: Vec<_> = manifests(&models).into_iter().map(|m| signed(&main, m)).collect();
    let whole = shown[150].clone();
    shown[150].signature = None;
    let done = job(&pki, trained(&models, 1), shown.clone(), false).await;
    let last = done.last.clone();
    assert!(done.refused().contains("no signature"));
    assert_eq!(last, trained(&models, 101));
    let looked = job(&pki, trained(&models, 1), shown.clone(), true).await;
    assert_eq!(looked.last, trained(&models, 1), "a dry run notes nothing");

    shown[150] = whole;
    let done = job(&pki, last, shown, false).await;
    done.result.unwrap();
    assert_eq!(done.asked[..2], [159, 101]);
    assert_eq!((done.asked.len(), done.last), (1 + 58, trained(&models, 160)));
}

/// A clock by which a minute is over each time that it is looked at.
fn ticking() -> Timestamp {
    static LOOKS: AtomicI64 = AtomicI64::new(0);
    NOW + SignedDuration::from_mins(LOOKS.fetch_add(1, Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_followed_in_half_an_hour_is_followed_on_from_there_by_the_next_job() {
    let (pki, models) = (Pki::new(), models(80));
    let main = pki.signer("coordinator/main");
    let shown: Vec<_> = manifests(&models).into_iter().map(|m| signed(&main, m)).collect();
    let looked = job_by(ticking, &pki, trained(&models, 1), shown.clone(), true).await;
    let error = looked.result.unwrap_err();
    assert!(matches!(error, Error::TooFar { reached: 31 }), "{error}");
    assert!(error.to_string().contains("a dry run notes nothing of that"), "{error}");
    assert_eq!(looked.last, trained(&models, 1), "a dry run notes nothing");

    let mut last = trained(&models, 1);
    for far in [31, 61] {
        let done = job_by(ticking, &pki, last, shown.clone(), false).await;
        let error = done.result.unwrap_err();
        assert!(matches!(error, Error::Far { reached } if reached == far), "{error}");
        assert!(error.to_string().contains("1800 s (LINEAGE_TIMEOUT)"), "{error}");
        assert_eq!((done.submitted, done.asked.len()), (0, 1 + 30));
        assert_eq!(done.last, trained(&models, far));
        last = done.last;
    }
    let done = job_by(ticking, &pki, last, shown, false).await;
    done.result.unwrap();
    assert_eq!((done.submitted, done.last), (1, trained(&models, 80)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_not_followed_ends_a_job_before_what_the_base_model_is_made_of_is_told() {
    let pki = Pki::new();
    let (fake, channel) = Fake::start("version = 1\nrounds = 0", model()).await;
    fake.state().manifests_stall = true;
    let workspace = tempfile::tempdir().unwrap();
    let gate = Gate::new(Policy::open(), workspace.path(), || NOW);
    let trust = Trust { authority: pki.authority(), signer: pki.signer("site/mayo"), now: || NOW };
    let trust = Trusted::new(Some(trust)).1;
    let bench = Bench { trust, ..bench(gate, &workspace, channel, setup(workspace.path())) };
    let round = RoundId { run: run(), number: 1, attempt: 1 };
    let task = Task { round, base: blob(&model()), cohort: 1 };
    let (cancel, activity) = (CancellationToken::new(), watch::Sender::new(Activity::Idle));
    // Less than one call may take.
    let limit = Duration::from_secs(20);
    let done = tokio::time::timeout(limit, job::run(&bench, &task, None, &cancel, &activity)).await;
    let error = done.unwrap().unwrap_err();
    assert!(matches!(error, Error::Plan(_)), "{error}");
    bench.supervisor.lock().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_of_a_round_that_cannot_be_noted_as_trained() {
    let pki = Pki::new();
    let main = pki.signer("coordinator/main");
    let (fake, channel) = Fake::start(&plan(), model()).await;
    let shown = manifests(&models(1)).into_iter().map(|manifest| signed(&main, manifest));
    fake.state().manifests = shown.collect();
    let workspace = tempfile::tempdir().unwrap();
    let gate = Gate::new(Policy::open(), workspace.path(), || NOW);
    let trust = Trust { authority: pki.authority(), signer: pki.signer("site/mayo"), now: || NOW };
    let trust = Trusted::new(Some(trust)).1;
    let bench = Bench { trust, ..bench(gate, &workspace, channel, setup(workspace.path())) };
    // Where it is written before it has its name.
    std::fs::create_dir(workspace.path().join("history.json.writing")).unwrap();
    let round = RoundId { run: run(), number: 1, attempt: 1 };
    let task = Task { round, base: blob(&model()), cohort: 1 };
    let (cancel, activity) = (CancellationToken::new(), watch::Sender::new(Activity::Idle));
    let error = job::run(&bench, &task, None, &cancel, &activity).await.unwrap_err();
    assert!(matches!(error, Error::Workspace(_)), "{error}");
    let done = {
        let state = fake.state();
        (state.downloads, state.uploads, state.submitted.len())
    };
    assert_eq!(done, (1, 0, 0));
    bench.supervisor.lock().await.stop().await;
}
