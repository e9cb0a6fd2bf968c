//! Who was missing in a run's committed rounds, so that no run is called finished on a silent subset.
//! PURE: it follows from the committed rounds alone, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fedpaint_proto::names::SiteName;

use crate::round::{Member, Phase, Round, named};
use crate::standing::Standing;

/// Who was missing in the committed rounds of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many committed rounds lacked the update of a member.
    pub rounds_short: u32,
    /// The members that were missing, and whose updates were left out.
    pub absences: BTreeMap<SiteName, Absence>,
    /// Who was a member of a committed round at all.
    pub members: BTreeSet<SiteName>,
}

/// How often a site was missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// In how many committed rounds its update was not there in time.
    pub missing: u32,
    /// How many updates of it were folded into later rounds.
    pub folded: u32,
    /// How many updates of it were quarantined: they came, and the model has nothing of them.
    pub quarantined: u32,
}

impl Tally {
    /// Counts a round that has committed.
    pub fn count(&mut self, round: &Round) {
        if !matches!(round.phase(), Phase::Committed(_)) {
            return;
        }
        let missing = |member: &Member| !matches!(member, Member::Reported(_));
        let mut short = false;
        for (site, _) in round.members().iter().filter(|(_, member)| missing(member)) {
            self.absences.entry(site.clone()).or_default().missing += 1;
            short = true;
        }
        self.members.extend(round.members().keys().cloned());
        short |= self.left_out(round.standings());
        self.rounds_short += u32::from(short);
        for site in round.late().keys() {
            self.absences.entry(site.clone()).or_default().folded += 1;
        }
    }

    /// Counts the updates that a committed round has left out; whether one was of its own members.
    pub fn left_out(&mut self, standings: &[Standing]) -> bool {
        let mut own = false;
        for standing in standings.iter().filter(|standing| standing.excluded) {
            self.absences.entry(standing.site.clone()).or_default().quarantined += 1;
            own |= !standing.late;
        }
        own
    }

    /// The same in words, of `committed` rounds, and of the sites that took part in none of them: `3 of 50
    /// rounds without every member: mayo missing in 2 (1 came late); in no committed round: oslo`. None
    /// where every site counted in every round.
    pub fn in_words(&self, committed: u32, absent: &[SiteName]) -> Option<String> {
        let absent = (!absent.is_empty()).then(|| named(absent));
        let absent = absent.map(|names| format!("in no committed round: {names}"));
        let told: Vec<String> = self.short_in_words(committed).into_iter().chain(absent).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn short_in_words(&self, committed: u32) -> Option<String> {
        if self.rounds_short == 0 {
            return None;
        }
        let lacked = |absence: &Absence| absence.missing + absence.quarantined;
        let mut missing: Vec<_> = self.absences.iter().filter(|(_, a)| lacked(a) > 0).collect();
        missing.sort_by_key(|(_, absence)| std::cmp::Reverse(lacked(absence)));
        let one = |(site, absence): &(&SiteName, &Absence)| format!("{site} {absence}");
        let short = self.rounds_short;
        let told: Vec<String> = missing.iter().take(SITES_TOLD_MAX).map(one).collect();
        let others: Vec<SiteName> =
            missing.iter().skip(SITES_TOLD_MAX).map(|(site, _)| (*site).clone()).collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("; also {}", named(&others)),
        };
        let told = told.join(", ");
        Some(format!("{short} of {committed} rounds without every member: {told}{others}"))
    }
}

impl fmt::Display for Absence {
    /// `missing in 2 (1 came late), 1 quarantined`; what is none is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing > 0 {
            write!(f, "missing in {}", self.missing)?;
        }
        if self.missing > 0 && self.folded > 0 {
            write!(f, " ({} came late)", self.folded)?;
        }
        match (self.missing, self.quarantined) {
            (_, 0) => Ok(()),
            (0, quarantined) => write!(f, "quarantined in {quarantined}"),
            (_, quarantined) => write!(f, " and quarantined in {quarantined}"),
        }
    }
}

/// How many sites are told with their counts.
const SITES_TOLD_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_missing_most_is_told_first_and_a_run_without_gaps_tells_nothing() {
        assert_eq!(Tally::default().in_words(50, &[]), None);
        let absence = |missing, folded, quarantined| Absence { missing, folded, quarantined };
        let absences = [
            ("aachen", absence(0, 1, 0)),
            ("kyoto", absence(1, 0, 0)),
            ("mayo", absence(2, 1, 2)),
            ("paris", absence(0, 0, 3)),
        ];
        let absences = absences.map(|(site, absence)| (site.parse().unwrap(), absence)).into();
        let tally = Tally { rounds_short: 6, absences, ..Tally::default() };
        let short = "6 of 50 rounds without every member: mayo missing in 2 (1 came late) and \
                     quarantined in 2, paris quarantined in 3, kyoto missing in 1";
        assert_eq!(tally.in_words(50, &[]).unwrap(), short);
        let absent = ["oslo".parse().unwrap()];
        assert_eq!(
            tally.in_words(50, &absent).unwrap(),
            format!("{short}; in no committed round: oslo")
        );
        assert_eq!(Tally::default().in_words(50, &absent).unwrap(), "in no committed round: oslo");
    }
}
