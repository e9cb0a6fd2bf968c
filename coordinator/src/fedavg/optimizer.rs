//! PURE: the server's optimiser on a block of one tensor, and the moving average. No file, no name.
//!
//! All arithmetic is in f64; what is kept is rounded to f32 once, when it is kept.

use fedpaint_proto::plan::{AggregationPlan, ServerOptimizer};

/// What an optimiser remembers of a block; none where it remembers nothing, or nothing yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    /// The momentum m.
    pub(super) momentum: Option<Vec<f32>>,
    /// The second moment v.
    pub(super) second_moment: Option<Vec<f32>>,
}

/// A block after a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stepped {
    /// The new global model's values.
    pub(super) model: Vec<f32>,
    /// What the optimiser remembers now.
    pub(super) moments: Moments,
}

/// One step from the base model along the pseudo-gradient D, which is `mean` less the base, as
/// [`ServerOptimizer`] has it. A momentum that is not there yet is 0, a second moment tau^2. With
/// `average` and a learning rate of 1 the mean itself is taken, which no rounding can touch.
pub(super) fn step(
    plan: &AggregationPlan,
    base: &[f32],
    mean: Vec<f64>,
    before: Moments,
) -> Stepped {
    let rate = plan.learning_rate;
    if plan.optimizer == ServerOptimizer::Average && rate == 1.0 {
        let model = mean.into_iter().map(|mean| mean as f32).collect();
        let moments = Moments { momentum: None, second_moment: None };
        return Stepped { model, moments };
    }
    let mut gradient = mean;
    for (value, base) in gradient.iter_mut().zip(base) {
        *value -= f64::from(*base);
    }
    let (move_by, moments) = match plan.optimizer {
        ServerOptimizer::Average => (gradient, Moments { momentum: None, second_moment: None }),
        ServerOptimizer::Momentum => momentum(plan, gradient, before),
        ServerOptimizer::Adam => adam(plan, gradient, before),
    };
    let new = |(base, by): (&f32, &f64)| (f64::from(*base) + rate * by) as f32;
    Stepped { model: base.iter().zip(&move_by).map(new).collect(), moments }
}

/// The direction of FedAvgM: m = beta m + D (Hsu et al. 2019, section 4.3).
fn momentum(plan: &AggregationPlan, mut m: Vec<f64>, before: Moments) -> (Vec<f64>, Moments) {
    for (m, before) in m.iter_mut().zip(before.momentum.iter().flatten()) {
        *m += plan.momentum * f64::from(*before);
    }
    let kept = rounded(&m);
    (m, Moments { momentum: Some(kept), second_moment: None })
}

/// The direction of FedAdam: m / (sqrt(v) + tau) (Reddi et al. 2021, algorithm 2, lines 10, 13 and
/// 14; like theirs, without a correction of the first steps' bias).
fn adam(plan: &AggregationPlan, gradient: Vec<f64>, before: Moments) -> (Vec<f64>, Moments) {
    let (beta_1, beta_2, tau) = (plan.momentum, plan.beta_2, plan.tau);
    let past = |values: &Option<Vec<f32>>, at: usize, first: f64| {
        values.as_ref().and_then(|v| v.get(at)).map_or(first, |v| f64::from(*v))
    };
    let mut direction = gradient;
    let (mut m_kept, mut v_kept) =
        (Vec::with_capacity(direction.len()), Vec::with_capacity(direction.len()));
    for (at, value) in direction.iter_mut().enumerate() {
        let d = *value;
        let m = beta_1 * past(&before.momentum, at, 0.0) + (1.0 - beta_1) * d;
        let v = beta_2 * past(&before.second_moment, at, tau * tau) + (1.0 - beta_2) * d * d;
        *value = m / (v.sqrt() + tau);
        m_kept.push(m as f32);
        v_kept.push(v as f32);
    }
    (direction, Moments { momentum: Some(m_kept), second_moment: Some(v_kept) })
}

/// The moving average one round on: `decay` of the old and the rest of the new (Polyak and Juditsky
/// 1992, in its exponential form).
pub(super) fn blend(decay: f64, old: Vec<f32>, new: &[f32]) -> Vec<f32> {
    let one =
        |(old, new): (f32, &f32)| (decay * f64::from(old) + (1.0 - decay) * f64::from(*new)) as f32;
    old.into_iter().zip(new).map(one).collect()
}

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}
