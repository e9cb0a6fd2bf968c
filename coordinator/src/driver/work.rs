//! The driver's loop: the shell around its core. It waits, saves, shows and replies, and decides
//! nothing.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::names::{Blob, RoundId, SiteName};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Options;
use super::aggregation::{Aggregation, Ended, Failure};
use super::core::{Answer, Beat, Core, Request, State, Step};
use super::error::Error;
use super::patience::{AGGREGATION_RETRY, Patience};
use super::submit::vouched;
use super::troubles::{Troubles, Unsaved};
use crate::aggregate::Made;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::evidence::{Notary, made};
use crate::records::{Document, DocumentKind, Log};
use crate::run::Run;
use crate::store::{self, Store};

/// How long the driver waits before it tries again what the database has failed to save.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// The way back to who asked.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the handle asks the driver, each with the way back for the answer.
#[derive(Debug)]
pub(super) enum Message {
    /// A site says what it is doing and hears what it should do.
    Beat(SiteName, Beat, Reply<Answer>),
    /// A site that was heard hears what it should do now.
    Answer(SiteName, Reply<Answer>),
    /// What the audit log is now.
    Log(Reply<Log>),
    /// Any other change.
    Change(Request, Reply<()>),
}

pub(super) struct Driver {
    core: Core,
    store: Store,
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    notary: Option<Arc<Notary>>,
    shown: watch::Sender<Arc<State>>,
    /// One at a time, so that their memory does not add up.
    aggregation: Option<Aggregation>,
    /// Whether the last save failed: it may have happened all the same, as when the connection to the
    /// database broke, so only the database knows what holds.
    in_doubt: bool,
    patience: Patience,
    /// After the database has failed: when to try again.
    retry_at: Option<Timestamp>,
    /// What was last given to the database and not taken.
    unsaved: Option<Unsaved>,
    troubles: watch::Sender<Arc<Troubles>>,
}

/// What the driver shows: the state, and what keeps it from what it owes.
pub(super) type Shown = (watch::Receiver<Arc<State>>, watch::Receiver<Arc<Troubles>>);

