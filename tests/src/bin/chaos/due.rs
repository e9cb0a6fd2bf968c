//! Certificates that are due: more than two thirds of their life are over when a program first looks at them, so
//! that it renews them within seconds, and they hold for days yet.

use std::fs;
use std::path::Path;

use fedpaint_coordinator::ca::{self, Issued};
use fedpaint_proto::credential::{replace, write_certificate, write_key};
use fedpaint_proto::identity::{Identity, Validity};
use fedpaint_proto::tls;
use fedpaint_tests::lab::{COORDINATOR, Lab};
use jiff::SignedDuration;

/// How much of their life is over, and how much is left.
const OVER: SignedDuration = SignedDuration::from_hours(20 * 24);
const LEFT: SignedDuration = SignedDuration::from_hours(5 * 24);

/// Puts certificates that are due, and their keys, in the place of those that `name` has just been issued.
///
/// # Errors
/// If a file does not read or write, or the authority cannot issue.
pub(crate) fn grow_old(lab: &Lab, name: &str) -> anyhow::Result<()> {
    let authority = Issued {
        certificate_pem: fs::read_to_string(lab.path("ca/issuing.pem"))?,
        key_pem: tls::key_pem(Path::new(&lab.path("ca/issuing.key")))?,
    };
    let files = lab.tls(name);
    let held = files.own_certificate()?;
    let role = Identity::from_certificate(&held)?.role;
    let issued_at = Validity::of_certificate(&held)?.not_before;
    let validity = ca::Validity {
        not_before: issued_at.checked_sub(OVER)?,
        not_after: issued_at.checked_add(LEFT)?,
    };
    let made = ca::issue(&authority, &role, &ca::hosts(&held), validity)?;
    replace(&files, &made.certificate_pem, &made.key_pem)?;
    // A site renews the one that it signs by whenever it renews the other; the coordinator when it is due.
    if name == COORDINATOR {
        let (made, files) = (ca::issue_signing(&authority, &role, validity)?, lab.signing(name));
        fs::remove_file(&files.key)?;
        write_key(&files.key, &made.key_pem)?;
        write_certificate(&files.certificate, &made.certificate_pem)?;
    }
    Ok(())
}
