//! What keeps the driver from what it owes, for whoever looks at a run. It is shown beside the state, because
//! it is no part of it: nothing of it is saved. A start knows since when an average is owed, and finds out anew
//! why it is not made.

use std::collections::BTreeMap;

use fedpaint_proto::names::RoundId;
use jiff::Timestamp;

/// What keeps the driver from what it owes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Troubles {
    /// The averages that are owed.
    pub(super) averages: BTreeMap<RoundId, Owed>,
    /// The database has not taken what was last given to it.
    pub(super) unsaved: Option<Unsaved>,
}

/// An average that is owed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owed {
    /// When it was begun first; of one that was owed at a start, when its round was sealed. None while it waits
    /// for its turn.
    pub since: Option<Timestamp>,
    /// When its round is given up.
    pub until: Option<Timestamp>,
    /// Why it was begun again last.
    pub told: Option<String>,
}

/// A database that does not take what it is given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unsaved {
    /// The first time in a row.
    pub(super) since: Timestamp,
    /// Why, the last time.
    pub(super) why: String,
}

impl Owed {
    /// Why it is not there yet, where there is more to say than that it is in the making.
    pub fn in_words(&self) -> Option<String> {
        match (self.since, &self.told) {
            (None, _) => Some("its average waits for its turn".to_owned()),
            (Some(since), Some(told)) => {
                Some(format!("no average since {since}; it is begun again, because {told}"))
            }
            (Some(_), None) => None,
        }
    }
}

impl Troubles {
    /// Why nothing of a run goes on, if nothing does.
    pub(super) fn of_runs(&self) -> Option<String> {
        let Unsaved { since, why } = self.unsaved.as_ref()?;
        Some(format!("nothing was saved since {since}: {why}"))
    }
}
