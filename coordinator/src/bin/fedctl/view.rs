//! What the coordinator's messages say, as stable JSON. Field names and words here are a promise to
//! programs: they may be added to and never change their meaning.

mod members;
mod missing;
mod plan;
mod standing;

use fedpaint_proto::names::{self, Digest};
use fedpaint_proto::note::ModelKind;
use fedpaint_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

pub(crate) use self::members::{
    Expiry, Invitation, Invite, Operator, Operators, Proposal, Proposals, Rejected, SiteTally,
    Sites,
};
pub(crate) use self::missing::Missing;
pub(crate) use self::plan::PlanSigned;
pub(crate) use self::standing::Standing;

/// A word for what this version does not know.
const UNKNOWN: &str = "unknown";

/// A blob by its digest and size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Blob {
    /// BLAKE3-256, 64 hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Site {
    pub(crate) name: String,
    /// `enrolled` or `revoked`.
    pub(crate) state: &'static str,
    pub(crate) enrolled_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) agent_version: Option<String>,
    /// The protocol's version that the agent speaks; null until it was heard of.
    pub(crate) wire_version: Option<u32>,
    /// When it joined by a token; null where it was enrolled by name.
    pub(crate) joined_at: Option<Timestamp>,
    /// When the certificate ends that it showed last, or else the newest that the coordinator issued to it.
    pub(crate) certificate_until: Option<Timestamp>,
    /// When the certificate ends that its agent last said it signs with; null where it has said none.
    pub(crate) signing_until: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// `active`, `paused`, `finished` or `stopped`.
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) rounds_planned: u32,
    pub(crate) rounds_committed: u32,
    pub(crate) initial_model: Option<Blob>,
    pub(crate) model: Option<Blob>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) plan_toml: String,
    /// The key of who has signed the plan.
    pub(crate) plan_signer: Option<String>,
    /// How many of the committed rounds lacked the update of a member.
    pub(crate) rounds_short: u32,
    /// The sites that were missing in committed rounds.
    pub(crate) missing: Vec<SiteTally>,
    /// The sites whose updates no quarantine leaves out any more.
    pub(crate) readmitted: Vec<String>,
}

/// A run and its round in hand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RunNow {
    #[serde(flatten)]
    pub(crate) run: Run,
    /// Null from a coordinator that does not tell it.
    pub(crate) round: Option<Round>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Round {
    pub(crate) run: String,
    pub(crate) number: u32,
    pub(crate) attempt: u32,
    /// `selecting`, `reporting`, `aggregating`, `committed` or `abandoned`.
    pub(crate) phase: &'static str,
    /// Why it was abandoned; while it aggregates, why there is no average yet.
    pub(crate) reason: Option<String>,
    pub(crate) base_model: Option<Blob>,
    pub(crate) model: Option<Blob>,
    /// When the phase ends by itself; when the round is given up, while it aggregates.
    pub(crate) until: Option<Timestamp>,
    pub(crate) opened_at: Option<Timestamp>,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) members: Vec<Member>,
    pub(crate) counts: Counts,
    /// The bytes of all updates that are in it, as they came from the sites.
    pub(crate) update_bytes: u64,
    /// Updates of earlier rounds that are part of this one.
    pub(crate) late: Vec<Late>,
    /// When reporting was to end, where it goes on longer because updates still arrive.
    pub(crate) due: Option<Timestamp>,
    /// Whose update is not there; told of the round in hand.
    pub(crate) missing: Vec<Missing>,
    /// How the updates of a committed round lie to each other.
    pub(crate) standings: Vec<Standing>,
}

/// How many sites counted in a round, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    pub(crate) joined: u32,
    pub(crate) reported: u32,
    /// Late updates of earlier rounds that count in this one.
    pub(crate) folded: u32,
    pub(crate) withdrawn: u32,
    pub(crate) missing: u32,
    /// Of those that reported, whose update was quarantined.
    pub(crate) quarantined: u32,
}

/// An update that came when its round was sealed, and counts in a later one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Late {
    pub(crate) site: String,
    /// The round that it was trained for.
    pub(crate) number: u32,
    pub(crate) attempt: u32,
    pub(crate) examples: u64,
    pub(crate) update: Option<Blob>,
    /// How many rounds late it is.
    pub(crate) staleness: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rounds {
    pub(crate) rounds: Vec<Round>,
}

