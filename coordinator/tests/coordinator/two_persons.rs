//! What takes two persons, as operators meet it: by `fedctl`, and over the wire.

use fedpaint_proto::enrolment::Token;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::EnrollSiteRequest;
use serde_json::Value;

use crate::fedctl::{Desk, OPERATOR, write_run};
use crate::federation::Federation;
use crate::newcomer::Newcomer;
use crate::pki::Leaf;

/// All that may take two persons does.
const RULES: &str = "[two_persons]\nenrolling = true\nplanning = true\nexporting = true\n";

/// Has `first` be refused, whom `second` then agrees with. What `first` gets when it asks again.
async fn agreed(first: &Desk<'_>, second: &Desk<'_>, line: &str) -> Value {
    let refused = first.failure(line).await;
    assert!(refused.contains("this takes two persons"), "{line}: {refused}");
    let listed = second.json("proposal list").await;
    let open = listed["proposals"].as_array().unwrap().iter();
    let open: Vec<&Value> = open.filter(|held| held["approved_by"].is_null()).collect();
    assert_eq!(open.len(), 1, "{line}: {listed}");
    assert_eq!(open[0]["asked_by"], "ada", "{line}");
    let approve = format!("proposal approve {}", open[0]["id"].as_str().unwrap());
    assert!(refused.contains(&approve), "{line}: it says how: {refused}");
    let own = first.failure(&approve).await;
    assert!(own.contains("cannot be the second person"), "{line}: {own}");
    // Nor is it enough to insist.
    first.failure(line).await;
    second.json(&approve).await;
    first.json(line).await
}

#[tokio::test]
async fn no_operator_alone_enrolls_a_site_by_name_or_creates_a_run_or_exports_a_model() {
    let federation = Federation::start_with(RULES).await;
    let folder = federation.folder.path();
    let desk = |uri| Desk::new(&federation, &federation.authority, &Leaf::client(uri));
    let (ada, bob) = (desk(OPERATOR), desk("spiffe://brain/operator/bob"));
    let request = EnrollSiteRequest { name: "mayo".into(), revoked_at: None };
    let refused = federation.operator().await.admin.enroll_site(request).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::SecondPerson));
    assert_eq!(ada.json("site list").await["sites"], serde_json::json!([]));
    let site = agreed(&ada, &bob, "site enroll mayo").await;
    assert_eq!((&site["name"], &site["state"]), (&"mayo".into(), &"enrolled".into()));

    let initial = write_run(folder);
    let create = "run create t1 --plan run.toml --model initial.safetensors";
    let run = agreed(&ada, &bob, create).await;
    assert_eq!((&run["name"], &run["state"]), (&"t1".into(), &"active".into()));

    agreed(&ada, &bob, "model export t1 --round 0 --out new.safetensors").await;
    assert_eq!(std::fs::read(folder.join("new.safetensors")).unwrap(), initial);
    federation.stop().await;
}

#[tokio::test]
async fn a_site_with_a_token_waits_until_two_operators_have_approved_its_keys() {
    let federation = Federation::start_open_with(RULES).await;
    let desk = |uri| Desk::new(&federation, &federation.authority, &Leaf::client(uri));
    let (ada, bob) = (desk(OPERATOR), desk("spiffe://brain/operator/bob"));
    let invited = ada.json("site invite mayo").await;
    let token: Token = invited["token"].as_str().unwrap().parse().unwrap();
    let (newcomer, mut door) = (Newcomer::new(), Newcomer::door(&federation).await);
    let mut asks = async || door.join(newcomer.asks(&token.secret)).await.unwrap().into_inner();
    assert_eq!(asks().await.words, newcomer.words());
    let approve = format!("site approve mayo {}", newcomer.words());
    // Once, and once more by the same person.
    for _ in 0..2 {
        let invite = ada.json(&approve).await;
        assert_eq!((&invite["state"], &invite["approvals_needed"]), (&"asks".into(), &2.into()));
        assert_eq!(invite["approved_by"], serde_json::json!(["ada"]));
        let answer = asks().await;
        assert!(answer.certificate_pem.is_empty() && answer.signing_certificate_pem.is_empty());
        assert_eq!(ada.json("site list").await["sites"], serde_json::json!([]));
    }
    let invite = bob.json(&approve).await;
    assert_eq!(invite["state"], "approved");
    assert_eq!(invite["approved_by"], serde_json::json!(["ada", "bob"]));
    let answer = asks().await;
    assert!(!answer.certificate_pem.is_empty() && !answer.signing_certificate_pem.is_empty());
    let sites = ada.json("site list").await["sites"].clone();
    assert_eq!((&sites[0]["name"], &sites[0]["state"]), (&"mayo".into(), &"enrolled".into()));
    federation.stop().await;
}
