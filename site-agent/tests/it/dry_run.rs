//! A dry run with a real trainer, against a coordinator that is made up.

use std::path::Path;
use std::time::Duration;

use fedpaint_proto::names::Digest;
use fedpaint_proto::rule::Rule;
use fedpaint_site_agent::agent::Stop;
use fedpaint_site_agent::agent::preview::{self, Error};
use fedpaint_site_agent::gate::{Gate, STOP_FILE};
use fedpaint_site_agent::plans::Plans;
use fedpaint_site_agent::policy::Policy;
use jiff::Timestamp;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::agent::bench;
use crate::fake::{Fake, State, round};
use crate::policy::start;
use crate::site::{ENDLESS, PLAN, model, setup, trainers};

/// How long a trainer may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does a dry run behind this policy, to its end.
async fn dry_run(
    channel: &Channel,
    policy: Policy,
    (workspace, out): (&TempDir, &Path),
) -> Result<(), Error> {
    let gate = Gate::new(policy, workspace.path(), || Timestamp::UNIX_EPOCH).for_dry_run();
    let bench = bench(gate, workspace, channel.clone(), setup(workspace.path()));
    let done = preview::run(&bench, out, &Stop::default()).await;
    bench.supervisor.lock().await.stop().await;
    done
}

/// Whether nothing came that a coordinator would have noted.
fn heard_nothing(state: &State) -> bool {
    let untouched = state.round == Some(round(1, 1)) && state.beats == 0 && state.said.is_empty();
    untouched && state.uploads == 0 && state.submitted.is_empty()
}

fn refused(done: Result<(), Error>) -> Option<Rule> {
    match done {
        Err(Error::Refused { refusal, .. }) => Some(refusal.rule),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_nothing_and_keeps_the_bytes_that_another_agent_sends() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let (workspace, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = out.path().join("dry");
    // Nobody has approved: a dry run is what one looks at before one does.
    let policy = Policy::approved_by_a_human();
    dry_run(&channel, policy, (&workspace, &folder)).await.unwrap();
    assert!(heard_nothing(&fake.state()));
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&read("report.json")).unwrap();
    assert_eq!(report["would_leave"], false, "nobody has approved");
    let update = read("update.safetensors");
    assert_eq!(report["update"]["blake3"], Digest::of(&update).to_string());
    let (_, shown) = Plans::of(workspace.path()).list().unwrap().remove(0);
    assert_eq!(shown.run.as_str(), "brain", "it can be approved now");

    let site = start(&channel, Policy::open());
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    let submission = fake.state().submitted[0].clone();
    assert!(fake.update(&submission) == update, "the bytes differ");
    assert_eq!(report["examples"], submission.examples);
    assert_eq!(report["report"]["loss_mean"], submission.report.unwrap().loss_mean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_cannot_be_looked_at_is_told_apart_and_told_nothing() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().shows_nothing = true;
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path().join("dry");
    let done = dry_run(&channel, Policy::open(), (&workspace, &folder)).await;
    assert!(matches!(done, Err(Error::TooOld)), "{done:?}");
    assert!(heard_nothing(&fake.state()) && !folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_trains_no_plan_that_the_policy_refuses_and_ends_where_a_stop_file_is() {
    let (fake, channel) = Fake::start(ENDLESS, model()).await;
    let (workspace, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = out.path().join("dry");
    let mut strict = Policy::open();
    strict.plan.steps_max = 1_000;
    let done = dry_run(&channel, strict, (&workspace, &folder)).await;
    assert_eq!(refused(done), Some(Rule::Steps));

    let stopping = async {
        while trainers(workspace.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        std::fs::write(workspace.path().join(STOP_FILE), "").unwrap();
    };
    let stopping = tokio::time::timeout(PATIENCE, stopping);
    let training = dry_run(&channel, Policy::open(), (&workspace, &folder));
    let (done, stopped) = tokio::join!(training, stopping);
    stopped.unwrap();
    assert_eq!(refused(done), Some(Rule::StopFile));
    assert!(heard_nothing(&fake.state()) && !folder.exists());
}
