//! What a site says and hears.

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::log;
use fedpaint_proto::merkle::Hash;
use fedpaint_proto::names::{RunName, SiteName};
use fedpaint_proto::plan::{PlanSignature, SignedPlan};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::rule::Rule;
use fedpaint_proto::submission::Submitted;
use fedpaint_proto::v1::federation_service_server::FederationService;
use fedpaint_proto::v1::heartbeat_request::Activity as WireActivity;
use fedpaint_proto::v1::heartbeat_response::Directive as WireDirective;
use fedpaint_proto::v1::{
    GetRunPlanRequest, GetRunPlanResponse, HeartbeatRequest, HeartbeatResponse, Join, LogDoubt,
    OpenRound, PreviewWorkRequest, PreviewWorkResponse, Rest, SubmitUpdateRequest,
    SubmitUpdateResponse, Train, TrainingProgress, WithdrawalReason,
};
use fedpaint_proto::wire::{WIRE_VERSION, timestamp};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::driver::{Activity, Beat, Doubt, Open, Progress, Submission};
use crate::round::{Report, Withdrawal};
use crate::run::Directive;
use crate::service::access::{Caller, Member};
use crate::service::{Parts, hold, parse, status, wire};

/// The federation, as a site sees it.
pub(crate) struct Service {
    /// What the service is made from.
    pub(crate) parts: Parts,
}

#[tonic::async_trait]
impl FederationService for Service {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let (site, until) = (site(&request)?, Caller::of(request.extensions())?.until);
        let request = request.into_inner();
        let doubt = doubt(request.log_doubt());
        let HeartbeatRequest {
            agent_version,
            activity,
            wire_version,
            log_size,
            declined,
            hold,
            signing_until,
            ..
        } = request;
        let beat = Beat {
            agent_version: parse::agent_version(agent_version)?,
            wire_version: parse::wire_version(wire_version)?,
            activity: self::activity(parse::present("activity", activity)?)?,
            declined: parse::declined(&declined)?,
            doubt,
            shown_until: Some(until),
            signing_until: signing_until.map(parse::time).transpose()?,
        };
        let activity = beat.activity.clone();
        let heard = self.parts.driver.heartbeat(&site, beat).await.map_err(status::of_driver)?;
        let answer = hold::answer(&self.parts, &site, &activity, heard, hold::asked(hold)).await?;
        let proven = self.parts.driver.proven(&answer.log, log_size).await;
        let (log_head, log_consistency) = match proven.map_err(status::of_driver)? {
            Some((head, proof)) => (Some(log::to_wire(&head)), bytes_of(&proof)),
            None => (None, Vec::new()),
        };
        self.parts.metrics.heartbeats.inc();
        let _ = reach("reply.heartbeat");
        // A span beyond what the wire can hold is as good as the longest it can.
        let next_after = answer
            .next_after
            .try_into()
            .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 });
        Ok(Response::new(HeartbeatResponse {
            next_after: Some(next_after),
            directive: Some(directive(answer.directive)),
            wire_version: WIRE_VERSION,
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
            log_head,
            log_consistency,
        }))
    }

    async fn preview_work(
        &self,
        request: Request<PreviewWorkRequest>,
    ) -> Result<Response<PreviewWorkResponse>, Status> {
        let site = site(&request)?;
        parse::wire_version(request.get_ref().wire_version)?;
        let open = |Open { round, base, cohort }: Open| OpenRound {
            round: Some((&round).into()),
            base_model: Some(base.into()),
            cohort,
        };
        let rounds = self.parts.driver.open_rounds(&site).into_iter().map(open).collect();
        Ok(Response::new(PreviewWorkResponse { rounds }))
    }

    async fn get_run_plan(
        &self,
        request: Request<GetRunPlanRequest>,
    ) -> Result<Response<GetRunPlanResponse>, Status> {
        let run: RunName = parse::name(&request.get_ref().run)?;
        let SignedPlan { plan, signature } =
            self.parts.driver.signed_plan(&run).map_err(status::of_driver)?;
        let plan_signature = signature.as_ref().map(PlanSignature::to_wire);
        Ok(Response::new(GetRunPlanResponse { plan_toml: plan.to_toml(), plan_signature }))
    }

    async fn submit_update(
        &self,
        request: Request<SubmitUpdateRequest>,
    ) -> Result<Response<SubmitUpdateResponse>, Status> {
        let site = site(&request)?;
        let submission = submission(request.into_inner())?;
        let round = submission.round.clone();
        match self.parts.driver.submit(&site, submission).await {
            Ok(envelope) => {
                info!(%site, %round, "update accepted");
                self.parts.metrics.updates_accepted.inc();
                // From here on only a reply can be lost.
                let _ = reach("reply.submit");
                let taken = self.parts.driver.receipt(envelope).await;
                let receipt = taken.map_err(status::of_driver)?.map(wire::receipt);
                Ok(Response::new(SubmitUpdateResponse { receipt }))
            }
            Err(error) => {
                info!(%site, %round, %error, "update refused");
                self.parts.metrics.refused(error.reason());
                Err(status::of_driver(error))
            }
        }
    }
}

/// A proof as it travels.
pub(super) fn bytes_of(proof: &[Hash]) -> Vec<Vec<u8>> {
    proof.iter().map(|hash| hash.as_bytes().to_vec()).collect()
}

fn site<T>(request: &Request<T>) -> Result<SiteName, Status> {
    match Caller::of(request.extensions())?.member {
        Member::Site(name) => Ok(name),
        Member::Operator(_) => Err(Reason::WrongRole.status("only a site may call this")),
    }
}

