//! What the fuzz targets hold any bytes to, in every run of the tests: over the committed corpora and over
//! some thousand mutations of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fedpaint_proto::enrolment::{Pin, SECRET_BYTES, Token};
use fedpaint_proto::plan::{PlanSignature, PlanSigner, RunPlan};
use fedpaint_proto::signing::{Signed, Signer};
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::v1::{GetRunPlanResponse, SubmitUpdateRequest, TrainingReport};
use fedpaint_tests::hostile::{csr, envelope, log_proof, plan, policy, tensors, token};
use fedpaint_tests::lab::OPEN_POLICY;
use fedpaint_tests::models;
use prost::Message;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// How many mutations of its corpus each part is shown.
const MUTATIONS: usize = 4_000;

/// The longest input, as of the fuzzers.
const BYTES_MAX: usize = 8_192;

type Any = fn(&[u8]) -> bool;

/// The parts by the names of their fuzz targets.
const PARTS: [(&str, Any); 7] = [
    ("token", token::any),
    ("csr", csr::any),
    ("envelope", envelope::any),
    ("log_proof", log_proof::any),
    ("policy", policy::any),
    ("plan", plan::any),
    ("tensors", tensors::any),
];

fn folder(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(part)
}

/// The committed seeds of a part, by name.
fn corpus(part: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder(part)).unwrap().flatten();
    let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    let seeds = named.filter(|(name, _)| name.starts_with("seed-"));
    seeds.map(|(name, path)| (name, std::fs::read(path).unwrap())).collect()
}

#[test]
fn each_seed_of_the_fuzzers_is_taken_or_refused_as_its_name_says() {
    for (part, any) in PARTS {
        let seeds = corpus(part);
        assert!(seeds.len() >= 4, "{part}");
        for (name, bytes) in seeds {
            assert_eq!(any(&bytes), name.starts_with("seed-good-"), "{part}/{name}");
        }
    }
}

#[test]
fn thousands_of_mutations_are_taken_or_refused_and_nothing_panics() {
    for (part, any) in PARTS {
        let seeds: Vec<Vec<u8>> = corpus(part).into_values().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(0x5EED);
        let mut taken = 0;
        for _ in 0..MUTATIONS {
            let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
            for _ in 0..rng.random_range(0..5) {
                let other = &seeds[rng.random_range(0..seeds.len())];
                mutate(&mut bytes, other, &mut rng);
            }
            taken += usize::from(any(&bytes));
        }
        // Both ways through a reader were gone.
        assert!(taken > MUTATIONS / 100 && taken < MUTATIONS, "{part}: {taken}");
    }
}

/// Numbers at which readers go wrong.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e400",
    "-0.0",
    "1e-400",
    "nan",
    "inf",
    "0x10",
];

/// Changes some bytes at one place.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..16)).min(bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => {
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n'][rng.random_range(0..6)]
        }
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => {
            let mut noise = [0; 8];
            rng.fill_bytes(&mut noise);
            bytes.splice(at..at, noise);
        }
        5 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        6 => {
            let digits = |byte: &u8| byte.is_ascii_digit();
            if let Some(from) = bytes[at..].iter().position(digits).map(|skip| at + skip) {
                let length = bytes[from..].iter().take_while(|b| digits(b)).count();
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
                bytes.splice(from..from + length, number.bytes());
            }
        }
        _ => bytes.truncate(at),
    }
    bytes.truncate(BYTES_MAX);
}

/// What the corpora are made of, by part and name.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut made = Vec::new();
    made.extend(of_token().map(|(name, text)| ("token", name, text.into_bytes())));
    made.extend(of_plan().map(|(name, text)| ("plan", name, text.into_bytes())));
    made.extend(of_policy().map(|(name, bytes)| ("policy", name, bytes)));
    made.extend(of_tensors().map(|(name, bytes)| ("tensors", name, bytes)));
    made.extend(of_envelope().into_iter().map(|(name, bytes)| ("envelope", name, bytes)));
    made.extend(of_log_proof().map(|(name, bytes)| ("log_proof", name, bytes)));
    made.extend(of_csr().map(|(name, bytes)| ("csr", name, bytes)));
    made
}

