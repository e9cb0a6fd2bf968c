//! Who shows a join token that belongs to no invitation, and who does not believe the coordinator whose token would say
//! which. So many of them in an hour are told to the audit log, the former by the name that they asked for, and the
//! others by one entry when the hour is over, so that strangers, whom nothing else holds off, do not fill it. PURE, and
//! not kept over a restart; the coordinator's own log has them all.

use std::time::Duration;

use fedpaint_proto::names::SiteName;
use jiff::Timestamp;

use super::state::State;
use super::{COORDINATOR, Core, Step};
use crate::audit::Entry;
use crate::driver::error::{Error, JoinRefusal};

/// The most strangers of an hour that are told one by one.
pub const STRANGERS_TOLD_MAX: u32 = 10;

/// For how long strangers are counted together.
const HOUR: Duration = Duration::from_secs(3_600);

/// The strangers of the last hour in which there was any.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Strangers {
    /// When the hour is over; none where nobody has come.
    until: Option<Timestamp>,
    /// How many were told.
    told: u32,
    /// And how many were not.
    untold: u64,
}

impl Strangers {
    /// One more at `now`, whom this entry would tell of: how many there are then, and what is told.
    fn one_more(self, entry: Entry, now: Timestamp) -> (Strangers, Vec<Entry>) {
        let (mut strangers, mut entries) = (self, Vec::new());
        if self.until.is_none_or(|until| until <= now) {
            entries.extend(self.rest());
            let until = now.checked_add(HOUR).unwrap_or(Timestamp::MAX);
            strangers = Strangers { until: Some(until), ..Strangers::default() };
        }
        if strangers.told < STRANGERS_TOLD_MAX {
            strangers.told += 1;
            entries.push(entry);
        } else {
            strangers.untold = strangers.untold.saturating_add(1);
        }
        (strangers, entries)
    }

    /// When those who were not told are to be.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.until.filter(|_| self.untold > 0)
    }

    /// Those who were not told, in one entry.
    fn rest(&self) -> Option<Entry> {
        let (until, untold) = (self.due()?, self.untold);
        let why = JoinRefusal::NotInvited;
        let detail = format!("{untold} more until {until}: {why}, or no trust in this coordinator");
        Some(Entry::new("strangers_refused", detail))
    }
}

impl Core {
    /// Refuses who shows a token for `site`, which was not invited.
    pub(super) fn stranger(&self, site: &SiteName, now: Timestamp) -> Step {
        let detail = format!("site {site}: {}", JoinRefusal::NotInvited);
        let step = self.one_stranger(Entry::new("stranger_refused", detail), now);
        Step { refused: Some(Error::JoinRefused(JoinRefusal::NotInvited)), ..step }
    }

    /// Notes that a stranger ended its handshake by this alert. It has said nothing by then: not who it is, and
    /// nothing of its token, which is as good as before.
    pub(super) fn distrusted(&self, alert: &str, now: Timestamp) -> Step {
        let detail = format!(
            "a site that would join has ended its handshake ({alert}): its token names another root than this \
             coordinator's, or it meant another address"
        );
        self.one_stranger(Entry::new("coordinator_distrusted", detail), now)
    }

    fn one_stranger(&self, entry: Entry, now: Timestamp) -> Step {
        let (strangers, entries) = self.strangers.one_more(entry, now);
        let step = match entries.is_empty() {
            true => self.nothing(),
            false => self.step(State::clone(&self.state), COORDINATOR, now, entries),
        };
        Step { strangers: Some(strangers), ..step }
    }