fn activity(activity: WireActivity) -> Result<Activity, Status> {
    Ok(match activity {
        WireActivity::Idle(_) => Activity::Idle,
        WireActivity::Joining(joining) => Activity::Joining(parse::round(joining.round.as_ref())?),
        WireActivity::Training(training) => {
            let TrainingProgress { step, steps, loss } = training.progress.unwrap_or_default();
            // What is told is compared with what was told before, and NaN is never the same.
            if loss.is_some_and(|loss| !loss.is_finite()) {
                return Err(parse::invalid("the loss is not a finite number"));
            }
            let round = parse::round(training.round.as_ref())?;
            Activity::Training(round, Progress { step, steps, loss })
        }
        WireActivity::Uploading(uploading) => {
            Activity::Uploading(parse::round(uploading.round.as_ref())?)
        }
        WireActivity::Withdrawing(withdrawing) => {
            let why = withdrawal(withdrawing.reason(), withdrawing.rule().into());
            Activity::Withdrawing(parse::round(withdrawing.round.as_ref())?, why)
        }
    })
}

/// A reason that this version does not know is one more way to fail.
fn doubt(doubt: LogDoubt) -> Option<Doubt> {
    match doubt {
        LogDoubt::Unspecified => None,
        LogDoubt::Unsigned => Some(Doubt::Unsigned),
        LogDoubt::Signature => Some(Doubt::Signature),
        LogDoubt::Clock => Some(Doubt::Clock),
        LogDoubt::CutShort => Some(Doubt::CutShort),
        LogDoubt::Fork => Some(Doubt::Fork),
    }
}

fn withdrawal(reason: WithdrawalReason, rule: Rule) -> Withdrawal {
    match reason {
        WithdrawalReason::Stopping => Withdrawal::Stopping,
        WithdrawalReason::TrainerDied => Withdrawal::TrainerDied,
        WithdrawalReason::OutOfMemory => Withdrawal::OutOfMemory,
        WithdrawalReason::NotFinite => Withdrawal::NotFinite,
        WithdrawalReason::NoData => Withdrawal::NoData,
        WithdrawalReason::BaseModel => Withdrawal::BaseModel,
        WithdrawalReason::Plan => Withdrawal::Plan,
        WithdrawalReason::Device => Withdrawal::Device,
        WithdrawalReason::Disk => Withdrawal::Disk,
        WithdrawalReason::UpdateRefused => Withdrawal::UpdateRefused,
        WithdrawalReason::Policy => Withdrawal::Policy(rule),
        WithdrawalReason::DryRun => Withdrawal::DryRun,
        WithdrawalReason::Log => Withdrawal::Log,
        WithdrawalReason::Model => Withdrawal::Model,
        WithdrawalReason::Internal | WithdrawalReason::Unspecified => Withdrawal::Internal,
    }
}

fn directive(directive: Directive) -> WireDirective {
    match directive {
        Directive::Rest => WireDirective::Rest(Rest {}),
        Directive::Join { round, base, until } => WireDirective::Join(Join {
            round: Some((&round).into()),
            until: Some(timestamp(until)),
            base_model: base.map(Into::into),
        }),
        Directive::Train { round, base, until, cohort } => WireDirective::Train(Train {
            round: Some((&round).into()),
            base_model: Some(base.into()),
            until: Some(timestamp(until)),
            cohort,
        }),
    }
}

fn submission(request: SubmitUpdateRequest) -> Result<Submission, Status> {
    let submitted = Submitted::from_wire(request).map_err(parse::invalid)?;
    let Submitted { round, base, update, examples, report, signature } = submitted;
    let report = Report {
        steps: report.steps,
        loss_mean: report.loss_mean,
        loss_first: report.loss_first,
        loss_last: report.loss_last,
        gradient_norm_p50: report.gradient_norm_p50,
        gradient_norm_p99: report.gradient_norm_p99,
    };
    Ok(Submission { round, base, weights: update, examples, report, signature })
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::v1::{RoundRef, Training};

    use super::*;

    #[test]
    fn an_update_that_does_not_parse_is_refused() {
        let status = submission(SubmitUpdateRequest::default()).unwrap_err();
        assert_eq!(Reason::of(&status), Some(Reason::InvalidRequest));
        assert!(status.message().contains("round"), "{status}");
    }

    #[test]
    fn a_loss_that_is_no_finite_number_is_refused() {
        let training = |loss| {
            let progress = Some(TrainingProgress { step: 3, steps: 200, loss });
            let round = Some(RoundRef { run: "t1".into(), number: 1, attempt: 1 });
            activity(WireActivity::Training(Training { round, progress }))
        };
        for loss in [Some(0.5), None] {
            assert!(matches!(training(loss), Ok(Activity::Training(_, told)) if told.loss == loss));
        }
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let status = training(Some(loss)).unwrap_err();
            assert_eq!(Reason::of(&status), Some(Reason::InvalidRequest));
        }
    }

    #[test]
    fn a_withdrawal_for_a_reason_of_a_later_version_counts_as_a_failure() {
        let unknown = WithdrawalReason::try_from(99).unwrap_or_default();
        assert_eq!(withdrawal(unknown, Rule::Unknown), Withdrawal::Internal);
        let memory = withdrawal(WithdrawalReason::OutOfMemory, Rule::Unknown);
        assert_eq!(memory, Withdrawal::OutOfMemory);
        let policy = withdrawal(WithdrawalReason::Policy, Rule::Hours);
        assert_eq!(policy, Withdrawal::Policy(Rule::Hours));
    }
}
