//! The site's certificates, renewed while the agent runs: with a fresh key for TLS, over the connection that
//! the old one made, when two thirds of its life are over; and the one for signing with it.
//!
//! Files that somebody replaces by hand, such as the roots while one takes over from another, are taken up
//! too. A new connection is made for what comes next, and the old one serves what is under way to its end;
//! what is signed and believed from then on is by the files as they are.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::channel::{self, Route};
use fedpaint_proto::identity::Validity;
use fedpaint_proto::renewal::{self, TlsKey};
use fedpaint_proto::tls;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::agent::Trust;
use crate::agent::line::Channels;
use crate::config::{self, Config, Site};

/// How often the files are looked at, and how soon what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a certificate is not renewed, or not taken up.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Renewal(#[from] renewal::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Channel(#[from] channel::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// What follows from the files, as the agent has it.
pub struct Shown {
    /// The connections.
    pub channels: watch::Sender<Channels>,
    /// What is signed with, and believed.
    pub trust: watch::Sender<Option<Arc<Trust>>>,
}

/// Renews the certificates of `config` whenever that is due, and replaces what is `shown` whenever a
/// certificate, a key or the roots are others than those `seen`, by which it was made. It never ends.
pub async fn keep(
    config: Config,
    route: Route,
    site: Site,
    (shown, mut seen): (Shown, Contents),
    now: fn() -> Timestamp,
) {
    let mut due = site.validity.renewal();
    // One for every try, until it has a certificate.
    let mut next: Option<TlsKey> = None;
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let done = async {
            if due <= now() {
                let channel = shown.channels.borrow().calls.clone();
                let key = match &next {
                    Some(key) => key,
                    None => next.insert(TlsKey::fresh().map_err(renewal::Error::from)?),
                };
                let signing = config.signing.as_ref().map(|files| (files, now()));
                let renewed = renewal::renew(channel, &config.tls, key, signing).await?;
                next = None;
                tracing::info!("the certificate is renewed");
                if let Some(why) = renewed.unsigned {
                    tracing::warn!("the signing certificate is the one from before: {why}");
                }
            }
            let own = config.tls.own_certificate()?;
            due = Validity::of_certificate(&own).map_or(due, |validity| validity.renewal());
            let found = Contents::of(&config);
            if found != seen {
                let (tls, trust) = (config.tls.client()?, Trust::load(&config, &site, now)?);
                let channels = Channels::open(&config, &route, &site, tls).await?;
                shown.trust.send_replace(trust.map(Arc::new));
                shown.channels.send_replace(channels);
                seen = found;
                tracing::info!("a new connection is made, with the certificates as they are now");
            }
            Ok::<(), Error>(())
        };
        match done.await {
            Ok(()) => told.clear(),
            // Told once and not every few seconds.
            Err(error) if told != error.to_string() => {
                told = error.to_string();
                tracing::warn!(%due, "the certificate cannot be renewed: {told}; trying again");
            }
            Err(_) => {}
        }
    }
}

/// What the files hold, to see whether they have changed; a file that does not read is none.
#[derive(PartialEq)]
pub struct Contents(Vec<Option<Vec<u8>>>);

impl Contents {
    /// As they are now.
    pub fn of(config: &Config) -> Contents {
        let tls = [&config.tls.ca, &config.tls.certificate, &config.tls.key];
        let signing = config.signing.iter().flat_map(|files| [&files.certificate, &files.key]);
        Contents(tls.into_iter().chain(signing).map(|path| std::fs::read(path).ok()).collect())
    }
}
