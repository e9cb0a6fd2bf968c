//! What the services call. Cheap to clone; hides the driver's mailbox.
//!
//! Reading looks at the newest state that is on the disk and never waits for the driver; changing
//! goes through the driver's mailbox and answers when the change is on the disk.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, Digest, OperatorName, RoundId, RunName, SiteName};
use fedpaint_proto::plan::{RunPlan, SignedPlan};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::core::{Answer, Beat, Command, Open, Request, State, Submission};
use super::error::Error;
use super::rounds::bounded;
use super::submit;
use super::troubles::Troubles;
use super::uploads::Uploads;
use super::view::RunView;
use super::watch::Watch;
use super::work::{Message, Reply};
use crate::audit::sweep::Sweep;
use crate::blobs::Blobs;
use crate::check;
use crate::clock::Clock;
use crate::evidence::Notary;
use crate::run::Directive;
use crate::store::{EventRow, Store};

/// The longest version an agent may call itself.
pub const AGENT_VERSION_BYTES_MAX: usize = 64;

/// The most events one call is given.
pub const EVENTS_MAX: u32 = 1_000;

/// The way to the driver.
#[derive(Clone)]
pub struct Handle {
    pub(super) mailbox: mpsc::Sender<Message>,
    pub(super) state: watch::Receiver<Arc<State>>,
    pub(super) troubles: watch::Receiver<Arc<Troubles>>,
    pub(super) store: Store,
    pub(super) blobs: Blobs,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) notary: Option<Arc<Notary>>,
    /// How many models are checked at once.
    pub(super) checks: Arc<Semaphore>,
    /// How far updates have come.
    pub(super) uploads: Uploads,
    /// A site that has not been heard of for so long is silent.
    pub(super) silent_after: Duration,
    /// Since when sites have been listened to.
    pub(super) started_at: Timestamp,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

// What a site asks.
impl Handle {
    /// Takes a site's heartbeat and says what it should be doing. Joining or leaving a round that is
    /// over is no error: the answer is what to do now.
    ///
    /// # Errors
    /// If the site is not enrolled, the beat is out of bounds, or the database fails.
    pub async fn heartbeat(&self, site: &SiteName, beat: Beat) -> Result<Answer, Error> {
        if beat.agent_version.len() > AGENT_VERSION_BYTES_MAX {
            let (what, limit) = ("agent_version", "AGENT_VERSION_BYTES_MAX");
            return Err(Error::TooLong { what, bytes_max: AGENT_VERSION_BYTES_MAX, limit });
        }
        self.ask(|reply| Message::Beat(site.clone(), beat, reply)).await
    }

    /// Waits until a site that was told `directive` should do something else; what it hears then.
    ///
    /// # Errors
    /// If the database fails or the driver ends.
    pub async fn news(&self, site: &SiteName, directive: &Directive) -> Result<Answer, Error> {
        let mut state = self.state.clone();
        let changed = state.wait_for(|state| state.directive(site) != *directive).await;
        drop(changed.map_err(|_| Error::Draining)?);
        self.ask(|reply| Message::Answer(site.clone(), reply)).await
    }

    /// Checks a site's update and takes it into its round. Repeating it is no error. The digest of its
    /// envelope, where it is signed: for the receipt.
    ///
    /// # Errors
    /// Why the update is refused; the audit log says it too.
    pub async fn submit(
        &self,
        site: &SiteName,
        submission: Submission,
    ) -> Result<Option<Digest>, Error> {
        submit::submit(self, site, submission).await
    }

    /// Whether the site may call at all: enrolled and not revoked.
    ///
    /// # Errors
    /// Why it may not.
    pub fn site_access(&self, site: &SiteName) -> Result<(), Error> {
        self.state.borrow().access(site)
    }

    /// The rounds that a site could be asked to train now. The question notes nothing.
    pub fn open_rounds(&self, site: &SiteName) -> Vec<Open> {
        self.state.borrow().open_rounds(site)
    }

    /// The blob with this digest, if the caller may read it: a site the base model of a round that is open,
    /// or that it trains late, an operator any global model. Nobody is given an update.
    ///
    /// # Errors
    /// If there is none that the caller may read, or the database fails.
    pub async fn may_download(&self, caller: &Role, digest: &Digest) -> Result<Blob, Error> {
        let found = match caller {
            Role::Site(site) => return self.state.borrow().may_download(site, digest),
            Role::Operator(_) => self.store.global_model(digest).await?,
            Role::Coordinator(_) => None,
        };
        found.ok_or(Error::BlobUnknown(*digest))
    }

    /// The plan of a run.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn plan(&self, run: &RunName) -> Result<RunPlan, Error> {
        Ok(self.state.borrow().run(run)?.plan().clone())
    }

    /// The same, and who stands behind it.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn signed_plan(&self, run: &RunName) -> Result<SignedPlan, Error> {
        Ok(self.state.borrow().run(run)?.signed_plan().clone())
    }
}

