//! Who stands behind a plan.

use fedpaint_proto::plan::PlanSignature;
use fedpaint_proto::v1;
use serde::Serialize;

/// A key that was made, or a plan that was signed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PlanSigned {
    /// The public key.
    pub(crate) signer: String,
    /// The digest of what was signed; null for a key.
    pub(crate) plan: Option<String>,
    /// What was written.
    pub(crate) file: String,
}

/// The key of a signature that the coordinator tells of.
pub(super) fn signer(signature: &v1::PlanSignature) -> Option<String> {
    PlanSignature::from_wire(signature).ok().map(|signature| signature.key.to_string())
}
