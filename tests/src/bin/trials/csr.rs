//! Hostile requests for certificates, and what is done with join tokens that one should not do.
//!
//! A request is honoured if anything of what it asks for is in the certificate but its public key, or if there
//! is a certificate at all where it must be refused. Half of them come by renewals, the others with a fresh
//! token each, so that each kind comes both ways.

mod signing;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, ensure};
use fedpaint_coordinator::ca::RequestError;
use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::enrolment::Token;
use fedpaint_proto::identity::{Identity, KeyId, Validity};
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
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::net::{TcpListener, TcpSocket};
use tonic::Status;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::Args;

/// How many requests, if nobody says otherwise.
const COUNT: usize = 200;

/// How long a certificate of the lab's coordinator lasts, in seconds.
const LEAF_S: u32 = 3_600;

/// How many requests one site makes; its keys are bounded.
const PER_SITE: usize = 8;

/// How many kinds of hostile requests there are.
const KINDS: usize = 10;

/// The first of the addresses that strangers come from, one each; this machine has all of 127.0.0.0/8.
const STRANGERS: u32 = 0x7f01_0001;

/// A request with a weak key, RSA of 1024 bits, that is signed by that key. With SHA-1, because the library that
/// checks signatures takes so short a key with no other digest: nothing but the key is left to refuse it for.
/// Made, once, by `openssl req -new -newkey rsa:1024 -sha1 -nodes -keyout /dev/null -subj /CN=x`.
const WEAK: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBSzCBtQIBADAMMQowCAYDVQQDDAF4MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB
iQKBgQCXCORVX+hcwW6AeZ+DPIXqFMXxZGnW7NRaXs93W5+7OhgRW8/Np/xd+WlP
IANDb4oM853cgxShjuFYNsVQWrs4LeAhEvR21aTAWYFlD0wliPo0/wFiJYp4V0nX
SZQW2h0bk8UXbNOwFSjEoDci0GZAipzf08AxUCfjkfCQDEO2dQIDAQABoAAwDQYJ
KoZIhvcNAQEFBQADgYEAXUMQIje0hwPVpSpDvGXDxw92hE/auo0Q9JFeMJroH1ab
E0mHqZswdd7gqU7qV71EeORfqP/m/C/h4hUAp8dPRtlQv4z3ID29cpclP5FSMxjW
xrLuJ4ai/92CEus8RTdpZhqzZPW/vUCzo3ci5vvti32s3e/OxYXv5s2VUyBfpkE=
-----END CERTIFICATE REQUEST-----
";

pub(crate) async fn csr(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let options = LabOptions { leaf_s: Some(LEAF_S), ..LabOptions::default() };
    let mut lab = Lab::prepare(work, options)?;
    lab.start_coordinator()?;
    let mut outcome = Outcome::default();
    requests(&lab, args, &mut outcome).await?;
    signing::certificates(&lab, &mut outcome).await?;
    tokens::tokens(&mut lab, &mut outcome).await?;
    Ok(outcome)
}

/// Hostile requests, every other one with a token: each is refused for what is wrong with it, or has only its
/// key taken.
async fn requests(lab: &Lab, args: &Args, outcome: &mut Outcome) -> anyhow::Result<()> {
    let count = args.count.unwrap_or(COUNT);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let (mut joining, mut honoured, mut refused, mut tamed) = (0, 0, 0, 0);
    for n in 0..count {
        let request = hostile(n / 2 % KINDS, &mut rng)?;
        let (what, joins) = (request.what, n % 2 == 1);
        joining += usize::from(joins);
        let (site, answer) = match joins {
            true => by_joining(lab, n / 2, &request).await?,
            false => by_renewing(lab, n / 2, &request).await?,
        };
        match answer {
            Err(status) => {
                ensure!(request.is_refused_by(&status), "{what}, of {site}: {status:?}");
                refused += 1;
            }
            Ok(chain) => match judge(&chain, &site, &request) {
                Ok(()) => tamed += 1,
                Err(why) => {
                    honoured += 1;
                    outcome.require(false, || format!("{what}, of {site}, was honoured: {why}"));
                }
            },
        }
    }
    outcome.set("requests", count);
    outcome.set("requests_by_token", joining);
    outcome.set("requests_by_renewal", count - joining);
    outcome.set("honoured", honoured);
    outcome.set("refused", refused);
    outcome.set("only_the_key_taken", tamed);
    Ok(())
}

/// Whose certificate was asked for, and the chain that came.
type Answer = (String, Result<String, Status>);

/// A member asks by a renewal; there is another one after every [`PER_SITE`].
async fn by_renewing(lab: &Lab, n: usize, request: &Hostile) -> anyhow::Result<Answer> {
    let site = format!("site-{}", n / PER_SITE);
    if n.is_multiple_of(PER_SITE) {
        lab.enroll(&site)?;
    }
    let mut client = IdentityServiceClient::new(lab.channel(&site).await?);
    let asking = v1::RenewRequest { csr: request.csr.clone(), signing_certificate: Vec::new() };
    let answer = client.renew(asking).await;
    Ok((site, answer.map(|answer| answer.into_inner().certificate_pem)))
}

