//! What the agent says to the coordinator and hears back, parsed at the door.
//!
//! Calls here are single attempts; when to try again is decided elsewhere.

use std::time::Duration;

use fedpaint_proto::limits::{CALL_TIMEOUT, MESSAGE_BYTES_MAX, PLAN_BYTES_MAX};
use fedpaint_proto::log;
use fedpaint_proto::merkle::{HASHES_MAX, Hash, NotAHash};
use fedpaint_proto::names::{Blob, FederationName, RoundId, RunName};
use fedpaint_proto::plan::{self, PlanSignature, RunPlan, SignedPlan};
use fedpaint_proto::rule::Rule;
use fedpaint_proto::signing::{Malformed, Signed};
use fedpaint_proto::statement::{Manifest, manifest_from_wire};
use fedpaint_proto::v1::LogDoubt;
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_proto::v1::heartbeat_request::Activity as WireActivity;
use fedpaint_proto::v1::heartbeat_response::Directive as WireDirective;
use fedpaint_proto::wire::{WIRE_VERSION, timestamp};
use fedpaint_proto::{v1, v1::WithdrawalReason};
use jiff::Timestamp;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::pipe::{Progress, Report, Trained};
use crate::witness::Told;

/// The shortest time between two heartbeats, whatever the coordinator says.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(20);

/// The longest time between two heartbeats, whatever the coordinator says.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(600);

/// What the site is doing, as it tells the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// It would take part in this round.
    Joining(RoundId),
    /// Training, and how far it is.
    Training(RoundId, Progress),
    /// Bringing the update to the coordinator.
    Uploading(RoundId),
    /// It cannot finish this round.
    Withdrawing(RoundId, WithdrawalReason),
    /// Its own policy refuses to finish this round, by this rule.
    Refusing(RoundId, Rule),
}

/// What the site should be doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Nothing; whatever it was doing is no longer wanted.
    Rest,
    /// Join this round, which begins from this model; a coordinator of before does not say.
    Join(RoundId, Option<Blob>),
    /// Train this round from this model, as one of so many sites; 0 is not said.
    Train(RoundId, Blob, u32),
}

/// A round that this site could be asked to train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which one.
    pub round: RoundId,
    /// The model that it begins from.
    pub base: Blob,
    /// How many sites it has when it is trained, at least, this one among them.
    pub cohort: u32,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When to ask again.
    pub next_after: Duration,
    /// What to do.
    pub directive: Directive,
    /// What answers.
    pub coordinator: Coordinator,
    /// What it says of its log.
    pub log: Told,
}

/// Which coordinator answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coordinator {
    /// The program's version; empty where it is from before it was told.
    pub version: String,
    /// The protocol's version that it speaks.
    pub wire_version: u32,
}

/// What a site wants to hear of the coordinator's log.
#[derive(Clone, Copy, Debug)]
pub struct LogAsked<'a> {
    /// Whose log it must be.
    pub federation: &'a FederationName,
    /// How many entries it had when the site last believed it; 0 if it never did.
    pub size: u64,
    /// What the site does not believe of what it was last told of it.
    pub doubt: LogDoubt,
    /// When the certificate ends that the site signs with, for the coordinator's people.
    pub signing_until: Timestamp,
}

/// The longest version that a coordinator may tell.
const COORDINATOR_VERSION_CHARS_MAX: usize = 64;

/// Says what the site does, which rounds it declines and by which rules, and hears what it should do. While
/// that is nothing new the answer may be held back for `hold`.
///
/// # Errors
/// The coordinator's refusal, the network's failure, or an answer that does not parse.
pub async fn heartbeat(
    channel: &Channel,
    activity: &Activity,
    declined: &[(RoundId, Rule)],
    log: Option<LogAsked<'_>>,
    hold: Duration,
) -> Result<Answer, Status> {
    let declined = declined.iter().map(|(round, rule)| v1::Declined {
        round: Some(round.into()),
        rule: v1::PolicyRule::from(*rule).into(),
    });
    let request = v1::HeartbeatRequest {
        agent_version: env!("CARGO_PKG_VERSION").into(),
        activity: Some(to_wire(activity)),
        wire_version: WIRE_VERSION,
        declined: declined.collect(),
        log_size: log.map_or(0, |log| log.size),
        log_doubt: log.map_or(LogDoubt::Unspecified, |log| log.doubt).into(),
        // A span that the wire cannot hold is not asked for.
        hold: hold.try_into().ok(),
        signing_until: log.map(|log| timestamp(log.signing_until)),
    };
    let answer = service(channel).heartbeat(in_time(request)).await?.into_inner();
    let told = log.map(|log| told(log.federation, &answer)).transpose()?;
    Ok(Answer { log: told.unwrap_or_default(), ..from_wire(&answer)? })
}

