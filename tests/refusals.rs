//! Wrong updates are refused by name, silent sites are left behind, and the round completes.

use std::path::Path;

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1;
use fedpaint_proto::weights::TensorSpec;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::models;

use crate::plan;

async fn lab_with_run(folder: &Path, plan: &str) -> (Lab, Blob) {
    let lab = Lab::start(folder).unwrap();
    let file = folder.join("base.safetensors");
    let base = models::write(&file, models::specs(), |_, _| 0.5).unwrap();
    lab.create_run("brain", plan, &file, base).await.unwrap();
    (lab, base)
}

async fn honest_update(site: &mut FakeSite, base: Blob, file: &Path) {
    let round = site.task().await.unwrap().round.unwrap();
    let update = models::write(file, models::specs(), |_, _| 1.0).unwrap();
    site.upload(&round, update, file).await.unwrap();
    site.submit(&round, base.digest, update, 8).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_update_is_refused_with_its_reason_and_the_round_still_completes() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, base) = lab_with_run(folder.path(), &plan(1, 2, 4, "")).await;
    let mut sites = Vec::new();
    for name in ["alpha", "beta", "mallory", "trudy"] {
        let mut site = FakeSite::enroll(&lab, name).await.unwrap();
        site.join().await.unwrap();
        sites.push(site);
    }
    // Two, because a site may upload only so many files for a round.
    let (mut trudy, mut mallory) = (sites.pop().unwrap(), sites.pop().unwrap());
    let round = mallory.task().await.unwrap().round.unwrap();
    let file = folder.path().join("wrong");
    let without_last: Vec<TensorSpec> = models::specs().into_iter().take(2).collect();
    let with = |change: &dyn Fn(&mut TensorSpec)| {
        let mut specs = models::specs();
        change(&mut specs[1]);
        specs
    };
    let wrong = [
        (without_last, 1.0, Reason::WrongTensors, "out.weight"),
        (with(&|t| t.name = "in.weights".into()), 1.0, Reason::WrongTensors, "in.weight"),
        (with(&|t| t.shape = vec![7, 9]), 1.0, Reason::WrongShape, "in.weight"),
        (models::specs(), f32::NAN, Reason::NotFinite, "in.bias"),
        (models::specs(), f32::INFINITY, Reason::NotFinite, "in.bias"),
    ];
    for (specs, value, reason, names) in wrong {
        let update = models::write(&file, specs, |_, _| value).unwrap();
        mallory.upload(&round, update, &file).await.unwrap();
        let refusal = mallory.submit(&round, base.digest, update, 8).await.unwrap_err();
        assert_eq!(Reason::of(&refusal), Some(reason), "{refusal}");
        assert!(refusal.message().contains(names), "{refusal}");
    }

    // Good weights under a digest that is not theirs.
    let good = models::write(&file, models::specs(), |_, _| 2.0).unwrap();
    let renamed = Blob { digest: Digest::of(b"y"), size: good.size };
    let error = trudy.upload(&round, renamed, &file).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::WrongDigest), "{error}");
    let refusal = trudy.submit(&round, base.digest, renamed, 8).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Some(Reason::BlobUnknown), "{refusal}");

    // Half-precision weights under the right names.
    let half = half_precision(&file);
    trudy.upload(&round, half, &file).await.unwrap();
    let refusal = trudy.submit(&round, base.digest, half, 8).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Some(Reason::WrongDtype), "{refusal}");

    // Bytes that are no model at all.
    std::fs::write(&file, b"{\"model\": false}").unwrap();
    let text = Blob { digest: Digest::of(b"{\"model\": false}"), size: 16 };
    trudy.upload(&round, text, &file).await.unwrap();
    let refusal = trudy.submit(&round, base.digest, text, 8).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Some(Reason::NotAModel), "{refusal}");

    // Good weights of another base model, of no examples.
    let good = models::write(&file, models::specs(), |_, _| 2.0).unwrap();
    trudy.upload(&round, good, &file).await.unwrap();
    let refusal = trudy.submit(&round, Digest::of(b"x"), good, 8).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Some(Reason::WrongBaseModel), "{refusal}");
    let refusal = trudy.submit(&round, base.digest, good, 0).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Some(Reason::WrongExamples), "{refusal}");

    for (i, site) in sites.iter_mut().enumerate() {
        honest_update(site, base, &folder.path().join(format!("good-{i}"))).await;
    }
    mallory.withdraw(&round).await.unwrap();
    trudy.withdraw(&round).await.unwrap();
    let (_, done) =
        lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await.unwrap();
    let reported = done.members.iter().filter(|m| m.state() == v1::MemberState::Reported);
    let reported: Vec<&str> = reported.map(|m| m.site.as_str()).collect();
    assert_eq!(reported, ["alpha", "beta"]);
}

fn half_precision(file: &Path) -> Blob {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let specs = models::specs();
    let data: Vec<Vec<u8>> = specs.iter().map(|s| vec![0; s.len() * 2]).collect();
    let tensors = specs.iter().zip(&data).map(|(s, bytes)| {
        (s.name.as_str(), TensorView::new(Dtype::F16, s.shape.clone(), bytes).unwrap())
    });
    let note = [("fedpaint.model".to_owned(), "\"test\"".to_owned())].into_iter().collect();
    let bytes = serialize(tensors, Some(note)).unwrap();
    std::fs::write(file, &bytes).unwrap();
    Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_never_reports_does_not_stop_a_round_with_quorum() {
    let folder = tempfile::tempdir().unwrap();
    // The silent site is waited for until the reporting time is over, and no longer.
    let plan = plan(1, 2, 3, "").replace("reporting_s = 600", "reporting_s = 2");
    let (lab, base) = lab_with_run(folder.path(), &plan).await;
    let mut sites = Vec::new();
    for name in ["alpha", "beta", "silent"] {
        let mut site = FakeSite::enroll(&lab, name).await.unwrap();
        site.join().await.unwrap();
        sites.push(site);
    }
    for (i, site) in sites[..2].iter_mut().enumerate() {
        honest_update(site, base, &folder.path().join(format!("good-{i}"))).await;
    }
    let (_, round) =
        lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await.unwrap();
    let silent = round.members.iter().find(|m| m.site == "silent").unwrap();
    assert_eq!(silent.state(), v1::MemberState::Joined);
    assert_eq!(round.phase(), v1::RoundPhase::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_reads_its_base_model_and_never_anothers_update() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, base) = lab_with_run(folder.path(), &plan(1, 2, 2, "")).await;
    let mut alpha = FakeSite::enroll(&lab, "alpha").await.unwrap();
    let mut beta = FakeSite::enroll(&lab, "beta").await.unwrap();
    alpha.join().await.unwrap();
    beta.join().await.unwrap();
    let round = alpha.task().await.unwrap().round.unwrap();
    let file = folder.path().join("update");
    let update = models::write(&file, models::specs(), |_, _| 1.0).unwrap();
    alpha.upload(&round, update, &file).await.unwrap();
    alpha.submit(&round, base.digest, update, 8).await.unwrap();

    let taken = folder.path().join("taken");
    beta.download(base, &taken).await.unwrap();
    std::fs::remove_file(&taken).unwrap();
    let error = beta.download(update, &taken).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BlobUnknown), "{error}");
    assert!(!taken.exists());
}
