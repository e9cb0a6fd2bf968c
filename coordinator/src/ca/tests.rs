//! Certificates field by field, and what TLS makes of them.

use std::path::Path;
use std::sync::Arc;

use fedpaint_proto::tls::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, CertificateError, ClientConnection, ServerConnection};
use x509_parser::prelude::ParsedExtension;

use super::*;

const NOW: i64 = 1_795_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn root(name: &str) -> Issued {
    create(&name.parse().unwrap(), Validity::days(now(), 3653).unwrap()).unwrap()
}

fn role(text: &str) -> Role {
    format!("spiffe://brain/{text}").parse::<Identity>().unwrap().role
}

fn leaf(root: &Issued, text: &str, validity: Validity) -> Issued {
    let hosts: &[&str] =
        if text.starts_with("coordinator") { &["localhost", "127.0.0.1"] } else { &[] };
    let hosts: Vec<_> = hosts.iter().map(|h| ServerName::try_from(*h).unwrap()).collect();
    issue(root, &role(text), &hosts, validity).unwrap()
}

fn with<T>(issued: &Issued, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let (_, pem) = parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
    look(&pem.parse_x509().unwrap())
}

#[test]
fn a_root_is_an_authority_over_one_further_authority_for_its_federation() {
    let root = root("brain");
    assert_eq!(federation(&root).unwrap().as_str(), "brain");
    with(&root, |c| {
        let constraints = c.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(1));
        let usage = c.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
        assert!(c.extended_key_usage().unwrap().is_none());
        assert!(c.name_constraints().unwrap().is_none());
        assert_eq!(c.subject(), c.issuer());
        assert_eq!(c.subject().to_string(), "O=brain, CN=fedpaint root of brain");
        assert_eq!(c.validity().not_before.timestamp(), NOW - 300);
        assert_eq!(c.validity().not_after.timestamp(), NOW + 3653 * 86_400);
        c.verify_signature(None).unwrap();
    });
}

#[test]
fn a_leaf_has_exactly_the_fields_of_its_role() {
    let root = root("brain");
    let validity = Validity::days(now(), 90).unwrap();
    for text in ["site/mayo", "operator/ada", "coordinator/main"] {
        let issued = leaf(&root, text, validity);
        with(&issued, |c| {
            let names = &c.subject_alternative_name().unwrap().unwrap().value.general_names;
            let uri = format!("spiffe://brain/{text}");
            let mut expected = vec![GeneralName::URI(&uri)];
            let server = text.starts_with("coordinator");
            if server {
                expected.push(GeneralName::DNSName("localhost"));
                expected.push(GeneralName::IPAddress(&[127, 0, 0, 1]));
            }
            assert_eq!(names, &expected);
            assert_eq!(Identity::from_certificate(c.as_raw()).unwrap().to_string(), uri);
            let usage = c.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((usage.server_auth, usage.client_auth), (server, !server));
            assert!(!usage.any && usage.other.is_empty() && !usage.code_signing);
            let usage = c.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_cert_sign());
            assert!(!c.is_ca());
            assert_eq!(c.subject().to_string(), format!("O=brain, CN={text}"));
            assert_eq!(c.validity().not_before.timestamp(), NOW - 300);
            assert_eq!(c.validity().not_after.timestamp(), NOW + 90 * 86_400);
            assert_eq!(c.raw_serial().len(), SERIAL_BYTES);
            let known = |e: &ParsedExtension<'_>| {
                matches!(
                    e,
                    ParsedExtension::SubjectAlternativeName(_)
                        | ParsedExtension::KeyUsage(_)
                        | ParsedExtension::ExtendedKeyUsage(_)
                        | ParsedExtension::BasicConstraints(_)
                        | ParsedExtension::SubjectKeyIdentifier(_)
                        | ParsedExtension::AuthorityKeyIdentifier(_)
                )
            };
            assert!(c.extensions().iter().all(|e| known(e.parsed_extension())));
            with(&root, |root| c.verify_signature(Some(root.public_key())).unwrap());
        });
    }
}

