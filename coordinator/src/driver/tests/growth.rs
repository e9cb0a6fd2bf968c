//! What a coordinator holds in memory does not grow with the rounds that are past.

use super::core::{Core, Request};
use super::*;
use crate::aggregate::Aggregate;
use crate::records::Loaded;
use crate::round::Update;
use crate::testing::blob;

/// The shell, but for the disk.
fn take(core: &mut Core, request: Request) {
    let step = core.apply(request, START).unwrap();
    core.install(step);
    while let Some(step) = core.settle(START) {
        core.install(step);
    }
}

/// One round of the one site, which makes a model and an average of its own.
fn train(core: &mut Core, number: u32) {
    let (mayo, id) = (site("mayo"), round(number, 1));
    let activity = Activity::Joining(id.clone());
    let beat = Beat { activity, ..idle("0.1.0".to_owned()) };
    take(core, Request::Beat(mayo.clone(), beat));
    let weights = blob(&format!("update {number}"));
    let update = Update { weights, examples: 1, report: Report::default() };
    take(core, Request::Report(mayo, id.clone(), update));
    let ema = Some(blob(&format!("average {number}")));
    let made = Aggregate { ema, ..Aggregate::of(blob(&format!("model {number}"))) };
    take(core, Request::Aggregated(id, Ok(made.into())));
    assert_eq!(core.state().run(&brain()).unwrap().committed(), number);
}

#[test]
fn ten_thousand_rounds_leave_a_core_that_is_as_large_as_after_ten() {
    let nothing = Loaded::default();
    let mut core = Core::load(nothing, Duration::from_secs(5));
    let mut plan = plan(20_000, 1);
    plan.round.sites_goal = 1;
    take(&mut core, Request::Enroll(ada(), site("mayo"), None));
    take(&mut core, Request::Create(ada(), brain(), Box::new(plan.into()), blob("base")));
    // All that it holds, in words: only numbers may get longer, and the right edge of the log's tree, by a
    // hash whenever the log has doubled.
    let size = |core: &Core| format!("{core:?}").len();
    (1..=10).for_each(|number| train(&mut core, number));
    let early = size(&core);
    (11..=10_000).for_each(|number| train(&mut core, number));
    let edge = 80 * core.log().tree.size().ilog2() as usize;
    assert!(size(&core) < early + 64 + edge, "{early} characters, then {}", size(&core));
}

#[tokio::test]
async fn a_blob_that_a_row_names_is_not_remembered_as_one_that_somebody_was_told_of() {
    let coordinator = Coordinator::start(3).await;
    for number in 1..=3 {
        coordinator.until(|_, round| round.id.number == number).await;
        coordinator.join(&["aachen", "kyoto", "mayo"]).await;
        for (name, value) in [("aachen", 2.0), ("kyoto", 3.0)] {
            coordinator.submit(round(number, 1), name, value + number as f32, 1).await;
        }
        let last = coordinator.submission(round(number, 1), "mayo", number as f32, 1);
        assert_eq!(coordinator.blobs.claims(), 1, "the update that is about to be submitted");
        coordinator.handle.submit(&site("mayo"), last).await.unwrap();
        coordinator.until_committed(number).await;
        assert_eq!(coordinator.blobs.claims(), 0);
    }
}
