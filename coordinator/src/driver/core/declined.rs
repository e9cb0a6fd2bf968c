//! Which rounds sites refuse by their own policies, and what of it the audit log has been told. PURE, and not
//! kept over a restart.

use std::collections::{BTreeMap, BTreeSet};

use fedpaint_proto::names::{RoundId, RunName, SiteName};
use fedpaint_proto::rule::Rule;
use jiff::Timestamp;

use super::state::State;
use crate::audit::Entry;

/// What sites have declined: the newest round of each run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Declines(BTreeMap<SiteName, BTreeMap<RunName, Declined>>);

/// A round that a site's own policy refused.
#[derive(Clone, Debug, PartialEq)]
struct Declined {
    round: RoundId,
    rule: Rule,
    /// Since when by this rule.
    since: Timestamp,
    /// Whether it still does.
    holds: bool,
    /// By which rules it has refused this round: each is told once, so that no site can fill the log.
    told: BTreeSet<Rule>,
}

impl State {
    /// Notes what a site declines at `now`: what of it is news, for the audit log. A rule that comes and goes
    /// is told again only for another round.
    pub(super) fn put_declined(
        &mut self,
        site: &SiteName,
        declined: Vec<(RoundId, Rule)>,
        now: Timestamp,
    ) -> Vec<Entry> {
        if declined.is_empty() && !self.declined.0.contains_key(site) {
            return Vec::new();
        }
        let mut held = self.declined.0.remove(site).unwrap_or_default();
        held.retain(|run, _| self.find_run(run).is_some_and(|run| !run.is_over()));
        let held_before = held.clone();
        held.values_mut().for_each(|declined| declined.holds = false);
        let mut entries = Vec::new();
        for (round, rule) in declined {
            if self.round(&round).is_err() {
                continue;
            }
            let same = |declined: &&Declined| declined.round == round;
            let mut told =
                held.get(&round.run).filter(same).map(|d| d.told.clone()).unwrap_or_default();
            if told.insert(rule) {
                let detail =
                    format!("round {round}: site {site}, by the rule {rule} of its own policy");
                entries.push(Entry::new("site_declined", detail));
            }
            let before = held_before.get(&round.run).filter(same);
            let goes_on = before.filter(|before| before.holds && before.rule == rule);
            let since = goes_on.map_or(now, |before| before.since);
            let declined = Declined { round: round.clone(), rule, since, holds: true, told };
            held.insert(round.run, declined);
        }
        self.declined.0.insert(site.clone(), held);
        entries
    }

    /// By which rule of its own policy a site refuses a round, and since when, if it does.
    pub(super) fn declines(&self, site: &SiteName, round: &RoundId) -> Option<(Rule, Timestamp)> {
        let declined = self.declined.0.get(site)?.get(&round.run)?;
        let holds = declined.holds && declined.round == *round;
        holds.then_some((declined.rule, declined.since))
    }
}
