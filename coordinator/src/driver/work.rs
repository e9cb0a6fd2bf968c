//! The driver's loop and what each message does.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::RunPlan;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::Options;
use super::aggregation::{Aggregation, Ended};
use super::error::Error;
use super::message::{Activity, Answer, Beat, Command, Message, Verdict};
use super::state::{Seen, State};
use crate::audit::Entry;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::round::{Event, Update};
use crate::run::{Duty, Run};
use crate::store::{self, SiteRow, Store};

/// The most sites there may be.
pub const SITES_MAX: usize = 10_000;

/// The most runs there may be.
pub const RUNS_MAX: usize = 1_000;

/// How long the driver waits before it tries again what the database has failed to save.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// The actor of what nobody asked for.
const COORDINATOR: &str = "coordinator";

pub(super) struct Driver {
    options: Options,
    store: Store,
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    /// What is on the disk, and what sites last told.
    state: State,
    /// The newest audit entry.
    seq: u64,
    shown: watch::Sender<Arc<State>>,
    /// The last refusal of each site, so that a site that repeats itself does not fill the audit log.
    refused: BTreeMap<SiteName, String>,
    /// One at a time, so that their memory does not add up.
    aggregation: Option<Aggregation>,
    /// After the database has failed: when to try again.
    retry_at: Option<Timestamp>,
}

impl Driver {
    pub(super) async fn load(
        options: Options,
        (store, blobs, clock): (Store, Blobs, Arc<dyn Clock>),
    ) -> Result<(Driver, watch::Receiver<Arc<State>>), store::Error> {
        let loaded = store.load().await?;
        let (seq, state) = (loaded.seq, State::from(loaded));
        let (shown, receiver) = watch::channel(Arc::new(state.clone()));
        let refused = BTreeMap::new();
        let driver = Driver {
            options,
            store,
            blobs,
            clock,
            state,
            seq,
            shown,
            refused,
            aggregation: None,
            retry_at: None,
        };
        Ok((driver, receiver))
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
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                message = messages.recv() => match message {
                    Some(message) => self.answer(message).await,
                    None => break,
                },
                outcome = Aggregation::end(&mut self.aggregation) => self.aggregated(outcome).await,
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
        if let Err(error) = self.settle().await {
            self.retry_later(&error);
            return self.retry_at;
        }
        if self.aggregation.is_none() {
            self.aggregation = self.state.runs().find_map(|run| match run.duty() {
                Duty::Aggregate(reports) => Some(Aggregation::begin(&self.blobs, run, reports)),
                Duty::WaitUntil(_) | Duty::OpenRound | Duty::Nothing => None,
            });
        }
        self.deadline()
    }

    /// What the database failed to save is owed still; it is tried again, but not at once.
    fn retry_later(&mut self, error: &Error) {
        error!(%error, retry_s = SAVE_RETRY.as_secs(), "cannot save what has changed");
        self.retry_at = self.clock.now().checked_add(SAVE_RETRY).ok();
    }

    /// Lets time pass in every run and opens the rounds that are due, until nothing is.
    async fn settle(&mut self) -> Result<(), Error> {
        loop {
            let now = self.clock.now();
            let due = |run: &&Run| match run.duty() {
                Duty::WaitUntil(time) => time <= now,
                Duty::OpenRound => true,
                Duty::Aggregate(_) | Duty::Nothing => false,
            };
            let due: Vec<RunName> =
                self.state.runs().filter(due).map(|run| run.name().clone()).collect();
            if due.is_empty() {
                return Ok(());
            }
            let mut next = self.state.clone();
            for run in &due {
                // The end of a round is saved before the next one is opened.
                next.change_run(run, |run| match run.duty() {
                    Duty::OpenRound => run.open_round(now),
                    _ => run.tick(now),
                })?;
            }
            self.save(next, COORDINATOR, Vec::new()).await?;
        }
    }

    /// When time next changes anything.
    fn deadline(&self) -> Option<Timestamp> {
        let waits = self.state.runs().filter_map(|run| match run.duty() {
            Duty::WaitUntil(time) => Some(time),
            Duty::Aggregate(_) | Duty::OpenRound | Duty::Nothing => None,
        });
        waits.min()
    }

