//! Becoming a site: the keys are made here, the coordinator is known by the root in the token, and its
//! operator compares the words that both ends show.
//!
//! Everything may be repeated: keys that are there are used again, so that a join which was interrupted
//! goes on with the same token.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fedpaint_proto::channel::{self, Address, Route};
use fedpaint_proto::credential;
use fedpaint_proto::enrolment::Token;
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::identity::{Identity, Role};
use fedpaint_proto::limits::CALL_TIMEOUT;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::reason;
use fedpaint_proto::renewal::TlsKey;
use fedpaint_proto::tls::{self, TlsFiles};
use fedpaint_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use fedpaint_proto::v1::{JoinRequest, JoinResponse};
use fedpaint_proto::wire::WIRE_VERSION;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::{Request, Status};

use crate::keys::SiteKey;

/// The wait after an attempt that failed for a reason which may pass.
const RETRY: Duration = Duration::from_secs(5);

/// The longest wait between two attempts, whatever the coordinator says.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Where a site's keys and certificate lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// For TLS.
    pub tls: TlsFiles,
    /// The key that the site signs with.
    pub signing_key: PathBuf,
    /// Its certificate.
    pub signing_certificate: PathBuf,
}

/// Why a site cannot join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The site has joined before.
    #[error("{} is there already: this site has joined; choose another folder to join anew", path.display())]
    Joined {
        /// The certificate.
        path: PathBuf,
    },
    /// The certificate that is there is not what this token is for.
    #[error(
        "{} is there already and is not site {site}'s under the root that the token names; choose another folder",
        path.display()
    )]
    Another {
        /// The certificate.
        path: PathBuf,
        /// Whose token it is.
        site: SiteName,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key that was made before cannot be used.
    #[error(transparent)]
    Key(#[from] tls::Error),
    /// The cryptographic library fails.
    #[error("cannot make or use a key: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The coordinator cannot be reached, or is another.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// The coordinator refuses.
    #[error("the coordinator refuses: {}", .0.message())]
    Refused(Box<Status>),
    /// The coordinator's roots are not those of the token.
    #[error("the coordinator sent other roots than the one that the token names")]
    Roots,
}

impl Files {
    /// The files of `site` in `folder`.
    pub fn of(folder: &Path, site: &str) -> Files {
        Files {
            tls: TlsFiles {
                ca: folder.join("ca.pem"),
                certificate: folder.join(format!("{site}.pem")),
                key: folder.join(format!("{site}.key")),
            },
            signing_key: folder.join(format!("{site}.signing.key")),
            signing_certificate: folder.join(format!("{site}.signing.pem")),
        }
    }
}

/// Whether an earlier join with this token's name and root has come as far as the certificate, which is
/// written last.
///
/// # Errors
/// If the certificate or the roots do not read, or are others.
pub fn has_joined(token: &Token, files: &Files) -> Result<bool, Error> {
    let path = &files.tls.certificate;
    if !path.exists() {
        return Ok(false);
    }
    let identity = Identity::from_certificate(&files.tls.own_certificate()?);
    let own = identity.is_ok_and(|identity| identity.role == Role::Site(token.site.clone()));
    let rooted = files.tls.roots()?.iter().any(|root| tls::pin(root) == Some(token.root));
    match own && rooted {
        true => Ok(true),
        false => Err(Error::Another { path: path.clone(), site: token.site.clone() }),
    }
}

/// Joins with a token: makes the keys, asks until an operator has approved, and writes the certificate.
/// `show` is called with the words once the coordinator has taken note of the keys.
///
/// # Errors
/// If the token does not hold, the coordinator is not the token's, or a file does not write.
pub async fn join(
    token: &Token,
    address: &Address,
    route: &Route,
    files: &Files,
    mut show: impl FnMut(&str),
) -> Result<(), Error> {
    let certificate = &files.tls.certificate;
    if certificate.exists() {
        return Err(Error::Joined { path: certificate.clone() });
    }
    if let Some(folder) = certificate.parent() {
        let made = reach("join.make").and_then(|()| std::fs::create_dir_all(folder));
        made.map_err(|source| Error::Write { path: folder.to_owned(), source })?;
    }
    let tls = match key_of(&files.tls.key)? {
        Some(pem) => TlsKey::of_pem(&pem)?,
        None => {
            let fresh = TlsKey::fresh()?;
            keep("join.tls_key", &files.tls.key, &fresh.key_pem)?;
            fresh
        }
    };
    let signing = match key_of(&files.signing_key)? {
        Some(pem) => SiteKey::of_pem(&pem)?,
        None => {
            let fresh = SiteKey::fresh()?;
            keep("join.signing_key", &files.signing_key, &fresh.key_pem())?;
            fresh
        }
    };
    let keys = signing.with(&tls)?;
    let words = keys.words(&token.site);
    let request = JoinRequest {
        name: token.site.to_string(),
        secret: token.secret.to_vec(),
        csr: tls.csr,
        signing_key: keys.signing.to_vec(),
        proof: signing.sign(&keys.proof_message(&token.site, &token.secret_digest()))?,
        wire_version: WIRE_VERSION,
    };
    let mut shown = false;
    loop {
        let answer = match ask(token, address, route, &request).await {
            Ok(answer) => answer,
            Err(Error::Refused(status)) if reason::is_transient(&status) => {
                tracing::warn!("{}; trying again", channel::told(&status));
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error @ Error::Channel(channel::Error::Connect { .. })) if shown => {
                tracing::warn!("{error}; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if !shown {
            show(&words);
            shown = true;
        }
        if answer.certificate_pem.is_empty() {
            let wait = answer.next_after.and_then(|wait| Duration::try_from(wait).ok());
            tokio::time::sleep(wait.unwrap_or(RETRY).min(WAIT_MAX)).await;
            continue;
        }
        return receive(token, files, &answer);
    }
}

/// One call. The connection is made for it, because a stranger's does not last.
async fn ask(
    token: &Token,
    address: &Address,
    route: &Route,
    request: &JoinRequest,
) -> Result<JoinResponse, Error> {
    let channel = channel::join_by(route, address, token.root).await?;
    let mut request = Request::new(request.clone());
    request.set_timeout(CALL_TIMEOUT);
    let answer = EnrolmentServiceClient::new(channel).join(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| Error::Refused(Box::new(status)))
}

/// Writes what the coordinator has sent, the certificate last: once it is there the site has joined.
fn receive(token: &Token, files: &Files, answer: &JoinResponse) -> Result<(), Error> {
    let roots = CertificateDer::pem_slice_iter(answer.roots_pem.as_bytes());
    let roots: Vec<CertificateDer<'_>> =
        roots.collect::<Result<_, _>>().map_err(|_| Error::Roots)?;
    if !roots.iter().any(|root| tls::pin(root) == Some(token.root)) {
        return Err(Error::Roots);
    }
    let signing = ("join.signing", &files.signing_certificate, &answer.signing_certificate_pem);
    let rest = [
        ("join.roots", &files.tls.ca, &answer.roots_pem),
        ("join.certificate", &files.tls.certificate, &answer.certificate_pem),
    ];
    // A coordinator from before updates were signed sends none.
    let signing = Some(signing).filter(|(.., text)| !text.is_empty());
    for (place, path, text) in signing.into_iter().chain(rest) {
        let written = reach(place).and_then(|()| credential::write_certificate(path, text));
        written.map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    Ok(())
}

/// The key in a file, if it is there.
fn key_of(path: &Path) -> Result<Option<String>, Error> {
    match path.exists() {
        true => Ok(Some(tls::key_pem(path)?)),
        false => Ok(None),
    }
}

fn keep(place: &'static str, path: &Path, pem: &str) -> Result<(), Error> {
    let written = reach(place).and_then(|()| credential::write_key(path, pem));
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}
