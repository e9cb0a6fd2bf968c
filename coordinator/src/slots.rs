//! Who uploads now: so many at once, and whoever comes beyond that is told when to come again, the later the
//! more came before. PURE but for a lock: time is an argument.
//!
//! A slot bounds what uploads cost the coordinator together, which is memory for what is under way and a disk
//! that all of them share, and a sender's share of them keeps it from taking all. Nobody waits here: an upload
//! that waits would hold what it has sent in memory, which is what there is too little of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fedpaint_proto::identity::Role;
use fedpaint_proto::limits::RETRY_AFTER_MAX;
use jiff::{SignedDuration, Timestamp};

use crate::blobs::STAGED_PARTS_MAX;

/// How soon whoever is first in line comes again, and how much later those behind it, a slot's worth of senders
/// at a time: about as long as an upload takes on a good line.
pub(crate) const UPLOAD_TURN: Duration = Duration::from_secs(1);

/// The most uploads of one sender at once: of as many files as it may have half here, and one more, which is
/// refused by that limit.
pub(crate) const SENDER_SLOTS_MAX: usize = STAGED_PARTS_MAX + 1;

/// How long a sender keeps its place in line after it should have come again.
const LINE_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// The uploads under way, and who was told to come again. Clones are the same slots.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// How many slots each sender has, of those who have one.
    held: HashMap<Role, usize>,
    /// By sender, so that there are no more than members.
    line: HashMap<Role, Place>,
    next: u64,
}

/// A place in line.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    /// When it is forgotten.
    until: Timestamp,
}

/// The right to upload; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    of: Slots,
    sender: Role,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let held = &mut self.of.lock().held;
        let left = held.get(&self.sender).map_or(0, |own| own.saturating_sub(1));
        match left {
            0 => held.remove(&self.sender),
            left => held.insert(self.sender.clone(), left),
        };
    }
}

/// No slot is free for this sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// Every slot is taken.
    #[error(
        "{max} uploads are under way, the most that the coordinator takes at once (UPLOAD_SLOTS_MAX), and \
         {before} senders came before: come again in {} s",
        after.as_secs()
    )]
    All {
        /// How many may upload at once.
        max: usize,
        /// How many were told before, and have not had a slot since.
        before: usize,
        /// When to come again.
        after: Duration,
    },
    /// The sender has its share of them.
    #[error(
        "{SENDER_SLOTS_MAX} uploads of yours are under way, the most that one sender may have \
         (SENDER_SLOTS_MAX): come again in {} s",
        UPLOAD_TURN.as_secs()
    )]
    Own,
}

impl Full {
    /// When to come again.
    pub(crate) fn after(&self) -> Duration {
        match self {
            Full::All { after, .. } => *after,
            Full::Own => UPLOAD_TURN,
        }
    }
}

impl Slots {
    pub(crate) fn new(max: usize) -> Slots {
        Slots { max, table: Arc::default() }
    }

    /// A slot for `sender`, if one is free.
    pub(crate) fn take(&self, sender: &Role, now: Timestamp) -> Result<Slot, Full> {
        let mut table = self.lock();
        table.line.retain(|_, place| place.until >= now);
        if table.held.get(sender).is_some_and(|own| *own >= SENDER_SLOTS_MAX) {
            return Err(Full::Own);
        }
        if table.held.values().sum::<usize>() < self.max {
            *table.held.entry(sender.clone()).or_default() += 1;
            table.line.remove(sender);
            return Ok(Slot { of: self.clone(), sender: sender.clone() });
        }
        let number = table.line.get(sender).map(|place| place.number);
        let number = number.unwrap_or_else(|| table.number());
        let before = table.line.values().filter(|place| place.number < number).count();
        let turns = u32::try_from(before / self.max.max(1)).unwrap_or(u32::MAX);
        let after = UPLOAD_TURN.saturating_mul(turns.saturating_add(1)).min(RETRY_AFTER_MAX);
        let until = now.checked_add(after).and_then(|then| then.checked_add(LINE_GRACE));
        let until = until.unwrap_or(Timestamp::MAX);
        table.line.insert(sender.clone(), Place { number, until });
        Err(Full::All { max: self.max, before, after })
    }

    /// Numbers are right after any panic, so a poisoned lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::names::SiteName;

    use super::*;
    use crate::round::ARRIVING_GRACE;

    fn site(number: usize) -> Role {
        let name: SiteName = format!("site-{number}").parse().unwrap();
        Role::Site(name)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn one_more_than_there_are_slots_is_told_the_limit_and_gets_in_when_one_is_free() {
        let slots = Slots::new(2);
        let mut held =
            vec![slots.take(&site(1), at(0)).unwrap(), slots.take(&site(2), at(0)).unwrap()];
        let full = slots.take(&site(3), at(0)).unwrap_err();
        assert_eq!(full.after(), UPLOAD_TURN);
        assert!(full.to_string().starts_with("2 uploads are under way"), "{full}");
        held.pop();
        let third = slots.take(&site(3), at(1)).unwrap();
        assert!(slots.take(&site(2), at(1)).is_err());
        drop((held, third));
        assert!(slots.lock().held.is_empty());
    }

    #[test]
    fn whatever_one_sender_has_under_way_there_is_room_for_others_and_it_is_told_its_limit() {
        let slots = Slots::new(32);
        let mut held: Vec<Slot> =
            (0..SENDER_SLOTS_MAX).map(|_| slots.take(&site(1), at(0)).unwrap()).collect();
        let full = slots.take(&site(1), at(0)).unwrap_err();
        assert_eq!((full, full.after()), (Full::Own, UPLOAD_TURN));
        assert!(full.to_string().starts_with("5 uploads of yours are under way"), "{full}");
        assert!(full.to_string().contains("SENDER_SLOTS_MAX"), "{full}");
        held.push(slots.take(&site(2), at(0)).unwrap());
        held.remove(0);
        held.push(slots.take(&site(1), at(0)).unwrap());
        drop(held);
        assert!(slots.lock().held.is_empty());
    }

    #[test]
    fn who_comes_behind_more_others_is_told_to_come_later_and_keeps_its_place() {
        let slots = Slots::new(4);
        let _held = [0, 1, 2, 3].map(|number| slots.take(&site(2_000 + number), at(0)).unwrap());
        let told = |number, second| slots.take(&site(number), at(second)).unwrap_err().after();
        for number in 0..1_000 {
            let turns = (number as u32 / 4 + 1).min(30);
            assert_eq!(told(number, 0), UPLOAD_TURN * turns, "{number}");
        }
        assert_eq!(told(5, 2), UPLOAD_TURN * 2, "its place is what it was");
        assert_eq!(told(999, 30), RETRY_AFTER_MAX);
        // Most of those before it have not come again for long: they are waited for no more.
        assert_eq!(told(999, 92), UPLOAD_TURN);
        assert_eq!(slots.lock().line.len(), 1);
    }

    #[test]
    fn a_wait_is_shorter_than_what_a_round_waits_for_an_update_on_its_way() {
        let longest = RETRY_AFTER_MAX * 5 / 4;
        assert!(SignedDuration::try_from(longest).unwrap() < ARRIVING_GRACE);
    }
}
