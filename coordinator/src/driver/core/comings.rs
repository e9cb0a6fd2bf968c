//! How often sites come to a round that selects, and go again, so that one that does so without end does not
//! fill the audit log: what it does is told so many times, and where it is in the end once more. PURE, and not
//! kept over a restart.

use std::collections::BTreeMap;

use fedpaint_proto::names::{RoundId, RunName, SiteName};

use super::state::State;
use crate::round::Phase;

/// How often it is told of a site, in one attempt at a round, that it has joined or left while sites are
/// selected.
pub const COMINGS_TOLD_MAX: u32 = 16;

/// What was told of each site, in the newest attempt of each run that it came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comings(BTreeMap<RunName, Attempt>);

/// What was told of one attempt.
#[derive(Clone, Debug, PartialEq)]
struct Attempt {
    round: RoundId,
    sites: BTreeMap<SiteName, Told>,
}

/// What was told of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    /// How often it came or went, up to one more than is told.
    times: u32,
    /// Whether the last that was told is that it has joined.
    joined: bool,
}

impl Comings {
    /// Of which sites not every coming and going to this round was told, and whether the last that was told
    /// is that they have joined.
    pub(super) fn untold(&self, round: &RoundId) -> BTreeMap<SiteName, bool> {
        let attempt = self.0.get(&round.run).filter(|attempt| attempt.round == *round);
        let sites = attempt.into_iter().flat_map(|attempt| &attempt.sites);
        let untold = sites.filter(|(_, told)| told.times > COMINGS_TOLD_MAX);
        untold.map(|(site, told)| (site.clone(), told.joined)).collect()
    }

    /// Notes that a site has joined the round, or left it.
    fn note(&mut self, round: &RoundId, site: &SiteName, joined: bool) {
        let new = || Attempt { round: round.clone(), sites: BTreeMap::new() };
        let attempt = self.0.entry(round.run.clone()).or_insert_with(new);
        if attempt.round != *round {
            *attempt = new();
        }
        let told = attempt.sites.entry(site.clone()).or_default();
        if told.times < COMINGS_TOLD_MAX {
            told.joined = joined;
        }
        told.times = (told.times + 1).min(COMINGS_TOLD_MAX + 1);
    }
}

impl State {
    /// Notes whether `site` has joined the round `id` since `before`, or left it, while it selects.
    pub(super) fn note_coming(&mut self, before: &State, id: &RoundId, site: &SiteName) {
        let Ok(round) = before.round(id) else { return };
        if !matches!(round.phase(), Phase::Selecting { .. }) {
            return;
        }
        let (was, is) = (round.members().contains_key(site), self.is_member(id, site));
        if was != is {
            self.comings.note(id, site, is);
        }
    }

    fn is_member(&self, id: &RoundId, site: &SiteName) -> bool {
        self.round(id).is_ok_and(|round| round.members().contains_key(site))
    }
}
