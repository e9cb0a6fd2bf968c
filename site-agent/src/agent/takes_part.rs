//! How the agent acts on what its policy says: asks for plans, joins, declines, and gives up.

use std::future::pending;
use std::time::Duration;

use fedpaint_proto::channel;
use fedpaint_proto::names::{Blob, RoundId};
use fedpaint_proto::v1::{LogDoubt, WithdrawalReason};
use tokio::task::JoinHandle;
use tonic::Status;

use super::Agent;
use super::consent::Considered;
use super::early::Early;
use crate::client::{self, Activity, PlanTold};

/// How long the coordinator may take to hear that this site stops.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// The question for a run's plan that is under way.
pub(super) type Inquiry = (RoundId, JoinHandle<Result<PlanTold, Status>>);

impl Agent {
    /// Joins a round, if this site's policy lets it.
    pub(super) fn consider(&mut self, round: RoundId, base: Option<Blob>) {
        let (activity, is_news) = match self.consent.consider(&round) {
            Considered::Join => {
                tracing::info!(%round, "joining");
                self.fetch_early(&round, base);
                (Activity::Joining(round), true)
            }
            Considered::Declined(is_news) => (Activity::Idle, is_news),
            Considered::AskForPlan => {
                if self.inquiry.is_none() {
                    let (channel, run) = (self.bench.line.now(), round.run.clone());
                    let asked = async move { client::run_plan(&channel, &run).await };
                    self.inquiry = Some((round, tokio::spawn(asked)));
                }
                (Activity::Idle, false)
            }
        };
        self.activity.send_replace(activity);
        if is_news {
            self.hurry.notify_one();
        }
    }

    /// Begins to fetch the base model of a round that is joined, unless that is under way or its update could not
    /// leave.
    fn fetch_early(&mut self, round: &RoundId, base: Option<Blob>) {
        let is_new = |base: &Blob| !self.early.as_ref().is_some_and(|early| early.is_of(*base));
        let base = base.filter(is_new).filter(|base| self.consent.may_fetch(&round.run, *base));
        if let Some(base) = base {
            self.early = Some(Early::begin(&self.bench, base));
        }
    }

    /// Keeps a plan that was asked for, for a human and for the next heartbeat.
    pub(super) fn plan_shown(&mut self, round: &RoundId, plan: Result<PlanTold, Status>) {
        let told = match plan {
            Ok(told) => told,
            Err(status) => {
                tracing::warn!(%round, "the plan does not come: {}", channel::told(&status));
                return;
            }
        };
        let plan = told.read().ok();
        if let Some(plan) = &plan
            && let Err(error) = self.bench.gate.keep(&round.run, plan)
        {
            // It is asked for again with the next heartbeat.
            tracing::warn!(%round, "the plan cannot be kept: {error}");
            return;
        }
        self.consent.learn(round.run.clone(), plan);
        self.hurry.notify_one();
    }

    /// Gives the round in hand up where the policy no longer lets anything be done.
    pub(super) fn keep_to_the_policy(&mut self) {
        let Err(refusal) = self.bench.gate.now() else { return };
        self.early = None;
        let activity = self.activity.borrow().clone();
        if let Activity::Joining(round)
        | Activity::Training(round, _)
        | Activity::Uploading(round) = activity
        {
            self.give_up();
            self.activity.send_replace(Activity::Refusing(round.clone(), refusal.rule));
            self.consent.refused(&round, refusal);
            self.hurry.notify_one();
        }
    }

    /// Withdraws, so that the round need not wait for this site, and says what it does not believe.
    pub(super) async fn leave(&self, why: WithdrawalReason) {
        let (size, doubt) = self.known_of_log();
        let leaving = match self.activity.borrow().clone() {
            Activity::Idle if doubt == LogDoubt::Unspecified => return,
            Activity::Idle => Activity::Idle,
            Activity::Joining(round)
            | Activity::Training(round, _)
            | Activity::Uploading(round) => Activity::Withdrawing(round, why),
            told @ (Activity::Withdrawing(..) | Activity::Refusing(..)) => told,
        };
        let trust = self.bench.trust.now();
        let asked = trust.as_deref().map(|trust| trust.asks(size, doubt));
        let channel = self.bench.line.now();
        let said = client::heartbeat(&channel, &leaving, &[], asked, Duration::ZERO);
        // The coordinator will find out by itself if it is not told.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, said).await;
    }
}

/// The answer to the question that is under way; never, where there is none.
pub(super) async fn shown(inquiry: &mut Option<Inquiry>) -> (RoundId, Result<PlanTold, Status>) {
    let Some((round, task)) = inquiry else { return pending().await };
    let round = round.clone();
    let result = task.await;
    *inquiry = None;
    match result {
        Ok(result) => (round, result),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
