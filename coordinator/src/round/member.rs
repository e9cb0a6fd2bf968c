//! A site in a round: what it has done, and what it contributed.

use fedpaint_proto::names::Blob;
use serde::{Deserialize, Serialize};

use super::reason::Withdrawal;

/// What a site in a round has done so far.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// It has joined and not reported yet.
    Joined,
    /// Its update was accepted.
    Reported(Update),
    /// It gave the round up.
    Withdrawn(Withdrawal),
}

/// A site's contribution to a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The trained model.
    pub weights: Blob,
    /// Training examples seen: the update's weight in the average.
    pub examples: u64,
    /// What the site tells of its training.
    pub report: Report,
}

impl Update {
    /// Whether `other` is the same contribution told again: the report is commentary.
    pub fn is(&self, other: &Update) -> bool {
        self.weights == other.weights && self.examples == other.examples
    }
}

/// What a site tells of its training beside the weights: aggregates only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Optimiser steps done.
    pub steps: u32,
    /// Mean loss over all steps.
    pub loss_mean: f64,
    /// Mean loss of the first quarter of the steps.
    pub loss_first: f64,
    /// Mean loss of the last quarter of the steps.
    pub loss_last: f64,
    /// Median of the gradient's norm before clipping.
    pub gradient_norm_p50: f64,
    /// 99th percentile of the gradient's norm before clipping.
    pub gradient_norm_p99: f64,
}

impl Report {
    /// Whether every value is a finite number.
    pub fn is_finite(&self) -> bool {
        let Report { steps: _, loss_mean, loss_first, loss_last, .. } = *self;
        [loss_mean, loss_first, loss_last, self.gradient_norm_p50, self.gradient_norm_p99]
            .iter()
            .all(|v| v.is_finite())
    }
}
