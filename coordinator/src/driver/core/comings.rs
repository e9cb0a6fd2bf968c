//! How often sites come to a round that selects. Each time is in the audit log, so that one which comes and goes
//! without end is let in so many times in an attempt and no more. PURE, and not kept over a restart.

use std::collections::BTreeMap;

use fedpaint_proto::names::{RoundId, RunName, SiteName};

use super::state::State;
use crate::audit::Entry;
use crate::round::Phase;

/// How often a site is let into one attempt at a round while sites are selected: more often than anybody starts
/// an agent anew for a reason.
pub const COMINGS_MAX: usize = 16;

/// How often each site came to the newest attempt of each run that it came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comings(BTreeMap<RunName, Attempt>);

/// How often sites came to one attempt.
#[derive(Clone, Debug, PartialEq)]
struct Attempt {
    round: RoundId,
    sites: BTreeMap<SiteName, usize>,
}

impl Comings {
    /// How often a site came to this round.
    fn of(&self, round: &RoundId, site: &SiteName) -> usize {
        let attempt = self.0.get(&round.run).filter(|attempt| attempt.round == *round);
        attempt.and_then(|attempt| attempt.sites.get(site)).copied().unwrap_or(0)
    }

    /// Notes that a site has come to this round.
    fn note(&mut self, round: &RoundId, site: &SiteName) {
        let new = || Attempt { round: round.clone(), sites: BTreeMap::new() };
        let attempt = self.0.entry(round.run.clone()).or_insert_with(new);
        if attempt.round != *round {
            *attempt = new();
        }
        *attempt.sites.entry(site.clone()).or_default() += 1;
    }
}

impl State {
    /// Whether a site that is not in the round has come to it as often as it may.
    pub(super) fn keeps_out(&self, site: &SiteName, round: &RoundId) -> bool {
        !self.is_member(round, site) && self.comings.of(round, site) >= COMINGS_MAX
    }

    /// Notes whether `site` has come to the round `id` since `before`, while it selects. Where it has gone and
    /// may not come again, that is news for the audit log.
    pub(super) fn note_coming(
        &mut self,
        before: &State,
        id: &RoundId,
        site: &SiteName,
    ) -> Option<Entry> {
        let round = before.round(id).ok()?;
        if !matches!(round.phase(), Phase::Selecting { .. }) {
            return None;
        }
        match (round.members().contains_key(site), self.is_member(id, site)) {
            (false, true) => {
                self.comings.note(id, site);
                None
            }
            (true, false) => self.keeps_out(site, id).then(|| {
                let detail =
                    format!("round {id}: site {site} came {COMINGS_MAX} times and not again");
                Entry::new("site_kept_out", detail)
            }),
            (true, true) | (false, false) => None,
        }
    }

    fn is_member(&self, id: &RoundId, site: &SiteName) -> bool {
        self.round(id).is_ok_and(|round| round.members().contains_key(site))
    }
}
