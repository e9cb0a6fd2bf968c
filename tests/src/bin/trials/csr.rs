//! Hostile requests for certificates, and what is done with join tokens that one should not do.
//!
//! A request is honoured if anything of what it asks for is in the certificate but its public key. Half of
//! them come by a renewal, whose limit is no address, the others with tokens.

use std::path::Path;

use anyhow::{Context, ensure};
use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::enrolment::{Pin, Token};
use fedpaint_proto::identity::{Identity, Validity};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::renewal::TlsKey;
use fedpaint_proto::v1;
use fedpaint_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use fedpaint_proto::v1::identity_service_client::IdentityServiceClient;
use fedpaint_site_agent::keys::SiteKey;
use fedpaint_tests::lab::{FEDERATION, Lab, LabOptions};
use fedpaint_tests::outcome::Outcome;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::Status;

use crate::Args;

/// How many requests, if nobody says otherwise.
const COUNT: usize = 200;

/// How long a certificate of the lab's coordinator lasts, in seconds.
const LEAF_S: u32 = 3_600;

/// How many requests one site makes; its keys are bounded.
const PER_SITE: usize = 8;

pub(crate) async fn csr(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let count = args.count.unwrap_or(COUNT);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let options = LabOptions { leaf_s: Some(LEAF_S), ..LabOptions::default() };
    let mut lab = Lab::prepare(work, options)?;
    lab.start_coordinator()?;
    let mut outcome = Outcome::default();
    let (mut honoured, mut refused, mut tamed) = (0, 0, 0);
    let mut site = String::new();
    for n in 0..count {
        if n % PER_SITE == 0 {
            site = format!("site-{}", n / PER_SITE);
            lab.enroll(&site)?;
        }
        let (what, request) = hostile(n, &mut rng)?;
        let mut client = IdentityServiceClient::new(lab.channel(&site).await?);
        let answer = client.renew(v1::RenewRequest { csr: request.csr.clone() }).await;
        match answer {
            Err(status) => {
                let reason = Reason::of(&status);
                ensure!(reason == Some(Reason::InvalidRequest), "{what}: {status:?}");
                refused += 1;
            }
            Ok(answer) => match judge(&answer.into_inner().certificate_pem, &site, &request) {
                Ok(()) => tamed += 1,
                Err(why) => {
                    honoured += 1;
                    outcome.require(false, || format!("{what} was honoured: {why}"));
                }
            },
        }
    }
    outcome.set("requests", count);
    outcome.set("honoured", honoured);
    outcome.set("refused", refused);
    outcome.set("only_the_key_taken", tamed);
    tokens(&lab, &mut outcome).await?;
    Ok(outcome)
}

/// A request, and the key that it is for.
struct Hostile {
    csr: Vec<u8>,
    key: Vec<u8>,
}

/// The request number `n`, and what is wrong with it.
fn hostile(n: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<(&'static str, Hostile)> {
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()])?;
    let mut algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let uri = |name: &str| -> anyhow::Result<SanType> {
        Ok(SanType::URI(format!("spiffe://{FEDERATION}/{name}").as_str().try_into()?))
    };
    let what = match n % 10 {
        0 => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            "a request for an authority"
        }
        1 => {
            params.subject_alt_names.push(uri("operator/ada")?);
            "a request in an operator's name"
        }
        2 => {
            params.subject_alt_names.push(uri("coordinator/main")?);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            "a request to play coordinator"
        }
        3 => {
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
            "a request for any use"
        }
        4 => {
            // A request cannot say how long; a certificate in its place can.
            params.not_after = rcgen::date_time_ymd(2126, 1, 1);
            "a certificate of 100 years for a request"
        }
        5 => {
            algorithm = &rcgen::PKCS_ED25519;
            "a request with a key for signing"
        }
        6 => {
            algorithm = &rcgen::PKCS_ECDSA_P384_SHA384;
            "a request with another curve"
        }
        7 => "a request that is not signed by its key",
        8 => "a request with a weak key",
        _ => {
            for other in 0..20 {
                params.subject_alt_names.push(uri(&format!("site/other-{other}"))?);
            }
            "a request in twenty names"
        }
    };
    let key = KeyPair::generate_for(algorithm)?;
    let mut csr = match n % 10 {
        4 => params.self_signed(&key)?.der().to_vec(),
        _ => params.serialize_request(&key)?.der().to_vec(),
    };
    let mut spki = key.subject_public_key_info();
    match n % 10 {
        7 => {
            let last = csr.len() - 1 - rng.random_range(0..32);
            csr[last] ^= 1 << rng.random_range(0..8);
        }
        // RSA of 512 bits, as no library makes it any more: the key's bytes within a request of ours.
        8 => (csr, spki) = weak(&csr, &spki),
        _ => {}
    }
    Ok((what, Hostile { csr, key: spki }))
}

