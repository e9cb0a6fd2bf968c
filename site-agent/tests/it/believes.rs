//! What a site believes of what the coordinator has signed: base models, heads of the log, receipts; and
//! what of it outlives the agent.

use fedpaint_proto::log::{self, Entry, SignedHead, TreeHead};
use fedpaint_proto::merkle::{Frontier, Hash};
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::plan::ROUNDS_MAX;
use fedpaint_proto::signing::{self, Authority, PURPOSE, Signed, Signer};
use fedpaint_proto::statement::{Manifest, Receipt};
use fedpaint_proto::v1;
use fedpaint_site_agent::lineage::{self, Asked, Last};
use fedpaint_site_agent::receipt;
use fedpaint_site_agent::witness::{self, Doubt, Told};
use fedpaint_site_agent::workspace::{self, Workspace};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;

const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// The root of federation `brain`.
pub(crate) struct Pki {
    root: CertificateParams,
    key: KeyPair,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Pki { root, key: KeyPair::generate().unwrap() }
    }

    pub(crate) fn authority(&self) -> Authority {
        let root = self.root.self_signed(&self.key).unwrap();
        Authority::new("brain".parse().unwrap(), &[root.der().clone()]).unwrap()
    }

    /// Who signs as `coordinator/main` or `site/mayo`.
    pub(crate) fn signer(&self, role: &str) -> Signer {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://brain/{role}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(PURPOSE.to_vec())];
        let issuer = Issuer::from_params(&self.root, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Signer::new(&[certificate.der().clone()], &key).unwrap()
    }
}

