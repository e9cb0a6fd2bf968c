//! What is shown for a signing certificate on a renewal. Only the member's own, for the key that it joined with, is
//! answered by another one; whatever is wrong with it, the certificate for TLS is renewed all the same.

use anyhow::Context;
use fedpaint_proto::renewal::TlsKey;
use fedpaint_proto::v1;
use fedpaint_proto::v1::identity_service_client::IdentityServiceClient;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::outcome::Outcome;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{invite, join, keys};

/// A site that is let in by name, one that joins by a token, and again, and another one.
const NAMED: &str = "named";
const JOINED: &str = "joined";
const OTHER: &str = "other";

/// Shows each what it may not, and what it may.
pub(super) async fn certificates(lab: &Lab, outcome: &mut Outcome) -> anyhow::Result<()> {
    for site in [NAMED, OTHER] {
        lab.enroll(site)?;
    }
    let chain = |name: &str| anyhow::Ok(lab.signing(name).load()?.certificate().to_vec());
    let before = rejoin(lab).await?;
    let own = rejoin(lab).await?;
    for (site, own) in [(NAMED, chain(NAMED)?), (JOINED, own)] {
        let answer = renewed(lab, site, own).await?;
        outcome.require(!answer.is_empty(), || format!("{site} gets none for its own key"));
    }
    let tls = lab.tls(NAMED).own_certificate()?.to_vec();
    let wrong = [
        (NAMED, "another site's", chain(OTHER)?),
        (NAMED, "the coordinator's", chain("main")?),
        (NAMED, "one for TLS", tls),
        (NAMED, "no certificate", b"none".to_vec()),
        (JOINED, "another site's", chain(NAMED)?),
        (JOINED, "its own from before it joined again", before),
    ];
    let mut refused = 0;
    for (site, what, shown) in wrong {
        let answer = renewed(lab, site, shown).await?;
        refused += u32::from(answer.is_empty());
        outcome.require(answer.is_empty(), || format!("{site} gets one for {what}"));
    }
    outcome.set("signing_certificates_refused", refused);
    Ok(())
}

/// What a member that shows this gets to sign with; it gets a certificate for TLS in any case.
async fn renewed(lab: &Lab, site: &str, shown: Vec<u8>) -> anyhow::Result<String> {
    let mut client = IdentityServiceClient::new(lab.channel(site).await?);
    let csr = TlsKey::fresh()?.csr;
    let asking = v1::RenewRequest { csr, signing_certificate: shown };
    let answer = client.renew(asking).await?.into_inner();
    anyhow::ensure!(!answer.certificate_pem.is_empty(), "{site} has no certificate for TLS");
    Ok(answer.signing_certificate_pem)
}

/// Has a site join with fresh keys; its signing certificate and those between it and the root.
async fn rejoin(lab: &Lab) -> anyhow::Result<Vec<u8>> {
    let (token, keys) = (invite(lab, JOINED, &["--auto-approve"])?, keys()?);
    let answer = join(lab, &token, &keys).await?.context("a site that joins")?;
    let files = lab.tls(JOINED);
    std::fs::write(&files.certificate, &answer.certificate_pem)?;
    if files.key.exists() {
        std::fs::remove_file(&files.key)?;
    }
    fedpaint_proto::credential::write_key(&files.key, &keys.0.key_pem)?;
    let chain = CertificateDer::pem_slice_iter(answer.signing_certificate_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    Ok(chain.iter().flat_map(|one| one.iter().copied()).collect())
}