    /// Saves the difference between `next` and what is known, and only then shows it.
    async fn save(&mut self, next: State, actor: &str, extra: Vec<Entry>) -> Result<(), Error> {
        let at = self.clock.now();
        let change = next.change_since(&self.state, extra, (self.seq, at, actor));
        let seq = self.seq + change.events.len() as u64;
        if seq > self.seq || !change.sites.is_empty() || !change.runs.is_empty() {
            self.store.save(&change).await?;
        }
        for event in &change.events {
            info!(seq = event.seq, actor, kind = event.kind, "{}", event.detail);
        }
        self.seq = seq;
        self.state = next;
        self.shown.send_replace(Arc::new(self.state.clone()));
        Ok(())
    }

    async fn aggregated(&mut self, (round, outcome): Ended) {
        let event = match outcome {
            Ok(made) => Event::Aggregated(made),
            Err(reason) => {
                error!(%round, reason, "aggregation failed");
                Event::AggregationFailed(reason)
            }
        };
        let mut next = self.state.clone();
        // A round that an operator gave up meanwhile needs no model.
        if let Err(error) = apply(&mut next, &round, event, self.clock.now()) {
            info!(%round, %error, "an aggregation is not wanted any more");
            return;
        }
        // If this is not saved the round aggregates still, and the same average is made again.
        if let Err(error) = self.save(next, COORDINATOR, Vec::new()).await {
            self.retry_later(&error);
        }
    }

    async fn answer(&mut self, message: Message) {
        // A deadline that has come is acted on before anything else; if that cannot be saved, nor
        // can what follows, which then says so.
        if let Err(error) = self.settle().await {
            self.retry_later(&error);
        }
        // A caller that has gone away needs no answer: what it asked for is done all the same.
        match message {
            Message::Beat(site, beat, reply) => drop(reply.send(self.beat(site, beat).await)),
            Message::Report(site, round, update, reply) => {
                drop(reply.send(self.report(site, round, update).await));
            }
            Message::Refused(site, round, detail, reply) => {
                drop(reply.send(self.refused(site, &round, detail).await));
            }
            Message::Enroll(actor, site, reply) => drop(reply.send(self.enroll(actor, site).await)),
            Message::Revoke(actor, site, reply) => drop(reply.send(self.revoke(actor, site).await)),
            Message::Create(actor, name, plan, initial, reply) => {
                drop(reply.send(self.create(actor, name, *plan, initial).await));
            }
            Message::Command(actor, run, command, reply) => {
                drop(reply.send(self.command(actor, run, command).await));
            }
            Message::Verdict(actor, round, verdict, reply) => {
                drop(reply.send(self.verdict(actor, round, verdict).await));
            }
        }
    }

    async fn beat(&mut self, site: SiteName, beat: Beat) -> Result<Answer, Error> {
        self.state.access(&site)?;
        let now = self.clock.now();
        let Beat { agent_version, activity } = beat;
        let training = match &activity {
            Activity::Training(round, progress) => Some((round.clone(), *progress)),
            _ => None,
        };
        let mut next = self.state.clone();
        next.put_seen(site.clone(), Seen { at: now, agent_version, training });
        let event = match activity {
            Activity::Joining(round) => Some((round, Event::Joined(site.clone()))),
            Activity::Withdrawing(round, why) => Some((round, Event::Withdrew(site.clone(), why))),
            Activity::Idle | Activity::Training(..) | Activity::Uploading(_) => None,
        };
        if let Some((round, event)) = event {
            // What no longer applies is no error: the answer says what does.
            if let Err(error) = apply(&mut next, &round, event, now) {
                debug!(%site, %round, %error, "a heartbeat came too late");
            }
        }
        self.save(next, &Role::Site(site.clone()).to_string(), Vec::new()).await?;
        // The last site to join begins to train at once.
        self.settle().await?;
        let directive = self.state.directive(&site);
        Ok(Answer { directive, next_after: self.options.heartbeat })
    }

    async fn report(
        &mut self,
        site: SiteName,
        round: RoundId,
        update: Update,
    ) -> Result<(), Error> {
        self.state.access(&site)?;
        let mut next = self.state.clone();
        let event = Event::Reported(site.clone(), update);
        apply(&mut next, &round, event, self.clock.now())?;
        self.refused.remove(&site);
        self.save(next, &Role::Site(site).to_string(), Vec::new()).await
    }

