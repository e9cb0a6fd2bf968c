//! The network between a site and the coordinator, as a model: calls and their answers take time,
//! get lost, come twice, late and in another order. A piece of an upload is a call of its own, where
//! the real one is a stream.

use std::time::Duration;

use fedpaint_coordinator::driver::core::Submission;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::reason::{Reason, is_transient};
use fedpaint_site_agent::client::{Activity, Directive};
use jiff::Timestamp;

use super::world::{Event, World};

/// How long a message is under way, in milliseconds, at least and at most.
const LATENCY_MS: (u64, u64) = (1, 150);

/// What a site asks.
#[derive(Clone, Debug)]
pub enum Ask {
    /// "This is what I am doing."
    Beat(Activity),
    /// "How much of this have you?"
    Status(Blob),
    /// "This is a piece of my update for that round."
    Piece {
        /// For which round.
        round: RoundId,
        /// Of which blob.
        blob: Blob,
        /// From where on.
        offset: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// "Give me this model."
    Base(Digest),
    /// "This is my update."
    Submit(Submission),
}

/// What a site hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// What to do.
    Directive(Directive, Duration),
    /// How much is there, and whether that is all.
    Committed(u64, bool),
    /// The bytes of a blob.
    Bytes(Vec<u8>),
    /// The receipt for an update.
    Receipt,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing came back in time, or the connection broke.
    Network,
    /// The coordinator says no.
    Refused(Reason),
}

impl Failed {
    /// Whether the agent makes the same call again.
    pub fn is_transient(self) -> bool {
        match self {
            Failed::Network => true,
            Failed::Refused(reason) => is_transient(&reason.status("")),
        }
    }

    /// When the caller is told to come again, if it is. The real one waits up to a quarter longer.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Failed::Network => None,
            Failed::Refused(reason) => reason.retry_after(),
        }
    }
}

/// A site's link.
#[derive(Debug, Default)]
pub struct Link {
    /// Nothing passes before this time.
    pub cut_until: Option<Timestamp>,
    /// So many requests get lost.
    pub requests_lost: u64,
    /// So many answers get lost.
    pub answers_lost: u64,
    /// The next request is that much later.
    pub delay: Duration,
    /// The next bytes are wrong.
    pub corrupt: bool,
    /// What was asked last.
    pub newest: Option<Ask>,
}

impl Link {
    fn is_cut(&self, now: Timestamp) -> bool {
        self.cut_until.is_some_and(|until| now < until)
    }

    /// Whether one more is lost of those that are to be.
    fn loses(lost: &mut u64) -> bool {
        let loses = *lost > 0;
        *lost = lost.saturating_sub(1);
        loses
    }
}

impl World {
    /// Sends a site's call on its way; its number comes back with the answer, or with silence after
    /// `timeout`.
    pub(super) fn ask(&mut self, site: usize, mut ask: Ask, timeout: Duration) -> u64 {
        let call = self.number();
        self.after(timeout, Event::Answer { site, call, answer: Err(Failed::Network) });
        let latency = self.latency();
        let (now, link) = (self.now, &mut self.links[site]);
        link.newest = Some(ask.clone());
        let delay = std::mem::take(&mut link.delay);
        if link.is_cut(now) || Link::loses(&mut link.requests_lost) {
            return call;
        }
        if let Ask::Piece { bytes, .. } = &mut ask
            && std::mem::take(&mut link.corrupt)
        {
            flip(bytes);
        }
        self.after(latency + delay, Event::Request { site, call, ask });
        call
    }

    /// Sends what a site asked last once more, so that it arrives after `delay`; nobody waits for the
    /// answer.
    pub(super) fn replay(&mut self, site: usize, delay: Duration) {
        if let Some(ask) = self.links[site].newest.clone() {
            let call = self.number();
            self.after(delay, Event::Request { site, call, ask });
        }
    }

    /// A site's call arrives.
    pub(super) fn arrived(&mut self, site: usize, call: u64, ask: Ask) {
        if self.links[site].is_cut(self.now) {
            return;
        }
        // Where there is no answer yet, it comes from whoever works on it.
        if let Some(answer) = self.serve(site, call, ask) {
            self.answer(site, call, answer);
        }
    }

    /// Sends an answer on its way.
    pub(super) fn answer(&mut self, site: usize, call: u64, mut answer: Result<Heard, Failed>) {
        let latency = self.latency();
        let (now, link) = (self.now, &mut self.links[site]);
        if link.is_cut(now) || Link::loses(&mut link.answers_lost) {
            return;
        }
        if let Ok(Heard::Bytes(bytes)) = &mut answer
            && std::mem::take(&mut link.corrupt)
        {
            flip(bytes);
        }
        self.after(latency, Event::Answer { site, call, answer });
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.dice.between(LATENCY_MS.0, LATENCY_MS.1))
    }
}

fn flip(bytes: &mut [u8]) {
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
}