/// A stranger asks with a fresh token that nobody has to approve, from an address of its own.
async fn by_joining(lab: &Lab, n: usize, request: &Hostile) -> anyhow::Result<Answer> {
    let site = format!("joining-{n}");
    let token = invite(lab, &site, &["--auto-approve"])?;
    let (csr, id) = (request.csr.clone(), KeyId::of_public_key(&request.key));
    let tls = TlsKey { key_pem: String::new(), csr, id };
    let from = Ipv4Addr::from(STRANGERS + u32::try_from(n)?);
    let address = way(lab, from).await?;
    let answer = join_at(&address, &token, &(tls, SiteKey::fresh()?)).await?;
    Ok((site, answer.map(|answer| answer.certificate_pem)))
}

/// Where one connection is taken and carried on to the coordinator from the address `from`: the coordinator counts
/// strangers' calls by their addresses, and from one of them lets only so many through at once.
async fn way(lab: &Lab, from: Ipv4Addr) -> anyhow::Result<Address> {
    let to: SocketAddr = lab.address().trim_start_matches("https://").parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    // Where it breaks, the call fails that it was for.
    tokio::spawn(async move { carry(&listener, from, to).await });
    Ok(Address { host: Ipv4Addr::LOCALHOST.to_string(), port })
}

/// Carries the next connection on to the coordinator.
async fn carry(listener: &TcpListener, from: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let (mut stranger, _) = listener.accept().await?;
    let socket = TcpSocket::new_v4()?;
    // Where a system has no such address it is the usual one, from which a short trial's calls are let through.
    let _ = socket.bind((from, 0).into());
    let mut coordinator = socket.connect(to).await?;
    tokio::io::copy_bidirectional(&mut stranger, &mut coordinator).await.map(drop)
}

/// A request, and the key that it is for.
struct Hostile {
    what: &'static str,
    csr: Vec<u8>,
    key: Vec<u8>,
    /// Why it must be refused; none where a certificate may be issued that has only its key.
    flaw: Option<RequestError>,
}

impl Hostile {
    /// Whether that is a refusal for what is wrong with it.
    fn is_refused_by(&self, status: &Status) -> bool {
        let named = self.flaw.is_none_or(|flaw| status.message().contains(&flaw.to_string()));
        named && Reason::of(status) == Some(Reason::InvalidRequest)
    }
}

/// A request of a kind.
fn hostile(kind: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<Hostile> {
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()])?;
    let mut algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let uri = |name: &str| -> anyhow::Result<SanType> {
        Ok(SanType::URI(format!("spiffe://{FEDERATION}/{name}").as_str().try_into()?))
    };
    let (what, flaw) = match kind {
        0 => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            ("a request for an authority", None)
        }
        1 => {
            params.subject_alt_names.push(uri("operator/ada")?);
            ("a request in an operator's name", None)
        }
        2 => {
            params.subject_alt_names.push(uri("coordinator/main")?);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            ("a request to play coordinator", None)
        }
        3 => {
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
            ("a request for any use", None)
        }
        4 => {
            // A request cannot say how long; a certificate in its place can.
            params.not_after = rcgen::date_time_ymd(2126, 1, 1);
            ("a certificate of 100 years for a request", Some(RequestError::Malformed))
        }
        5 => {
            algorithm = &rcgen::PKCS_ED25519;
            ("a request with a key for signing", Some(RequestError::Key))
        }
        6 => {
            algorithm = &rcgen::PKCS_ECDSA_P384_SHA384;
            ("a request with another curve", Some(RequestError::Key))
        }
        7 => ("a request that is not signed by its key", Some(RequestError::Signature)),
        8 => return weak(),
        _ => {
            for other in 0..20 {
                params.subject_alt_names.push(uri(&format!("site/other-{other}"))?);
            }
            ("a request in twenty names", None)
        }
    };
    let key = KeyPair::generate_for(algorithm)?;
    let mut csr = match kind {
        4 => params.self_signed(&key)?.der().to_vec(),
        _ => params.serialize_request(&key)?.der().to_vec(),
    };
    if kind == 7 {
        let last = csr.len() - 1 - rng.random_range(0..32);
        csr[last] ^= 1 << rng.random_range(0..8);
    }
    Ok(Hostile { what, csr, key: key.subject_public_key_info(), flaw })
}

/// The request with a weak key; its own signature holds.
fn weak() -> anyhow::Result<Hostile> {
    let csr = CertificateSigningRequestDer::from_pem_slice(WEAK.as_bytes())?.to_vec();
    let (what, key) = ("a request with a weak key that has signed it", signer(&csr)?);
    Ok(Hostile { what, csr, key, flaw: Some(RequestError::Key) })
}

/// The key in a request that has signed it.
fn signer(csr: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (_, request) = X509CertificationRequest::from_der(csr).ok().context("a request")?;
    ensure!(request.verify_signature().is_ok(), "the request is not signed by the key in it");
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}

/// Whether a certificate is what `site` would have got for an honest request.
fn judge(chain: &str, site: &str, request: &Hostile) -> Result<(), String> {
    if let Some(flaw) = request.flaw {
        return Err(format!("it has a certificate, though {flaw}"));
    }
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
    keys: &(TlsKey, SiteKey),
) -> anyhow::Result<Result<v1::JoinResponse, Status>> {
    let address: Address = lab.address().parse()?;
    join_at(&address, token, keys).await
}

/// The same at another address than the coordinator's own.
async fn join_at(
    address: &Address,
    token: &Token,
    (tls, signing): &(TlsKey, SiteKey),
) -> anyhow::Result<Result<v1::JoinResponse, Status>> {
    let channel = channel::join_by(&Route::default(), address, token.root).await?;
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
