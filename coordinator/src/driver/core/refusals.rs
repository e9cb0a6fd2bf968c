//! Which refusals of sites are in the audit log, so that a site that repeats itself does not fill it.
//! PURE, and not kept over a restart.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::names::{RoundId, SiteName};

use super::state::State;

/// The most refusals of a site that are noted while its run has one round in hand; the log has them all.
pub const REFUSALS_NOTED_MAX: usize = 16;

/// What was noted of each site, by the round that the run in question had in hand; none where there is
/// no such run.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(BTreeMap<(SiteName, Option<RoundId>), BTreeSet<String>>);

/// What is to be remembered.
#[derive(Debug)]
pub(super) enum Noted {
    /// A site was refused, for these words.
    Refused(SiteName, Option<RoundId>, String),
    /// An update of the site was accepted.
    Accepted(SiteName),
}

impl Refusals {
    /// What is to be noted of a refusal that concerns the run of `round`, if anything is.
    pub(super) fn note(
        &self,
        state: &State,
        site: &SiteName,
        round: &RoundId,
        detail: &str,
    ) -> Option<Noted> {
        let in_hand = state.find_run(&round.run).map(|run| run.round().id().clone());
        let key = (site.clone(), in_hand);
        let noted = self.0.get(&key);
        let again = noted.is_some_and(|noted| noted.contains(detail));
        let many = noted.is_some_and(|noted| noted.len() >= REFUSALS_NOTED_MAX);
        let (site, in_hand) = key;
        (!again && !many).then(|| Noted::Refused(site, in_hand, detail.to_owned()))
    }

    /// Remembers it, and forgets what was noted in rounds that `state` has no longer in hand.
    pub(super) fn remember(&mut self, noted: Noted, state: &State) {
        let in_hand = |round: &RoundId| state.runs().any(|run| run.round().id() == round);
        match noted {
            Noted::Refused(site, round, detail) => {
                self.0.retain(|(_, round), _| round.as_ref().is_none_or(in_hand));
                self.0.entry((site, round)).or_default().insert(detail);
            }
            Noted::Accepted(site) => self.0.retain(|(of, _), _| *of != site),
        }
    }
}