fn blob(text: &str) -> Blob {
    Blob { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
}

fn round(number: u32) -> RoundId {
    RoundId { run: "t1".parse().unwrap(), number, attempt: 1 }
}

/// The manifest of the model that `version` of the run made: `model-<version>`, by `plan`.
fn manifest(version: u32) -> Manifest {
    Manifest {
        federation: "brain".parse().unwrap(),
        run: "t1".parse().unwrap(),
        version,
        attempt: u32::from(version > 0),
        parent: version.checked_sub(1).map(|parent| blob(&format!("model-{parent}")).digest),
        plan: Digest::of(b"plan"),
        model: blob(&format!("model-{version}")),
        ema: None,
        contributors: Vec::new(),
    }
}

/// What the site trained in round `number`.
fn last(number: u32) -> Last {
    let base = blob(&format!("model-{}", number - 1)).digest;
    Last { number, base, plan: Digest::of(b"plan") }
}

#[test]
fn a_round_is_trained_from_the_model_that_follows_from_the_last_one_and_no_other() {
    let pki = Pki::new();
    let (authority, main) = (pki.authority(), pki.signer("coordinator/main"));
    let judged = |last: Option<Last>, number: u32, base: &str, manifest: Manifest, by: &Signer| {
        let plan = Digest::of(b"plan");
        let asked = Asked { round: &round(number), base: blob(base), plan };
        let signed = Signed::by(by, manifest);
        lineage::judge(&authority, last.as_ref(), &asked, &signed, NOW).map_err(|r| r.to_string())
    };
    let honest = |last, number: u32| {
        let base = format!("model-{}", number - 1);
        judged(last, number, &base, manifest(number - 1), &main)
    };
    assert_eq!(honest(None, 1), Ok(()));
    assert_eq!(honest(Some(last(1)), 2), Ok(()));
    assert_eq!(honest(Some(last(2)), 2), Ok(()), "the same round again, as after a restart");
    assert_eq!(honest(Some(last(1)), 5), Ok(()), "a site may miss rounds");

    let other_plan = Digest::of(b"other plan");
    let changed = Last { plan: other_plan, ..last(1) };
    let elsewhere = Last { base: blob("elsewhere").digest, ..last(1) };
    let otherwise = Last { base: blob("elsewhere").digest, ..last(2) };
    let foreign = Pki::new();
    for (outcome, word) in [
        (judged(None, 1, "model-0", manifest(0), &pki.signer("site/mayo")), "only a coordinator"),
        (
            judged(None, 1, "model-0", manifest(0), &foreign.signer("coordinator/main")),
            "not one of",
        ),
        (judged(None, 1, "another", manifest(0), &main), "its manifest is of model"),
        (judged(None, 2, "model-0", manifest(0), &main), "the manifest is of version 0"),
        (
            judged(None, 1, "model-0", Manifest { plan: other_plan, ..manifest(0) }, &main),
            "not the one that the base model was made by",
        ),
        (
            judged(
                None,
                1,
                "model-0",
                Manifest { run: "t2".parse().unwrap(), ..manifest(0) },
                &main,
            ),
            "is of run t2",
        ),
        (honest(Some(changed), 2), "not the one that this site has trained the run by"),
        (honest(Some(last(3)), 2), "this site has trained round 3"),
        (honest(Some(otherwise), 2), "and now from"),
        (honest(Some(elsewhere), 2), "was not made from the model"),
        (honest(None, ROUNDS_MAX + 1), "no run has more than 100000"),
    ] {
        let refused = outcome.unwrap_err();
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

/// A log of so many entries, the hash of each, and what the coordinator says of it.
struct Log {
    leaves: Vec<Hash>,
}

impl Log {
    fn of(size: u64, name: &str) -> Log {
        let entry = |number| Hash::of_leaf(format!("{name} {number}").as_bytes());
        Log { leaves: (0..size).map(entry).collect() }
    }

    fn head(&self, by: &Signer, at: Timestamp) -> SignedHead {
        let mut tree = Frontier::default();
        self.leaves.iter().for_each(|leaf| drop(tree.push(*leaf)));
        let (size, root) = (tree.size(), tree.root());
        Signed::by(by, TreeHead { federation: "brain".parse().unwrap(), size, root, at })
    }

    /// The proof from `old` entries, of at most two, as RFC 6962 has it for the sizes used here.
    fn proof(&self, old: u64) -> Vec<Hash> {
        match (old, self.leaves.len()) {
            (1, 2) => vec![self.leaves[1]],
            _ => Vec::new(),
        }
    }
}

#[test]
fn a_head_is_believed_that_is_signed_timely_and_over_what_was_shown_before() {
    let pki = Pki::new();
    let (authority, main) = (pki.authority(), pki.signer("coordinator/main"));
    let (one, two, other) = (Log::of(1, "a"), Log::of(2, "a"), Log::of(2, "b"));
    let told =
        |log: &Log, by: &Signer, at| Told { head: Some(log.head(by, at)), proof: log.proof(1) };
    let judge = |kept: Option<&SignedHead>, told: &Told| {
        witness::judge(&authority, kept, told, NOW).map(|head| head.statement.size)
    };
    let (first, second) = (one.head(&main, NOW), two.head(&main, NOW));
    assert_eq!(judge(None, &told(&two, &main, NOW)).unwrap(), 2);
    assert_eq!(judge(Some(&first), &told(&two, &main, NOW)).unwrap(), 2);
    let same = Told { proof: Vec::new(), ..told(&two, &main, NOW) };
    assert_eq!(judge(Some(&second), &same).unwrap(), 2);

    // What may heal by itself is asked for again.
    let tomorrow = NOW + SignedDuration::from_hours(24);
    for (told, word) in [
        (Told::default(), "signs no head"),
        (told(&two, &pki.signer("site/mayo"), NOW), "only a coordinator"),
        (told(&two, &Pki::new().signer("coordinator/main"), NOW), "not one of"),
        (told(&two, &main, tomorrow), "one of the two clocks"),
    ] {
        let doubt = judge(Some(&first), &told).unwrap_err();
        assert!(doubt.to_string().contains(word) && !doubt.is_proof(), "{word}: {doubt}");
    }
    // What no honest coordinator signs ends the agent.
    let unproven = Told { proof: Vec::new(), ..told(&two, &main, NOW) };
    for (kept, told, fork) in [
        (&second, told(&one, &main, NOW), false),
        (&second, Told { proof: Vec::new(), ..told(&other, &main, NOW) }, true),
        (&first, told(&other, &main, NOW), true),
        (&first, unproven, true),
    ] {
        let doubt = judge(Some(kept), &told).unwrap_err();
        assert!(doubt.is_proof(), "{doubt}");
        assert_eq!(matches!(doubt, Doubt::Fork { .. }), fork, "{doubt}");
    }
}

/// The receipt for the update whose envelope is `envelope`: entry 1 of a log of one.
fn taken(by: &Signer, envelope: Digest) -> v1::Receipt {
    let entry = Entry {
        seq: 1,
        at: NOW,
        actor: "site/mayo".into(),
        kind: "update_accepted".into(),
        detail: "round t1/1/1".into(),
        document: Some(envelope),
    };
    let federation = "brain".parse().unwrap();
    let said = Signed::by(by, Receipt { federation, envelope, entry: 1, at: NOW });
    let head = Log { leaves: vec![entry.leaf()] }.head(by, NOW);
    v1::Receipt {
        entry: 1,
        at_micros: NOW.as_microsecond(),
        signature: Some(said.signature_to_wire()),
        event: Some(v1::Event {
            seq: 1,
            at: Some(prost_types::Timestamp { seconds: NOW.as_second(), nanos: 0 }),
            actor: entry.actor,
            kind: entry.kind,
            detail: entry.detail,
            document: envelope.as_bytes().to_vec(),
        }),
        head: Some(log::to_wire(&head)),
        inclusion: Vec::new(),
    }
}

#[test]
fn a_receipt_counts_for_the_update_that_it_names_with_an_entry_that_is_in_the_log() {
    let pki = Pki::new();
    let (authority, main) = (pki.authority(), pki.signer("coordinator/main"));
    let envelope = Digest::of(b"envelope");
    let judge = |told: Option<v1::Receipt>| {
        receipt::judge(&authority, envelope, told, NOW).map_err(|refusal| refusal.to_string())
    };
    let good = taken(&main, envelope);
    assert_eq!(judge(Some(good.clone())).unwrap().entry.seq, 1);
    let mut reworded = good.clone();
    reworded.event.as_mut().unwrap().detail = "round t1/9/9".into();
    let mut unsigned = good.clone();
    unsigned.signature = None;
    let mut headless = good.clone();
    headless.head = None;
    let mut vouched = good.clone();
    vouched.head = taken(&pki.signer("site/mayo"), envelope).head;
    let mut others = good.clone();
    others.event.as_mut().unwrap().document = Digest::of(b"another").as_bytes().to_vec();
    let mut long = good;
    long.inclusion = vec![vec![0; 32]; 1_000];
    for (told, word) in [
        (None, "gives no receipt"),
        (Some(unsigned), "signature"),
        (Some(headless), "head"),
        (Some(long), "proof"),
        (Some(reworded), "not in the log"),
        (Some(taken(&pki.signer("site/mayo"), envelope)), "only a coordinator"),
        (Some(vouched), "only a coordinator"),
        (Some(others), "not for this update"),
        (Some(taken(&main, Digest::of(b"another"))), "is not over this"),
    ] {
        let refused = judge(told).unwrap_err();
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn what_a_site_was_shown_and_has_trained_outlives_the_agent_until_a_human_takes_another_head() {
    let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let main = pki.signer("coordinator/main");
    let (first, second) = (Log::of(1, "a").head(&main, NOW), Log::of(1, "b").head(&main, NOW));
    let open = || Workspace::open(folder.path()).unwrap();
    assert_eq!(open().head().unwrap(), None);
    open().keep_head(&first).unwrap();
    open().note(&round(1).run, last(1)).unwrap();
    open().note(&round(2).run, last(2)).unwrap();
    // Of one that was given up.
    open().note(&round(1).run, last(1)).unwrap();
    assert_eq!(open().head().unwrap(), Some(first.clone()));
    assert_eq!(open().history().unwrap()[&round(1).run], last(2));

    open().accept_head(&second, NOW).unwrap();
    assert_eq!(open().head().unwrap(), Some(second));
    assert!(open().history().unwrap().is_empty(), "a coordinator that went back asks again");
    let kept = std::fs::read_dir(folder.path().join("evidence")).unwrap().next().unwrap().unwrap();
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kept.path()).unwrap()).unwrap();
    assert_eq!(kept["before"], serde_json::to_value(&first).unwrap());
}

#[test]
fn a_head_or_history_that_does_not_read_is_not_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = |name: &str, read: fn(&Workspace) -> Result<(), workspace::Error>| {
        let path = folder.path().join(name);
        std::fs::write(&path, "{").unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let error = read(&workspace).unwrap_err();
        assert!(matches!(error, workspace::Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        std::fs::remove_file(&path).unwrap();
    };
    damaged("head.json", |workspace| workspace.head().map(drop));
    damaged("history.json", |workspace| workspace.history().map(drop));
}

#[test]
fn a_head_or_history_with_one_bit_flipped_anywhere_is_told_and_never_believed() {
    let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let workspace = Workspace::open(folder.path()).unwrap();
    let head = Log::of(3, "a").head(&pki.signer("coordinator/main"), NOW);
    workspace.keep_head(&head).unwrap();
    workspace.note(&round(1).run, last(1)).unwrap();
    type Reading = fn(&Workspace) -> Result<(), workspace::Error>;
    let files: [(&str, Reading); 2] = [
        ("head.json", |workspace| workspace.head().map(drop)),
        ("history.json", |workspace| workspace.history().map(drop)),
    ];
    for (name, read) in files {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            let error = read(&workspace).unwrap_err();
            assert!(matches!(error, workspace::Error::Damaged { .. }), "{name} {bit}: {error}");
        }
        std::fs::write(&path, whole).unwrap();
        read(&workspace).unwrap();
    }
    assert_eq!(workspace.head_of(&pki.authority()).unwrap(), Some(head));
}

#[test]
fn a_head_that_an_older_agent_kept_is_held_against_its_signature_as_far_as_the_roots_tell() {
    let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let workspace = Workspace::open(folder.path()).unwrap();
    let head = Log::of(3, "a").head(&pki.signer("coordinator/main"), NOW);
    let keep = |head: &SignedHead| {
        let text = serde_json::to_string_pretty(head).unwrap();
        std::fs::write(folder.path().join("head.json"), text).unwrap();
    };
    keep(&head);
    assert_eq!(workspace.head_of(&pki.authority()).unwrap(), Some(head.clone()));
    // Under other roots nobody can tell, and that is no reason to know nothing.
    let others = Pki::new().authority();
    assert_eq!(workspace.head_of(&others).unwrap(), Some(head.clone()));
    let mut harmed = head;
    harmed.statement.size = 9;
    keep(&harmed);
    let error = workspace.head_of(&pki.authority()).unwrap_err();
    assert!(matches!(error, workspace::Error::Damaged { .. }), "{error}");
}

#[test]
fn a_signature_counts_only_while_its_certificate_holds() {
    let pki = Pki::new();
    let (authority, main) = (pki.authority(), pki.signer("coordinator/main"));
    let signed = Signed::by(&main, manifest(0));
    assert!(signed.by_coordinator(&authority, NOW).is_ok());
    let before = Timestamp::constant(1_000, 0);
    let refused = signed.by_coordinator(&authority, before).unwrap_err();
    assert!(matches!(refused, signing::Error::Certificate(_)), "{refused}");
}