/// The rounds that this site could be asked to train, in the order in which it would be. The question changes
/// nothing.
///
/// # Errors
/// The coordinator's refusal, the network's failure, or an answer that does not parse.
pub async fn open_rounds(channel: &Channel) -> Result<Vec<Open>, Status> {
    let request = in_time(v1::PreviewWorkRequest { wire_version: WIRE_VERSION });
    let told = service(channel).preview_work(request).await?.into_inner().rounds;
    let open = |open: &v1::OpenRound| -> Result<Open, Status> {
        let (round, base) = (round_of(&open.round)?, base_of(&open.base_model)?);
        Ok(Open { round, base, cohort: open.cohort })
    };
    told.iter().map(open).collect()
}

/// A plan as the coordinator tells it, not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanTold {
    /// The plan, as TOML.
    pub plan_toml: String,
    /// Who is said to stand behind it.
    pub signature: Option<PlanSignature>,
}

impl PlanTold {
    /// What a coordinator has answered.
    ///
    /// # Errors
    /// If it is beyond the limit, or its signature is none.
    pub fn from_wire(told: v1::GetRunPlanResponse) -> Result<PlanTold, Status> {
        let v1::GetRunPlanResponse { plan_toml, plan_signature } = told;
        if plan_toml.len() > PLAN_BYTES_MAX {
            return Err(malformed(&format!("a plan of {} bytes", plan_toml.len())));
        }
        let signature = plan_signature.as_ref().map(PlanSignature::from_wire).transpose();
        let signature = signature.map_err(|e| malformed(&format!("the plan's signature: {e}")))?;
        Ok(PlanTold { plan_toml, signature })
    }

    /// The plan, read.
    ///
    /// # Errors
    /// If it is none, or one of another version.
    pub fn read(&self) -> Result<SignedPlan, plan::Error> {
        let plan = RunPlan::from_toml(&self.plan_toml)?;
        Ok(SignedPlan { plan, signature: self.signature })
    }
}

/// The plan of a run.
///
/// # Errors
/// The coordinator's refusal, the network's failure, or a plan beyond the limit.
pub async fn run_plan(channel: &Channel, run: &RunName) -> Result<PlanTold, Status> {
    let request = in_time(v1::GetRunPlanRequest { run: run.to_string() });
    PlanTold::from_wire(service(channel).get_run_plan(request).await?.into_inner())
}

/// What the model of a version of a run is made of, not yet believed, or what of the manifest is none: asking
/// again would not help. Version 0 is what the run started from.
///
/// # Errors
/// The coordinator's refusal, the network's failure, or an answer without a manifest.
pub async fn manifest(
    channel: &Channel,
    federation: &FederationName,
    run: &RunName,
    version: u32,
) -> Result<Result<Signed<Manifest>, Malformed>, Status> {
    let request = in_time(v1::GetManifestRequest { run: run.to_string(), version });
    let mut blobs =
        BlobServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let manifest = blobs.get_manifest(request).await?.into_inner().manifest;
    let manifest = manifest.ok_or_else(|| malformed("no manifest"))?;
    Ok(manifest_from_wire(federation, manifest))
}

/// Says that the update, which is uploaded, is the site's. What it is given for it, not yet believed.
///
/// # Errors
/// The coordinator's refusal or the network's failure.
pub async fn submit_update(
    channel: &Channel,
    round: &RoundId,
    base: Blob,
    trained: &Trained,
    signature: Option<v1::Signature>,
) -> Result<Option<v1::Receipt>, Status> {
    let request = v1::SubmitUpdateRequest {
        round: Some(round.into()),
        base_model_digest: base.digest.as_bytes().to_vec(),
        weights: Some(trained.update.into()),
        examples: trained.examples,
        report: Some(report(&trained.report)),
        signature,
    };
    // The coordinator reads the whole update before it answers.
    let mut request = Request::new(request);
    request.set_timeout(SUBMIT_TIMEOUT);
    Ok(service(channel).submit_update(request).await?.into_inner().receipt)
}

