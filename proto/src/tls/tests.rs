//! TLS as a build promises it.

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use super::*;
use crate::credential::write_key;

/// The files of somebody under a root of their own.
fn files(folder: &Path) -> TlsFiles {
    let root = KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(CertificateParams::default(), root).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().signed_by(&key, &root).unwrap();
    let file = |name| folder.join(name);
    let files = TlsFiles { ca: file("ca.pem"), certificate: file("own.pem"), key: file("own.key") };
    std::fs::write(&files.ca, root.pem()).unwrap();
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    write_key(&files.key, &key.serialize_pem()).unwrap();
    files
}

/// Run with the feature and without it, this is two sentences; see README.md for the former.
#[test]
fn both_ends_of_tls_are_approved_by_fips_where_the_build_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let promised = cfg!(feature = "fips");
    assert_eq!(files.client().unwrap().fips(), promised);
    assert_eq!(files.server(Arc::new(|_| true)).unwrap().fips(), promised);
    let root = files.roots().unwrap().remove(0);
    assert_eq!(files.strangers(&root).unwrap().fips(), promised);
    assert_eq!(joining(pin(&root).unwrap()).unwrap().fips(), promised);
}

#[test]
fn what_is_shown_to_people_says_fips_in_a_build_for_it_alone() {
    assert_eq!(cryptography().contains("FIPS"), cfg!(feature = "fips"), "{}", cryptography());
}

#[test]
fn what_is_not_approved_is_refused_by_a_build_for_fips_alone() {
    assert_eq!(approved(false).is_err(), cfg!(feature = "fips"));
    assert!(approved(true).is_ok());
}
