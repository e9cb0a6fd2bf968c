//! What is kept of a federation, as plain values: what a database is given and what it gives back.
//! Nothing here knows how, so that what decides can speak of it and stay pure.

use fedpaint_proto::names::{Digest, SiteName};
use jiff::Timestamp;

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

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// From 1 on, without a gap.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who caused it: `site/mayo`, `operator/ada`, or `coordinator`.
    pub actor: String,
    /// What happened, one word.
    pub kind: String,
    /// The same for people.
    pub detail: String,
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
    /// The newest audit entry; 0 if there is none.
    pub seq: u64,
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
    /// The audit entries.
    pub events: Vec<EventRow>,
}

impl Change<'_> {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
            && self.roster.is_none()
            && self.runs.is_empty()
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
