//! What may be wrong with an exported log, in words, and which entries that concerns.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use fedpaint_proto::names::{Digest, FederationName};
use fedpaint_proto::signing;
use jiff::Timestamp;

/// What is wrong with an exported log.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A line is not one of an export.
    #[error("line {number}, {}, is no line of an exported log: {reason}", after(*seq))]
    Line {
        /// Which line, from 1 on.
        number: u64,
        /// The newest entry before it.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is another federation's.
    #[error("the log is that of federation {found}, the root is that of {wanted}")]
    Federation {
        /// Whose it is.
        found: FederationName,
        /// Whose it must be.
        wanted: FederationName,
    },
    /// Entries are not there.
    #[error("entry {missing} is missing: entry {found} is in its place")]
    Missing {
        /// The first one that is missing.
        missing: u64,
        /// What comes instead.
        found: u64,
    },
    /// An entry is there again, or late.
    #[error("entry {found} is out of its order: entry {expected} belongs there")]
    Order {
        /// What is there.
        found: u64,
        /// What belongs there.
        expected: u64,
    },
    /// An entry is not what was logged.
    #[error("entry {seq} was changed: it does not have the hash that was saved with it")]
    Changed {
        /// Which one.
        seq: u64,
    },
    /// An entry is older than one before it.
    #[error("{}: entry {seq} says {at}, one before it {before}", wrong_time(*first, *seq))]
    BackDated {
        /// The first one whose time may be the wrong one: the entry itself if those before are certain, and else
        /// the first after the last head that was right.
        first: u64,
        /// Which one.
        seq: u64,
        /// When it says that it happened.
        at: Timestamp,
        /// When the entry before says that it did.
        before: Timestamp,
    },
    /// A root that was signed is not that of the entries.
    #[error("{} signed, though every entry has a hash that fits it", not_those(*first, *last))]
    Root {
        /// The first one after the last head that was right.
        first: u64,
        /// The newest one under the head that is not.
        last: u64,
    },
    /// What an entry vouches for is not there.
    #[error("entry {seq} vouches for a document that is not there: {document}")]
    DocumentMissing {
        /// Which entry.
        seq: u64,
        /// The document.
        document: Digest,
    },
    /// A document is not what an entry vouches for.
    #[error("after entry {seq} there is a document that it does not vouch for")]
    Document {
        /// Which entry.
        seq: u64,
    },
    /// A document is not signed by who must have signed it.
    #[error("what entry {seq} vouches for does not count: {source}")]
    DocumentSignature {
        /// Which entry.
        seq: u64,
        /// Why.
        source: signing::Error,
    },
    /// A model does not follow from those before it and the updates that were taken.
    #[error("the model of entry {seq} does not follow from the log: {reason}")]
    Model {
        /// Which entry.
        seq: u64,
        /// What does not fit.
        reason: String,
    },
    /// A head is not where it belongs.
    #[error("after entry {seq} there is a head over {size} entries: {}", misplaced(*first, *seq, *size))]
    Place {
        /// The first entry after the last head that was right, or that would be if it were in its place.
        first: u64,
        /// The newest entry.
        seq: u64,
        /// How many the head is over.
        size: u64,
    },
    /// A head is older than what it is over.
    #[error(
        "the head over {size} entries is back-dated: it says {at}, an entry under it or a head before it {before}"
    )]
    HeadBackDated {
        /// The first entry after the last head that was right.
        first: u64,
        /// How many entries it is over.
        size: u64,
        /// When it says that it was signed.
        at: Timestamp,
        /// What is newer.
        before: Timestamp,
    },
    /// A head is not signed by the coordinator.
    #[error("the head over {size} entries does not count: {source}")]
    Head {
        /// The first entry after the last head that was right.
        first: u64,
        /// How many entries it is over.
        size: u64,
        /// Why.
        source: signing::Error,
    },
    /// A head that was kept is not signed by the coordinator, and says nothing of the log.
    #[error("the head over {size} entries that was kept does not count: {source}")]
    Kept {
        /// How many entries it is over.
        size: u64,
        /// Why.
        source: signing::Error,
    },
    /// The log is not the one that somebody was shown.
    #[error("the log is a fork: {} shown, by the head that was kept, signed at {at}", not_those(*first, *size))]
    Fork {
        /// The first one after the last head that was kept and is right.
        first: u64,
        /// How many entries the head is over.
        size: u64,
        /// When it was signed.
        at: Timestamp,
    },
    /// The log ends before one that somebody was shown.
    #[error(
        "the log is cut short: it has {size} entries, the head that was kept {kept}, signed at {at}"
    )]
    Short {
        /// The first entry after the last head that was kept and is right.
        first: u64,
        /// How many entries it has.
        size: u64,
        /// How many it had.
        kept: u64,
        /// When that was signed.
        at: Timestamp,
    },
    /// There is nothing after this.
    #[error("the export is cut short: it has no end after entry {seq}")]
    NoEnd {
        /// The first entry after the last head that was right.
        first: u64,
        /// The newest entry.
        seq: u64,
    },
}