/// The request with a key of RSA-512 in place of its own; lengths are put right, the signature cannot be.
fn weak(csr: &[u8], own: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // SubjectPublicKeyInfo of rsaEncryption with a modulus of 64 bytes and the exponent 65537.
    let mut weak = vec![0x30, 0x5c, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d];
    weak.extend([0x01, 0x01, 0x01, 0x05, 0x00, 0x03, 0x4b, 0x00, 0x30, 0x48, 0x02, 0x41, 0x00]);
    weak.extend([0xc3; 64]);
    weak.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let at = csr.windows(own.len()).position(|window| window == own).unwrap_or_default();
    let mut body = csr.to_vec();
    body.splice(at..at + own.len(), weak.iter().copied());
    // Both sequences round the key have grown; each has a length of two bytes after `30 82`.
    let grown = weak.len() - own.len();
    for start in [0, 4] {
        if body[start..].starts_with(&[0x30, 0x82]) {
            let length = usize::from(body[start + 2]) << 8 | usize::from(body[start + 3]);
            let length = u16::try_from(length + grown).unwrap_or(u16::MAX).to_be_bytes();
            body[start + 2..start + 4].copy_from_slice(&length);
        }
    }
    (body, weak)
}

/// Whether a certificate is what `site` would have got for an honest request.
fn judge(chain: &str, site: &str, request: &Hostile) -> Result<(), String> {
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|e| e.to_string())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
    let identity = Identity::from_certificate(&der).map_err(|e| e.to_string())?;
    let expected = format!("spiffe://{FEDERATION}/site/{site}");
    let validity = Validity::of_certificate(&der).map_err(|e| e.to_string())?;
    let life = validity.not_after.duration_since(validity.not_before).as_secs();
    let names = certificate.subject_alternative_name().ok().flatten();
    let usage = certificate.extended_key_usage().ok().flatten();
    let key_usage = certificate.key_usage().ok().flatten();
    for (holds, what) in [
        (identity.to_string() == expected, "its name"),
        (names.is_some_and(|names| names.value.general_names.len() == 1), "its names"),
        (!certificate.is_ca(), "that it is an authority"),
        (
            certificate.subject().to_string() == format!("O={FEDERATION}, CN=site/{site}"),
            "its subject",
        ),
        (certificate.public_key().raw == request.key, "another key"),
        (life <= i64::from(LEAF_S) * 11 / 10, "how long it lasts"),
        (
            usage.is_some_and(|usage| {
                let usage = usage.value;
                usage.client_auth && !usage.any && !usage.server_auth && !usage.code_signing
            }),
            "what it is good for",
        ),
        (key_usage.is_some_and(|usage| !usage.value.key_cert_sign()), "what its key is good for"),
    ] {
        if !holds {
            return Err(what.to_owned());
        }
    }
    Ok(())
}

