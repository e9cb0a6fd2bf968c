//! Which updates are accepted, and who may move which blob.

use fedpaint_proto::names::Digest;
use fedpaint_proto::plan::{Encoding, ExchangePlan};
use fedpaint_proto::weights::{Sources, encode};

use super::*;

impl Coordinator {
    /// The blobs that the audit log was told of as set aside. The driver tells before it hears what comes later.
    async fn rotten(&self) -> Vec<Digest> {
        let events = self.handle.events(0, 0).await.unwrap();
        let told = events.iter().filter(|event| event.kind == "blob_rotten");
        let named = told.flat_map(|event| event.detail.split([' ', ':', ',']));
        named.filter_map(|word| word.parse().ok()).collect()
    }
}

#[tokio::test]
async fn each_wrong_update_is_refused_with_its_reason_and_the_round_still_completes() {
    let coordinator = Coordinator::start(1).await;
    let id = round(1, 1);
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let good = coordinator.submission(id.clone(), "mayo", 3.0, 2);
    let odd = |name: &str, tensors: &[(&str, &[f32])]| {
        let scratch = coordinator.blobs.scratch(name);
        let weights = write_model(&scratch, tensors);
        coordinator.blobs.adopt(&scratch, &weights).unwrap();
        Submission { weights, ..good.clone() }
    };
    let nan = Report { loss_mean: f64::NAN, ..Report::default() };
    let short = Blob { size: good.weights.size - 1, ..good.weights };
    let wrong = [
        (odd("names", &[("v", &[1.0, 2.0])]), Reason::WrongTensors),
        (odd("shape", &[("w", &[1.0])]), Reason::WrongShape),
        (odd("nan", &[("w", &[1.0, f32::NAN])]), Reason::NotFinite),
        (Submission { base: good.weights.digest, ..good.clone() }, Reason::WrongBaseModel),
        (Submission { examples: 0, ..good.clone() }, Reason::WrongExamples),
        (Submission { examples: u64::MAX, ..good.clone() }, Reason::WrongExamples),
        (Submission { report: nan, ..good.clone() }, Reason::InvalidRequest),
        (Submission { weights: short, ..good.clone() }, Reason::BlobUnknown),
        (
            Submission { weights: crate::testing::blob("never sent"), ..good.clone() },
            Reason::BlobUnknown,
        ),
        (Submission { round: round(9, 1), ..good.clone() }, Reason::RoundUnknown),
    ];
    let handle = &coordinator.handle;
    for (submission, reason) in &wrong {
        let error = handle.submit(&site("mayo"), submission.clone()).await.unwrap_err();
        assert_eq!(error.reason(), *reason, "{error}");
        let events = handle.events(0, 0).await.unwrap();
        let last = events.last().unwrap();
        assert_eq!((last.kind.as_str(), last.actor.as_str()), ("update_refused", "site/mayo"));
        assert!(last.detail.ends_with(&error.to_string()), "{}", last.detail);
    }
    let noted = handle.events(0, 0).await.unwrap().len();
    let (last, _) = wrong.last().unwrap();
    handle.submit(&site("mayo"), last.clone()).await.unwrap_err();
    assert_eq!(handle.events(0, 0).await.unwrap().len(), noted, "told once if it is repeated");

    handle.submit(&site("mayo"), good).await.unwrap();
    coordinator.submit(id.clone(), "aachen", 3.0, 5).await;
    coordinator.submit(id, "kyoto", 3.0, 9).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [3.0, -3.0]);
}

