//! An update that came when its own round was sealed, as a part of a later one.

use fedpaint_proto::names::{Blob, RoundId};

use super::member::Update;

/// A late update in the sealed set of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct LateUpdate {
    /// The round that it was trained for.
    pub round: RoundId,
    /// The model that it was trained from.
    pub base: Blob,
    /// What came.
    pub update: Update,
}

impl LateUpdate {
    /// How many rounds late it is in round `number`.
    pub fn staleness(&self, number: u32) -> u32 {
        number.saturating_sub(self.round.number)
    }
}