/// What one should not do with a join token.
async fn tokens(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut refused = 0;
    // Guesses burn it, so that the right secret is of no use after five.
    let guessed = invite(lab, "guessed", &[])?;
    for n in 0..5 {
        let guess = Token { secret: [n; 32], ..guessed.clone() };
        refused += expect(outcome, "a guess", join(lab, &guess, &keys()?).await?);
    }
    refused += expect(outcome, "a burnt token", join(lab, &guessed, &keys()?).await?);
    // Whoever comes second with it is refused, and does not hold up the first.
    let used = invite(lab, "used", &["--auto-approve"])?;
    let first = keys()?;
    let admitted = join(lab, &used, &first).await?;
    outcome.require(admitted.is_ok_and(|a| !a.certificate_pem.is_empty()), || "no join".into());
    refused += expect(outcome, "a token that was used", join(lab, &used, &keys()?).await?);
    let again = join(lab, &used, &first).await?;
    outcome.require(again.is_ok_and(|a| !a.certificate_pem.is_empty()), || "lost answer".into());
    // Another site's, and nobody's.
    let other = invite(lab, "one", &[])?;
    let swapped = Token { site: "another".parse()?, ..other.clone() };
    refused += expect(
        outcome,
        "a token for a site that was not invited",
        join(lab, &swapped, &keys()?).await?,
    );
    lab.fedctl(&["site", "reject", "one"])?;
    refused += expect(outcome, "a token that was rejected", join(lab, &other, &keys()?).await?);
    // A token is not approved by other words than those of the keys.
    let waiting = invite(lab, "waiting", &[])?;
    let pending = join(lab, &waiting, &keys()?).await??;
    ensure!(pending.certificate_pem.is_empty(), "a site was let in that nobody approved");
    let wrong = lab.fedctl(&["site", "approve", "waiting", "lusab-babad-gutih-tugad-mudof-sakat"]);
    outcome.require(wrong.is_err(), || "other words were approved".into());
    // The site's own refusal: another root than the token's.
    let address: Address = lab.address().parse()?;
    let pin = channel::join_by(&Route::default(), &address, Pin([7; 32])).await;
    let pinned = matches!(&pin, Err(channel::Error::Untrusted { .. }));
    outcome.require(pinned, || "a coordinator with another root was believed".into());
    outcome.set("tokens_refused", refused);
    outcome.set("wrong_pins_refused", u32::from(pinned));
    let events = lab.fedctl(&["events"])?;
    let logged = events.lines().filter(|line| line.contains("join_refused")).count();
    outcome.set("refusals_logged", logged);
    outcome.require(logged == 6, || format!("{logged} refusals are in the audit log, not 6"));
    outcome.require(events.contains("invitation_ended"), || "no burnt token is told of".into());
    Ok(())
}

/// One if whoever asks was refused for its token, and a finding if not.
fn expect(outcome: &mut Outcome, what: &str, answer: Result<v1::JoinResponse, Status>) -> u32 {
    let refused = answer.as_ref().err().and_then(Reason::of) == Some(Reason::JoinRefused);
    outcome.require(refused, || format!("{what}: {answer:?}"));
    refused.into()
}

fn invite(lab: &Lab, site: &str, more: &[&str]) -> anyhow::Result<Token> {
    let args: Vec<&str> = ["site", "invite", site].iter().chain(more).copied().collect();
    Ok(lab.fedctl_json(&args)?["token"].as_str().context("a token")?.parse()?)
}

fn keys() -> anyhow::Result<(TlsKey, SiteKey)> {
    Ok((TlsKey::fresh()?, SiteKey::fresh()?))
}

/// Asks once to join.
async fn join(
    lab: &Lab,
    token: &Token,
    (tls, signing): &(TlsKey, SiteKey),
) -> anyhow::Result<Result<v1::JoinResponse, Status>> {
    let address: Address = lab.address().parse()?;
    let channel = channel::join_by(&Route::default(), &address, token.root).await?;
    let keys = signing.with(tls)?;
    let request = v1::JoinRequest {
        name: token.site.to_string(),
        secret: token.secret.to_vec(),
        csr: tls.csr.clone(),
        signing_key: keys.signing.to_vec(),
        proof: signing.sign(&keys.proof_message(&token.site, &token.secret_digest()))?,
        wire_version: fedpaint_proto::wire::WIRE_VERSION,
    };
    let answer = EnrolmentServiceClient::new(channel).join(request).await;
    Ok(answer.map(tonic::Response::into_inner))
}