#[tokio::test]
async fn an_update_that_came_in_one_go_is_refused_for_its_numbers_in_whatever_form_they_travel() {
    for encoding in [Encoding::F32, Encoding::Int8] {
        let form = ExchangePlan { encoding, ..ExchangePlan::default() };
        let coordinator = Coordinator::start_with(RunPlan { exchange: form, ..plan(1, 2) }).await;
        coordinator.join(&["aachen", "kyoto", "mayo"]).await;
        let submission = coordinator.submission(round(1, 1), "mayo", 3.0, 2);
        let path = |blob: &Blob| coordinator.blobs.path(&blob.digest);
        let base = path(&coordinator.handle.run(&brain()).unwrap().model);
        let trained = path(&submission.weights);
        let (update, left) =
            (coordinator.blobs.scratch("update"), coordinator.blobs.scratch("left"));
        let sources = Sources { base: &base, trained: &trained, remainder: None };
        encode(form, sources, &update, &left).unwrap();
        // Whole models are their own updates, of which none is here yet.
        std::fs::remove_file(&trained).unwrap();
        let right = std::fs::read(&update).unwrap();
        let mut wrong = right.clone();
        // Its last number or, in 8 bits, the scale of its only block, beside which the two numbers are one of 32 bits
        // that is finite.
        let nan = match encoding {
            Encoding::F32 => f32::NAN.to_le_bytes().to_vec(),
            _ => 0x7fc0_u16.to_le_bytes().to_vec(),
        };
        let at = right.len() - size_of::<f32>();
        wrong[at..at + nan.len()].copy_from_slice(&nan);
        for (bytes, refusal) in [(wrong, Some(Reason::NotFinite)), (right, None)] {
            let weights = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
            let sender = Role::Site(site("mayo"));
            let mut upload = coordinator.blobs.upload(&sender, weights, 0).await.unwrap();
            upload.write(bytes.into()).await.unwrap();
            upload.finish().await.unwrap();
            let is_seen = encoding == Encoding::Int8 || refusal.is_none();
            assert_eq!(coordinator.blobs.came_finite(&weights.digest), is_seen, "{encoding:?}");
            let submission = Submission { weights, ..submission.clone() };
            let submitted = coordinator.handle.submit(&site("mayo"), submission).await;
            assert_eq!(submitted.err().map(|error| error.reason()), refusal, "{encoding:?}");
        }
    }
}

#[tokio::test]
async fn a_base_model_that_has_changed_on_the_disk_is_no_fault_of_an_update() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let submission = coordinator.submission(round(1, 1), "mayo", 3.0, 2);
    let path = coordinator.blobs.path(&submission.base);
    let right = std::fs::read(&path).unwrap();
    let mut wrong = right.clone();
    // The name of its tensor, by which the update would lack it.
    let name = right.iter().position(|byte| *byte == b'w').unwrap();
    wrong[name] ^= 1;
    std::fs::write(&path, wrong).unwrap();
    for _ in 0..2 {
        let submitted = coordinator.handle.submit(&site("mayo"), submission.clone()).await;
        let error = submitted.unwrap_err();
        assert_eq!(error.reason(), Reason::BlobRotten, "{error}");
    }
    std::fs::write(&path, right).unwrap();
    let base = submission.base;
    coordinator.handle.submit(&site("mayo"), submission).await.unwrap();
    assert_eq!(coordinator.rotten().await, [base], "told once");
}

#[tokio::test]
async fn a_blob_that_a_download_finds_changed_is_told_to_the_audit_log_each_time_it_is_set_aside() {
    let coordinator = Coordinator::start(1).await;
    let base = coordinator.put("again", BASE);
    let path = coordinator.blobs.path(&base.digest);
    let right = std::fs::read(&path).unwrap();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    for times in 1..=2 {
        std::fs::write(&path, &wrong).unwrap();
        let mut download = coordinator.blobs.download(&base.digest, 0).await.unwrap();
        let error = download.next(right.len()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::BlobRotten, "{error}");
        // Who asks for what is set aside finds nothing new.
        coordinator.blobs.download(&base.digest, 0).await.unwrap_err();
        coordinator.beat("mayo", Activity::Idle).await;
        assert_eq!(coordinator.rotten().await, vec![base.digest; times]);
    }
}

