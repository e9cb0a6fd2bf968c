//! A signed update: what a site says of it, its signature, and the certificates that came with both. As the wire
//! carries it, which a coordinator takes, and as an export of the audit log has it, which `fedctl audit verify` reads.

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::signing::{Authority, Signed, Unbound};
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::submission::Submitted;
use fedpaint_proto::v1::SubmitUpdateRequest;
use jiff::Timestamp;
use prost::Message;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The root of a federation `brain` that signs nothing any more.
const ROOT: &[u8] = include_bytes!("../../fixtures/signing/root.pem");

/// A day on which its certificates hold.
const AT: Timestamp = Timestamp::constant(1796083200, 0);

/// What JSON begins with, and no message: it would be the beginning of a group, which nothing here has.
const JSON: u8 = b'{';

/// The only update that the only site of that federation has ever signed.
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

/// Bytes as a signed update: believed if it is what was signed once, by whom it says, and no other.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let envelope = if bytes.first() == Some(&JSON) { exported(bytes) } else { submitted(bytes) };
    envelope.is_some_and(|envelope| is_believed(&envelope))
}

/// A submission as it travels, whose signature is taken to be over what a coordinator makes of it: that has the
/// federation and the plan from itself, and whose update it is from the certificate of the connection.
fn submitted(bytes: &[u8]) -> Option<Signed<Envelope>> {
    let request = SubmitUpdateRequest::decode(bytes).ok()?;
    let again = SubmitUpdateRequest::decode(&*request.encode_to_vec()).expect("what was encoded");
    assert_eq!(again.encode_to_vec(), request.encode_to_vec());
    match Submitted::from_wire(request) {
        Ok(submitted) => {
            let Envelope { federation, site, plan, .. } = signed_once();
            let envelope = submitted.envelope(federation, site, plan);
            Some(submitted.signature?.over(envelope))
        }
        Err(refusal) => {
            super::is_a_line(&refusal.to_string(), 200);
            None
        }
    }
}

/// An envelope out of an export.
fn exported(bytes: &[u8]) -> Option<Signed<Envelope>> {
    let envelope: Signed<Envelope> = serde_json::from_slice(bytes).ok()?;
    // Over the wire goes the signature alone, and the other side says the same again.
    let travelled = Unbound::from_wire(envelope.signature_to_wire()).expect("a signature");
    assert_eq!(travelled.over(envelope.statement.clone()), envelope);
    Some(envelope)
}

fn is_believed(envelope: &Signed<Envelope>) -> bool {
    let root = CertificateDer::from_pem_slice(ROOT).expect("the root");
    let authority = Authority::new("brain".parse().expect("a federation"), &[root]);
    match envelope.signer(&authority.expect("an authority"), AT) {
        Ok(holder) => {
            assert_eq!(envelope.statement, signed_once());
            assert_eq!(holder.role, Role::Site(envelope.statement.site.clone()));
            true
        }
        Err(refusal) => {
            super::is_a_line(&refusal.to_string(), 2_000);
            false
        }
    }
}
