//! What the hostile coordinator says that its models are made of.

use fedpaint_coordinator::ca;
use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_coordinator::evidence::Notary;
use fedpaint_proto::identity::Identity;
use fedpaint_proto::names::{Digest, RunName};
use fedpaint_proto::signing::{Authority, Signer};
use fedpaint_proto::statement::{Contributor, Manifest, manifest_to_wire};
use fedpaint_proto::v1::ModelManifest;
use fedpaint_tests::lab::FEDERATION;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::State;
use crate::hostile::attack::Attack;

/// A coordinator of the same name under a root of its own.
///
/// # Errors
/// If the cryptographic library fails.
pub(super) fn forger(authority: &Authority) -> anyhow::Result<Notary> {
    let identity: Identity = format!("spiffe://{FEDERATION}/coordinator/main").parse()?;
    let validity = ca::Validity::days(SystemClock.now(), 1)?;
    let root = ca::create(&identity.federation, validity)?;
    let issued = ca::issue_signing(&root, &identity.role, validity)?;
    let certificate = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes())?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
    Ok(Notary::new(authority.clone(), Signer::new(&[certificate], &key)?, false))
}

impl State {
    /// The manifest of a version's model, or what the attack makes of it.
    pub(super) fn manifest(&self, run: RunName, version: u32) -> anyhow::Result<ModelManifest> {
        let version = if self.turns(Attack::SkippedVersion) { 1 } else { version };
        let contributor = |site: &str| -> anyhow::Result<Contributor> {
            let (number, attempt, update) = (version, 1, Digest::of(site.as_bytes()));
            Ok(Contributor { site: site.parse()?, number, attempt, update, examples: 4 })
        };
        let contributors = match version {
            0 => Vec::new(),
            _ => vec![contributor("kyoto")?, contributor("mayo")?],
        };
        let mut model = self.model(version);
        if self.turns(Attack::Oversize) {
            model.size = 2 << 20;
        }
        let manifest = Manifest {
            federation: FEDERATION.parse()?,
            run,
            version,
            attempt: u32::from(version > 0),
            parent: self.parent(version),
            plan: self.signed_plan(),
            model,
            ema: None,
            contributors,
        };
        let forged = self.turns(Attack::ForgedManifest);
        let notary = if forged { &self.forger } else { &self.notary };
        let mut told = manifest_to_wire(&notary.manifest(manifest));
        if self.turns(Attack::UnsignedManifest) {
            told.signature = None;
        }
        Ok(told)
    }

    /// What the model of a version is said to be made from.
    fn parent(&self, version: u32) -> Option<Digest> {
        let is_wrong = self.turns(Attack::OtherParent) || self.turns(Attack::MissedParent);
        match version {
            1 if is_wrong => Some(self.model(3).digest),
            version => version.checked_sub(1).map(|parent| self.model(parent).digest),
        }
    }
}
