//! What the coordinator shows and checks in handshakes, signs with, and issues certificates with: read from
//! its files, read again when they change, and its own certificates renewed where it has the authority.

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
    /// Who the coordinator is, and from when to when its certificate holds.
    own: (Role, Validity),
}

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

    /// Reads them all; `judge` has the last word on members' certificates.
    ///
    /// # Errors
    /// If one does not read, they do not fit together, or they are not a coordinator's that holds `now`.
    pub(crate) fn load(&self, judge: Judge, now: Timestamp) -> Result<Credentials, Error> {
        let path = || self.tls.certificate.clone();
        credential::settle(&self.tls).map_err(|source| Error::Settle { path: path(), source })?;
        let server = self.tls.server(judge)?;
        let own = self.own(now)?;
        let issuing = self.issuing.as_ref();
        let issuer = issuing.map(|issuing| Issuer::load(issuing, &self.tls, &self.federation));
        let issuer = issuer.transpose()?;
        let seal = |files| seal::load(files, &self.tls.ca, &self.federation, now);
        let seal = self.signing.as_ref().map(seal).transpose()?;
        let strangers = match &issuer {
            Some(issuer) => Some(self.tls.strangers(&issuer.root)?),
            None => None,
        };
        let ends = |what: &str, der: &[u8]| {
            Validity::of_certificate(der).ok().map(|held| (what.to_owned(), held.not_after))
        };
        let roots = self.tls.roots()?;
        let mut expiries: Vec<_> = roots.iter().filter_map(|root| ends(ROOT, &root[..])).collect();
        expiries.extend(issuer.iter().map(|issuer| (ISSUING.to_owned(), issuer.until)));
        expiries.push((own.0.to_string(), own.1.not_after));
        expiries.extend(seal.iter().map(|(_, until)| (format!("{}, signing", own.0), *until)));
        expiries.sort_by_key(|(_, not_after)| *not_after);
        let seal = seal.map(|(seal, _)| Arc::new(seal));
        Ok(Credentials { server, strangers, issuer, seal, expiries, own })
    }

    /// Who the coordinator is by its own certificate.
    fn own(&self, now: Timestamp) -> Result<(Role, Validity), Error> {
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
            false => Ok((found.role, validity)),
        }
    }

    /// What the files hold, to see whether they have changed; a file that does not read is none.
    fn contents(&self) -> Vec<Option<Vec<u8>>> {
        let TlsFiles { ca, certificate, key } = &self.tls;
        let own = [ca, certificate, key].into_iter();
        let signing = self.signing.iter().flat_map(|files| [&files.certificate, &files.key]);
        let issuing = self.issuing.iter().flat_map(|files| [&files.certificate, &files.key]);
        own.chain(signing).chain(issuing).map(|path| std::fs::read(path).ok()).collect()
    }

    /// Renews the coordinator's own certificates where that is due, by their age or because another authority
    /// issues now: the one for TLS with a fresh key; the one for signing keeps its key.
    fn renew(&self, held: &Credentials, issuer: &Issuer, now: Timestamp) -> Result<(), Error> {
        if let (Some(seal), Some(files)) = (&held.seal, &self.signing)
            && seal::follow(seal, files, issuer, now)?
        {
            info!(
                "the coordinator's signing certificate is renewed, by the authority as it is now"
            );
        }
        let chain = tls::certificates("certificate", &self.tls.certificate)?;
        if !held.is_due(now) && chain.contains(&issuer.certificate) {
            return Ok(());
        }
        let certificate = self.tls.own_certificate()?;
        let hosts = ca::hosts(&certificate);
        let until = now.checked_add(issuer.life(&held.own.0, now)).unwrap_or(issuer.until);
        let validity = ca::Validity::until(now, until);
        let issued = ca::issue(issuer.authority(), &held.own.0, &hosts, validity)?;
        let replaced = credential::replace(&self.tls, &issued.certificate_pem, &issued.key_pem);
        let path = || self.tls.certificate.clone();
        replaced.map_err(|source| Error::Settle { path: path(), source })?;
        info!(%until, "the coordinator's own certificate is renewed");
        Ok(())
    }
}

impl Credentials {
    /// Whether two thirds of the life of the coordinator's own certificate are over.
    fn is_due(&self, now: Timestamp) -> bool {
        self.own.1.renewal() <= now
    }
}

/// Reads the files again whenever they change, for the handshakes that come and for the `notary`, and renews
/// the coordinator's own certificates when that is due and it has the authority. What cannot be used is told,
/// and what holds stays.
pub(crate) async fn keep_fresh(
    files: Files,
    (shown, notary): (watch::Sender<Arc<Credentials>>, Option<Arc<Notary>>),
    judge: Judge,
    clock: Arc<dyn Clock>,
) {
    let mut seen = files.contents();
    loop {
        let next = clock.now().checked_add(LOOK_EVERY).unwrap_or(Timestamp::MAX);
        clock.sleep_until(next).await;
        let (held, now) = (Arc::clone(&*shown.borrow()), clock.now());
        if let Some(issuer) = &held.issuer
            && let Err(error) = files.renew(&held, issuer, now)
        {
            error!(%error, "the coordinator's own certificates cannot be renewed");
        }
        let found = files.contents();
        if found == seen {
            continue;
        }
        seen = found;
        match files.load(Arc::clone(&judge), now) {
            Ok(read) => {
                info!("certificates have changed and are read anew");
                if let (Some(notary), Some(seal)) = (&notary, &read.seal) {
                    notary.take(Arc::clone(seal));
                }
                shown.send_replace(Arc::new(read));
            }
            Err(error) => error!(%error, "certificates have changed and cannot be used"),
        }
    }
}
