//! What the driver says, as messages. Everything is copied and nothing is decided.

use fedpaint_proto::log;
use fedpaint_proto::names::{Digest, OperatorName, SiteName};
use fedpaint_proto::plan::PlanSignature;
use fedpaint_proto::v1;
use fedpaint_proto::wire::timestamp;
use jiff::Timestamp;

use crate::driver::{
    LateView, MemberView, MissingView, ModelView, Progress, RoundView, RunView, SiteView, Taken,
    Why,
};
use crate::roster::{Invite, OperatorRole, OperatorRow, Proposal};
use crate::round::{Counts, Member, Phase, Report};
use crate::run::{Absence, Late, State};
use crate::service::federation::bytes_of;
use crate::standing::{Outlier, Standing};
use crate::store::EventRow;

/// A run.
pub(crate) fn run(run: &RunView) -> v1::Run {
    let state = match run.state {
        State::Active => v1::RunState::Active,
        State::Paused { .. } => v1::RunState::Paused,
        State::Finished => v1::RunState::Finished,
        State::Stopped => v1::RunState::Stopped,
    };
    v1::Run {
        name: run.name.to_string(),
        state: state.into(),
        reason: run.reason().unwrap_or_default(),
        rounds_planned: run.plan.rounds,
        rounds_committed: run.rounds_committed,
        initial_model: Some(run.initial_model.into()),
        model: Some(run.model.into()),
        created_at: Some(timestamp(run.created_at)),
        plan_toml: run.plan.to_toml(),
        rounds_short: run.tally.rounds_short,
        missing: run.tally.absences.iter().map(absence).collect(),
        plan_signature: run.plan_signature.as_ref().map(PlanSignature::to_wire),
        readmitted: run.readmitted.keys().map(ToString::to_string).collect(),
    }
}

fn absence((site, absence): (&SiteName, &Absence)) -> v1::SiteTally {
    let Absence { missing, folded, quarantined } = *absence;
    v1::SiteTally { site: site.to_string(), missing, folded, quarantined }
}

/// A round.
pub(crate) fn round(round: &RoundView) -> v1::Round {
    let phase = match round.phase {
        Phase::Selecting { .. } => v1::RoundPhase::Selecting,
        Phase::Reporting { .. } => v1::RoundPhase::Reporting,
        Phase::Aggregating => v1::RoundPhase::Aggregating,
        Phase::Committed(_) => v1::RoundPhase::Committed,
        Phase::Abandoned { .. } => v1::RoundPhase::Abandoned,
    };
    v1::Round {
        r#ref: Some((&round.id).into()),
        phase: phase.into(),
        base_model: Some(round.base.into()),
        model: round.model().map(Into::into),
        reason: round.reason().unwrap_or_default(),
        until: round.until().map(timestamp),
        opened_at: Some(timestamp(round.opened_at)),
        closed_at: round.closed_at.map(timestamp),
        members: round.members.iter().map(member).collect(),
        counts: Some(counts(round.counts)),
        late: round.late.iter().map(late).collect(),
        due: round.due.map(timestamp),
        missing: round.missing.iter().map(missing).collect(),
        standings: round.standings.iter().map(standing).collect(),
    }
}

fn standing(standing: &Standing) -> v1::Standing {
    let outlier = match standing.outlier {
        None => v1::Outlier::Unspecified,
        Some(Outlier::Length) => v1::Outlier::Length,
        Some(Outlier::Direction) => v1::Outlier::Direction,
        Some(Outlier::Twin) => v1::Outlier::Twin,
        Some(Outlier::Replay) => v1::Outlier::Replay,
    };
    v1::Standing {
        site: standing.site.to_string(),
        late: standing.late,
        norm: standing.norm.into(),
        cosine: standing.cosine.map(f64::from),
        outlier: outlier.into(),
        excluded: standing.excluded,
        nearest_cosine: standing.nearest.map(f64::from),
    }
}

fn missing(view: &MissingView) -> v1::Missing {
    let reason = match view.why {
        Why::NeverJoined => v1::MissingReason::NeverJoined,
        Why::Waiting => v1::MissingReason::Waiting,
        Why::Silent => v1::MissingReason::Silent,
        Why::NotBegun => v1::MissingReason::NotBegun,
        Why::Training => v1::MissingReason::Training,
        Why::Uploading => v1::MissingReason::Uploading,
        Why::Withdrew(_) => v1::MissingReason::Withdrew,
        Why::Late(_) => v1::MissingReason::Late,
        Why::Declined(_) => v1::MissingReason::Declined,
        Why::Busy(_) => v1::MissingReason::Busy,
    };
    v1::Missing {
        site: view.site.to_string(),
        reason: reason.into(),
        since: view.since.map(timestamp),
        detail: view.to_string(),
        heard_at: view.heard_at.map(timestamp),
        progress: view.progress.map(progress),
        uploaded_bytes: view.upload.map(|upload| upload.here).unwrap_or_default(),
        upload_bytes: view.upload.map(|upload| upload.size).unwrap_or_default(),
    }
}

fn counts(counts: Counts) -> v1::RoundCounts {
    let Counts { joined, reported, folded, withdrawn, missing, quarantined } = counts;
    v1::RoundCounts { joined, reported, folded, withdrawn, missing, quarantined }
}

