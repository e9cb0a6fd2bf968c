//! What is kept of a federation, as plain values: what a database is given and what it gives back.
//! Nothing here knows how, so that what decides can speak of it and stay pure.

use std::collections::BTreeMap;

use fedpaint_proto::log::SignedHead;
use fedpaint_proto::merkle::{Frontier, Hash, Node};
use fedpaint_proto::names::{Digest, RunName, SiteName};
use fedpaint_proto::signing::{Signed, Statement};
use jiff::Timestamp;
use serde::Serialize;

pub use fedpaint_proto::log::Entry as EventRow;

use crate::roster::Roster;
use crate::round::Member;
use crate::run::Run;

/// A site's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// Its name.
    pub name: SiteName,
    /// When it was last let in.
    pub enrolled_at: Timestamp,
    /// When it was shut out.
    pub revoked_at: Option<Timestamp>,
    /// When it last joined by a token; from then on only its keys in the roster are taken. Never, where an
    /// operator enrolled it by name, which takes any certificate of that name.
    pub joined_at: Option<Timestamp>,
    /// The Ed25519 key that it joined with.
    pub signing_key: Option<[u8; 32]>,
}

impl SiteRow {
    /// A site that an operator enrols by name.
    pub fn by_name(name: SiteName, now: Timestamp) -> SiteRow {
        SiteRow { name, enrolled_at: now, revoked_at: None, joined_at: None, signing_key: None }
    }
}

/// The audit log, as its newest entry leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The tree over its entries.
    pub tree: Frontier,
    /// When the newest entry was made; none in an empty log.
    pub at: Option<Timestamp>,
}

impl Log {
    /// Adds an entry, whose number must be the next one. The nodes that are full with it.
    pub fn push(&mut self, entry: &EventRow) -> Vec<(Node, Hash)> {
        debug_assert_eq!(entry.seq, self.tree.size() + 1, "an entry is missing or there twice");
        self.at = Some(entry.at);
        self.tree.push(entry.leaf())
    }
}

/// Everything a coordinator needs when it starts.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every site, by name.
    pub sites: Vec<SiteRow>,
    /// Invitations, keys and operators.
    pub roster: Roster,
    /// Every run with its newest round, in the order of creation.
    pub runs: Vec<Run>,
    /// The audit log.
    pub log: Log,
    /// Up to which round a run's updates are let go, where any are.
    pub let_go: BTreeMap<RunName, u32>,
}

/// Up to which round the updates of a run are let go that has committed so many, where those of the newest `rounds`
/// are kept. What is noted stays so when more is to be kept later.
pub fn let_go_until(committed: u32, rounds: Option<u32>, noted: u32) -> u32 {
    rounds.map_or(0, |rounds| committed.saturating_sub(rounds)).max(noted)
}

/// What an entry of the log vouches for: a signed statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The digest of the bytes that were signed.
    pub digest: Digest,
    /// What it is.
    pub kind: DocumentKind,
    /// The statement and its signature, as JSON.
    pub signed: String,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// An update's envelope.
    Update,
    /// A model's manifest.
    Manifest,
}

impl DocumentKind {
    /// Whether an entry of this kind is about such a document.
    pub fn is_of(self, entry: &str) -> bool {
        match self {
            DocumentKind::Update => matches!(entry, "update_accepted" | "late_update_accepted"),
            DocumentKind::Manifest => matches!(entry, "run_created" | "round_committed"),
        }
    }
}

impl Document {
    /// A signed statement as a document.
    pub fn of<S: Statement + Serialize>(kind: DocumentKind, signed: &Signed<S>) -> Document {
        let digest = Digest::of(&signed.statement.to_bytes());
        // Nothing in a statement fails to be JSON: its keys are texts and it holds no floats.
        let signed = serde_json::to_string(signed).unwrap_or_default();
        Document { digest, kind, signed }
    }
}

/// What is to be saved together or not at all.
#[derive(Debug, Default)]
pub struct Change<'a> {
    /// Sites that are new or changed.
    pub sites: Vec<&'a SiteRow>,
    /// The roster as it was and as it is, if it has changed.
    pub roster: Option<(&'a Roster, &'a Roster)>,
    /// Runs that are new or changed: as they were saved last, and as they are now.
    pub runs: Vec<(Option<&'a Run>, &'a Run)>,
    /// Runs of which more updates are let go, and up to which round.
    pub let_go: Vec<(&'a RunName, u32)>,
    /// The audit entries.
    pub events: Vec<EventRow>,
    /// The nodes of the log's tree that are full with them.
    pub nodes: Vec<(Node, Hash)>,
    /// What the entries vouch for.
    pub documents: Vec<Document>,
    /// A head over the log as each of them leaves it, where the coordinator signs.
    pub heads: Vec<SignedHead>,
}

impl Change<'_> {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
            && self.roster.is_none()
            && self.runs.is_empty()
            && self.let_go.is_empty()
            && self.events.is_empty()
    }

    /// The blobs that rows name once this is saved.
    pub fn named(&self) -> impl Iterator<Item = Digest> {
        let of_run = |run: &Run| {
            let members = run.round().members().values().filter_map(|member| match member {
                Member::Reported(update) => Some(update.weights.digest),
                Member::Joined | Member::Withdrawn(_) => None,
            });
            let late = run.stragglers().filter_map(|(_, straggler)| straggler.late.update());
            let newest = run.newest();
            let models = newest.parts().map(|blob| blob.digest).chain([run.initial().digest]);
            let updates = members.chain(late.map(|update| update.weights.digest));
            models.chain(updates).collect::<Vec<_>>()
        };
        self.runs.iter().flat_map(move |(_, run)| of_run(run))
    }
}
