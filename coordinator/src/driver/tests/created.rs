//! What becomes a run.

use fedpaint_proto::plan::SignedPlan;

use super::*;
use crate::testing::plan_signer;

#[tokio::test]
async fn a_run_is_created_once_and_only_from_a_model_that_can_be_used() {
    let coordinator = Coordinator::start(2).await;
    let handle = &coordinator.handle;
    let base = coordinator.put("base", BASE);
    let create = async |plan: SignedPlan, blob| {
        handle.create_run(&ada(), &brain(), plan, blob).await.map_err(|error| error.reason())
    };
    assert!(create(plan(2, 2).into(), base).await.is_ok(), "the same again is no error");
    assert_eq!(create(plan(3, 2).into(), base).await, Err(Reason::RunExists));
    let signature = Some(plan_signer().sign(&plan(2, 2)));
    let signed = SignedPlan { plan: plan(2, 2), signature };
    assert_eq!(create(signed, base).await, Err(Reason::RunExists), "somebody else's word");
    let other = coordinator.put("other", 7.0);
    assert_eq!(create(plan(2, 2).into(), other).await, Err(Reason::RunExists));
    let bad = coordinator.put("bad", f32::NAN);
    assert_eq!(create(plan(2, 2).into(), bad).await, Err(Reason::NotFinite));
    let absent = crate::testing::blob("absent");
    assert_eq!(create(plan(2, 2).into(), absent).await, Err(Reason::BlobUnknown));
    let lie = Blob { size: 1, ..base };
    assert_eq!(create(plan(2, 2).into(), lie).await, Err(Reason::BlobUnknown));
}
