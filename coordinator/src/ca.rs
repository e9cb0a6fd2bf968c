//! The federation's certificate authority: a root, and the certificates of coordinator, sites and
//! operators under it.
//!
//! Every field of a certificate is decided here and none is taken from whoever asks. Nothing here
//! touches a file or a clock; keys are made by the same cryptographic library that TLS uses.

mod request;

use std::net::IpAddr;
use std::time::Duration;

use fedpaint_proto::identity::{Identity, Role};
use fedpaint_proto::names::FederationName;
use fedpaint_proto::signing;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::ServerName;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::request::{Error as RequestError, PublicKey};

/// How far a certificate's validity reaches back at most, for clocks that are a little behind; a tenth of
/// its life where that is less.
const BACKDATE_S: i64 = 5 * 60;

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// The most days a certificate may be asked to last: 20 years.
pub const DAYS_MAX: u32 = 7_305;

/// Bytes of a serial number; RFC 5280 allows 20, and 16 random ones never repeat.
const SERIAL_BYTES: usize = 16;

/// The most host names a coordinator's certificate may have.
pub const HOSTS_MAX: usize = 64;

/// A certificate and its private key, as PEM. It has no `Debug`, so that no log shows the key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second.
    pub not_after: Timestamp,
}

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The validity asked for is none.
    #[error("a certificate may last from 1 to {DAYS_MAX} days (DAYS_MAX), not {days}")]
    Days {
        /// What was asked for.
        days: u32,
    },
    /// The certificate would outlast its issuer.
    #[error(
        "the issuing certificate holds until {until}, one under it cannot last longer: ask for fewer \
         days, or renew it with `fedctl ca issuing`"
    )]
    BeyondRoot {
        /// When the issuer ends.
        until: Timestamp,
    },
    /// The issuer is not one of ours.
    #[error("the issuing certificate cannot issue: {reason}")]
    Root {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A coordinator needs a host name, nobody else has one.
    #[error("{0}")]
    Hosts(&'static str),
    /// The cryptographic library failed.
    #[error("cannot make the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The system has no randomness to give.
    #[error("cannot make the certificate: the system gives no random numbers")]
    Random,
}

impl Validity {
    /// From a little before `now`, for `days` days.
    ///
    /// # Errors
    /// If that is no time, or longer than [`DAYS_MAX`].
    pub fn days(now: Timestamp, days: u32) -> Result<Validity, Error> {
        let second = |offset| {
            let second = now.as_second().checked_add(offset);
            second.and_then(|s| Timestamp::from_second(s).ok()).ok_or(Error::Days { days })
        };
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(Error::Days { days });
        }
        Ok(Validity {
            not_before: second(-BACKDATE_S)?,
            not_after: second(i64::from(days) * DAY_S)?,
        })
    }

    /// From a little before `now` until `until`.
    pub fn until(now: Timestamp, until: Timestamp) -> Validity {
        let life = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        let back = i64::try_from(life.as_secs() / 10).unwrap_or(BACKDATE_S).min(BACKDATE_S);
        let from = now.as_second().saturating_sub(back);
        Validity { not_before: Timestamp::from_second(from).unwrap_or(now), not_after: until }
    }
}