    /// The step that tells of strangers who were not told one by one, once their hour is over.
    pub(super) fn tell_strangers(&self, now: Timestamp) -> Option<Step> {
        self.strangers.due().filter(|due| *due <= now)?;
        let entries = self.strangers.rest().into_iter().collect();
        let step = self.step(State::clone(&self.state), COORDINATOR, now, entries);
        Some(Step { strangers: Some(Strangers::default()), ..step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::core::{Asking, Request};
    use crate::records::Loaded;
    use crate::testing::{START, blob};

    fn at(seconds: u64) -> Timestamp {
        START.checked_add(Duration::from_secs(seconds)).unwrap()
    }

    /// What the audit log is told when somebody shows a token of a site that was not invited, or when time
    /// passes.
    fn told(core: &mut Core, asks: bool, now: Timestamp) -> Vec<(String, String)> {
        let asking = Asking {
            site: "nobody".parse().unwrap(),
            secret: blob("secret").digest,
            public_key: b"key".to_vec(),
            signing_key: [7; 32],
            life: HOUR,
            approvals: 1,
        };
        let step = match asks {
            true => Some(core.apply(Request::Join(asking), now).unwrap()),
            false => core.settle(now),
        };
        let Some(mut step) = step else { return Vec::new() };
        let refused = step.take_refused();
        let not_invited = matches!(refused, Some(Error::JoinRefused(JoinRefusal::NotInvited)));
        assert_eq!(not_invited, asks, "{refused:?}");
        let events = step.change().events;
        assert!(events.iter().all(|event| event.actor == COORDINATOR));
        core.install(step);
        events.into_iter().map(|event| (event.kind, event.detail)).collect()
    }

    #[test]
    fn strangers_are_told_one_by_one_so_many_an_hour_and_the_others_once_when_it_is_over() {
        let mut core = Core::load(Loaded::default(), Duration::from_secs(5));
        let one = ("stranger_refused".to_owned(), "site nobody: there is no invitation".to_owned());
        for n in 0..u64::from(STRANGERS_TOLD_MAX) {
            assert_eq!(told(&mut core, true, at(n)), std::slice::from_ref(&one));
        }
        assert_eq!(core.deadline(), None, "all of them were told");
        for n in 0..1_000 {
            assert!(told(&mut core, true, at(20 + n)).is_empty());
        }
        assert_eq!(core.deadline(), Some(at(3_600)));
        assert!(told(&mut core, false, at(3_599)).is_empty());
        let rest = at(3_600);
        let rest = format!(
            "1000 more until {rest}: there is no invitation, or no trust in this coordinator"
        );
        let rest = ("strangers_refused".to_owned(), rest);
        assert_eq!(told(&mut core, false, at(3_600)), [rest]);
        assert_eq!(core.deadline(), None);
        assert!(told(&mut core, false, at(9_000)).is_empty());
        // The next hour begins with who comes next, who tells of the last one where time did not.
        for _ in 0..=STRANGERS_TOLD_MAX {
            told(&mut core, true, at(10_000));
        }
        let kinds = told(&mut core, true, at(20_000)).into_iter().map(|(kind, _)| kind);
        assert_eq!(kinds.collect::<Vec<_>>(), ["strangers_refused", "stranger_refused"]);
    }

    #[test]
    fn who_does_not_believe_the_coordinator_is_told_by_its_alert_and_within_the_same_bound() {
        let mut core = Core::load(Loaded::default(), Duration::from_secs(5));
        for n in 0..2 * STRANGERS_TOLD_MAX {
            let distrusted = Request::Distrusted("UnknownCA".to_owned());
            let mut step = core.apply(distrusted, at(n.into())).unwrap();
            assert!(step.take_refused().is_none(), "nobody asked for anything");
            let events = step.change().events;
            assert_eq!(events.len(), usize::from(n < STRANGERS_TOLD_MAX));
            for event in events {
                let (actor, kind) = (event.actor.as_str(), event.kind.as_str());
                assert_eq!((actor, kind), (COORDINATOR, "coordinator_distrusted"));
                assert!(event.detail.contains("(UnknownCA)"), "{}", event.detail);
            }
            core.install(step);
        }
        let rest = told(&mut core, false, at(3_600));
        assert!(rest[0].1.starts_with(&format!("{STRANGERS_TOLD_MAX} more until ")), "{rest:?}");
    }
}