impl Driver {
    pub(super) async fn load(
        options: Options,
        (store, blobs, clock): (Store, Blobs, Arc<dyn Clock>),
    ) -> Result<(Driver, Shown), store::Error> {
        let loaded = store.load_sound().await?;
        let core = Core::load(loaded, options.heartbeat).with_rules(options.rules);
        let sealed = |run: &Run| (run.round().id().clone(), run.round().sealed_at());
        let now = clock.now();
        let absence = store.vacant_since().map(|since| now.duration_since(since));
        let absence = absence.unwrap_or_default().max(SignedDuration::ZERO);
        let patience = Patience::at_start(core.aggregations().map(sealed), absence, now);
        let (shown, state) = watch::channel(Arc::clone(core.state()));
        let (troubles, told) = watch::channel(Arc::default());
        let driver = Driver {
            core,
            store,
            blobs,
            clock,
            notary: options.notary,
            shown,
            aggregation: None,
            patience,
            retry_at: None,
            unsaved: None,
            troubles,
            in_doubt: false,
        };
        Ok((driver, (state, told)))
    }

    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        shutdown: CancellationToken,
    ) {
        loop {
            let time = match self.work().await {
                Some(deadline) => self.clock.sleep_until(deadline),
                None => Box::pin(pending()),
            };
            self.show_troubles();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Before the mailbox, which a busy federation never leaves empty.
                outcome = Aggregation::end(&mut self.aggregation) => self.aggregated(outcome).await,
                // Whatever has found it: it is told with what is owed.
                () = self.blobs.rots() => {}
                message = messages.recv() => match message {
                    Some(message) => self.answer(message).await,
                    None => break,
                },
                () = time => {}
            }
        }
        debug!("the driver has ended");
    }

    /// Does what is owed and says when time next changes anything.
    async fn work(&mut self) -> Option<Timestamp> {
        if self.retry_at.is_some_and(|time| self.clock.now() < time) {
            return self.retry_at;
        }
        self.retry_at = None;
        let told = match self.settle().await {
            Ok(()) => self.tell_rot().await,
            failed => failed,
        };
        if let Err(error) = told {
            self.retry_later(&error);
            return self.retry_at;
        }
        match self.aggregate().await {
            Ok(until) => self.core.deadline().into_iter().chain(until).min(),
            Err(error) => {
                self.retry_later(&error);
                self.retry_at
            }
        }
    }

    /// Begins an aggregation that is owed, unless one is under way; when time next changes anything of them.
    async fn aggregate(&mut self) -> Result<Option<Timestamp>, Error> {
        let now = self.clock.now();
        self.give_up(now).await?;
        if let Some(under_way) = &mut self.aggregation {
            if !self.patience.is_owed(under_way.round()) {
                under_way.is_unwanted(now);
            }
            if under_way.until() <= now && !under_way.has_ended() {
                self.let_go();
            }
        }
        if self.aggregation.is_none()
            && let Some(round) = self.patience.next(now)
        {
            let resent = self.store.resent(&round).await?;
            if let Some(run) = self.core.aggregations().find(|run| *run.round().id() == round) {
                let until = self.patience.begins(&round, now);
                self.aggregation = Some(Aggregation::begin(&self.blobs, run, &resent, until));
            }
        }
        let let_go = self.aggregation.as_ref().map(Aggregation::until);
        Ok(self.patience.deadline(let_go.is_some()).into_iter().chain(let_go).min())
    }

    /// Gives the rounds up whose averages were waited for long enough.
    async fn give_up(&mut self, now: Timestamp) -> Result<(), Error> {
        loop {
            let owed = self.core.aggregations().map(|run| run.round().id().clone());
            self.patience.owes(&owed.collect::<Vec<_>>());
            let ended = self.aggregation.as_ref().filter(|under_way| under_way.has_ended());
            let Some((round, reason)) = self.patience.over(ended.map(Aggregation::round), now)
            else {
                return Ok(());
            };
            error!(%round, reason, "a round is given up");
            self.apply(Request::NoAverage(round, reason)).await?;
            self.settle().await?;
        }
    }

    /// Waits no longer for the average that is under way, so that the others are made. No thread can be ended
    /// from outside: this one keeps its memory, and is one more beside the next, until its disk answers or the
    /// process ends. What it makes then has no row, and is swept up like any blob that nobody names.
    fn let_go(&mut self) {
        if let Some(under_way) = self.aggregation.take() {
            error!(round = %under_way.round(), "an average does not end and is let go of");
        }
    }

    /// Notes that the database did not take what it was given.
    fn not_saved(&mut self, error: &store::Error) {
        let (since, why) = (self.clock.now(), error.to_string());
        let since = self.unsaved.as_ref().map_or(since, |unsaved| unsaved.since);
        self.unsaved = Some(Unsaved { since, why });
        self.show_troubles();
    }

    fn show_troubles(&self) {
        let now = Troubles { averages: self.patience.shown(), unsaved: self.unsaved.clone() };
        self.troubles.send_if_modified(|held| {
            let changed = **held != now;
            if changed {
                *held = Arc::new(now);
            }
            changed
        });
    }

    /// What the database failed to save is owed still; it is tried again, but not at once.
    fn retry_later(&mut self, error: &Error) {
        if let Error::Store(error) = error {
            self.not_saved(error);
        }
        error!(%error, retry_s = SAVE_RETRY.as_secs(), "cannot save what has changed");
        self.retry_at = self.clock.now().checked_add(SAVE_RETRY).ok();
    }

    /// Lets time pass in every run and opens the rounds that are due, until nothing is.
    async fn settle(&mut self) -> Result<(), Error> {
        self.be_certain().await?;
        while let Some(step) = self.core.settle(self.clock.now()) {
            self.save(step).await?;
        }
        Ok(())
    }

    /// Has the audit log told which blobs were set aside.
    async fn tell_rot(&mut self) -> Result<(), Error> {
        let rotten = self.blobs.untold();
        if rotten.is_empty() {
            return Ok(());
        }
        self.apply(Request::Rotten(rotten.clone())).await?;
        self.blobs.are_told(&rotten);
        Ok(())
    }

    /// Asks the database what holds, where that is in doubt.
    async fn be_certain(&mut self) -> Result<(), Error> {
        if self.in_doubt {
            self.core.reload(self.store.load_sound().await?);
            self.in_doubt = false;
            self.shown.send_replace(Arc::clone(self.core.state()));
        }
        Ok(())
    }

    /// Saves a step, and only then makes it the truth and shows it.
    async fn save(&mut self, step: Step) -> Result<(), Error> {
        let mut change = step.change();
        if let Some(notary) = &self.notary
            && !change.events.is_empty()
        {
            // The core's log is still the one before the step.
            change.heads = notary.heads(self.core.log(), &change.events, self.clock.now());
        }
        if !change.is_empty() {
            self.in_doubt = true;
            if let Err(error) = self.store.save(&change).await {
                self.not_saved(&error);
                return Err(error.into());
            }
            (self.in_doubt, self.unsaved) = (false, None);
            self.blobs.are_named(change.named());
        }
        for event in &change.events {
            let (actor, kind) = (event.actor.as_str(), event.kind.as_str());
            info!(seq = event.seq, actor, kind, "{}", event.detail);
        }
        self.core.install(step);
        self.shown.send_replace(Arc::clone(self.core.state()));
        Ok(())
    }

    async fn apply(&mut self, request: Request) -> Result<(), Error> {
        self.be_certain().await?;
        let mut step = self.core.apply(request, self.clock.now())?;
        if let Some(error) = step.late() {
            debug!(%error, "a heartbeat came too late");
        }
        let refused = step.take_refused();
        self.save(step).await?;
        refused.map_or(Ok(()), Err)
    }

    async fn aggregated(&mut self, (round, outcome): Ended) {
        let outcome = match outcome {
            Ok(made) => Ok(made),
            Err(Failure::Write(reason)) => return self.aggregate_later(&round, &reason),
            Err(Failure::Read(reason)) if self.patience.again(&round) => {
                return self.aggregate_later(&round, &reason);
            }
            Err(Failure::Read(reason) | Failure::Round(reason)) => {
                error!(%round, reason, "aggregation failed");
                Err(reason)
            }
        };
        if let Err(error) = reach("publish.save") {
            return self.retry_later(&store::Error::from(error).into());
        }
        let document = outcome.as_ref().ok().and_then(|made| self.manifest(&round, made));
        let aggregated = Request::Aggregated(round.clone(), outcome);
        match self.apply(vouched(aggregated, document)).await {
            Ok(()) => drop(reach("publish.saved")),
            // If this is not saved the round aggregates still, and the same average is made again. That
            // was no fault of the average's.
            Err(error @ Error::Store(_)) => {
                self.patience.made(&round);
                self.retry_later(&error);
            }
            // A round that an operator gave up meanwhile needs no model.
            Err(error) => info!(%round, %error, "an aggregation is not wanted any more"),
        }
    }

    /// The manifest of the model that a round is about to commit, where the coordinator signs.
    fn manifest(&self, id: &RoundId, made: &Made<Blob>) -> Option<Document> {
        let notary = self.notary.as_ref()?;
        let run = self.core.state().find_run(&id.run)?;
        let manifest =
            made::by(notary.federation(), run.plan(), run.round(), (&made.files, &made.standings));
        Some(Document::of(DocumentKind::Manifest, &notary.manifest(manifest)))
    }

    /// What the disk failed to read or write is owed still.
    fn aggregate_later(&mut self, round: &RoundId, reason: &str) {
        if !self.patience.is_owed(round) {
            return info!(%round, reason, "an aggregation is not wanted any more");
        }
        let retry_s = AGGREGATION_RETRY.as_secs();
        error!(%round, reason, retry_s, "aggregation could not use the disk and is begun again");
        self.patience.fails(round, reason, self.clock.now());
    }

    async fn answer(&mut self, message: Message) {
        if self.in_doubt && self.retry_at.is_some_and(|time| self.clock.now() < time) {
            // A database that hangs is not waited for by one caller after the other.
            let doubt = || Error::from(store::Error::Doubt);
            return match message {
                Message::Beat(_, _, reply) | Message::Answer(_, reply) => {
                    drop(reply.send(Err(doubt())));
                }
                Message::Log(reply) => drop(reply.send(Err(doubt()))),
                Message::Change(_, reply) => drop(reply.send(Err(doubt()))),
            };
        }
        // A deadline that has come is acted on before anything else; if that cannot be saved, nor
        // can what follows, which then says so.
        if let Err(error) = self.settle().await {
            self.retry_later(&error);
        }
        // A caller that has gone away needs no answer: what it asked for is done all the same.
        match message {
            Message::Beat(site, beat, reply) => drop(reply.send(self.beat(site, beat).await)),
            Message::Answer(site, reply) => drop(reply.send(self.news(&site).await)),
            Message::Log(reply) => drop(reply.send(self.log().await)),
            Message::Change(request, reply) => drop(reply.send(self.apply(request).await)),
        }
    }

    async fn log(&mut self) -> Result<Log, Error> {
        self.be_certain().await?;
        Ok(self.core.log().clone())
    }

    async fn news(&mut self, site: &SiteName) -> Result<Answer, Error> {
        self.be_certain().await?;
        Ok(self.core.answer(site))
    }

    async fn beat(&mut self, site: SiteName, beat: Beat) -> Result<Answer, Error> {
        self.apply(Request::Beat(site.clone(), beat)).await?;
        // The last site to join begins to train at once.
        self.settle().await?;
        Ok(self.core.answer(&site))
    }
}
