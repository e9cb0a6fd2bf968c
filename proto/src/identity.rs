//! Who is at the other end: read from the certificate, never from a message.
//!
//! A certificate carries exactly one URI in its subject alternative names,
//! `spiffe://<federation>/<role>/<name>`; anything else names nobody.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::names::{self, Digest, FederationName, OperatorName, SiteName};

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The trust domain.
    pub federation: FederationName,
    /// What the holder is, and its name.
    pub role: Role,
}

/// What the holder of a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An institution that trains.
    Site(SiteName),
    /// A person or program that manages the federation.
    Operator(OperatorName),
    /// The coordinator itself.
    Coordinator(String),
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not an X.509 certificate.
    #[error("the certificate does not parse")]
    Certificate,
    /// The certificate has no URI, or several.
    #[error("the certificate has {found} URIs among its names, it must have exactly one")]
    Uris {
        /// How many it has.
        found: usize,
    },
    /// The URI is not one of ours.
    #[error(
        "the certificate's URI is not spiffe://<federation>/<role>/<name> with role site, \
         operator or coordinator"
    )]
    Uri,
    /// A part of the URI is not a name.
    #[error(transparent)]
    Name(#[from] names::Error),
}

impl Identity {
    /// The identity in a certificate, as DER.
    ///
    /// # Errors
    /// If it does not parse or does not have exactly one well-formed SPIFFE URI.
    pub fn from_certificate(der: &[u8]) -> Result<Identity, Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Certificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| Error::Certificate)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris[..] {
            [uri] => uri.parse(),
            _ => Err(Error::Uris { found: uris.len() }),
        }
    }
}

/// A public key by what it is: BLAKE3-256 of its `SubjectPublicKeyInfo`. A certificate that is renewed
/// with a fresh key has another one, and one that is issued again for the same key has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Digest);

impl KeyId {
    /// The key whose `SubjectPublicKeyInfo`, as DER, is this.
    pub fn of_public_key(spki: &[u8]) -> KeyId {
        KeyId(Digest::of(spki))
    }

    /// The key of a certificate, as DER.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn of_certificate(der: &[u8]) -> Result<KeyId, Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Certificate)?;
        Ok(KeyId::of_public_key(certificate.public_key().raw))
    }
}

impl FromStr for KeyId {
    type Err = names::Error;
    fn from_str(text: &str) -> Result<KeyId, names::Error> {
        text.parse().map(KeyId)
    }
}

impl fmt::Display for KeyId {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: Timestamp,
    /// The last moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// When a certificate, as DER, is valid.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn of_certificate(der: &[u8]) -> Result<Validity, Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Certificate)?;
        let validity = certificate.validity();
        let moment = |seconds| Timestamp::from_second(seconds).map_err(|_| Error::Certificate);
        Ok(Validity {
            not_before: moment(validity.not_before.timestamp())?,
            not_after: moment(validity.not_after.timestamp())?,
        })
    }

    /// When the certificate is to be renewed: two thirds of its life are over.
    pub fn renewal(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        // Within the validity, so in range.
        self.not_after.checked_sub(life / 3).unwrap_or(self.not_after)
    }

    /// Whether the certificate is valid at `moment`.
    pub fn contains(&self, moment: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&moment)
    }
}

impl FromStr for Identity {
    type Err = Error;
    fn from_str(uri: &str) -> Result<Identity, Error> {
        let path = uri.strip_prefix("spiffe://").ok_or(Error::Uri)?;
        let (federation, role) = path.split_once('/').ok_or(Error::Uri)?;
        Ok(Identity { role: role.parse()?, federation: federation.parse()? })
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Role, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let [role, name] = parts[..] else { return Err(Error::Uri) };
        Ok(match role {
            "site" => Role::Site(name.parse()?),
            "operator" => Role::Operator(name.parse()?),
            // A coordinator's name keeps to the same rule.
            "coordinator" => Role::Coordinator(name.parse::<OperatorName>()?.into()),
            _ => return Err(Error::Uri),
        })
    }
}

impl fmt::Display for Identity {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.federation, self.role)
    }
}

impl fmt::Display for Role {
    /// `site/mayo`, as in the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Site(name) => write!(f, "site/{name}"),
            Role::Operator(name) => write!(f, "operator/{name}"),
            Role::Coordinator(name) => write!(f, "coordinator/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_its_uri() {
        for uri in [
            "spiffe://brain/site/mayo",
            "spiffe://brain/operator/ada",
            "spiffe://brain/coordinator/main",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn a_uri_of_another_form_names_nobody() {
        for uri in [
            "https://brain/site/mayo",
            "spiffe://brain/site",
            "spiffe://brain/site/mayo/x",
            "spiffe://brain/admin/mayo",
            "spiffe://brain/site/",
            "spiffe:///site/mayo",
            "spiffe://brain/site/MAYO",
            "spiffe://brain/site/mayo?x=1",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
        assert_eq!(Identity::from_certificate(b"no"), Err(Error::Certificate));
    }

    #[test]
    fn a_certificate_is_to_be_renewed_when_two_thirds_of_its_life_are_over() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let week = 7 * 86_400;
        for (from, until, renewal) in [(0, 90, 60), (1_000, 1_030, 1_020), (0, week, week / 3 * 2)]
        {
            let validity = Validity { not_before: at(from), not_after: at(until) };
            assert_eq!(validity.renewal(), at(renewal), "{validity:?}");
        }
    }
}