#[test]
fn two_certificates_of_one_name_share_neither_serial_nor_key() {
    let root = root("brain");
    let validity = Validity::days(now(), 1).unwrap();
    let [a, b] = [leaf(&root, "site/mayo", validity), leaf(&root, "site/mayo", validity)];
    assert_ne!(with(&a, |c| c.raw_serial().to_vec()), with(&b, |c| c.raw_serial().to_vec()));
    assert_ne!(a.key_pem, b.key_pem);
}

#[test]
fn what_cannot_be_issued_is_refused_with_its_reason() {
    let root = root("brain");
    let days = |days| Validity::days(now(), days);
    assert!(matches!(days(0), Err(Error::Days { .. })));
    assert!(matches!(days(DAYS_MAX + 1), Err(Error::Days { .. })));
    let host = [ServerName::try_from("localhost").unwrap()];
    let day = days(1).unwrap();
    let refused = |root: &Issued, text: &str, hosts: &[ServerName<'static>], validity| {
        issue(root, &role(text), hosts, validity).err().unwrap().to_string()
    };
    assert!(refused(&root, "coordinator/main", &[], day).contains("at least one host"));
    assert!(refused(&root, "site/mayo", &host, day).contains("only a coordinator"));
    assert!(refused(&root, "site/mayo", &[], days(4000).unwrap()).contains("fewer days"));
    let other = Issued { key_pem: self::root("brain").key_pem, ..root.clone() };
    assert!(refused(&other, "site/mayo", &[], day).contains("another's"));
    let site = leaf(&root, "site/mayo", day);
    assert!(refused(&site, "site/evil", &[], day).contains("not an authority"));
    let text = Issued { certificate_pem: "hello".into(), key_pem: String::new() };
    assert!(refused(&text, "site/mayo", &[], day).contains("not a PEM"));
}

/// The TLS files of one end, written to a folder.
fn files(folder: &Path, name: &str, root: &Issued, own: &Issued) -> TlsFiles {
    let write = |name: String, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: write(format!("{name}-ca.pem"), &root.certificate_pem),
        certificate: write(format!("{name}.pem"), &own.certificate_pem),
        key: {
            let path = folder.join(format!("{name}.key"));
            fedpaint_proto::credential::write_key(&path, &own.key_pem).unwrap();
            path
        },
    }
}

/// What each end says of a handshake in memory: the client, then the server.
fn handshake(
    client: &TlsFiles,
    server: &TlsFiles,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(client.client().unwrap(), name).unwrap();
    let mut server = ServerConnection::new(server.server(Arc::new(|_| true)).unwrap()).unwrap();
    let mut result = (Ok(()), Ok(()));
    // A TLS 1.3 handshake with a refusal takes two flights from each end; one more shows the end.
    for _ in 0..3 {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut &flight[..]).unwrap();
        result.1 = result.1.and(server.process_new_packets().map(drop));
        let mut flight = Vec::new();
        server.write_tls(&mut flight).unwrap();
        client.read_tls(&mut &flight[..]).unwrap();
        result.0 = result.0.and(client.process_new_packets().map(drop));
    }
    if result == (Ok(()), Ok(())) {
        assert!(!client.is_handshaking() && !server.is_handshaking());
    }
    result
}

/// Certificates that TLS will look at must hold at the real time.
fn today() -> Validity {
    #[expect(clippy::disallowed_methods, reason = "rustls looks at the real time too")]
    let now = Timestamp::now();
    Validity::days(now, 1).unwrap()
}

