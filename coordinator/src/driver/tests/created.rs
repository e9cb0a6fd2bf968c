//! What becomes a run.

use super::*;

#[tokio::test]
async fn a_run_is_created_once_and_only_from_a_model_that_can_be_used() {
    let coordinator = Coordinator::start(2).await;
    let handle = &coordinator.handle;
    let base = coordinator.put("base", BASE);
    let create = async |plan, blob| {
        handle.create_run(&ada(), &brain(), plan, blob).await.map_err(|error| error.reason())
    };
    assert!(create(plan(2, 2), base).await.is_ok(), "the same again is no error");
    assert_eq!(create(plan(3, 2), base).await, Err(Reason::RunExists));
    let other = coordinator.put("other", 7.0);
    assert_eq!(create(plan(2, 2), other).await, Err(Reason::RunExists));
    let bad = coordinator.put("bad", f32::NAN);
    assert_eq!(create(plan(2, 2), bad).await, Err(Reason::NotFinite));
    let absent = crate::testing::blob("absent");
    assert_eq!(create(plan(2, 2), absent).await, Err(Reason::BlobUnknown));
    let lie = Blob { size: 1, ..base };
    assert_eq!(create(plan(2, 2), lie).await, Err(Reason::BlobUnknown));
}