/// A site in a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Member {
    pub(crate) site: String,
    /// `joined`, `reported` or `withdrawn`.
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    /// Training examples seen; null before the site has reported.
    pub(crate) examples: Option<u64>,
    pub(crate) update: Option<Blob>,
    pub(crate) report: Option<Report>,
    pub(crate) progress: Option<Progress>,
    /// When it came into this state.
    pub(crate) since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) steps: u32,
    pub(crate) loss_mean: f64,
    pub(crate) loss_first: f64,
    pub(crate) loss_last: f64,
    pub(crate) gradient_norm_p50: f64,
    pub(crate) gradient_norm_p99: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Progress {
    pub(crate) step: u32,
    pub(crate) steps: u32,
    pub(crate) loss: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Model {
    pub(crate) run: String,
    /// 0 is the initial model.
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) blob: Option<Blob>,
    /// The moving average of the models up to this one; null where the plan asks for none.
    pub(crate) ema: Option<Blob>,
    pub(crate) created_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Models {
    pub(crate) models: Vec<Model>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    pub(crate) at: Option<Timestamp>,
    pub(crate) actor: String,
    pub(crate) kind: String,
    pub(crate) detail: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    /// The coordinator's version.
    pub(crate) version: String,
    pub(crate) federation: String,
    pub(crate) sites: Vec<Site>,
    pub(crate) runs: Vec<Run>,
    /// The newest round of every active run.
    pub(crate) rounds: Vec<Round>,
    /// The authorities' certificates and the coordinator's own, soonest to end first.
    pub(crate) expiries: Vec<Expiry>,
    /// By what the coordinator computes TLS, certificates and signatures, where it says so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cryptography: String,
}

/// One change of a run that is watched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Seen {
    pub(crate) run: Run,
    pub(crate) round: Option<Round>,
}

/// A model that was written to a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Exported {
    pub(crate) run: String,
    pub(crate) round: u32,
    /// `raw` or `ema`.
    pub(crate) kind: ModelKind,
    #[serde(flatten)]
    pub(crate) blob: Option<Blob>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) file: String,
    /// Where the manifest is; null from a coordinator that signs nothing.
    pub(crate) manifest: Option<String>,
}

/// A head over the audit log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LogHead {
    pub(crate) file: String,
    /// How many entries it is over.
    pub(crate) size: u64,
    pub(crate) root: String,
    pub(crate) at: Timestamp,
}