/// How long the coordinator may take to check an update of the greatest size.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The service over `channel`.
pub fn service(channel: &Channel) -> FederationServiceClient<Channel> {
    FederationServiceClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A request that must be answered within [`CALL_TIMEOUT`].
pub fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn to_wire(activity: &Activity) -> WireActivity {
    match activity {
        Activity::Idle => WireActivity::Idle(v1::Idle {}),
        Activity::Joining(round) => {
            WireActivity::Joining(v1::Joining { round: Some(round.into()) })
        }
        Activity::Training(round, Progress { step, steps, loss }) => {
            let progress = v1::TrainingProgress { step: *step, steps: *steps, loss: *loss };
            WireActivity::Training(v1::Training {
                round: Some(round.into()),
                progress: Some(progress),
            })
        }
        Activity::Uploading(round) => {
            WireActivity::Uploading(v1::Uploading { round: Some(round.into()) })
        }
        Activity::Withdrawing(round, reason) => WireActivity::Withdrawing(v1::Withdrawing {
            round: Some(round.into()),
            reason: (*reason).into(),
            rule: 0,
        }),
        Activity::Refusing(round, rule) => WireActivity::Withdrawing(v1::Withdrawing {
            round: Some(round.into()),
            reason: WithdrawalReason::Policy.into(),
            rule: v1::PolicyRule::from(*rule).into(),
        }),
    }
}

fn from_wire(answer: &v1::HeartbeatResponse) -> Result<Answer, Status> {
    let next_after = answer.next_after.and_then(|d| Duration::try_from(d).ok());
    let directive = match &answer.directive {
        None | Some(WireDirective::Rest(v1::Rest {})) => Directive::Rest,
        Some(WireDirective::Join(join)) => {
            let base = join.base_model.is_some().then(|| base_of(&join.base_model)).transpose()?;
            Directive::Join(round_of(&join.round)?, base)
        }
        Some(WireDirective::Train(train)) => {
            let base = base_of(&train.base_model)?;
            Directive::Train(round_of(&train.round)?, base, train.cohort)
        }
    };
    let next_after = next_after.unwrap_or(HEARTBEAT_MAX).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
    // It goes into the log, so it is one short line.
    let fits = answer.coordinator_version.chars().filter(char::is_ascii_graphic);
    let version = fits.take(COORDINATOR_VERSION_CHARS_MAX).collect();
    let coordinator = Coordinator { version, wire_version: answer.wire_version };
    Ok(Answer { next_after, directive, coordinator, log: Told::default() })
}

fn round_of(round: &Option<v1::RoundRef>) -> Result<RoundId, Status> {
    let round = round.as_ref().ok_or_else(|| malformed("no round"))?;
    RoundId::try_from(round).map_err(|e| malformed(&e.to_string()))
}

fn base_of(base: &Option<v1::BlobRef>) -> Result<Blob, Status> {
    let base = base.as_ref().ok_or_else(|| malformed("no base model"))?;
    Blob::try_from(base).map_err(|e| malformed(&e.to_string()))
}

/// What the answer says of the coordinator's log.
fn told(federation: &FederationName, answer: &v1::HeartbeatResponse) -> Result<Told, Status> {
    let head = answer.log_head.clone().map(|head| log::from_wire(federation, head)).transpose();
    let head = head.map_err(|e| malformed(&format!("the head of its log: {e}")))?;
    let hash = |bytes: &Vec<u8>| Hash::try_from(&bytes[..]);
    // One more than there may be is enough to be refused.
    let proof = answer.log_consistency.iter().take(HASHES_MAX + 1).map(hash);
    let proof = proof.collect::<Result<_, _>>();
    Ok(Told { head, proof: proof.map_err(|e: NotAHash| malformed(&e.to_string()))? })
}

fn report(report: &Report) -> v1::TrainingReport {
    v1::TrainingReport {
        steps: report.steps,
        loss_mean: report.loss_mean,
        loss_first: report.loss_first,
        loss_last: report.loss_last,
        gradient_norm_p50: report.gradient_norm_p50,
        gradient_norm_p99: report.gradient_norm_p99,
    }
}

/// The coordinator's answer makes no sense: as if it had failed inside.
fn malformed(what: &str) -> Status {
    Status::internal(format!("the coordinator's answer does not parse: {what}"))
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::Digest;

    use super::*;

    fn train(round: Option<v1::RoundRef>, size: u64) -> v1::HeartbeatResponse {
        let base_model = Some(Blob { digest: Digest::of(b"m"), size }.into());
        let train = v1::Train { round, base_model, until: None, cohort: 3 };
        let directive = Some(WireDirective::Train(train));
        v1::HeartbeatResponse { directive, ..v1::HeartbeatResponse::default() }
    }

    #[test]
    fn a_directive_is_parsed_and_its_pace_is_bounded() {
        let round = RoundId { run: "brain".parse().unwrap(), number: 2, attempt: 1 };
        let mut wire = train(Some((&round).into()), 7);
        let base = Blob { digest: Digest::of(b"m"), size: 7 };
        let answer = from_wire(&wire).unwrap();
        assert_eq!(answer.directive, Directive::Train(round, base, 3));
        for (seconds, nanos, expected) in [
            (-5, 0, HEARTBEAT_MAX),
            (0, 0, HEARTBEAT_MIN),
            (2, 500_000_000, Duration::from_millis(2500)),
            (i64::MAX, 0, HEARTBEAT_MAX),
        ] {
            wire.next_after = Some(prost_types::Duration { seconds, nanos });
            assert_eq!(from_wire(&wire).unwrap().next_after, expected);
        }
    }

    #[test]
    fn a_directive_that_names_no_round_is_an_error() {
        assert!(from_wire(&train(None, 1)).is_err());
        let bad = v1::RoundRef { run: "../etc".into(), number: 1, attempt: 1 };
        assert!(from_wire(&train(Some(bad), 1)).is_err());
        let silent = v1::HeartbeatResponse::default();
        assert_eq!(from_wire(&silent).unwrap().directive, Directive::Rest);
    }
}
