//! What the coordinator shows and checks in handshakes, signs with, and issues certificates with: read from
//! its files, read again when they change, and its own certificates renewed where it has the authority.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::credential;
use fedpaint_proto::identity::{self, Identity, Role, Validity};
use fedpaint_proto::names::FederationName;
use fedpaint_proto::signing::SigningFiles;
use fedpaint_proto::tls::{self, Judge, TlsFiles};
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{error, info};

use crate::ca;
use crate::clock::Clock;
use crate::config::{Config, Issuing};
use crate::evidence::{Notary, Seal};
use crate::issuer::{self, Issuer};
use crate::seal;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The most that is told of files until they change.
const TOLD_MAX: usize = 16;

/// What people are told that a root's certificate is, where they are told when it ends.
const ROOT: &str = "root";

/// The same of the issuing authority's.
const ISSUING: &str = "issuing authority";

/// Where the files are, and what they must be.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    federation: FederationName,
    tls: TlsFiles,
    signing: Option<SigningFiles>,
    issuing: Option<Issuing>,
}

/// Everything that was read at once.
pub(crate) struct Credentials {
    /// For members of the federation.
    pub(crate) server: Arc<ServerConfig>,
    /// For who has no certificate yet, where certificates are issued.
    pub(crate) strangers: Option<Arc<ServerConfig>>,
    /// What issues certificates, where there is something.
    pub(crate) issuer: Option<Issuer>,
    /// What the coordinator signs with, where it does.
    pub(crate) seal: Option<Arc<Seal>>,
    /// Whose certificate ends when, soonest first.
    pub(crate) expiries: Vec<(String, Timestamp)>,
    /// Who the coordinator is, by which certificate, and from when to when that holds.
    own: (Role, CertificateDer<'static>, Validity),
    /// What the files held before they were read.
    contents: Contents,
}

/// What every file holds; none that does not read.
type Contents = Vec<Option<Vec<u8>>>;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate, its key or the root cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The authority cannot be used.
    #[error(transparent)]
    Issuer(#[from] issuer::Error),
    /// What is to be signed with cannot be used.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The coordinator's own certificate names nobody.
    #[error("{} cannot be the coordinator's certificate: {source}; make one with `fedctl ca issue`", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: identity::Error,
    },
    /// The coordinator's own certificate is another's.
    #[error(
        "the certificate {} is that of {found}, it must be that of a coordinator of federation \
         {federation}; make one with `fedctl ca issue`",
        path.display()
    )]
    NotACoordinator {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// The federation in the config.
        federation: FederationName,
    },
    /// The coordinator's own certificate has expired.
    #[error("the certificate {} has expired on {until}; make one with `fedctl ca issue`", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Its end.
        until: Timestamp,
    },
    /// The coordinator's own certificate cannot be issued anew.
    #[error("cannot renew the coordinator's own certificate: {0}")]
    Renew(#[from] ca::Error),
    /// A certificate that is being replaced cannot be put into its place.
    #[error("cannot finish the replacement of {}: {source}", path.display())]
    Settle {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Files {
    /// The files that the config names.
    pub(crate) fn of(config: &Config) -> Files {
        Files {
            federation: config.federation.clone(),
            tls: config.tls.clone(),
            signing: config.signing.clone(),
            issuing: config.issuing.clone(),
        }
    }

    /// Reads what is signed with, where something is.
    ///
    /// # Errors
    /// If it does not read, or is not a coordinator's that holds `now`.
    pub(crate) fn seal(&self, now: Timestamp) -> Result<Option<Arc<Seal>>, Error> {
        let load = |files| seal::load(files, &self.tls.ca, &self.federation, now);
        Ok(self.signing.as_ref().map(load).transpose()?.map(Arc::new))
    }

    /// Reads all others; `judge` has the last word on members' certificates.
    ///
    /// # Errors
    /// If one does not read, they do not fit together, or they are not a coordinator's that holds `now`.
    pub(crate) fn load(
        &self,
        judge: Judge,
        seal: Option<Arc<Seal>>,
        now: Timestamp,
    ) -> Result<Credentials, Error> {
        let path = || self.tls.certificate.clone();
        credential::settle(&self.tls).map_err(|source| Error::Settle { path: path(), source })?;
        let contents = self.contents();
        let server = self.tls.server(judge)?;
        let own = self.own(now)?;
        let issuing = self.issuing.as_ref();
        let issuer = issuing.map(|issuing| Issuer::load(issuing, &self.tls, &self.federation));
        let issuer = issuer.transpose()?;
        let strangers = match &issuer {
            Some(issuer) => Some(self.tls.strangers(&issuer.root)?),
            None => None,
        };
        let ends = |(at, root): (usize, &CertificateDer<'_>)| {
            let validity = Validity::of_certificate(root).ok()?;
            let name = if at == 0 { ROOT.to_owned() } else { format!("{ROOT} {}", at + 1) };
            Some((name, validity.not_after))
        };
        let roots = self.tls.roots()?;
        let mut expiries: Vec<_> = roots.iter().enumerate().filter_map(ends).collect();
        expiries.extend(issuer.iter().map(|issuer| (ISSUING.to_owned(), issuer.until)));
        expiries.push((own.0.to_string(), own.2.not_after));
        let signs = seal.iter().map(|seal| seal.signer.validity().not_after);
        expiries.extend(signs.map(|until| (signing_of(&own.0), until)));
        expiries.sort_by_key(|(_, not_after)| *not_after);
        Ok(Credentials { server, strangers, issuer, seal, expiries, own, contents })
    }

    /// Who the coordinator is by its own certificate.
    fn own(&self, now: Timestamp) -> Result<(Role, CertificateDer<'static>, Validity), Error> {
        let path = || self.tls.certificate.clone();
        let certificate = self.tls.own_certificate()?;
        let wrong = |source| Error::Identity { path: path(), source };
        let found = Identity::from_certificate(&certificate).map_err(wrong)?;
        let validity = Validity::of_certificate(&certificate).map_err(wrong)?;
        if !matches!(found.role, Role::Coordinator(_)) || found.federation != self.federation {
            let federation = self.federation.clone();
            return Err(Error::NotACoordinator { path: path(), found, federation });
        }
        match validity.not_after <= now {
            true => Err(Error::Expired { path: path(), until: validity.not_after }),
            false => Ok((found.role, certificate, validity)),
        }
    }

    /// What the files hold, to see whether they have changed.
    fn contents(&self) -> Contents {
        let TlsFiles { ca, certificate, key } = &self.tls;
        let own = [ca, certificate, key].into_iter();
        let signing = self.signing.iter().flat_map(|files| [&files.certificate, &files.key]);
        let issuing = self.issuing.iter().flat_map(|files| [&files.certificate, &files.key]);
        own.chain(signing).chain(issuing).map(|path| std::fs::read(path).ok()).collect()
    }

    /// Renews the coordinator's own certificate for TLS, with a fresh key.
    fn renew(&self, held: &Credentials, issuer: &Issuer, now: Timestamp) -> Result<(), Error> {
        let (role, certificate, _) = &held.own;
        let hosts = ca::hosts(certificate);
        let until = now.checked_add(issuer.life(role, now)).unwrap_or(issuer.until);
        let validity = ca::Validity::until(now, until);
        let issued = ca::issue(issuer.authority(), role, &hosts, validity)?;
        let replaced = credential::replace(&self.tls, &issued.certificate_pem, &issued.key_pem);
        let path = || self.tls.certificate.clone();
        replaced.map_err(|source| Error::Settle { path: path(), source })?;
        info!(%until, "the coordinator's own certificate is renewed");
        Ok(())
    }

    /// Renews the coordinator's own certificates where that is due, by their age or because another authority
    /// issues now: one does not wait for the other.
    fn keep(&self, held: &Credentials, now: Timestamp, told: &mut Told) {
        let Some(issuer) = &held.issuer else { return };
        if let (Some(seal), Some(files)) = (&held.seal, &self.signing) {
            match seal::follow(seal, files, issuer, now) {
                Ok(true) => info!("the coordinator's signing certificate is renewed"),
                Ok(false) => {}
                Err(error) => told.tell("cannot renew the signing certificate", &error),
            }
        }
        if held.is_due(issuer, now)
            && let Err(error) = self.renew(held, issuer, now)
        {
            told.tell("cannot renew the coordinator's own certificate", &error);
        }
    }
}

impl Credentials {
    /// Whether the coordinator's own certificate is to be renewed: two thirds of its life are over, or another
    /// authority has issued it than the one that issues now.
    fn is_due(&self, issuer: &Issuer, now: Timestamp) -> bool {
        let (_, certificate, validity) = &self.own;
        validity.renewal() <= now || !issuer.issued(certificate)
    }
}

/// What people are told that the certificate is by which somebody signs, where they are told when it ends.
pub(crate) fn signing_of(holder: &Role) -> String {
    format!("{holder}, signing")
}

/// What was told last, so that it is not told every few seconds.
#[derive(Debug, Default)]
struct Told(BTreeSet<String>);

impl Told {
    fn tell(&mut self, what: &'static str, error: &dyn std::error::Error) {
        if self.0.len() < TOLD_MAX && self.0.insert(format!("{what}: {error}")) {
            error!(%error, "{what}; what holds stays, and it is tried again");
        }
    }
}

/// Reads the files again whenever they change, for the handshakes that come and for the `notary`, and renews
/// the coordinator's own certificates when that is due and it has the authority. What cannot be used is told,
/// and what holds stays. Files that are not those that were read last are never written: somebody is replacing
/// them.
pub(crate) async fn keep_fresh(
    files: Files,
    (shown, notary): (watch::Sender<Arc<Credentials>>, Option<Arc<Notary>>),
    judge: Judge,
    clock: Arc<dyn Clock>,
) {
    let (mut tried, mut told) = (shown.borrow().contents.clone(), Told::default());
    // A disk that kept a replacement from being finished may let it, though the files are the same.
    let mut is_unsettled = false;
    loop {
        let next = clock.now().checked_add(LOOK_EVERY).unwrap_or(Timestamp::MAX);
        clock.sleep_until(next).await;
        let (held, now) = (Arc::clone(&*shown.borrow()), clock.now());
        if files.contents() == held.contents {
            files.keep(&held, now, &mut told);
        }
        let found = files.contents();
        if found == tried && !is_unsettled {
            continue;
        }
        if found != tried {
            (tried, told) = (found, Told::default());
        }
        let seal = files.seal(now).unwrap_or_else(|error| {
            told.tell("what is signed with has changed and cannot be used", &error);
            held.seal.clone()
        });
        let read = files.load(Arc::clone(&judge), seal, now);
        is_unsettled = matches!(read, Err(Error::Settle { .. }));
        match read {
            Ok(read) => {
                info!("certificates have changed and are read anew");
                if let (Some(notary), Some(seal)) = (&notary, &read.seal) {
                    notary.take(Arc::clone(seal));
                }
                shown.send_replace(Arc::new(read));
            }
            Err(error) => told.tell("certificates have changed and cannot be used", &error),
        }
    }
}

#[cfg(test)]
mod tests;
