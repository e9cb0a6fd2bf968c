//! What the coordinator signs with, read from its files; and its signing certificate, which follows the
//! authority that certificates are issued by, so that one root can take over from another.

use std::path::{Path, PathBuf};

use fedpaint_proto::identity::{Identity, Role};
use fedpaint_proto::names::FederationName;
use fedpaint_proto::signing::{self, Authority, SigningFiles};
use jiff::Timestamp;

use crate::ca;
use crate::evidence::Seal;
use crate::issuer::Issuer;

/// Why the coordinator cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key that the coordinator signs with, or its certificate, cannot be used.
    #[error("{0}; see `signing` in the config, `fedctl ca issue` makes both")]
    Signing(#[from] signing::Error),
    /// The signing certificate is another's.
    #[error("{} is the signing certificate of {found}, it must be the coordinator's", path.display())]
    NotTheCoordinators {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
    },
    /// It cannot be issued anew.
    #[error("cannot renew the coordinator's signing certificate: {0}")]
    Renew(#[from] ca::Error),
}

/// Reads what the coordinator signs with; its certificate must be under one of the `roots` and hold `now`.
///
/// # Errors
/// If a file does not read, they do not fit together, or the certificate is not the coordinator's.
pub(crate) fn load(
    files: &SigningFiles,
    roots: &Path,
    federation: &FederationName,
    now: Timestamp,
) -> Result<Seal, Error> {
    let signer = files.load()?;
    let authority = Authority::load(federation.clone(), roots)?;
    match authority.holder(signer.certificate(), now)?.role {
        Role::Coordinator(_) => Ok(Seal { authority, signer }),
        _ => {
            let (path, found) = (files.certificate.clone(), signer.identity().clone());
            Err(Error::NotTheCoordinators { path, found })
        }
    }
}

/// Has `issuer` vouch for the key that the coordinator signs with, where that is due: another authority does, or
/// two thirds of the certificate's life are over and the authority's own is longer. Whether it was.
///
/// # Errors
/// If the certificate does not hold `now`, or another one cannot be made or written.
pub(crate) fn follow(
    seal: &Seal,
    files: &SigningFiles,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<bool, Error> {
    let Seal { authority, signer } = seal;
    let validity = signer.validity();
    let grows_old = validity.renewal() <= now && validity.not_after < issuer.until;
    if issuer.issued(signer.certificate()) && !grows_old {
        return Ok(false);
    }
    let holder = authority.holder(signer.certificate(), now)?;
    let Some(key) = holder.key() else { return Ok(false) };
    let pem = issuer.certify_signing(&holder.role, &key, now)?;
    files.recertify(&pem, authority, now)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use fedpaint_proto::names::Digest;
    use fedpaint_proto::signing::Signed;
    use fedpaint_proto::statement::Receipt;
    use fedpaint_proto::tls::TlsFiles;

    use super::*;
    use crate::ca::{Issued, Validity};
    use crate::config::Issuing;
    use crate::testing::LATER;

    /// A root, and an issuing authority under it.
    fn authority() -> (Issued, Issued) {
        let days = |days| Validity::days(LATER, days).unwrap();
        let root = ca::create(&"brain".parse().unwrap(), days(90)).unwrap();
        let issuing = ca::create_issuing(&root, days(30)).unwrap();
        (root, issuing)
    }

    #[test]
    fn a_signing_certificate_follows_the_authority_from_one_root_to_another_and_keeps_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let [old, new] = [authority(), authority()];
        let (brain, role) = ("brain".parse().unwrap(), Role::Coordinator("main".parse().unwrap()));
        let files = SigningFiles { certificate: path("signing.pem"), key: path("signing.key") };
        let made = ca::issue_signing(&old.1, &role, Validity::days(LATER, 20).unwrap()).unwrap();
        write("signing.pem", &made.certificate_pem);
        fedpaint_proto::credential::write_key(&files.key, &made.key_pem).unwrap();
        let seal = || load(&files, &path("ca.pem"), &brain, LATER);
        let issuer = |issuing: &Issued| {
            write("issuing.pem", &issuing.certificate_pem);
            fedpaint_proto::credential::write_key(&path("issuing.key"), &issuing.key_pem).unwrap();
            let key = path("issuing.key");
            let by = Issuing {
                certificate: path("issuing.pem"),
                key: key.clone(),
                leaf_s: 60,
                operator_s: 60,
            };
            let (certificate, ca) = (path("main.pem"), path("ca.pem"));
            let tls = TlsFiles { ca, certificate, key: path("main.key") };
            let issuer = Issuer::load(&by, &tls, &brain).unwrap();
            fs::remove_file(key).unwrap();
            issuer
        };
        let key = |seal: &Seal| {
            let holder = seal.authority.holder(seal.signer.certificate(), LATER).unwrap();
            holder.key().unwrap()
        };

        write("ca.pem", &old.0.certificate_pem);
        let before = seal().unwrap();
        assert!(!follow(&before, &files, &issuer(&old.1), LATER).unwrap(), "it is under it");

        write("ca.pem", &[&*old.0.certificate_pem, &new.0.certificate_pem].concat());
        let issuer = issuer(&new.1);
        assert!(follow(&seal().unwrap(), &files, &issuer, LATER).unwrap());
        let after = seal().unwrap();
        assert!(!follow(&after, &files, &issuer, LATER).unwrap(), "once");
        assert_eq!(key(&after), key(&before));

        write("ca.pem", &new.0.certificate_pem);
        let alone = seal().unwrap();
        let statement =
            Receipt { federation: brain.clone(), envelope: Digest::of(b"x"), entry: 1, at: LATER };
        let signed = |seal: &Seal| Signed::by(&seal.signer, statement.clone());
        signed(&alone).by_coordinator(&alone.authority, LATER).unwrap();
        assert!(signed(&before).by_coordinator(&alone.authority, LATER).is_err());

        // A certificate of another's, for another key or under another root takes nobody's place.
        let held = fs::read(&files.certificate).unwrap();
        let other = ca::issue_signing(&new.1, &role, Validity::days(LATER, 20).unwrap()).unwrap();
        let site = Role::Site("mayo".parse().unwrap());
        let eves = issuer.certify_signing(&site, &key(&alone), LATER).unwrap();
        let replace = |pem: &str| files.recertify(pem, &alone.authority, LATER).unwrap_err();
        for pem in [&other.certificate_pem, &eves, "", "-----BEGIN CERTIFICATE-----"] {
            let refused = replace(pem);
            assert!(matches!(refused, signing::Error::NotOurs), "{refused}");
        }
        let (key, days) = (key(&alone), Validity::days(LATER, 20).unwrap());
        let old = ca::certify_signing(&old.1, &role, &key, days).unwrap();
        assert!(matches!(replace(&old), signing::Error::Certificate(_)));
        assert_eq!(fs::read(&files.certificate).unwrap(), held);
    }
}
