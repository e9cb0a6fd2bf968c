//! Whose average comes next, how long each is waited for, and why it was begun again. PURE. Of what was before
//! a start it knows when each round was sealed: a coordinator that ends again and again does not make a day
//! longer.

use std::collections::BTreeMap;
use std::time::Duration;

use fedpaint_proto::names::RoundId;
use jiff::{SignedDuration, Timestamp};

use super::troubles::Owed;

/// How often in a row an average is begun again because a file does not read; then the round is given up.
const READ_RETRIES_MAX: u32 = 12;

/// How long a round's average may take once its turn has come, beginning again and being started again
/// included; then the round is given up. The largest models take minutes, so that this is a disk that has been
/// full, or silent, for a day.
const AGGREGATION_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How long after a failure of the disk an average is begun again: half of the time in which work is to go
/// on once a full disk has room.
pub(super) const AGGREGATION_RETRY: Duration = Duration::from_secs(5);

/// The averages that are owed. There are never more of them than runs.
#[derive(Debug, Default)]
pub(super) struct Patience {
    owed: BTreeMap<RoundId, Waiting>,
    /// The next place at the end of the line.
    end: u64,
}

/// A round whose average is owed.
#[derive(Debug)]
struct Waiting {
    /// Its place in the line; the lowest comes first.
    place: u64,
    /// When its average was begun first; of one that was owed at a start, when its round was sealed.
    since: Option<Timestamp>,
    /// How often its files did not read. A disk that does not take what is written is no fault of the
    /// round's, and is not counted.
    unread: u32,
    /// Why its average is to be begun again, and when.
    again: Option<(String, Timestamp)>,
}

impl Waiting {
    fn until(&self) -> Option<Timestamp> {
        self.since.map(|since| since.checked_add(AGGREGATION_MAX).unwrap_or(Timestamp::MAX))
    }

    fn again_at(&self) -> Option<Timestamp> {
        self.again.as_ref().map(|(_, at)| *at)
    }
}

impl Patience {
    /// What is owed at a start at `now`: averages of rounds that were sealed then, as far as that is known. Who
    /// waited does not pay for the `absence` in which nobody was there to make them.
    pub(super) fn at_start(
        sealed: impl Iterator<Item = (RoundId, Option<Timestamp>)>,
        absence: SignedDuration,
        now: Timestamp,
    ) -> Patience {
        let sealed: Vec<_> = sealed.collect();
        let mut patience = Patience::default();
        patience.owes(&sealed.iter().map(|(round, _)| round.clone()).collect::<Vec<_>>());
        for (round, sealed_at) in sealed {
            let since = sealed_at.map(|at| at.checked_add(absence).unwrap_or(now).min(now));
            if let Some(waiting) = patience.owed.get_mut(&round) {
                waiting.since = since;
            }
        }
        patience
    }

    /// Notes which averages are owed. Who is new goes to the end of the line; who is owed no more is
    /// forgotten.
    pub(super) fn owes(&mut self, owed: &[RoundId]) {
        self.owed.retain(|round, _| owed.contains(round));
        for round in owed {
            let place = self.end;
            let new = || Waiting { place, since: None, unread: 0, again: None };
            if self.owed.entry(round.clone()).or_insert_with(new).place == place {
                self.end += 1;
            }
        }
    }

    /// Whether the average of `round` is owed.
    pub(super) fn is_owed(&self, round: &RoundId) -> bool {
        self.owed.contains_key(round)
    }

    /// Whose average is to be begun: of those that may be, who has waited longest since its last try.
    pub(super) fn next(&self, now: Timestamp) -> Option<RoundId> {
        let may = |waiting: &Waiting| waiting.again_at().is_none_or(|at| at <= now);
        let next = self.owed.iter().filter(|(_, waiting)| may(waiting));
        next.min_by_key(|(_, waiting)| waiting.place).map(|(round, _)| round.clone())
    }

    /// Notes that the average of `round` is begun; until when it is waited for.
    pub(super) fn begins(&mut self, round: &RoundId, now: Timestamp) -> Timestamp {
        let waiting = self.owed.get_mut(round);
        let until = waiting.and_then(|waiting| {
            waiting.since.get_or_insert(now);
            waiting.until()
        });
        until.unwrap_or(now)
    }

    /// Notes that the average of `round` is to be begun again, and why: it goes to the end of the line, so
    /// that what fails it does not keep the others.
    pub(super) fn fails(&mut self, round: &RoundId, why: &str, now: Timestamp) {
        if let Some(waiting) = self.owed.get_mut(round) {
            let at = now.checked_add(AGGREGATION_RETRY).unwrap_or(Timestamp::MAX);
            waiting.again = Some((why.to_owned(), at));
            waiting.place = self.end;
            self.end += 1;
        }
    }

    /// Notes that the files of `round` did not read once more; whether its average is to be begun again.
    pub(super) fn again(&mut self, round: &RoundId) -> bool {
        let Some(waiting) = self.owed.get_mut(round) else { return true };
        let again = waiting.unread < READ_RETRIES_MAX;
        waiting.unread += u32::from(again);
        again
    }

    /// Notes that the average of `round` was made. If it is not saved, the round has not waited for it.
    pub(super) fn made(&mut self, round: &RoundId) {
        self.owed.remove(round);
    }

