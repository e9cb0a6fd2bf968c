//! A signed update: what a site says of it, its signature, and the certificates that came with both.

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::signing::{Authority, Signed, Unbound};
use fedpaint_proto::statement::Envelope;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The root of a federation `brain` that signs nothing any more.
const ROOT: &[u8] = include_bytes!("../../fixtures/signing/root.pem");

/// A day on which its certificates hold.
const AT: Timestamp = Timestamp::constant(1796083200, 0);

/// The only thing that the only site of that federation has ever signed.
pub fn signed_once() -> Envelope {
    Envelope {
        federation: "brain".parse().expect("a federation"),
        round: RoundId { run: "tumours".parse().expect("a run"), number: 3, attempt: 2 },
        site: "mayo".parse().expect("a site"),
        base: Digest::of(b"base"),
        plan: Digest::of(b"plan"),
        update: Blob { digest: Digest::of(b"update"), size: 6 },
        examples: 40,
    }
}

/// Bytes as a signed envelope: believed if it is what was signed once, by whom it says, and no other.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let Ok(envelope) = serde_json::from_slice::<Signed<Envelope>>(bytes) else { return false };
    // Over the wire goes the signature alone, and the other side says the same again.
    let travelled = Unbound::from_wire(envelope.signature_to_wire()).expect("a signature");
    assert_eq!(travelled.over(envelope.statement.clone()), envelope);
    let root = CertificateDer::from_pem_slice(ROOT).expect("the root");
    let authority = Authority::new("brain".parse().expect("a federation"), &[root]);
    match envelope.signer(&authority.expect("an authority"), AT) {
        Ok(holder) => {
            assert_eq!(envelope.statement, signed_once());
            assert_eq!(holder.role, Role::Site(envelope.statement.site));
            true
        }
        Err(refusal) => {
            super::is_a_line(&refusal.to_string(), 2_000);
            false
        }
    }
}
