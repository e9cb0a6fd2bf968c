//! The factor that keeps gradients inside the range of f16 while they flow back.
//!
//! The loss is multiplied by it before it is differentiated and the gradients are divided by it after,
//! in f32: exact, because it is a power of two (Micikevicius et al. 2018, arXiv 1710.03740, section
//! 3.2). A gradient that overflows all the same is taken again with half the factor, so no step is
//! skipped and equal inputs go the same way. It is 1 and stays 1 where the range needs no help.

use serde::{Deserialize, Serialize};

use crate::model::precision::Precision;

/// What f16 begins with: the largest that a loss of a few units survives at all.
const FIRST: f64 = 65_536.0;
/// Beyond this f32 itself could overflow.
const MAX: f64 = 16_777_216.0;
/// Steps without an overflow after which twice the factor is tried.
const STEADY_STEPS: u32 = 2_000;

/// The factor, and how long it has held.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    factor: f64,
    steady: u32,
    adapts: bool,
}

impl LossScale {
    /// The factor that training in `precision` begins with.
    pub fn new(precision: Precision) -> LossScale {
        let adapts = precision == Precision::F16;
        LossScale { factor: if adapts { FIRST } else { 1.0 }, steady: 0, adapts }
    }

    /// What the loss is multiplied by.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Halves the factor after an overflow; nothing where it cannot be to blame.
    #[must_use]
    pub fn halved(self) -> Option<LossScale> {
        let can = self.adapts && self.factor > 1.0;
        can.then_some(LossScale { factor: self.factor / 2.0, steady: 0, ..self })
    }

    /// The scale after a step that did not overflow.
    #[must_use]
    pub fn held(self) -> LossScale {
        if !self.adapts {
            return self;
        }
        match self.steady + 1 {
            STEADY_STEPS => LossScale { factor: (self.factor * 2.0).min(MAX), steady: 0, ..self },
            steady => LossScale { steady, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_f16_is_scaled() {
        for precision in [Precision::F32, Precision::Bf16] {
            let scale = LossScale::new(precision);
            assert_eq!((scale.factor(), scale.halved()), (1.0, None));
            assert_eq!((0..5_000).fold(scale, |scale, _| scale.held()), scale);
        }
    }

    #[test]
    fn an_overflow_halves_the_factor_down_to_one_and_two_thousand_steps_double_it() {
        let mut scale = LossScale::new(Precision::F16);
        for _ in 0..16 {
            scale = scale.halved().unwrap();
        }
        assert_eq!((scale.factor(), scale.halved()), (1.0, None));
        let almost = (1..STEADY_STEPS).fold(scale, |scale, _| scale.held());
        assert_eq!(almost.factor(), 1.0);
        assert_eq!(almost.held().factor(), 2.0);
        let long = (0..100 * STEADY_STEPS).fold(scale, |scale, _| scale.held());
        assert_eq!(long.factor(), MAX);
    }
}
