//! Who was missing in a run's committed rounds, so that no run is called finished on a silent subset.
//! PURE: it follows from the committed rounds alone, in any order.

use std::collections::BTreeMap;

use fedpaint_proto::names::SiteName;

use crate::round::{Member, Phase, Round, named};

/// Who was missing in the committed rounds of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many committed rounds lacked the update of a member.
    pub rounds_short: u32,
    /// The members that were missing.
    pub absences: BTreeMap<SiteName, Absence>,
}

/// How often a site was missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// In how many committed rounds its update was not there in time.
    pub missing: u32,
    /// How many updates of it were folded into later rounds.
    pub folded: u32,
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
        self.rounds_short += u32::from(short);
        for site in round.late().keys() {
            self.absences.entry(site.clone()).or_default().folded += 1;
        }
    }

    /// The same in words, of `committed` rounds: `3 of 50 rounds without every member: mayo missing in
    /// 2 (1 came late)`. None where every member counted in every round.
    pub fn in_words(&self, committed: u32) -> Option<String> {
        if self.rounds_short == 0 {
            return None;
        }
        let mut missing: Vec<_> = self.absences.iter().filter(|(_, a)| a.missing > 0).collect();
        missing.sort_by_key(|(_, absence)| std::cmp::Reverse(absence.missing));
        let one = |(site, absence): &(&SiteName, &Absence)| {
            let late = match absence.folded {
                0 => String::new(),
                folded => format!(" ({folded} came late)"),
            };
            format!("{site} missing in {}{late}", absence.missing)
        };
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

/// How many sites are told with their counts.
const SITES_TOLD_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_missing_most_is_told_first_and_a_run_without_gaps_tells_nothing() {
        assert_eq!(Tally::default().in_words(50), None);
        let absence = |missing, folded| Absence { missing, folded };
        let absences =
            [("aachen", absence(0, 1)), ("kyoto", absence(1, 0)), ("mayo", absence(2, 1))];
        let absences = absences.map(|(site, absence)| (site.parse().unwrap(), absence)).into();
        let tally = Tally { rounds_short: 3, absences };
        assert_eq!(
            tally.in_words(50).unwrap(),
            "3 of 50 rounds without every member: mayo missing in 2 (1 came late), kyoto missing in 1"
        );
    }
}
