//! What the coordinator keeps beside its models: the moving average and the optimiser's moments.

use fedpaint_proto::plan::ServerOptimizer;

use super::*;
use crate::aggregate::Aggregate;
use crate::fedavg::{self, Contribution, Job};

/// Two rounds of at least two sites, by FedAdam.
fn adam() -> RunPlan {
    let mut plan = plan(2, 2);
    plan.aggregation.optimizer = ServerOptimizer::Adam;
    plan.aggregation.learning_rate = 0.1;
    plan
}

impl Coordinator {
    /// All three sites join round `number` and all but mayo report.
    async fn all_but_the_last_report(&self, number: u32) {
        self.until(|_, round| round.id.number == number).await;
        self.join(&["aachen", "kyoto", "mayo"]).await;
        self.submit(round(number, 1), "aachen", 2.0, 1).await;
        self.submit(round(number, 1), "kyoto", 3.0, 3).await;
    }

    async fn newest(&self) -> Aggregate<Blob> {
        self.store.load().await.unwrap().runs[0].newest()
    }
}

#[tokio::test]
async fn an_operator_may_have_the_moving_average_and_a_site_only_the_model_it_trains_from() {
    let coordinator = Coordinator::start(2).await;
    coordinator.all_but_the_last_report(1).await;
    coordinator.submit(round(1, 1), "mayo", 2.75, 4).await;
    coordinator.until_committed(1).await;
    coordinator.until(|_, round| round.id.number == 2).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let coordinator = coordinator.restart().await;
    let made = coordinator.newest().await;
    // (2 + 9 + 11) / 8, and the first average is 1/10 initial model.
    assert_eq!(coordinator.values(&made.model), [2.75, -2.75]);
    assert_eq!(coordinator.values(&made.ema.unwrap()), [2.575, -2.575]);
    let train = coordinator.beat("mayo", Activity::Idle).await;
    assert!(matches!(train, Directive::Train { base, .. } if base == made.model), "{train:?}");
    let may =
        async |role, blob: Blob| coordinator.handle.may_download(&role, &blob.digest).await.is_ok();
    assert!(may(Role::Operator(ada()), made.ema.unwrap()).await);
    assert!(may(Role::Site(site("mayo")), made.model).await);
    assert!(!may(Role::Site(site("mayo")), made.ema.unwrap()).await);
    let models = coordinator.handle.models(&brain(), None, 0).await.unwrap();
    assert_eq!(models.iter().map(|m| m.ema).collect::<Vec<_>>(), [None, made.ema]);
    let events = coordinator.handle.events(0, 0).await.unwrap();
    let told = events.iter().find(|event| event.kind == "round_committed").unwrap();
    assert!(told.detail.contains(&made.ema.unwrap().digest.short()), "{told:?}");
}

#[tokio::test]
async fn nobody_may_have_the_moments_of_the_optimizer() {
    let coordinator = Coordinator::start_with(adam()).await;
    coordinator.all_but_the_last_report(1).await;
    coordinator.submit(round(1, 1), "mayo", 2.0, 4).await;
    coordinator.until_committed(1).await;
    let made = coordinator.newest().await;
    for moment in [made.momentum.unwrap(), made.second_moment.unwrap()] {
        assert!(coordinator.blobs.path(&moment.digest).exists());
        for role in [Role::Operator(ada()), Role::Site(site("mayo"))] {
            assert!(coordinator.handle.may_download(&role, &moment.digest).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_round_whose_average_the_disk_does_not_take_for_a_day_is_given_up_and_says_why() {
    let coordinator = Coordinator::start(1).await;
    coordinator.all_but_the_last_report(1).await;
    let last = coordinator.submission(round(1, 1), "mayo", 2.0, 4);
    let scratch = coordinator.blobs.scratch("");
    std::fs::remove_dir_all(&scratch).unwrap();
    coordinator.handle.submit(&site("mayo"), last).await.unwrap();
    let (_, view) = coordinator.until(|_, round| round.reason().is_some()).await;
    let told = view.reason().unwrap();
    let (_, why) = told.split_once("; it is begun again, because ").unwrap();
    coordinator.clock.advance(Duration::from_secs(24 * 3_600));
    coordinator.until(|_, round| round.id.attempt == 2).await;
    let events = coordinator.handle.events(0, 0).await.unwrap();
    let over = events.iter().find(|event| event.kind == "round_abandoned").unwrap();
    let given_up = format!("no average in time: 24 hours were not enough: {why}");
    assert!(over.detail.ends_with(&given_up), "{}", over.detail);
}

#[tokio::test]
async fn a_crash_between_the_files_and_their_row_makes_the_same_files_again() {
    let coordinator = Coordinator::start_with(adam()).await;
    coordinator.all_but_the_last_report(1).await;
    coordinator.submit(round(1, 1), "mayo", 2.0, 4).await;
    coordinator.until_committed(1).await;
    coordinator.all_but_the_last_report(2).await;

    // What such a crash leaves: a row that says "aggregating", every file under its own name, and
    // one that was being written again.
    coordinator.shutdown.cancel();
    while coordinator.handle.is_alive() {
        tokio::task::yield_now().await;
    }
    let before = coordinator.store.load().await.unwrap().runs.remove(0);
    let mut after = before.clone();
    after.tick(START.checked_add(Duration::from_secs(9_000)).unwrap());
    assert_eq!(after.round().phase(), &Phase::Aggregating);
    let path = |blob: Blob| coordinator.blobs.path(&blob.digest);
    let part = |(name, value, examples)| Contribution {
        site: site(name),
        weights: path(coordinator.put(name, value)),
        examples,
        stale: None,
        resent: false,
    };
    let job = Job {
        plan: adam().aggregation,
        committed: 1,
        previous: before.newest().map(path),
        contributions: [("aachen", 2.0, 1), ("kyoto", 3.0, 3)].map(part).into(),
        quarantine: None,
    };
    let made = fedavg::aggregate(&job, &coordinator.blobs.scratch("made")).unwrap().files;
    for file in made.parts() {
        coordinator.blobs.adopt(&file.path, &file.blob).unwrap();
    }
    let made = made.map(|file| file.blob);
    assert_eq!(made.parts().count(), 4);
    let fresh = Aggregate { momentum: None, ..before.newest().map(path) };
    let forgetful = Job { previous: fresh, ..job };
    let other = fedavg::aggregate(&forgetful, &coordinator.blobs.scratch("other")).unwrap().files;
    assert_ne!(other.model.blob, made.model, "the momentum of round 1 counts in round 2");
    let change = store::Change { runs: vec![(Some(&before), &after)], ..store::Change::default() };
    coordinator.store.save(&change).await.unwrap();
    let half = coordinator.blobs.scratch("brain-2-1.safetensors.momentum.writing");
    std::fs::write(half, "half").unwrap();

    let coordinator = coordinator.restart().await;
    coordinator.until_committed(2).await;
    assert_eq!(coordinator.newest().await, made);
}
