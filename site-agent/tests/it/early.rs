//! A base model that comes before its round is trained.

use fedpaint_proto::limits::TRANSFER_STALL_TIMEOUT;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_site_agent::agent::line::{Channels, Line};
use fedpaint_site_agent::gate::STOP_FILE;
use fedpaint_site_agent::workspace::model_path;

use crate::agent::{Site, open_gate};
use crate::fake::{Fake, State, round};
use crate::site::{PLAN, blob, model, setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_base_model_comes_while_other_sites_are_waited_for_and_is_not_fetched_again() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    fake.state().selects = true;
    let site = Site::start(channel);
    let path = model_path(site.workspace.path(), blob(&model()).digest);
    // Each heartbeat has it looked for again.
    fake.until(|_| path.exists()).await;
    assert!(!trained(&fake.state()));
    fake.state().selects = false;
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert_eq!(fake.state().downloads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_model_that_could_not_be_had_early_is_fetched_by_the_round() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    {
        let mut state = fake.state();
        (state.selects, state.downloads_broken) = (true, 1);
    }
    let site = Site::start(channel);
    fake.until(|state| state.downloads == 1).await;
    fake.state().selects = false;
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert_eq!(fake.state().downloads, 2);
    assert!(withdrawals(&fake.state()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_file_ends_the_fetching_of_a_base_model_that_is_on_its_way_early() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    {
        let mut state = fake.state();
        (state.selects, state.downloads_stall) = (true, true);
    }
    let site = Site::start(channel);
    fake.until(|state| state.downloads == 1).await;
    let stop = site.workspace.path().join(STOP_FILE);
    std::fs::write(&stop, "").unwrap();
    // Long before a download on which nothing moves is given up.
    let limit = TRANSFER_STALL_TIMEOUT / 3;
    let left = fake.until(|state| state.downloads_left == 1);
    tokio::time::timeout(limit, left).await.unwrap();
    assert_eq!(fake.state().downloads, 1);
    {
        let mut state = fake.state();
        (state.selects, state.downloads_stall) = (false, false);
    }
    std::fs::remove_file(&stop).unwrap();
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    assert_eq!(fake.state().downloads, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_a_site_has_already_is_not_sent_again_whatever_round_it_is_for() {
    let (fake, channel) = Fake::start(PLAN, model()).await;
    let mut folder = tempfile::tempdir().unwrap();
    // After a restart too.
    for (number, attempt) in [(1, 1), (1, 2), (2, 1)] {
        fake.state().round = Some(round(number, attempt));
        let submitted = fake.state().submitted.len();
        let site = Site::start_in(folder, channel.clone());
        fake.until(|state| state.submitted.len() > submitted).await;
        folder = site.stop().await;
        assert_eq!(fake.state().downloads, 1, "{number}.{attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_move_by_a_connection_of_their_own_so_that_nothing_that_is_said_waits_behind_them() {
    let (fake, calls) = Fake::start(PLAN, model()).await;
    let (_channels, line) = Line::new(Channels { calls, blobs: fake.connect() });
    let workspace = tempfile::tempdir().unwrap();
    let setup = setup(workspace.path());
    let site = Site::start_behind(open_gate(&workspace), workspace, line, setup);
    fake.until(|state| !state.submitted.is_empty()).await;
    site.stop().await;
    let state = fake.state();
    assert!(state.downloads > 0 && state.uploads > 0);
    assert_eq!((state.callers.len(), state.carriers.len()), (1, 1));
    assert_ne!(state.callers, state.carriers);
}

/// Whether the agent has told that it trains.
fn trained(state: &State) -> bool {
    state.said.iter().any(|said| matches!(said, Activity::Training(_)))
}

/// The rounds that the agent has withdrawn from.
fn withdrawals(state: &State) -> Vec<&Activity> {
    state.said.iter().filter(|said| matches!(said, Activity::Withdrawing(_))).collect()
}