    async fn refused(
        &mut self,
        site: SiteName,
        round: &RoundId,
        detail: String,
    ) -> Result<(), Error> {
        if self.refused.get(&site) == Some(&detail) {
            return Ok(());
        }
        warn!(%site, %round, "an update is refused");
        let entry = Entry::new("update_refused", detail.clone());
        let actor = Role::Site(site.clone()).to_string();
        self.save(self.state.clone(), &actor, vec![entry]).await?;
        self.refused.insert(site, detail);
        Ok(())
    }

    async fn enroll(&mut self, actor: OperatorName, name: SiteName) -> Result<(), Error> {
        if matches!(self.state.site(&name), Some(site) if site.revoked_at.is_none()) {
            return Ok(());
        }
        if self.state.site(&name).is_none() && self.state.site_count() >= SITES_MAX {
            return Err(Error::TooMany { what: "sites", max: SITES_MAX });
        }
        let entry = Entry::new("site_enrolled", format!("site {name}"));
        let mut next = self.state.clone();
        next.put_site(SiteRow { name, enrolled_at: self.clock.now(), revoked_at: None });
        self.save(next, &Role::Operator(actor).to_string(), vec![entry]).await
    }

    async fn revoke(&mut self, actor: OperatorName, name: SiteName) -> Result<(), Error> {
        let site = self.state.site(&name).ok_or_else(|| Error::SiteUnknown(name.clone()))?;
        if site.revoked_at.is_some() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut next = self.state.clone();
        next.put_site(SiteRow { revoked_at: Some(now), ..site.clone() });
        let runs: Vec<RunName> = self.state.runs().map(|run| run.name().clone()).collect();
        for run in &runs {
            // A round that the site is not in, or that is past reporting, stays as it is.
            let _ = next.change_run(run, |run| run.apply(Event::Revoked(name.clone()), now))?;
        }
        let entry = Entry::new("site_revoked", format!("site {name}"));
        self.save(next, &Role::Operator(actor).to_string(), vec![entry]).await
    }

    async fn create(
        &mut self,
        actor: OperatorName,
        name: RunName,
        plan: RunPlan,
        initial: Blob,
    ) -> Result<(), Error> {
        if let Some(run) = self.state.find_run(&name) {
            let same = *run.plan() == plan && run.initial() == initial;
            return if same { Ok(()) } else { Err(Error::RunExists(name)) };
        }
        if self.state.runs().count() >= RUNS_MAX {
            return Err(Error::TooMany { what: "runs", max: RUNS_MAX });
        }
        let mut next = self.state.clone();
        next.add_run(Run::create(name, plan, initial, self.clock.now()));
        self.save(next, &Role::Operator(actor).to_string(), Vec::new()).await
    }

    async fn command(
        &mut self,
        actor: OperatorName,
        name: RunName,
        command: Command,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let mut next = self.state.clone();
        let outcome = next.change_run(&name, |run| match command {
            Command::Pause => run.pause(now),
            Command::Resume => run.resume(),
            Command::Stop => run.stop(now),
        })?;
        outcome.map_err(|_| Error::RunOver(name))?;
        self.save(next, &Role::Operator(actor).to_string(), Vec::new()).await
    }

    async fn verdict(
        &mut self,
        actor: OperatorName,
        round: RoundId,
        verdict: Verdict,
    ) -> Result<(), Error> {
        let mut next = self.state.clone();
        let event = match verdict {
            Verdict::Close => Event::Closed,
            Verdict::Abandon(reason) => Event::Abandoned(reason),
        };
        apply(&mut next, &round, event, self.clock.now())?;
        self.save(next, &Role::Operator(actor).to_string(), Vec::new()).await
    }
}

/// Lets an event happen to a round in hand.
fn apply(state: &mut State, id: &RoundId, event: Event, now: Timestamp) -> Result<(), Error> {
    state.round(id)?;
    let outcome = state.change_run(&id.run, |run| run.apply(event, now))?;
    outcome.map_err(|refusal| Error::Round { round: id.clone(), refusal })
}
