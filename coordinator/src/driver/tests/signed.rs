//! What sites and the coordinator put their names to, from the update to the export of the log.

use fedpaint_proto::log::Entry;
use fedpaint_proto::merkle::verify_inclusion;
use fedpaint_proto::names::Digest;
use fedpaint_proto::signing::{Signed, Signer, Unbound};
use fedpaint_proto::statement::Envelope;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::evidence::export::Line;
use crate::evidence::plan_digest;
use crate::evidence::verify::{Broken, Check, Verified};
use crate::testing::{LATER, Pki};

/// A coordinator that signs, and who its sites are.
async fn signing(rounds: u32) -> (Coordinator, Pki) {
    let pki = Pki::new();
    let signer = pki.signer("spiffe://brain/coordinator/main");
    let notary = Some(Arc::new(Notary::new(pki.authority(), signer, false)));
    (Coordinator::start_at(LATER, plan(rounds, 2), notary).await, pki)
}

impl Coordinator {
    /// A submission of `name`, signed as one of `said` with `examples`.
    fn signed(&self, pki: &Pki, id: RoundId, name: &str, said: (&str, u64)) -> Submission {
        self.signed_by(pki, id, name, said, said.0)
    }

    /// The same by `signer`, whoever is said to have trained it.
    fn signed_by(
        &self,
        pki: &Pki,
        id: RoundId,
        name: &str,
        said: (&str, u64),
        signer: &str,
    ) -> Submission {
        let submission = self.submission(id, name, 2.0, 8);
        let envelope = self.envelope(&submission, said);
        let signer = pki.signer(&format!("spiffe://brain/site/{signer}"));
        Submission { signature: Some(signature(&signer, envelope)), ..submission }
    }

    /// What is signed of a submission, as one of `said` with `examples`.
    fn envelope(&self, submission: &Submission, (name, examples): (&str, u64)) -> Envelope {
        Envelope {
            federation: "brain".parse().unwrap(),
            round: submission.round.clone(),
            site: site(name),
            base: submission.base,
            plan: plan_digest(&self.handle.plan(&brain()).unwrap()),
            update: submission.weights,
            examples,
        }
    }

    async fn report_all(&self, pki: &Pki, number: u32) {
        self.until(|_, round| round.id.number == number).await;
        self.join(&["aachen", "kyoto", "mayo"]).await;
        for name in ["aachen", "kyoto", "mayo"] {
            let signed = self.signed(pki, round(number, 1), name, (name, 8));
            self.handle.submit(&site(name), signed).await.unwrap();
        }
        self.until_committed(number).await;
    }

    async fn exported(&self) -> Vec<Line> {
        let (mut export, mut lines) = (self.handle.export().await.unwrap(), Vec::new());
        while let Some(more) = self.handle.export_more(&mut export).await.unwrap() {
            lines.extend(more);
        }
        lines
    }
}

/// A signature over an envelope, as it travels.
fn signature(signer: &Signer, envelope: Envelope) -> Unbound {
    Unbound::from_wire(Signed::by(signer, envelope).signature_to_wire()).unwrap()
}

fn entry_of(line: &Line) -> Option<&Entry> {
    match line {
        Line::Entry { entry, .. } => Some(entry),
        _ => None,
    }
}

fn check(pki: &Pki, lines: &[Line]) -> Result<Verified, Broken> {
    let authority = pki.authority();
    let mut check = Check::new(&authority, &[])?;
    for line in lines {
        check.text(&line.to_text())?;
    }
    check.done()
}