// What an operator asks.
impl Handle {
    /// Creates a run from a model that was uploaded before, and opens its first round. The same
    /// name, plan, signature and model again is no error.
    ///
    /// # Errors
    /// If a run of that name has another plan, signature or model, the model is not here or cannot be used, or
    /// the database fails.
    pub async fn create_run(
        &self,
        actor: &OperatorName,
        name: &RunName,
        plan: impl Into<SignedPlan>,
        initial: Blob,
    ) -> Result<RunView, Error> {
        let plan = plan.into();
        // Made before: then its model was looked at before, too.
        if let Ok(made) = self.run(name)
            && self.signed_plan(name)? == plan
            && made.initial_model == initial
        {
            return Ok(made);
        }
        let found = self.blobs.find(&initial.digest).await?;
        if found != Some(initial) {
            return Err(Error::BlobUnknown(initial.digest));
        }
        let path = self.blobs.path(&initial.digest);
        let form = plan.plan.exchange;
        let checked = self.in_background(move || check::check_model(&path, form)).await?;
        checked.map_err(Error::InitialModel)?;
        let document = self.first_manifest(name, &plan.plan, initial);
        let create = Request::Create(actor.clone(), name.clone(), Box::new(plan), initial);
        self.change(submit::vouched(create, document)).await?;
        self.run(name)
    }

    /// A run.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn run(&self, name: &RunName) -> Result<RunView, Error> {
        let (troubles, state) = (self.troubles(), self.state.borrow());
        Ok(state.run_view(state.run(name)?, &troubles))
    }

    /// Every run, in the order of creation.
    pub fn runs(&self) -> Vec<RunView> {
        let (troubles, state) = (self.troubles(), self.state.borrow());
        state.runs().map(|run| state.run_view(run, &troubles)).collect()
    }

    /// Gives the round in hand up and begins nothing new. Where the round is named that was the newest when
    /// the operator looked, a run that was resumed since goes on.
    ///
    /// # Errors
    /// If there is no such run, it was resumed since, it is over, or the database fails.
    pub async fn pause_run(
        &self,
        actor: &OperatorName,
        run: &RunName,
        seen: Option<RoundId>,
    ) -> Result<RunView, Error> {
        self.command(actor, run, Command::Pause(seen)).await
    }

    /// Goes on after a pause. Where the round is named that was the newest when the operator looked, a run
    /// that has had another since stays as it is: the call was made before.
    ///
    /// # Errors
    /// If there is no such run, it is over, or the database fails.
    pub async fn resume_run(
        &self,
        actor: &OperatorName,
        run: &RunName,
        seen: Option<RoundId>,
    ) -> Result<RunView, Error> {
        self.command(actor, run, Command::Resume(seen)).await
    }

    /// Ends a run early and for good.
    ///
    /// # Errors
    /// If there is no such run, it is finished, or the database fails.
    pub async fn stop_run(&self, actor: &OperatorName, run: &RunName) -> Result<RunView, Error> {
        self.command(actor, run, Command::Stop).await
    }

    /// Has a run count what a site sends, whatever it is, from the next round on that is not sealed.
    ///
    /// # Errors
    /// If there is no such run or site, the run is over, or the database fails.
    pub async fn readmit_site(
        &self,
        actor: &OperatorName,
        run: &RunName,
        site: SiteName,
    ) -> Result<RunView, Error> {
        self.command(actor, run, Command::Readmit(site)).await
    }

    /// Entries of the audit log after `after_seq`, oldest first; at most `limit`, and 0 is
    /// [`EVENTS_MAX`].
    ///
    /// # Errors
    /// If the database fails.
    pub async fn events(&self, after_seq: u64, limit: u32) -> Result<Vec<EventRow>, Error> {
        Ok(self.store.events(after_seq, bounded(limit, EVENTS_MAX)).await?)
    }

    /// The run and its newest round, at once and whenever either changes.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn watch(&self, run: &RunName) -> Result<Watch, Error> {
        self.run(run)?;
        Ok(Watch::new(self.state.clone(), self.troubles.clone(), run.clone()))
    }

    /// Notes that updates of rounds more than `rounds` behind the newest model of their run are let go, and has the
    /// audit log told. Whoever asks deletes none of them before this has returned.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn let_go(&self, rounds: u32) -> Result<(), Error> {
        self.change(Request::LetGo(rounds)).await
    }

    /// Has the audit log told what is about to be deleted. Whoever asks deletes nothing before this has returned.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sweep(&self, sweep: Sweep) -> Result<(), Error> {
        self.change(Request::Sweep(sweep)).await
    }

    /// What keeps the driver from what it owes.
    pub(super) fn troubles(&self) -> Arc<Troubles> {
        Arc::clone(&self.troubles.borrow())
    }

    /// How many averages failed and are begun again, and whether the database takes nothing.
    pub fn failing(&self) -> (usize, bool) {
        let troubles = self.troubles();
        let averages = troubles.averages.values().filter(|owed| owed.told.is_some()).count();
        (averages, troubles.unsaved.is_some())
    }

    /// Whether the driver still takes messages.
    pub fn is_alive(&self) -> bool {
        !self.mailbox.is_closed()
    }

    async fn command(
        &self,
        actor: &OperatorName,
        run: &RunName,
        command: Command,
    ) -> Result<RunView, Error> {
        self.change(Request::Command(actor.clone(), run.clone(), command)).await?;
        self.run(run)
    }

    /// Asks the driver for a change; it is on the disk when this returns.
    pub(super) async fn change(&self, request: Request) -> Result<(), Error> {
        self.ask(|reply| Message::Change(request, reply)).await
    }

    pub(super) async fn ask<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(message(reply)).await.map_err(|_| Error::Draining)?;
        answer.await.map_err(|_| Error::Draining)?
    }

    /// Runs a check that blocks on the disk; only so many run at once, the others wait.
    pub(super) async fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Draining)?;
        let work = tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(permit);
            outcome
        });
        work.await.map_err(|_| Error::Background)
    }
}