fn late(view: &LateView) -> v1::LateUpdate {
    let LateView { site, late, staleness } = view;
    v1::LateUpdate {
        site: site.to_string(),
        round: Some((&late.round).into()),
        examples: late.update.examples,
        update: Some(late.update.weights.into()),
        staleness: *staleness,
    }
}

fn member(member: &MemberView) -> v1::Member {
    let state = match member.state {
        Member::Joined => v1::MemberState::Joined,
        Member::Reported(_) => v1::MemberState::Reported,
        Member::Withdrawn(_) => v1::MemberState::Withdrawn,
    };
    let mut wire = v1::Member {
        site: member.site.to_string(),
        state: state.into(),
        progress: member.progress.map(progress),
        since: member.since.map(timestamp),
        ..v1::Member::default()
    };
    match &member.state {
        Member::Joined => {
            wire.reason = member.late.as_ref().map(Late::in_words).unwrap_or_default();
        }
        Member::Reported(update) => {
            wire.examples = update.examples;
            wire.update = Some(update.weights.into());
            wire.report = Some(report(&update.report));
        }
        Member::Withdrawn(reason) => wire.reason = reason.to_string(),
    }
    wire
}

fn progress(progress: Progress) -> v1::TrainingProgress {
    let Progress { step, steps, loss } = progress;
    v1::TrainingProgress { step, steps, loss }
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

/// A site.
pub(crate) fn site(site: &SiteView) -> v1::Site {
    v1::Site {
        name: site.name.to_string(),
        enrolled_at: Some(timestamp(site.enrolled_at)),
        revoked_at: site.revoked_at.map(timestamp),
        seen_at: site.seen_at.map(timestamp),
        agent_version: site.agent_version.clone().unwrap_or_default(),
        wire_version: site.wire_version,
        joined_at: site.joined_at.map(timestamp),
        signing_key: site.signing_key.map(Vec::from).unwrap_or_default(),
        certificate_until: site.certificate_until.map(timestamp),
        signing_until: site.signing_until.map(timestamp),
    }
}

/// An invitation, of which so many operators must approve.
pub(crate) fn invite(site: &SiteName, invite: &Invite, needed: usize) -> v1::Invite {
    let candidate = invite.candidate.as_ref();
    let approved_by = candidate.map(|c| c.approved_by.iter().map(ToString::to_string).collect());
    v1::Invite {
        site: site.to_string(),
        invited_by: invite.invited_by.to_string(),
        expires_at: Some(timestamp(invite.expires_at)),
        tries_left: invite.tries_left,
        auto_approve: invite.auto_approve,
        words: candidate.map(|c| c.keys().words(site)).unwrap_or_default(),
        approved_by: approved_by.unwrap_or_default(),
        approvals_needed: if invite.auto_approve { 0 } else { needed as u32 },
        admitted: candidate.is_some_and(|c| c.admitted_until.is_some()),
    }
}

/// What takes two persons and one has asked for.
pub(crate) fn proposal((id, proposal): &(Digest, Proposal)) -> v1::Proposal {
    let approved_by = proposal.approved_by.as_ref().map(ToString::to_string);
    v1::Proposal {
        id: id.as_bytes().to_vec(),
        what: proposal.what.clone(),
        asked_by: proposal.asked_by.to_string(),
        asked_at: Some(timestamp(proposal.asked_at)),
        approved_by: approved_by.unwrap_or_default(),
    }
}

/// When a certificate ends.
pub(crate) fn expiry((holder, not_after): &(String, Timestamp)) -> v1::Expiry {
    v1::Expiry { holder: holder.clone(), not_after: Some(timestamp(*not_after)) }
}

/// An operator.
pub(crate) fn operator(name: &OperatorName, operator: &OperatorRow) -> v1::Operator {
    let role = |role: &OperatorRole| match role {
        OperatorRole::Viewer => v1::OperatorRole::Viewer.into(),
        OperatorRole::Runner => v1::OperatorRole::Runner.into(),
        OperatorRole::Approver => v1::OperatorRole::Approver.into(),
        OperatorRole::Auditor => v1::OperatorRole::Auditor.into(),
        OperatorRole::Admin => v1::OperatorRole::Admin.into(),
    };
    v1::Operator {
        name: name.to_string(),
        roles: operator.roles.0.iter().map(role).collect(),
        since: Some(timestamp(operator.since)),
    }
}

/// A global model.
pub(crate) fn model(model: &ModelView) -> v1::Model {
    v1::Model {
        run: model.run.to_string(),
        round: model.round,
        blob: Some(model.blob.into()),
        created_at: Some(timestamp(model.created_at)),
        ema: model.ema.map(Into::into),
    }
}

/// An entry of the audit log.
pub(crate) fn event(event: EventRow) -> v1::Event {
    v1::Event {
        seq: event.seq,
        at: Some(timestamp(event.at)),
        actor: event.actor,
        kind: event.kind,
        detail: event.detail,
        document: event.document.map(|digest| digest.as_bytes().to_vec()).unwrap_or_default(),
    }
}

/// A receipt for an update.
pub(crate) fn receipt(taken: Taken) -> v1::Receipt {
    let Taken { receipt, entry, head, inclusion } = taken;
    v1::Receipt {
        entry: receipt.statement.entry,
        at_micros: receipt.statement.at.as_microsecond(),
        signature: Some(receipt.signature_to_wire()),
        event: Some(event(entry)),
        head: Some(log::to_wire(&head)),
        inclusion: bytes_of(&inclusion),
    }
}