fn of_token() -> [(&'static str, String); 6] {
    let token = Token {
        site: "mayo".parse().unwrap(),
        root: Pin::of_public_key(b"root"),
        secret: [0xa5; SECRET_BYTES],
    };
    let text = token.to_string();
    [
        ("seed-good-token", text.clone()),
        ("seed-good-pasted", format!("  {text}\r\n")),
        ("seed-bad-version", text.replace("fedjoin1", "fedjoin2")),
        ("seed-bad-site", text.replace("mayo", "Mayo")),
        ("seed-bad-cut", text[..text.len() - 1].to_owned()),
        ("seed-bad-longer", format!("{text}.AAAA")),
    ]
}

/// A sample without its comments, of which a fuzzer learns nothing.
fn bare(sample: &str) -> String {
    let lines = sample.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

fn of_plan() -> [(&'static str, String); 6] {
    let short = "version = 1\nrounds = 5\n";
    [
        ("seed-good-sample", bare(include_str!("../deploy/run.toml"))),
        ("seed-good-short", short.to_owned()),
        (
            "seed-good-late",
            format!(
                "{short}[round]\nlate = \"fold\"\nlate_rounds_max = 2\n[training]\nprecision = \
                 \"bf16\"\nmicro_batch = 4\n[aggregation]\noptimizer = \"adam\"\nlearning_rate = 1e-3\n"
            ),
        ),
        ("seed-bad-version", short.replace("= 1", "= 2")),
        ("seed-bad-number", format!("{short}[training]\nlearning_rate = nan\n")),
        ("seed-bad-field", format!("{short}[training]\nlearningrate = 1\n")),
    ]
}

/// The key of the fixtures, which has signed one plan and one update.
fn key() -> PrivatePkcs8KeyDer<'static> {
    let key = include_bytes!("fixtures/signing/mayo.signing.key");
    PrivatePkcs8KeyDer::from_pem_slice(key).unwrap()
}

/// A policy, and a plan behind it as a coordinator tells it.
fn told(policy: &str, plan: &str, signature: Option<PlanSignature>) -> Vec<u8> {
    let plan_signature = signature.map(|signature| signature.to_wire());
    let told = GetRunPlanResponse { plan_toml: plan.to_owned(), plan_signature };
    [policy.as_bytes(), &[0], &told.encode_to_vec()].concat()
}

fn of_policy() -> [(&'static str, Vec<u8>); 11] {
    let sample = bare(include_str!("../deploy/policy.toml"));
    let plan = bare(include_str!("../deploy/run.toml"));
    let once = RunPlan::from_toml(policy::SIGNED_ONCE).unwrap();
    let signed = PlanSigner::new(&key()).unwrap().sign(&once);
    let human = OPEN_POLICY.replace("none", "each_plan");
    let signer = format!("[plan]\nsigners = [\"{}\"]\n", policy::SIGNER);
    let named = OPEN_POLICY.replace("[plan]\n", &signer);
    let other = policy::SIGNED_ONCE.replace('3', "4");
    [
        ("seed-good-sample", sample.into_bytes()),
        ("seed-good-nothing", Vec::new()),
        ("seed-good-open", told(OPEN_POLICY, &plan, None)),
        ("seed-good-human", told(&human, &plan, None)),
        ("seed-good-signed", told(&named, policy::SIGNED_ONCE, Some(signed))),
        ("seed-good-signed-another", told(&named, &other, Some(signed))),
        ("seed-good-signed-by-nobody", told(&named, policy::SIGNED_ONCE, None)),
        ("seed-good-signed-unasked", told(OPEN_POLICY, &plan, Some(signed))),
        ("seed-bad-field", b"[egres]\nbytes_per_round_max = 1\n".to_vec()),
        ("seed-bad-hours", b"[run]\nhours = [\"19:00\"]\n".to_vec()),
        ("seed-bad-metric", b"[egress]\nmetrics = [\"patients\"]\n".to_vec()),
    ]
}

fn of_tensors() -> [(&'static str, Vec<u8>); 7] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    models::write(&path, models::specs(), |tensor, element| (tensor + element) as f32).unwrap();
    let model = std::fs::read(&path).unwrap();
    models::write(&path, models::specs(), |_, _| f32::NAN).unwrap();
    let nan = std::fs::read(&path).unwrap();
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let half = r#"{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let endless = r#"{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#;
    let mixed = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}}"#;
    [
        ("seed-good-mixed", [header(mixed), vec![0xff; 8]].concat()),
        ("seed-good-model", model.clone()),
        ("seed-good-nan", nan),
        ("seed-good-half", [header(half), vec![0; 12]].concat()),
        ("seed-bad-cut", model[..model.len() - 1].to_vec()),
        ("seed-bad-endless", header(endless)),
        ("seed-bad-header", [u64::MAX.to_le_bytes().to_vec(), model].concat()),
    ]
}

/// Signed by a key that is good for nothing else; Ed25519 signs the same twice.
fn of_envelope() -> Vec<(&'static str, Vec<u8>)> {
    let certificate = include_bytes!("fixtures/signing/mayo.signing.pem");
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let signer = Signer::new(&chain.unwrap(), &key()).unwrap();
    let good = Signed::by(&signer, envelope::signed_once());
    let other = Envelope { examples: 41, ..envelope::signed_once() };
    let alone = Signed { certificate: chain_of_one(&good.certificate), ..good.clone() };
    let changed = Signed { statement: other, ..good.clone() };
    let other = Envelope { examples: u64::MAX, ..changed.statement.clone() };
    let largest = Signed { statement: other, ..good.clone() };
    [exported(&good, &changed, &alone, &largest), submitted(&good, &changed, &alone)].concat()
}

/// As an export of the audit log has them.
fn exported(
    good: &Signed<Envelope>,
    changed: &Signed<Envelope>,
    alone: &Signed<Envelope>,
    largest: &Signed<Envelope>,
) -> Vec<(&'static str, Vec<u8>)> {
    let text = |signed: &Signed<Envelope>| serde_json::to_vec(signed).unwrap();
    let (field, longer) = ("\"signature\":\"", "\"signature\":\"AAAA");
    let long = String::from_utf8(text(good)).unwrap().replacen(field, longer, 1);
    vec![
        ("seed-good-envelope", text(good)),
        ("seed-good-spaced", serde_json::to_vec_pretty(good).unwrap()),
        ("seed-bad-changed", text(changed)),
        ("seed-bad-alone", text(alone)),
        ("seed-bad-largest", text(largest)),
        ("seed-bad-signature", long.into_bytes()),
    ]
}

/// As the wire carries them.
fn submitted(
    good: &Signed<Envelope>,
    changed: &Signed<Envelope>,
    alone: &Signed<Envelope>,
) -> Vec<(&'static str, Vec<u8>)> {
    let report = TrainingReport { steps: 5, loss_mean: 0.25, ..TrainingReport::default() };
    let request = |signed: &Signed<Envelope>| SubmitUpdateRequest {
        round: Some((&signed.statement.round).into()),
        base_model_digest: signed.statement.base.as_bytes().to_vec(),
        weights: Some(signed.statement.update.into()),
        examples: signed.statement.examples,
        report: Some(report),
        signature: Some(signed.signature_to_wire()),
    };
    let wire = |signed: &Signed<Envelope>| request(signed).encode_to_vec();
    let endless = Some(TrainingReport { loss_last: f64::INFINITY, ..report });
    let endless = SubmitUpdateRequest { report: endless, ..request(good) };
    let unsigned = SubmitUpdateRequest { signature: None, ..request(good) };
    let mut cut = wire(good);
    cut.truncate(100);
    vec![
        ("seed-good-wire", wire(good)),
        ("seed-bad-wire-changed", wire(changed)),
        ("seed-bad-wire-alone", wire(alone)),
        ("seed-bad-wire-report", endless.encode_to_vec()),
        ("seed-bad-wire-unsigned", unsigned.encode_to_vec()),
        ("seed-bad-wire-cut", cut),
    ]
}

/// The first certificate of a chain, without the authority between it and the root.
fn chain_of_one(chain: &[u8]) -> Vec<u8> {
    // DER says how long it is: two bytes of length follow 0x30 0x82.
    let length = usize::from(u16::from_be_bytes([chain[2], chain[3]])) + 4;
    chain[..length].to_vec()
}

fn of_log_proof() -> [(&'static str, Vec<u8>); 5] {
    let of = |small: u64, large: u64, hashes: usize| {
        let mut bytes = [small.to_be_bytes(), large.to_be_bytes()].concat();
        bytes.extend((0..hashes * 32).map(|i| (i % 251) as u8));
        bytes
    };
    [
        ("seed-good-entry", of(5, 13, 4)),
        ("seed-good-beginning", of(8, 8, 3)),
        ("seed-good-largest", of(u64::MAX - 1, u64::MAX, 130)),
        ("seed-bad-nothing", of(0, 1, 0)),
        ("seed-bad-cut", of(1, 2, 0)[..15].to_vec()),
    ]
}

fn of_csr() -> [(&'static str, Vec<u8>); 4] {
    let made = |algorithm, names: &[&str]| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let request = rcgen::CertificateParams::new(names).unwrap().serialize_request(&key);
        request.unwrap().der().to_vec()
    };
    let p256 = made(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    let mut forged = p256.clone();
    // Within the signature, which is last.
    let last = forged.len() - 1;
    forged[last] ^= 1;
    [
        ("seed-good-p256", p256),
        ("seed-good-named", made(&rcgen::PKCS_ECDSA_P256_SHA256, &["coordinator.example"])),
        ("seed-bad-ed25519", made(&rcgen::PKCS_ED25519, &[])),
        ("seed-bad-forged", forged),
    ]
}

#[test]
fn the_committed_seeds_are_those_that_the_builders_make() {
    let made = seeds();
    let anew = tempfile::tempdir().unwrap();
    for (part, name, bytes) in &made {
        std::fs::create_dir_all(anew.path().join(part)).unwrap();
        std::fs::write(anew.path().join(part).join(name), bytes).unwrap();
    }
    let differ: Vec<String> = made
        .iter()
        // A request has a fresh key, and a signature that is never the same.
        .filter(|(part, ..)| *part != "csr")
        .filter(|(part, name, bytes)| corpus(part).get(*name) != Some(bytes))
        .map(|(part, name, _)| format!("{part}/{name}"))
        .collect();
    if !differ.is_empty() {
        let anew = anew.keep();
        panic!("{differ:?} are others in {}: copy them to fuzz/corpus", anew.display());
    }
    for (part, any) in PARTS {
        for (_, name, bytes) in made.iter().filter(|(of, ..)| *of == part) {
            assert_eq!(any(bytes), name.starts_with("seed-good-"), "{part}/{name}");
        }
        let names = made.iter().filter(|(of, ..)| *of == part).count();
        assert!(corpus(part).len() >= names, "{part}");
    }
}

#[test]
fn a_plan_that_a_policys_signer_has_signed_is_followed_and_the_others_of_the_corpus_are_not() {
    let corpus = corpus("policy");
    for (name, followed) in [
        ("seed-good-open", true),
        ("seed-good-signed-unasked", true),
        ("seed-good-signed", true),
        ("seed-good-signed-another", false),
        ("seed-good-signed-by-nobody", false),
    ] {
        assert_eq!(policy::follows(&corpus[name]), Some(followed), "{name}");
    }
}
