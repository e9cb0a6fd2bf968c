//! Why a run is paused.

use serde::{Deserialize, Serialize};

use crate::round::Abandonment;

/// Why a run is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// An operator asked for it.
    #[error("paused by an operator")]
    ByOperator,
    /// Too many attempts in a row were abandoned.
    #[error("{failures} attempts in a row were abandoned, the last because of {last}")]
    TooManyFailures {
        /// How many.
        failures: u32,
        /// Why the last one was.
        last: Abandonment,
    },
}
