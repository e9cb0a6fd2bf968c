//! Files that a site sends again: told, left out by the plan, and the same after a restart.

use fedpaint_proto::plan::LatePolicy;

use super::*;
use crate::standing::Outlier;

const NAMES: [&str; 3] = ["aachen", "kyoto", "mayo"];

/// Three rounds of at least `sites_min`, with or without a quarantine of what was sent before.
fn replays(sites_min: u32, quarantine: bool) -> RunPlan {
    let mut plan = plan(3, sites_min);
    plan.aggregation.ema_decay = 0.0;
    plan.aggregation.quarantine_replays = quarantine;
    plan
}

impl Coordinator {
    /// All three join a round and report, each the model of a value.
    async fn report(&self, id: RoundId, values: [f32; 3]) {
        self.until(|_, round| round.id == id).await;
        self.join(&NAMES).await;
        for (name, value) in NAMES.into_iter().zip(values) {
            self.submit(id.clone(), name, value, 1).await;
        }
    }

    /// Whose update of a round was told, for what, and whether it was left out.
    async fn told(&self, id: RoundId) -> Vec<(String, Outlier, bool)> {
        let view = self.handle.round(&id).await.unwrap();
        let told = view.standings.iter().filter_map(|standing| {
            Some((standing.site.to_string(), standing.outlier?, standing.excluded))
        });
        told.collect()
    }
}

fn again(name: &str, excluded: bool) -> [(String, Outlier, bool); 1] {
    [(name.to_owned(), Outlier::Replay, excluded)]
}

#[tokio::test]
async fn a_file_of_an_earlier_round_is_told_and_left_out_where_the_plan_says_so() {
    for (quarantine, made) in [(false, [6.0, 5.0]), (true, [4.5, 6.5])] {
        let coordinator = Coordinator::start_with(replays(2, quarantine)).await;
        coordinator.report(round(1, 1), [2.0, 4.0, 9.0]).await;
        coordinator.until_committed(1).await;
        assert_eq!(coordinator.told(round(1, 1)).await, []);
        // mayo's own, and then one of aachen's by kyoto.
        coordinator.report(round(2, 1), [3.0, 6.0, 9.0]).await;
        let run = coordinator.until_committed(2).await;
        assert_eq!(coordinator.told(round(2, 1)).await, again("mayo", quarantine));
        assert_eq!(coordinator.values(&run.model), [made[0], -made[0]]);
        coordinator.report(round(3, 1), [0.5, 2.0, 12.5]).await;
        let run = coordinator.until_committed(3).await;
        assert_eq!(coordinator.told(round(3, 1)).await, again("kyoto", quarantine));
        assert_eq!(coordinator.values(&run.model), [made[1], -made[1]]);
        let kinds = coordinator.kinds().await;
        let kind = if quarantine { "update_quarantined" } else { "update_outlier" };
        assert_eq!(kinds.iter().filter(|found| *found == kind).count(), 2);
    }
}

#[tokio::test]
async fn a_round_that_is_tried_again_takes_the_files_that_it_had() {
    let coordinator = Coordinator::start_with(replays(2, true)).await;
    coordinator.join(&NAMES).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    coordinator.handle.abandon_round(&ada(), &round(1, 1), "again").await.unwrap();
    coordinator.report(round(1, 2), [2.0, 4.0, 9.0]).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.told(round(1, 2)).await, []);
    assert_eq!(coordinator.values(&run.model), [5.0, -5.0]);
}

#[tokio::test]
async fn a_late_update_is_no_file_that_was_sent_before_until_it_is_sent_again() {
    let mut plan = replays(2, true);
    plan.round.late = LatePolicy::Fold;
    let coordinator = Coordinator::start_with(plan).await;
    coordinator.join(&NAMES).await;
    let late = coordinator.submission(round(1, 1), "mayo", 11.0, 1);
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    coordinator.clock.advance(Duration::from_secs(1_000));
    coordinator.until(|_, round| round.id.number == 2).await;
    coordinator.handle.submit(&site("mayo"), late).await.unwrap();
    coordinator.report(round(2, 1), [2.5, 4.5, 7.0]).await;
    coordinator.until_committed(2).await;
    assert_eq!(coordinator.handle.round(&round(2, 1)).await.unwrap().late.len(), 1);
    assert_eq!(coordinator.told(round(2, 1)).await, []);
    coordinator.report(round(3, 1), [1.5, 5.5, 11.0]).await;
    let run = coordinator.until_committed(3).await;
    assert_eq!(coordinator.told(round(3, 1)).await, again("mayo", true));
    assert_eq!(coordinator.values(&run.model), [3.5, -3.5]);
}

#[tokio::test]
async fn a_restart_before_the_average_leaves_out_the_same_file() {
    let coordinator = Coordinator::start_with(replays(1, true)).await;
    coordinator.report(round(1, 1), [2.0, 4.0, 9.0]).await;
    coordinator.until(|_, round| round.id.number == 2).await;
    coordinator.join(&NAMES).await;
    coordinator.submit(round(2, 1), "aachen", 3.0, 1).await;
    coordinator.submit(round(2, 1), "mayo", 9.0, 1).await;
    // What a crash leaves that comes right after time has sealed the round.
    coordinator.shutdown.cancel();
    while coordinator.handle.is_alive() {
        tokio::task::yield_now().await;
    }
    let before = coordinator.store.load().await.unwrap().runs.remove(0);
    let mut after = before.clone();
    after.tick(START.checked_add(Duration::from_secs(9_000)).unwrap());
    assert_eq!(after.round().phase(), &Phase::Aggregating);
    let change = store::Change { runs: vec![(Some(&before), &after)], ..store::Change::default() };
    coordinator.store.save(&change).await.unwrap();

    let coordinator = coordinator.restart().await;
    let run = coordinator.until_committed(2).await;
    assert_eq!(coordinator.told(round(2, 1)).await, again("mayo", true));
    assert_eq!(coordinator.values(&run.model), [3.0, -3.0]);
}
