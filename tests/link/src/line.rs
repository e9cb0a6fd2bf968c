//! PURE: one way of a line. So many bytes a second go onto it, one packet after the other; what finds too many
//! waiting is dropped; what is on it takes its time, and now and then does not arrive. A packet that is lost has
//! taken its share of the line, as on a real one.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a way of a line is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How much goes onto it, in bytes a second.
    pub(crate) bytes_per_s: f64,
    /// How long what is on it takes.
    pub(crate) delay: Duration,
    /// The part of the packets that does not arrive.
    pub(crate) loss: f64,
    /// How many bytes may wait to go onto it.
    pub(crate) queue_bytes: f64,
}

/// A way of a line, at a moment.
pub(crate) struct Way {
    shape: Shape,
    /// When the last packet so far has gone onto it.
    free_at: Instant,
    dice: StdRng,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// It is lost on the way.
    Lost,
    /// Too many wait already.
    Dropped,
}

impl Way {
    /// A way on which nothing is yet.
    pub(crate) fn new(shape: Shape, now: Instant, seed: u64) -> Way {
        Way { shape, free_at: now, dice: StdRng::seed_from_u64(seed) }
    }

    /// Takes a packet of so many bytes.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> Fate {
        let Shape { bytes_per_s, delay, loss, queue_bytes } = self.shape;
        let free_at = self.free_at.max(now);
        if (free_at - now).as_secs_f64() * bytes_per_s > queue_bytes {
            return Fate::Dropped;
        }
        self.free_at = free_at + Duration::from_secs_f64(bytes as f64 / bytes_per_s);
        match self.dice.random::<f64>() < loss {
            true => Fate::Lost,
            false => Fate::Arrives(self.free_at + delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        bytes_per_s: 1e6,
        delay: Duration::from_millis(50),
        loss: 0.0,
        queue_bytes: 10_000.0,
    };

    #[test]
    fn packets_go_one_after_the_other_and_arrive_after_the_delay() {
        let start = Instant::now();
        let mut way = Way::new(SHAPE, start, 1);
        let at = |ms| Fate::Arrives(start + Duration::from_millis(ms));
        assert_eq!(way.take(1_000, start), at(51));
        assert_eq!(way.take(1_000, start), at(52));
        let later = start + Duration::from_millis(10);
        assert_eq!(way.take(1_000, later), at(61), "the line was free meanwhile");
    }

    #[test]
    fn what_finds_too_many_waiting_is_dropped_and_costs_the_line_nothing() {
        let start = Instant::now();
        let mut way = Way::new(SHAPE, start, 1);
        let fates: Vec<Fate> = (0..20).map(|_| way.take(1_000, start)).collect();
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Dropped).count(), 9);
        let drained = start + Duration::from_millis(11);
        assert_eq!(way.take(1_000, drained), Fate::Arrives(drained + Duration::from_millis(51)));
    }

    #[test]
    fn so_many_packets_are_lost_as_it_says_and_each_has_taken_its_share() {
        let start = Instant::now();
        let mut way = Way::new(Shape { loss: 0.01, queue_bytes: 1e12, ..SHAPE }, start, 1);
        let fates: Vec<Fate> = (0..100_000).map(|_| way.take(1_000, start)).collect();
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((900..1_100).contains(&lost), "{lost}");
        assert!(way.free_at - start > Duration::from_secs(99));
    }
}
