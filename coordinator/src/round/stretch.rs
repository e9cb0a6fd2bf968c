//! A deadline that waits for bytes under way: PURE, like the round it belongs to.
//!
//! Reporting ends when it was planned to, unless an update is arriving by then: then a short grace is
//! left after its newest byte, again and again, but never beyond the plan's bound. Whoever has settled
//! is waited for no longer.

use std::collections::BTreeMap;

use fedpaint_proto::names::SiteName;
use jiff::{SignedDuration, Timestamp};

use super::{Phase, Round, after};

/// How long after the newest byte of an update its round still waits for the next one.
pub const ARRIVING_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How far apart the moments are at which an arrival is noted: each of them is saved.
pub const ARRIVING_STEP: SignedDuration = SignedDuration::from_secs(10);

/// Reporting that goes on longer than planned, or is about to.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// When reporting was to end.
    pub due: Timestamp,
    /// The newest bytes that were noted, by the site whose update they are of.
    pub arriving: BTreeMap<SiteName, Timestamp>,
}

impl Stretch {
    /// When reporting ends by what is noted, at most `bound` after it was due.
    fn until(&self, bound: std::time::Duration) -> Timestamp {
        let grace = |time: &Timestamp| time.checked_add(ARRIVING_GRACE).unwrap_or(Timestamp::MAX);
        let newest = self.arriving.values().map(grace).max();
        newest.map_or(self.due, |until| until.clamp(self.due, after(self.due, bound)))
    }
}

impl Round {
    /// How reporting goes on longer than planned, if it does or did.
    pub fn stretch(&self) -> Option<&Stretch> {
        self.kept.stretch.as_ref()
    }

    /// Whether bytes of an update of `site` that arrive at `now` are to be told as an event: it trains,
    /// the end of reporting is near, and no byte was noted a moment ago.
    pub fn notes_arrival(&self, site: &SiteName, now: Timestamp) -> bool {
        let Phase::Reporting { until } = self.phase else { return false };
        if self.policy.stretch_s == 0 || self.joined(site).is_err() {
            return false;
        }
        let due = self.kept.stretch.as_ref().map_or(until, |stretch| stretch.due);
        let noted = self.kept.stretch.as_ref().and_then(|stretch| stretch.arriving.get(site));
        let near = due.duration_since(now) < ARRIVING_GRACE;
        near && noted.is_none_or(|noted| now.duration_since(*noted) >= ARRIVING_STEP)
    }

    /// Notes bytes of `site`, if they are to be noted.
    pub(super) fn arriving(&mut self, site: SiteName, now: Timestamp) {
        let Phase::Reporting { until } = self.phase else { return };
        if self.notes_arrival(&site, now) {
            let fresh = || Stretch { due: until, arriving: BTreeMap::new() };
            self.kept.stretch.get_or_insert_with(fresh).arriving.insert(site, now);
            self.set_until();
        }
    }

    /// Waits no longer for a site that has settled.
    pub(super) fn arrived(&mut self, site: &SiteName) {
        let waited = self.kept.stretch.as_mut().and_then(|stretch| stretch.arriving.remove(site));
        if waited.is_some() {
            self.set_until();
        }
    }

    fn set_until(&mut self) {
        if let (Phase::Reporting { until }, Some(stretch)) = (&mut self.phase, &self.kept.stretch) {
            *until = stretch.until(self.policy.stretch());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::round::tests::{at, reporting, site, update};
    use crate::round::{Event, Refusal};

    fn until(round: &Round) -> Timestamp {
        match round.phase() {
            Phase::Reporting { until } => *until,
            other => panic!("{other:?}"),
        }
    }

    /// Reporting until 1010 s; at most 300 s longer.
    fn stretching() -> Round {
        let mut round = reporting(&["a", "b", "c"]);
        for name in ["a", "b"] {
            round.apply(Event::Reported(site(name), update(name)), at(20)).unwrap();
        }
        assert_eq!(until(&round), at(1010));
        round
    }

    #[test]
    fn a_deadline_waits_a_grace_after_the_newest_byte_and_never_beyond_its_bound() {
        let mut round = stretching();
        let early = round.clone();
        round.apply(Event::Arriving(site("c")), at(900)).unwrap();
        assert_eq!(round, early, "the end is far");
        round.apply(Event::Arriving(site("c")), at(1000)).unwrap();
        assert_eq!(until(&round), at(1060));
        let noted = round.clone();
        assert!(!round.notes_arrival(&site("c"), at(1005)), "once in a while is enough");
        round.apply(Event::Arriving(site("c")), at(1005)).unwrap();
        assert_eq!(round, noted);
        for second in (1010..1300).step_by(10) {
            round.apply(Event::Arriving(site("c")), at(second)).unwrap();
            assert_eq!(until(&round), at((second + 60).min(1310)));
        }
        round.apply(Event::Arriving(site("c")), at(1309)).unwrap();
        let late = round.apply(Event::Reported(site("c"), update("c")), at(1310));
        assert_eq!(late, Err(Refusal::ReportingOver), "time first, also when it was stretched");
        assert_eq!(round.phase(), &Phase::Aggregating);
        assert_eq!(round.stretch().unwrap().due, at(1010));
    }

    #[test]
    fn a_stretched_round_ends_a_grace_after_the_bytes_stop() {
        let mut round = stretching();
        round.apply(Event::Arriving(site("c")), at(1009)).unwrap();
        round.tick(at(1068));
        assert_eq!(until(&round), at(1069));
        round.tick(at(1069));
        assert_eq!(round.phase(), &Phase::Aggregating);
    }

    #[test]
    fn whoever_has_settled_is_waited_for_no_longer() {
        let mut round = reporting(&["a", "b", "c"]);
        for name in ["a", "b"] {
            round.apply(Event::Arriving(site(name)), at(1000)).unwrap();
        }
        round.apply(Event::Arriving(site("b")), at(1040)).unwrap();
        assert_eq!(until(&round), at(1100));
        round.apply(Event::Reported(site("b"), update("b")), at(1041)).unwrap();
        assert_eq!(until(&round), at(1060), "a's bytes came at 1000");
        round.apply(Event::Reported(site("a"), update("a")), at(1042)).unwrap();
        assert_eq!(round.phase(), &Phase::Aggregating, "c sends nothing, and reporting is overdue");
    }

    #[test]
    fn a_plan_that_does_not_stretch_and_a_site_that_does_not_train_move_no_deadline() {
        let mut round = stretching();
        assert_eq!(round.apply(Event::Arriving(site("z")), at(1005)), Err(Refusal::NotAMember));
        assert_eq!(
            round.apply(Event::Arriving(site("a")), at(1005)),
            Err(Refusal::AlreadyReported)
        );
        assert_eq!(until(&round), at(1010));
        round.policy.stretch_s = 0;
        round.apply(Event::Arriving(site("c")), at(1005)).unwrap();
        assert_eq!((until(&round), round.stretch()), (at(1010), None));
        assert_eq!(after(at(5), Duration::MAX), Timestamp::MAX);
    }
}