#[tokio::test]
async fn a_submission_whose_reply_was_lost_may_be_repeated_even_after_the_round() {
    let coordinator = Coordinator::start(2).await;
    let id = round(1, 1);
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(id.clone(), "aachen", 2.0, 1).await;
    coordinator.submit(id.clone(), "kyoto", 2.0, 1).await;
    let submission = coordinator.submission(id.clone(), "mayo", 5.0, 2);
    for _ in 0..2 {
        coordinator.handle.submit(&site("mayo"), submission.clone()).await.unwrap();
    }
    coordinator.until(|_, round| round.id.number == 2).await;
    coordinator.handle.submit(&site("mayo"), submission.clone()).await.unwrap();
    let coordinator = coordinator.restart().await;
    coordinator.handle.submit(&site("mayo"), submission.clone()).await.unwrap();
    let other = Submission { examples: 3, ..submission };
    let other = coordinator.handle.submit(&site("mayo"), other).await.unwrap_err();
    assert_eq!(other.reason(), Reason::RoundOver);
    let kinds = coordinator.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "update_accepted").count(), 3);
}

#[tokio::test]
async fn a_late_update_is_refused() {
    let coordinator = Coordinator::start(1).await;
    let id = round(1, 1);
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let late = coordinator.submission(id.clone(), "mayo", 5.0, 2);
    coordinator.submit(id.clone(), "aachen", 2.0, 1).await;
    coordinator.submit(id, "kyoto", 2.0, 1).await;
    coordinator.clock.advance(Duration::from_secs(1_000));
    let error = coordinator.handle.submit(&site("mayo"), late).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::ReportingOver | Reason::RoundOver), "{error}");
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [2.0, -2.0]);
}

#[tokio::test]
async fn a_site_uploads_only_for_a_round_that_awaits_its_update() {
    let coordinator = Coordinator::start(1).await;
    let may = |name: &str, id| {
        coordinator.handle.may_upload(&site(name), &id).map_err(|error| error.reason())
    };
    assert_eq!(may("mayo", round(1, 1)), Err(Reason::NotReporting));
    coordinator.join(&["aachen", "kyoto"]).await;
    coordinator.handle.close_round(&ada(), &round(1, 1), None).await.unwrap();
    let base = coordinator.handle.run(&brain()).unwrap().initial_model;
    assert_eq!(may("aachen", round(1, 1)), Ok(base.size + UPDATE_SLACK_BYTES));
    assert_eq!(may("mayo", round(1, 1)), Err(Reason::NotAMember));
    assert_eq!(may("aachen", round(1, 2)), Err(Reason::RoundUnknown));
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    assert_eq!(may("aachen", round(1, 1)), Err(Reason::AlreadyReported));
}

#[tokio::test]
async fn a_site_reads_only_the_models_that_open_rounds_begin_from_and_nobody_reads_an_update() {
    let coordinator = Coordinator::start(1).await;
    let base = coordinator.handle.run(&brain()).unwrap().initial_model;
    let operator = Role::Operator(ada());
    let mayo = Role::Site(site("mayo"));
    let may = async |role: &Role, blob: &Blob| {
        coordinator.handle.may_download(role, &blob.digest).await.ok()
    };
    let stranger = Role::Site(site("oslo"));
    assert_eq!(may(&stranger, &base).await, None, "it is not enrolled");
    assert_eq!(may(&mayo, &base).await, Some(base), "it looks before it joins");
    assert_eq!(may(&operator, &base).await, Some(base));
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    assert_eq!(may(&mayo, &base).await, Some(base));
    let update = coordinator.submission(round(1, 1), "aachen", 2.0, 1);
    coordinator.handle.submit(&site("aachen"), update.clone()).await.unwrap();
    for role in [&mayo, &operator, &Role::Site(site("aachen"))] {
        assert_eq!(may(role, &update.weights).await, None);
    }
    assert_eq!(may(&Role::Coordinator("main".to_owned()), &base).await, None);
    coordinator.submit(round(1, 1), "kyoto", 2.0, 1).await;
    coordinator.submit(round(1, 1), "mayo", 5.0, 1).await;
    let model = coordinator.until_committed(1).await.model;
    assert_eq!(may(&operator, &model).await, Some(model));
    assert_eq!(may(&mayo, &base).await, None, "not after the round");
}
