//! The agent as a witness of the coordinator's log: it keeps the last head that it believed, and ends with
//! the proof in its hands where the next one does not fit.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::signing::{Authority, Signer};
use fedpaint_proto::v1::{LogDoubt, WithdrawalReason};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Agent, Error};
use crate::client::{Answer, LogAsked};
use crate::config::{self, Config, Site};
use crate::witness::{self, Doubt, Proof, Told};

/// The newest trust, as certificates and roots are replaced; none at a site without a signing key. Clones
/// follow the same.
#[derive(Clone, Debug)]
pub struct Trusted(watch::Receiver<Option<Arc<Trust>>>);

impl Trusted {
    /// What begins as `trust` and is replaced by the sender.
    pub fn new(trust: Option<Trust>) -> (watch::Sender<Option<Arc<Trust>>>, Trusted) {
        let (sender, receiver) = watch::channel(trust.map(Arc::new));
        (sender, Trusted(receiver))
    }

    /// The newest one.
    pub fn now(&self) -> Option<Arc<Trust>> {
        self.0.borrow().clone()
    }
}

/// What a site signs with, and by what it judges what others have signed.
#[derive(Debug)]
pub struct Trust {
    /// The federation's root.
    pub authority: Authority,
    /// This site's key.
    pub signer: Signer,
    /// The site's clock.
    pub now: fn() -> Timestamp,
}

impl Trust {
    /// What the configuration names; none where it names no signing key.
    ///
    /// # Errors
    /// If a file does not read, or the signing certificate is not this site's or does not hold.
    pub fn load(
        config: &Config,
        site: &Site,
        now: fn() -> Timestamp,
    ) -> Result<Option<Trust>, config::Error> {
        let Some(signer) = config.signer(site, now())? else { return Ok(None) };
        let authority = Authority::load(site.federation.clone(), &config.tls.ca)?;
        Ok(Some(Trust { authority, signer, now }))
    }

    /// What the coordinator is asked of its log.
    pub(super) fn asks(&self, size: u64, doubt: LogDoubt) -> LogAsked<'_> {
        let (federation, signing_until) =
            (self.authority.federation(), self.signer.validity().not_after);
        LogAsked { federation, size, doubt, signing_until }
    }
}

impl Agent {
    /// How much of the log is believed, and what of it is not.
    pub(super) fn known_of_log(&self) -> (u64, LogDoubt) {
        (self.kept.as_ref().map_or(0, |kept| kept.statement.size), self.doubt)
    }

    /// An answer is heard if the log it tells of is the one this site knows.
    ///
    /// # Errors
    /// [`Error::Log`] if the log was changed.
    pub(super) async fn weigh(&mut self, answer: Answer) -> Result<Duration, Error> {
        let believed = self.witness(&answer.log);
        // The next heartbeat says so, for the coordinator's people.
        self.doubt = believed.as_ref().err().map_or(LogDoubt::Unspecified, Doubt::to_wire);
        match believed {
            Ok(()) => Ok(self.heard(answer)),
            Err(doubt) if doubt.is_proof() => Err(self.accuse(doubt, answer.log).await),
            Err(doubt) => Ok(self.doubted(&doubt)),
        }
    }

    /// Judges what the coordinator says of its log, and keeps it. Where this site has no signing key
    /// nothing is asked of the coordinator either.
    fn witness(&mut self, told: &Told) -> Result<(), Doubt> {
        let Some(trust) = self.bench.trust.now() else { return Ok(()) };
        let head =
            witness::judge(&trust.authority, self.kept.as_ref(), told, (trust.now)())?.clone();
        if self.kept.as_ref().is_none_or(|kept| kept.statement.size < head.statement.size) {
            self.keeper.keep(head.clone());
        }
        self.kept = Some(head);
        Ok(())
    }

    /// An answer that does not count: it is asked for again.
    fn doubted(&mut self, doubt: &Doubt) -> Duration {
        let what = format!("the coordinator's answer does not count: {doubt}");
        self.failures.count(what)
    }

    /// Ends with the coordinator: keeps the proof and leaves the round in hand.
    async fn accuse(&mut self, doubt: Doubt, told: Told) -> Error {
        self.leave(WithdrawalReason::Log).await;
        let proof = match (self.kept.clone(), told.head) {
            (Some(kept), Some(head)) => {
                let (why, consistency) = (doubt.to_string(), told.proof);
                let proof = Proof { why, kept, told: head, consistency };
                match self.bench.workspace.keep_proof(&proof) {
                    Ok(path) => path.display().to_string(),
                    Err(error) => format!("no file: {error}"),
                }
            }
            _ => "no file".to_owned(),
        };
        Error::Log { doubt, proof }
    }
}
