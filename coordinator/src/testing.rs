//! What the tests of this crate share.

use std::collections::BTreeMap;
use std::path::Path;

use fedpaint_proto::identity::Identity;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::plan::{PlanSigner, RoundPlan, RunPlan};
use fedpaint_proto::signing::{Authority, Signer};
use fedpaint_proto::weights::{Dtype, ModelWriter, TensorSpec};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::ca;

/// When every test begins.
pub(crate) const START: Timestamp = Timestamp::UNIX_EPOCH;

/// Federation `brain`'s root, and who signs under it.
pub(crate) struct Pki {
    root: ca::Issued,
    validity: ca::Validity,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let validity = ca::Validity::days(LATER, 30).unwrap();
        Pki { root: ca::create(&"brain".parse().unwrap(), validity).unwrap(), validity }
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::new("brain".parse().unwrap(), &[der(&self.root.certificate_pem)]).unwrap()
    }

    /// Who is named by a URI such as `spiffe://brain/coordinator/main`.
    pub(crate) fn signer(&self, uri: &str) -> Signer {
        let identity: Identity = uri.parse().unwrap();
        let issued = ca::issue_signing(&self.root, &identity.role, self.validity).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        Signer::new(&[der(&issued.certificate_pem)], &key).unwrap()
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// When the certificates of [`Pki`] hold.
pub(crate) const LATER: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// A blob that is not on any disk.
pub(crate) fn blob(text: &str) -> Blob {
    Blob { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
}

/// A plan of `rounds` rounds with at least `sites_min` sites and at most three: 100 s of selection,
/// 1,000 s of reporting, three failures.
pub(crate) fn plan(rounds: u32, sites_min: u32) -> RunPlan {
    let mut plan = RunPlan::from_toml(&format!("version = 1\nrounds = {rounds}")).unwrap();
    plan.round = RoundPlan {
        sites_min,
        sites_goal: 3,
        selection_s: 100,
        reporting_s: 1000,
        failures_max: 3,
        ..RoundPlan::default()
    };
    plan
}

/// Somebody who stands behind plans.
pub(crate) fn plan_signer() -> PlanSigner {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    PlanSigner::new(&PrivatePkcs8KeyDer::from(key.serialize_der())).unwrap()
}

/// Writes a model of vectors.
pub(crate) fn write_model(path: &Path, tensors: &[(&str, &[f32])]) -> Blob {
    let spec = |(name, values): &(&str, &[f32])| TensorSpec {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: vec![values.len()],
    };
    let description = BTreeMap::from([("fedpaint.model".to_owned(), "{}".to_owned())]);
    let specs = tensors.iter().map(spec).collect();
    let mut writer = ModelWriter::create(path, specs, &description).unwrap();
    for (_, values) in tensors {
        writer.write(values).unwrap();
    }
    writer.finish().unwrap()
}

/// A small seeded generator (splitmix64, Steele et al. 2014), so that a failing history is told by
/// one number.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `n`.
    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