#[test]
fn tls_admits_who_was_issued_a_certificate_for_that_end_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    // Read once: a leaf must not outlive its root by the second that passes between two readings.
    let today = today();
    let make = |name: &str| create(&name.parse().unwrap(), today).unwrap();
    let (root, foreign) = (make("brain"), make("brain"));
    let end = |name: &str, root: &Issued, text: &str, validity| {
        files(folder.path(), name, root, &leaf(root, text, validity))
    };
    let server = end("coordinator", &root, "coordinator/main", today);
    let site = end("site", &root, "site/mayo", today);
    let operator = end("operator", &root, "operator/ada", today);
    assert_eq!(handshake(&site, &server), (Ok(()), Ok(())));
    assert_eq!(handshake(&operator, &server), (Ok(()), Ok(())));

    // A site that plays coordinator, and a coordinator that plays site.
    let (seen, _) = handshake(&operator, &site);
    assert!(matches!(seen, Err(rustls::Error::InvalidCertificate(_))), "{seen:?}");
    let (told, seen) = handshake(&server, &server);
    assert!(matches!(seen, Err(rustls::Error::InvalidCertificate(_))), "{seen:?}");
    assert!(matches!(told, Err(rustls::Error::AlertReceived(_))), "{told:?}");

    // A certificate of another root of the same name: its holder trusts our root all the same.
    let mut stranger = end("stranger", &foreign, "site/mayo", today);
    stranger.ca = server.ca.clone();
    let (_, seen) = handshake(&stranger, &server);
    assert!(matches!(seen, Err(rustls::Error::InvalidCertificate(_))), "{seen:?}");
    let (seen, _) = handshake(&end("foreigner", &foreign, "site/mayo", today), &server);
    assert!(matches!(seen, Err(rustls::Error::InvalidCertificate(_))), "{seen:?}");

    // One that has expired.
    let hour = 3600;
    let past = |time: Timestamp| Timestamp::from_second(time.as_second() - 30 * hour).unwrap();
    let expired = Validity { not_before: past(today.not_before), not_after: past(today.not_after) };
    let late = end("late", &root, "site/mayo", expired);
    let (told, seen) = handshake(&late, &server);
    assert!(
        matches!(
            seen,
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
        ),
        "{seen:?}"
    );
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
    assert_eq!(told, Err(alert));
}

#[test]
fn tls_admits_who_was_issued_a_certificate_by_an_authority_under_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let today = today();
    let root = create(&"brain".parse().unwrap(), today).unwrap();
    let issuing = create_issuing(&root, today).unwrap();
    with(&issuing, |c| {
        assert_eq!(c.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
        with(&root, |root| c.verify_signature(Some(root.public_key())).unwrap());
    });
    let end =
        |name: &str, text: &str| files(folder.path(), name, &root, &leaf(&issuing, text, today));
    let (server, site) = (end("coordinator", "coordinator/main"), end("site", "site/mayo"));
    assert_eq!(handshake(&site, &server), (Ok(()), Ok(())));
    // An authority vouches for nobody who would vouch for others.
    let refused = create_issuing(&issuing, today).err().unwrap().to_string();
    assert!(refused.contains("no further authority"), "{refused}");
    let long = Validity::days(today.not_after, 2).unwrap();
    assert!(create_issuing(&root, long).err().unwrap().to_string().contains("fewer days"));
}

/// A request for a certificate, signed by its own key, of whatever the parameters say.
fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn nothing_but_the_public_key_is_taken_from_a_request() {
    let root = root("brain");
    let validity = Validity::days(now(), 1).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut asked = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    let uri = "spiffe://brain/operator/admin".try_into().unwrap();
    asked.subject_alt_names.push(SanType::URI(uri));
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asked.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let taken = PublicKey::of_request(&request(&asked, &key)).unwrap();
    assert_eq!(taken.der(), key.subject_public_key_info());
    let certificate_pem = certify(&root, &role("site/mayo"), &[], &taken, validity).unwrap();
    let issued = Issued { certificate_pem, key_pem: String::new() };
    let own = leaf(&root, "site/mayo", validity);
    with(&issued, |c| {
        assert!(!c.is_ca() && c.validity().not_after.timestamp() == NOW + 86_400);
        assert_eq!(c.public_key().raw, taken.der());
        with(&own, |own| {
            let names = |c: &X509Certificate<'_>| {
                c.subject_alternative_name().unwrap().unwrap().value.general_names.len()
            };
            assert_eq!((c.subject(), names(c)), (own.subject(), names(own)));
            assert_eq!(c.extensions().len(), own.extensions().len());
        });
    });
}

