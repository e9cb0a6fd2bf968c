//! What the coordinator's messages say, as stable JSON. Field names and words here are a promise to
//! programs: they may be added to and never change their meaning.

use fedpaint_proto::names::{self, Digest};
use fedpaint_proto::note::ModelKind;
use fedpaint_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

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
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sites {
    pub(crate) sites: Vec<Site>,
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
    pub(crate) reason: Option<String>,
    pub(crate) base_model: Option<Blob>,
    pub(crate) model: Option<Blob>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) opened_at: Option<Timestamp>,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) members: Vec<Member>,
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
    pub(crate) loss: f64,
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
}

/// A certificate that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Certificate {
    /// The SPIFFE URI in it.
    pub(crate) identity: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
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
            members: round.members.into_iter().map(Member::from).collect(),
        }
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
            progress: member.progress.map(|progress| {
                let v1::TrainingProgress { step, steps, loss } = progress;
                Progress { step, steps, loss }
            }),
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