#[tokio::test]
async fn an_update_counts_only_with_its_sites_own_signature_over_what_it_says() {
    let (coordinator, pki) = signing(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let handle = &coordinator.handle;
    let unsigned = coordinator.submission(round(1, 1), "mayo", 2.0, 8);
    let others = coordinator.signed(&pki, round(1, 1), "mayo", ("kyoto", 8));
    let in_its_name = coordinator.signed_by(&pki, round(1, 1), "mayo", ("mayo", 8), "kyoto");
    let other_examples = coordinator.signed(&pki, round(1, 1), "mayo", ("mayo", 9));
    let foreign = coordinator.signed(&Pki::new(), round(1, 1), "mayo", ("mayo", 8));
    for (submission, reason) in [
        (unsigned, Reason::Unsigned),
        (others, Reason::BadSignature),
        (in_its_name, Reason::BadSignature),
        (other_examples, Reason::BadSignature),
        (foreign, Reason::BadSignature),
    ] {
        let error = handle.submit(&site("mayo"), submission).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    let good = coordinator.signed(&pki, round(1, 1), "mayo", ("mayo", 8));
    assert!(handle.submit(&site("mayo"), good).await.unwrap().is_some());
}

#[tokio::test]
async fn a_sites_own_signature_of_anything_else_does_not_count_for_the_update_that_it_is_sent_with()
{
    let (coordinator, pki) = signing(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let update = coordinator.submission(round(1, 1), "mayo", 2.0, 8);
    let right = coordinator.envelope(&update, ("mayo", 8));
    let (mayo, other) = (pki.signer("spiffe://brain/site/mayo"), Digest::of(b"another"));
    let another_run = RoundId { run: "heart".parse().unwrap(), ..round(1, 1) };
    let resized = Blob { size: right.update.size + 1, ..right.update };
    let renamed = Blob { digest: other, ..right.update };
    let submit = async |envelope| {
        let submission =
            Submission { signature: Some(signature(&mayo, envelope)), ..update.clone() };
        coordinator.handle.submit(&site("mayo"), submission).await
    };
    for (what, envelope) in [
        ("attempt", Envelope { round: round(1, 2), ..right.clone() }),
        ("round", Envelope { round: round(2, 1), ..right.clone() }),
        ("run", Envelope { round: another_run, ..right.clone() }),
        ("federation", Envelope { federation: "heart".parse().unwrap(), ..right.clone() }),
        ("plan", Envelope { plan: other, ..right.clone() }),
        ("base model", Envelope { base: other, ..right.clone() }),
        ("payload", Envelope { update: renamed, ..right.clone() }),
        ("payload's size", Envelope { update: resized, ..right.clone() }),
    ] {
        let error = submit(envelope).await.unwrap_err();
        assert_eq!(error.reason(), Reason::BadSignature, "another {what}: {error}");
    }
    assert!(submit(right).await.unwrap().is_some(), "the same key counts for what it has signed");
}

#[test]
fn a_signature_counts_by_the_key_that_the_site_joined_with_and_by_no_other_of_its_name() {
    let pki = Pki::new();
    let notary = Notary::new(pki.authority(), pki.signer("spiffe://brain/coordinator/main"), false);
    let [own, other] = [(); 2].map(|()| pki.signer("spiffe://brain/site/mayo"));
    let (_, certificate) = X509Certificate::from_der(own.certificate()).unwrap();
    let key = certificate.public_key().subject_public_key.data.as_ref().try_into().unwrap();
    let file = crate::testing::blob("update");
    let envelope = Envelope {
        federation: "brain".parse().unwrap(),
        round: round(1, 1),
        site: site("mayo"),
        base: file.digest,
        plan: file.digest,
        update: file,
        examples: 8,
    };
    for (signer, key, counts) in
        [(&own, Some(key), true), (&other, Some(key), false), (&other, None, true)]
    {
        let signature = signature(signer, envelope.clone());
        let judged = notary.judge((&site("mayo"), key), envelope.clone(), Some(&signature), LATER);
        assert_eq!(judged.is_ok(), counts);
        // A certificate that is renewed is for this key too.
        let mayo = Role::Site(site("mayo"));
        let renewed = notary.key((&mayo, key), signer.certificate(), LATER);
        assert_eq!(renewed.is_ok(), counts);
    }
    let eve = Role::Site(site("eve"));
    let others = notary.key((&eve, None), own.certificate(), LATER).unwrap_err().to_string();
    assert!(others.contains("it is that of"), "{others}");
    assert!(notary.key((&eve, None), b"no certificate", LATER).is_err());
}

#[tokio::test]
async fn an_update_that_is_taken_earns_the_same_receipt_however_often_it_is_asked_for() {
    let (coordinator, pki) = signing(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    let good = coordinator.signed(&pki, round(1, 1), "mayo", ("mayo", 8));
    let (mut receipts, mut heads) = (Vec::new(), Vec::new());
    for other in ["oslo", "paris"] {
        let envelope = coordinator.handle.submit(&site("mayo"), good.clone()).await.unwrap();
        let taken = coordinator.handle.receipt(envelope).await.unwrap().unwrap();
        taken.receipt.by_coordinator(&pki.authority(), LATER).unwrap();
        assert_eq!(
            (taken.entry.kind.as_str(), taken.entry.document),
            ("update_accepted", envelope)
        );
        let head = (taken.head.statement.size, taken.head.statement.root);
        let leaf = (taken.entry.seq - 1, taken.entry.leaf());
        assert!(verify_inclusion(leaf, head, &taken.inclusion));
        heads.push(head.0);
        receipts.push((taken.receipt, taken.entry));
        // The log grows meanwhile, and with it what the entry is proven to be in.
        coordinator.handle.enroll_site(&ada(), &site(other), None).await.unwrap();
    }
    assert_eq!(receipts[0], receipts[1]);
    assert!(heads[0] < heads[1]);
}

#[tokio::test]
async fn the_exported_log_of_a_run_is_whole_and_holds_every_update_and_model() {
    let (coordinator, pki) = signing(2).await;
    coordinator.report_all(&pki, 1).await;
    let coordinator = coordinator.restart().await;
    coordinator.report_all(&pki, 2).await;
    let lines = coordinator.exported().await;
    let whole = check(&pki, &lines).unwrap();
    assert_eq!((whole.updates, whole.models), (6, 3));
    assert_eq!(whole.heads, whole.entries + 1, "one after each, and that of the export");
    let models = coordinator.handle.models(&brain(), None, 0).await.unwrap();
    for (version, parent) in [(0, None), (1, Some(0)), (2, Some(1))] {
        let manifest = coordinator.handle.manifest(&brain(), version).await.unwrap().statement;
        assert_eq!(manifest.model, models[version as usize].blob);
        assert_eq!(manifest.parent, parent.map(|parent: usize| models[parent].blob.digest));
        assert_eq!(manifest.contributors.len(), if version == 0 { 0 } else { 3 });
    }
    let round_unknown = coordinator.handle.manifest(&brain(), 3).await.unwrap_err();
    assert_eq!(round_unknown.reason(), Reason::RoundUnknown);

    // Whoever leaves out or changes what an entry vouches for is found.
    let documents = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| matches!(line, Line::Update { .. } | Line::Manifest { .. }));
    for (place, _) in documents {
        let mut less = lines.clone();
        less.remove(place);
        assert!(matches!(check(&pki, &less), Err(Broken::DocumentMissing { .. })), "{place}");
        let mut other = lines.clone();
        match &mut other[place] {
            Line::Update { signed } => signed.statement.examples += 1,
            Line::Manifest { signed } => signed.statement.version += 1,
            line => panic!("{line:?}"),
        }
        assert!(matches!(check(&pki, &other), Err(Broken::Document { .. })), "{place}");
    }
}

#[tokio::test]
async fn whichever_entry_of_a_run_is_rewritten_with_a_hash_that_fits_it_is_the_one_that_is_named() {
    let (coordinator, pki) = signing(1).await;
    coordinator.report_all(&pki, 1).await;
    let lines = coordinator.exported().await;
    let second = Duration::from_secs(1);
    for (place, line) in lines.iter().enumerate() {
        let Some(entry) = entry_of(line) else { continue };
        for changed in [
            Entry { detail: "nothing".into(), ..entry.clone() },
            Entry { at: entry.at.checked_add(second).unwrap(), ..entry.clone() },
            Entry { at: entry.at.checked_sub(second).unwrap(), ..entry.clone() },
        ] {
            let (mut other, leaf) = (lines.clone(), changed.leaf());
            other[place] = Line::Entry { entry: changed, leaf };
            let told = check(&pki, &other).unwrap_err();
            assert_eq!(told.entries(), Some(entry.seq..=entry.seq), "{told}");
        }
    }
}

#[tokio::test]
async fn what_a_site_does_not_believe_of_the_log_is_told_once_in_the_audit_log() {
    let coordinator = Coordinator::start(1).await;
    for doubt in [Doubt::Clock, Doubt::Clock, Doubt::Fork, Doubt::Clock] {
        let beat = Beat { doubt: Some(doubt), ..idle("0.1.0".to_owned()) };
        coordinator.handle.heartbeat(&site("mayo"), beat).await.unwrap();
        coordinator.beat("mayo", Activity::Idle).await;
    }
    let events = coordinator.store.events(0, 100).await.unwrap();
    let told: Vec<&str> = events
        .iter()
        .filter(|event| event.kind == "site_doubts")
        .map(|event| event.detail.as_str())
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("site mayo") && told[0].contains("clock"), "{told:?}");
    assert!(told[1].contains("fork"), "{told:?}");
}