#[test]
fn a_request_that_is_malformed_unsigned_or_of_another_key_is_refused() {
    let params = CertificateParams::default();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let good = request(&params, &key);
    assert!(PublicKey::of_request(&good).is_ok());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let trailing = [good.as_slice(), &[0]].concat();
    for (der, expected) in [
        (vec![], RequestError::Malformed),
        (good[..good.len() - 1].to_vec(), RequestError::Malformed),
        (trailing, RequestError::Malformed),
        (vec![0x30; 5_000], RequestError::TooLong),
        (forged, RequestError::Signature),
    ] {
        assert_eq!(PublicKey::of_request(&der).unwrap_err(), expected);
    }
    assert!(RequestError::TooLong.to_string().ends_with("4096 bytes at most (CSR_BYTES_MAX)"));
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let other = KeyPair::generate_for(algorithm).unwrap();
        let refused = PublicKey::of_request(&request(&params, &other)).unwrap_err();
        assert_eq!(refused, RequestError::Key);
    }
}

#[test]
fn the_key_is_pkcs8_that_rustls_reads() {
    let issued = leaf(&root("brain"), "site/mayo", Validity::days(now(), 1).unwrap());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    provider.key_provider.load_private_key(key).unwrap();
}

#[test]
fn a_signing_certificate_is_good_for_signing_alone_and_one_for_tls_for_no_signature() {
    use fedpaint_proto::signing::{Authority, Error as Refused, Signed, Signer};
    use fedpaint_proto::statement::Receipt;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

    let root = root("brain");
    let ten_years = Validity::days(now(), 3650).unwrap();
    let issuing = create_issuing(&root, ten_years).unwrap();
    let chain = |pem: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.unwrap()).collect()
    };
    let authority = |root: &Issued| {
        let roots = chain(&root.certificate_pem);
        Authority::new("brain".parse().unwrap(), &roots).unwrap()
    };
    let signer = |issued: &Issued| {
        let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        Signer::new(&chain(&issued.certificate_pem), &key)
    };
    let statement = || Receipt {
        federation: "brain".parse().unwrap(),
        envelope: fedpaint_proto::names::Digest::of(b"x"),
        entry: 1,
        at: now(),
    };
    // Under the root itself, and under an authority between.
    for by in [&root, &issuing] {
        let issued = issue_signing(by, &role("coordinator/main"), ten_years).unwrap();
        let signed = Signed::by(&signer(&issued).unwrap(), statement());
        let trusted = authority(&root);
        // The second time its certificate is known, and still not believed longer than it holds.
        for _ in 0..2 {
            assert!(signed.by_coordinator(&trusted, now()).is_ok());
            let later = now().checked_add(jiff::SignedDuration::from_hours(24 * 3651)).unwrap();
            assert!(matches!(signed.by_coordinator(&trusted, later), Err(Refused::Certificate(_))));
        }
        let other = super::create(&"brain".parse().unwrap(), ten_years).unwrap();
        assert!(signed.by_coordinator(&authority(&other), now()).is_err());
    }
    let site = signer(&issue_signing(&issuing, &role("site/mayo"), ten_years).unwrap()).unwrap();
    let signed = Signed::by(&site, statement());
    assert!(matches!(
        signed.by_coordinator(&authority(&root), now()),
        Err(Refused::Signer { must: "coordinator", .. })
    ));
    // One for TLS has another purpose, whatever its key is.
    let tls = leaf(&issuing, "site/mayo", ten_years);
    let tls = chain(&tls.certificate_pem);
    let tls: Vec<u8> = tls.iter().flat_map(|one| one.iter().copied()).collect();
    let refused = authority(&root).holder(&tls, now()).unwrap_err().to_string();
    assert!(refused.contains("another purpose"), "{refused}");
    // And what signs is refused by TLS, which wants a purpose of its own.
    let issued = issue_signing(&issuing, &role("site/mayo"), ten_years).unwrap();
    with(&issued, |c| {
        let usage = c.extended_key_usage().unwrap().unwrap().value;
        assert!(!usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(usage.other.len(), 1);
    });
}