    /// A round that was waited for long enough, and why it has no average. One whose average has `ended`
    /// waits no longer.
    pub(super) fn over(
        &self,
        ended: Option<&RoundId>,
        now: Timestamp,
    ) -> Option<(RoundId, String)> {
        let over = |(round, waiting): &(&RoundId, &Waiting)| {
            Some(*round) != ended && waiting.until().is_some_and(|until| until <= now)
        };
        let (round, waiting) = self.owed.iter().find(over)?;
        let why = waiting.again.as_ref().map_or("it has not ended", |(why, _)| why);
        let hours = AGGREGATION_MAX.as_secs() / 3_600;
        Some((round.clone(), format!("{hours} hours were not enough: {why}")))
    }

    /// When time next changes anything, while an average is under way or none is.
    pub(super) fn deadline(&self, under_way: bool) -> Option<Timestamp> {
        let again = |waiting: &Waiting| waiting.again_at().filter(|_| !under_way);
        self.owed.values().flat_map(|waiting| [waiting.until(), again(waiting)]).flatten().min()
    }

    /// The averages that are owed, for people.
    pub(super) fn shown(&self) -> BTreeMap<RoundId, Owed> {
        let one = |(round, waiting): (&RoundId, &Waiting)| {
            let told = waiting.again.as_ref().map(|(why, _)| why.clone());
            (round.clone(), Owed { since: waiting.since, until: waiting.until(), told })
        };
        self.owed.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::START;

    fn round(run: &str) -> RoundId {
        RoundId { run: run.parse().unwrap(), number: 1, attempt: 1 }
    }

    fn later(seconds: i64) -> Timestamp {
        START + jiff::SignedDuration::from_secs(seconds)
    }

    const DAY: i64 = 24 * 3_600;

    #[test]
    fn each_round_has_its_own_patience_with_files_that_do_not_read_and_a_day_from_its_first_try() {
        let (a, b) = (round("a"), round("b"));
        let mut patience = Patience::default();
        patience.owes(std::slice::from_ref(&a));
        assert_eq!(patience.begins(&a, START), later(DAY));
        for _ in 0..READ_RETRIES_MAX {
            assert!(patience.again(&a));
        }
        // An older run's round is sealed meanwhile.
        patience.owes(&[b.clone(), a.clone()]);
        assert!(!patience.again(&a));
        assert!(patience.again(&b));
        patience.fails(&a, "no space", START);
        assert_eq!(patience.begins(&a, later(9)), later(DAY), "it began long ago");
        assert_eq!(patience.over(None, later(DAY - 1)), None);
        let told = "24 hours were not enough: no space".to_owned();
        assert_eq!(patience.over(None, later(DAY)), Some((a.clone(), told)));
        assert_eq!(patience.over(Some(&a), later(DAY)), None, "it has just ended");

        patience.owes(std::slice::from_ref(&b));
        assert_eq!(patience.over(None, later(9 * DAY)), None, "nobody was given a try in line");
        assert_eq!(patience.begins(&b, later(9 * DAY)), later(10 * DAY));
        let told = "24 hours were not enough: it has not ended".to_owned();
        assert_eq!(patience.over(None, later(10 * DAY)), Some((b.clone(), told)));
        patience.made(&b);
        assert_eq!(patience.over(None, later(10 * DAY)), None);
    }

    #[test]
    fn a_start_counts_the_day_from_when_a_round_was_sealed_but_for_the_time_that_nobody_was_there()
    {
        let [a, b, c] = ["a", "b", "c"].map(round);
        let sealed = [(a.clone(), Some(START)), (b.clone(), Some(later(90))), (c.clone(), None)];
        let absence = SignedDuration::from_secs(20);
        let mut patience = Patience::at_start(sealed.into_iter(), absence, later(100));
        assert_eq!(patience.begins(&a, later(100)), later(DAY + 20));
        assert_eq!(patience.begins(&b, later(100)), later(DAY + 100), "not before it is");
        assert_eq!(patience.begins(&c, later(100)), later(DAY + 100), "it is not known");
        // However often it was started since, a day is a day.
        let sealed = [(a.clone(), Some(START))];
        let patience = Patience::at_start(sealed.into_iter(), absence, later(DAY + 20));
        let told = "24 hours were not enough: it has not ended".to_owned();
        assert_eq!(patience.over(None, later(DAY + 20)), Some((a, told)));
    }

    #[test]
    fn who_failed_goes_to_the_end_of_the_line_and_comes_again_at_its_own_time() {
        let [a, b, c] = ["a", "b", "c"].map(round);
        let mut patience = Patience::default();
        patience.owes(std::slice::from_ref(&b));
        patience.owes(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(patience.next(START), Some(b.clone()), "it was there first");
        patience.begins(&b, START);
        patience.fails(&b, "no space", later(1));
        assert_eq!(patience.next(later(1)), Some(a.clone()));
        patience.begins(&a, later(1));
        patience.fails(&a, "no space", later(2));
        assert_eq!(patience.next(later(6)), Some(c.clone()));
        patience.begins(&c, later(6));
        patience.fails(&c, "no space", later(6));
        assert_eq!(patience.next(later(6)), Some(b.clone()));
        assert_eq!(patience.deadline(false), Some(later(6)));
        assert_eq!(patience.deadline(true), Some(later(DAY)), "one at a time");
        patience.owes(&[]);
        assert_eq!((patience.next(later(DAY)), patience.deadline(false)), (None, None));
    }
}