/// Where the audit log was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LogExported {
    pub(crate) file: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// A certificate that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Certificate {
    /// The SPIFFE URI in it.
    pub(crate) identity: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// What the holder signs with; null for who signs nothing.
    pub(crate) signing_certificate: Option<String>,
    pub(crate) signing_key: Option<String>,
    pub(crate) ca: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn time(time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

fn blob(blob: Option<v1::BlobRef>) -> Option<Blob> {
    let blob = blob?;
    let digest = Digest::try_from(&blob.digest[..]).ok()?.to_string();
    Some(Blob { digest, size_bytes: blob.size })
}

impl From<names::Blob> for Blob {
    fn from(blob: names::Blob) -> Blob {
        Blob { digest: blob.digest.to_string(), size_bytes: blob.size }
    }
}

impl From<v1::Site> for Site {
    fn from(site: v1::Site) -> Site {
        Site {
            name: site.name,
            state: if site.revoked_at.is_some() { "revoked" } else { "enrolled" },
            enrolled_at: time(site.enrolled_at),
            revoked_at: time(site.revoked_at),
            seen_at: time(site.seen_at),
            agent_version: text(site.agent_version),
            wire_version: site.wire_version,
            joined_at: time(site.joined_at),
            certificate_until: time(site.certificate_until),
            signing_until: time(site.signing_until),
        }
    }
}

impl From<v1::Run> for Run {
    fn from(run: v1::Run) -> Run {
        Run {
            state: match run.state() {
                v1::RunState::Active => "active",
                v1::RunState::Paused => "paused",
                v1::RunState::Finished => "finished",
                v1::RunState::Stopped => "stopped",
                v1::RunState::Unspecified => UNKNOWN,
            },
            name: run.name,
            reason: text(run.reason),
            rounds_planned: run.rounds_planned,
            rounds_committed: run.rounds_committed,
            initial_model: blob(run.initial_model),
            model: blob(run.model),
            created_at: time(run.created_at),
            plan_toml: run.plan_toml,
            plan_signer: run.plan_signature.as_ref().and_then(plan::signer),
            rounds_short: run.rounds_short,
            missing: run.missing.into_iter().map(SiteTally::from).collect(),
            readmitted: run.readmitted,
        }
    }
}

impl From<v1::Round> for Round {
    fn from(round: v1::Round) -> Round {
        let phase = match round.phase() {
            v1::RoundPhase::Selecting => "selecting",
            v1::RoundPhase::Reporting => "reporting",
            v1::RoundPhase::Aggregating => "aggregating",
            v1::RoundPhase::Committed => "committed",
            v1::RoundPhase::Abandoned => "abandoned",
            v1::RoundPhase::Unspecified => UNKNOWN,
        };
        let v1::RoundRef { run, number, attempt } = round.r#ref.unwrap_or_default();
        let members: Vec<Member> = round.members.into_iter().map(Member::from).collect();
        let late: Vec<Late> = round.late.into_iter().map(Late::from).collect();
        let updates = members.iter().map(|m| &m.update).chain(late.iter().map(|l| &l.update));
        let update_bytes = updates.flatten().map(|update| update.size_bytes).sum();
        Round {
            run,
            number,
            attempt,
            phase,
            reason: text(round.reason),
            base_model: blob(round.base_model),
            model: blob(round.model),
            until: time(round.until),
            opened_at: time(round.opened_at),
            closed_at: time(round.closed_at),
            counts: round.counts.map_or_else(|| counted(&members), Counts::from),
            members,
            update_bytes,
            late,
            due: time(round.due),
            missing: round.missing.into_iter().map(Missing::from).collect(),
            standings: round.standings.into_iter().map(Standing::from).collect(),
        }
    }
}

/// The counts of a round that a coordinator from before they were told shows.
fn counted(members: &[Member]) -> Counts {
    let of = |state| members.iter().filter(|member| member.state == state).count() as u32;
    Counts {
        joined: members.len() as u32,
        reported: of("reported"),
        folded: 0,
        withdrawn: of("withdrawn"),
        missing: of("joined"),
        quarantined: 0,
    }
}

impl From<v1::RoundCounts> for Counts {
    fn from(counts: v1::RoundCounts) -> Counts {
        let v1::RoundCounts { joined, reported, folded, withdrawn, missing, quarantined } = counts;
        Counts { joined, reported, folded, withdrawn, missing, quarantined }
    }
}

impl From<v1::LateUpdate> for Late {
    fn from(late: v1::LateUpdate) -> Late {
        let v1::RoundRef { number, attempt, .. } = late.round.unwrap_or_default();
        Late {
            site: late.site,
            number,
            attempt,
            examples: late.examples,
            update: blob(late.update),
            staleness: late.staleness,
        }
    }
}

impl From<v1::TrainingProgress> for Progress {
    fn from(progress: v1::TrainingProgress) -> Progress {
        let v1::TrainingProgress { step, steps, loss } = progress;
        Progress { step, steps, loss }
    }
}

impl From<v1::Member> for Member {
    fn from(member: v1::Member) -> Member {
        let state = member.state();
        Member {
            site: member.site,
            state: match state {
                v1::MemberState::Joined => "joined",
                v1::MemberState::Reported => "reported",
                v1::MemberState::Withdrawn => "withdrawn",
                v1::MemberState::Unspecified => UNKNOWN,
            },
            reason: text(member.reason),
            examples: (state == v1::MemberState::Reported).then_some(member.examples),
            update: blob(member.update),
            report: member.report.map(|report| Report {
                steps: report.steps,
                loss_mean: report.loss_mean,
                loss_first: report.loss_first,
                loss_last: report.loss_last,
                gradient_norm_p50: report.gradient_norm_p50,
                gradient_norm_p99: report.gradient_norm_p99,
            }),
            progress: member.progress.map(Progress::from),
            since: time(member.since),
        }
    }
}

impl From<v1::Model> for Model {
    fn from(model: v1::Model) -> Model {
        Model {
            run: model.run,
            round: model.round,
            blob: blob(model.blob),
            ema: blob(model.ema),
            created_at: time(model.created_at),
        }
    }
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Event {
        Event {
            seq: event.seq,
            at: time(event.at),
            actor: event.actor,
            kind: event.kind,
            detail: event.detail,
        }
    }
}
