//! How much was read of a connection and not taken by its calls yet, which is memory. A long line takes windows by
//! which more may be under way than may wait here. So no more is read of a connection while too much of it waits,
//! and TCP holds the sender back. PURE but for a lock.
//!
//! What waits is not known to the byte: HTTP/2's library has it, and tells nobody. It is at most what came since a
//! call last found nothing there, less what that call has taken, for the call of which that is most. One that finds
//! nothing there waits itself, and has the next bytes at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::limits::WAITING_BYTES_MAX;

/// What came by one connection. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intake(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Bytes that came so far.
    came: u64,
    /// Of each call whose request has not ended.
    calls: HashMap<u64, Taken>,
    next: u64,
    /// Who reads, while it waits.
    reader: Option<Waker>,
}

/// What one call has taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Up to where of all that came nothing of its own waits.
    up_to: u64,
    /// Whether it has found nothing there since.
    is_dry: bool,
}

/// What one call takes. Its end is that of the request.
#[derive(Debug)]
pub(crate) struct Taking {
    of: Intake,
    number: u64,
}

impl Table {
    fn has_room(&self) -> bool {
        let wet = self.calls.values().filter(|call| !call.is_dry);
        let first = wet.map(|call| call.up_to).min().unwrap_or(self.came);
        self.came - first <= WAITING_BYTES_MAX
    }

    fn wake(&mut self) {
        if self.has_room()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl Intake {
    /// Whether more may be read; if not, whoever reads is woken once it may.
    pub(crate) fn has_room(&self, context: &Context<'_>) -> bool {
        let mut table = self.lock();
        let has_room = table.has_room();
        table.reader = (!has_room).then(|| context.waker().clone());
        has_room
    }

    /// Takes note of bytes that came.
    pub(crate) fn came(&self, bytes: usize) {
        self.lock().came += bytes as u64;
    }

    /// A call whose request begins.
    pub(crate) fn call(&self) -> Taking {
        let mut table = self.lock();
        let (number, came) = (table.next, table.came);
        table.next += 1;
        table.calls.insert(number, Taken { up_to: came, is_dry: false });
        Taking { of: self.clone(), number }
    }

    /// What it guards is whole after every change, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taking {
    /// The call has taken so much.
    pub(crate) fn took(&self, bytes: usize) {
        let table = &mut *self.of.lock();
        if let Some(Taken { up_to, is_dry }) = table.calls.get_mut(&self.number) {
            *up_to = up_to.saturating_add(bytes as u64).min(table.came);
            *is_dry = false;
        }
        table.wake();
    }

    /// The call finds nothing more there.
    pub(crate) fn is_dry(&self) {
        let table = &mut *self.of.lock();
        table.calls.insert(self.number, Taken { up_to: table.came, is_dry: true });
        table.wake();
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut table = self.of.lock();
        table.calls.remove(&self.number);
        table.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const MAX: usize = WAITING_BYTES_MAX as usize;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether there is room, and how often whoever asked was woken.
    struct Reader {
        intake: Intake,
        woken: Arc<Woken>,
    }

    impl Reader {
        fn new() -> Reader {
            Reader { intake: Intake::default(), woken: Arc::default() }
        }

        fn has_room(&self) -> bool {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.intake.has_room(&Context::from_waker(&waker))
        }

        fn times_woken(&self) -> usize {
            self.woken.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn no_more_is_read_while_too_much_waits_and_who_reads_is_woken_when_it_is_taken() {
        let reader = Reader::new();
        let call = reader.intake.call();
        reader.intake.came(MAX);
        assert!(reader.has_room());
        reader.intake.came(10);
        assert!(!reader.has_room());
        call.took(9);
        assert_eq!((reader.has_room(), reader.times_woken()), (false, 0));
        call.took(1);
        assert_eq!((reader.has_room(), reader.times_woken()), (true, 1));
        call.took(MAX);
        reader.intake.came(MAX);
        assert!(reader.has_room(), "what it took counts once");
    }

    #[test]
    fn who_waits_for_more_has_taken_all_and_whose_request_has_ended_waits_for_none() {
        let reader = Reader::new();
        let (slow, quick) = (reader.intake.call(), reader.intake.call());
        reader.intake.came(MAX + 1);
        quick.is_dry();
        assert_eq!((reader.has_room(), reader.times_woken()), (false, 0), "the other has not");
        slow.is_dry();
        assert_eq!((reader.has_room(), reader.times_woken()), (true, 1));
        reader.intake.came(10 * MAX);
        assert!(reader.has_room(), "what came was neither's, or they would have it");
        slow.took(1);
        assert!(!reader.has_room(), "it was this one's, and nobody knows how much of it");
        slow.is_dry();
        assert_eq!((reader.has_room(), reader.times_woken()), (true, 2));
        slow.took(0);
        reader.intake.came(MAX + 1);
        assert!(!reader.has_room());
        drop(slow);
        assert_eq!((reader.has_room(), reader.times_woken()), (true, 3));
        drop(quick);
        reader.intake.came(10 * MAX);
        assert!(reader.has_room(), "what belongs to no call is HTTP/2's own");
    }
}