/// Makes the root of a federation: ECDSA P-384. It vouches for issuing authorities, and can be kept where
/// no network reaches it.
///
/// # Errors
/// If the cryptographic library fails.
pub fn create(federation: &FederationName, validity: Validity) -> Result<Issued, Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?;
    let mut params = params(format!("fedpaint root of {federation}"), federation, validity)?;
    // The trust domain alone, as the SPIFFE X.509-SVID standard has it for an authority. A name
    // constraint would say more, but webpki refuses every certificate under one on URIs.
    params.subject_alt_names = vec![SanType::URI(trust_domain(federation).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes an issuing authority under `root`: ECDSA P-256, able to issue certificates but no further
/// authorities.
///
/// # Errors
/// If the root is not a root of ours, does not fit its key or may not vouch for authorities, or if the
/// authority would outlast it.
pub fn create_issuing(root: &Issued, validity: Validity) -> Result<Issued, Error> {
    let (federation, until) = inspect(root)?;
    if validity.not_after > until {
        return Err(Error::BeyondRoot { until });
    }
    if path_length(root)?.is_some_and(|length| length < 1) {
        let reason =
            "it is a root that vouches for no further authority, from before there were any";
        return Err(Error::Root { reason });
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(format!("fedpaint issuing of {federation}"), &federation, validity)?;
    params.subject_alt_names = vec![SanType::URI(trust_domain(&federation).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let root_key = KeyPair::from_pem(&root.key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&root.certificate_pem, root_key)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes a fresh key, ECDSA P-256, and issues the certificate of `role` for it; see [`certify`].
///
/// # Errors
/// As [`certify`].
pub fn issue(
    authority: &Issued,
    role: &Role,
    hosts: &[ServerName<'static>],
    validity: Validity,
) -> Result<Issued, Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate_pem = sign(authority, role, hosts, &key, validity)?;
    Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
}

/// Issues the certificate of `role` under `authority` for somebody's key: one URI that names it, good for
/// one end of a TLS connection. `hosts` is where a coordinator is reached, and empty for everybody else.
/// Where the authority is not the root itself its certificate follows, so that the whole is a chain.
///
/// # Errors
/// If the authority is none of ours or does not fit its key, if the certificate would outlast it, or if
/// hosts are missing or too many.
pub fn certify(
    authority: &Issued,
    role: &Role,
    hosts: &[ServerName<'static>],
    key: &PublicKey,
    validity: Validity,
) -> Result<String, Error> {
    sign(authority, role, hosts, &SubjectPublicKeyInfo::from_der(key.der())?, validity)
}

fn sign(
    authority: &Issued,
    role: &Role,
    hosts: &[ServerName<'static>],
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<String, Error> {
    let usage = match role {
        Role::Coordinator(_) if hosts.is_empty() => {
            return Err(Error::Hosts("a coordinator needs at least one host: a DNS name or an IP"));
        }
        Role::Coordinator(_) if hosts.len() > HOSTS_MAX => {
            return Err(Error::Hosts("a coordinator may have at most 64 hosts (HOSTS_MAX)"));
        }
        Role::Site(_) | Role::Operator(_) if !hosts.is_empty() => {
            return Err(Error::Hosts("only a coordinator has hosts"));
        }
        Role::Coordinator(_) => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Site(_) | Role::Operator(_) => ExtendedKeyUsagePurpose::ClientAuth,
    };
    let hosts = hosts.iter().map(host).collect::<Result<Vec<_>, _>>()?;
    leaf(authority, role, (hosts, usage), key, validity)
}

/// Issues the certificate by which `role` signs what outlives a connection, and its Ed25519 key. It is good
/// for no TLS, and one for TLS is good for no signature.
///
/// # Errors
/// If the authority is none of ours or does not fit its key, or if the certificate would outlast it.
pub fn issue_signing(authority: &Issued, role: &Role, validity: Validity) -> Result<Issued, Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let certificate_pem = leaf(authority, role, (Vec::new(), to_sign()), &key, validity)?;
    Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
}

/// The same for somebody's key: the 32 bytes of an Ed25519 one.
///
/// # Errors
/// As [`issue_signing`].
pub fn certify_signing(
    authority: &Issued,
    role: &Role,
    key: &[u8; 32],
    validity: Validity,
) -> Result<String, Error> {
    let key = SubjectPublicKeyInfo::from_der(&[ED25519_PREFIX, &key[..]].concat())?;
    leaf(authority, role, (Vec::new(), to_sign()), &key, validity)
}

/// What stands before the key in the `SubjectPublicKeyInfo` of an Ed25519 one (RFC 8410).
const ED25519_PREFIX: &[u8] =
    &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn to_sign() -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(signing::PURPOSE.to_vec())
}

/// Certifies that `key` is that of `role`, for one purpose.
fn leaf(
    authority: &Issued,
    role: &Role,
    (hosts, usage): (Vec<SanType>, ExtendedKeyUsagePurpose),
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<String, Error> {
    let (federation, until) = inspect(authority)?;
    if validity.not_after > until {
        return Err(Error::BeyondRoot { until });
    }
    let mut params = params(role.to_string(), &federation, validity)?;
    let identity = Identity { federation, role: role.clone() };
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.subject_alt_names.extend(hosts);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let issuer_key = KeyPair::from_pem(&authority.key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate_pem, issuer_key)?;
    let mut chain = params.signed_by(key, &issuer)?.pem();
    if !is_root(authority)? {
        chain.push_str(&authority.certificate_pem);
    }
    Ok(chain)
}

/// The federation an authority is for.
///
/// # Errors
/// If it is none of ours or does not fit its key.
pub fn federation(authority: &Issued) -> Result<FederationName, Error> {
    inspect(authority).map(|(federation, _)| federation)
}

/// Where the coordinator is reached that holds this certificate, DER.
pub fn hosts(certificate: &[u8]) -> Vec<ServerName<'static>> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => ServerName::try_from((*name).to_owned()).ok(),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(ServerName::from(address))
        }
        _ => None,
    };
    names.filter_map(host).collect()
}

/// Whether the authority vouches for itself.
fn is_root(authority: &Issued) -> Result<bool, Error> {
    let wrong = || Error::Root { reason: "it is not a PEM certificate" };
    let (_, pem) = parse_x509_pem(authority.certificate_pem.as_bytes()).map_err(|_| wrong())?;
    let certificate = pem.parse_x509().map_err(|_| wrong())?;
    Ok(certificate.subject() == certificate.issuer())
}

/// How many authorities may stand between this one and a certificate.
fn path_length(authority: &Issued) -> Result<Option<u32>, Error> {
    let wrong = || Error::Root { reason: "it is not a PEM certificate" };
    let (_, pem) = parse_x509_pem(authority.certificate_pem.as_bytes()).map_err(|_| wrong())?;
    let certificate = pem.parse_x509().map_err(|_| wrong())?;
    let constraints = certificate.basic_constraints().ok().flatten();
    Ok(constraints.and_then(|constraints| constraints.value.path_len_constraint))
}

/// The federation an authority is for, and when it ends.
///
/// # Errors
/// If it is none of ours or does not fit its key.
pub fn inspect(authority: &Issued) -> Result<(FederationName, Timestamp), Error> {
    let wrong = |reason| Error::Root { reason };
    let (_, pem) = parse_x509_pem(authority.certificate_pem.as_bytes())
        .map_err(|_| wrong("it is not a PEM certificate"))?;
    let certificate = pem.parse_x509().map_err(|_| wrong("it is not a PEM certificate"))?;
    if !certificate.is_ca() {
        return Err(wrong("it is not an authority's"));
    }
    let federation =
        trust_domain_of(&certificate).ok_or_else(|| wrong("it names no federation"))?;
    let key =
        KeyPair::from_pem(&authority.key_pem).map_err(|_| wrong("its key is not a private key"))?;
    if key.public_key_raw() != certificate.public_key().subject_public_key.data.as_ref() {
        return Err(wrong("its key is another's"));
    }
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp());
    Ok((federation, until.map_err(|_| wrong("it has no end"))?))
}

fn trust_domain(federation: &FederationName) -> String {
    format!("spiffe://{federation}")
}

fn trust_domain_of(certificate: &X509Certificate<'_>) -> Option<FederationName> {
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
    uri.strip_prefix("spiffe://")?.parse().ok()
}

/// What all certificates have in common.
fn params(
    common_name: String,
    federation: &FederationName,
    validity: Validity,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, federation.as_str());
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = second(validity.not_before)?;
    params.not_after = second(validity.not_after)?;
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn second(time: Timestamp) -> Result<time::OffsetDateTime, Error> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|_| Error::Days { days: DAYS_MAX })
}

/// A random positive number whose first byte is never zero, so that all serials are equally long.
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; SERIAL_BYTES];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn host(host: &ServerName<'static>) -> Result<SanType, Error> {
    Ok(match host {
        ServerName::DnsName(name) => SanType::DnsName(name.as_ref().to_owned().try_into()?),
        ServerName::IpAddress(ip) => SanType::IpAddress((*ip).into()),
        _ => return Err(Error::Hosts("a host is a DNS name or an IP address")),
    })
}

#[cfg(test)]
mod tests;