impl Broken {
    /// Where the first entry is that is not what was logged or is missing, as far as it can be told: one entry if
    /// it is certain, as where each has the head that was signed after it, and else those of which it may be one.
    /// None where nothing is wrong but a head over entries that another one has signed, or what is no part of the
    /// log: its first line, a head that was kept. Nobody has vouched for entries that come after the last head that
    /// was right.
    pub fn entries(&self) -> Option<RangeInclusive<u64>> {
        let (first, last) = match *self {
            Broken::Missing { missing, .. } => (missing, missing),
            Broken::Order { expected, .. } => (expected, expected),
            Broken::Changed { seq }
            | Broken::DocumentMissing { seq, .. }
            | Broken::Document { seq }
            | Broken::DocumentSignature { seq, .. }
            | Broken::Model { seq, .. } => (seq, seq),
            Broken::BackDated { first, seq, .. } => (first, seq),
            Broken::Root { first, last } => (first, last),
            Broken::Place { first, seq, size } => (first, seq + u64::from(size > seq)),
            Broken::HeadBackDated { first, size, .. } | Broken::Head { first, size, .. } => {
                (first, size)
            }
            Broken::Fork { first, size, .. } => (first, size),
            Broken::Short { first, size, .. } => (first, size + 1),
            Broken::NoEnd { first, seq } => (first, seq + 1),
            // It is the next entry, or belongs to the one before it.
            Broken::Line { number, seq, .. } if number > 1 => (seq.max(1), seq + 1),
            Broken::Line { .. } | Broken::Federation { .. } | Broken::Kept { .. } => return None,
        };
        (first <= last).then_some(first..=last)
    }
}

/// The beginning of a sentence that goes on with what was done to those entries.
fn not_those(first: u64, last: u64) -> String {
    match first == last {
        true => format!("entry {first} is not the one that was"),
        false => format!("one of entries {first} to {last} is not the one that was"),
    }
}

/// Where a line is.
fn after(seq: u64) -> String {
    match seq {
        0 => "before the first entry".to_owned(),
        seq => format!("after entry {seq}"),
    }
}

/// Which entry's time is not to be believed.
fn wrong_time(first: u64, seq: u64) -> String {
    match first == seq {
        true => format!("entry {seq} is back-dated"),
        false => {
            format!("one of entries {first} to {seq} has another time than it was logged with")
        }
    }
}

/// What a head over more or fewer entries than there are says of them.
fn misplaced(first: u64, seq: u64, size: u64) -> String {
    let missing = seq + 1;
    match (size > seq, first == missing) {
        (true, true) => format!("entry {missing} is missing before it"),
        (true, false) => {
            format!("{} signed, or entry {missing} is missing before it", not_those(first, seq))
        }
        (false, _) => match first.cmp(&seq) {
            Ordering::Less => format!("one of entries {first} to {seq} does not belong there"),
            Ordering::Equal => format!("entry {seq} does not belong there"),
            Ordering::Greater => "it does not belong there".to_owned(),
        },
    }
}
