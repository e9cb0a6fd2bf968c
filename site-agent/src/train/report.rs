//! What a training came to, in numbers that may leave a site: no number here belongs to one slice.

use serde::{Deserialize, Serialize};

/// One step, as it is told to whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, from 1.
    pub step: usize,
    /// Steps to do.
    pub steps: usize,
    /// Examples seen so far.
    pub examples: u64,
    /// The loss of this step.
    pub loss: f64,
    /// The norm of the gradient before it was scaled.
    pub gradient_norm: f64,
}

/// The fewest examples whose mean loss is told while a training goes on.
pub const TOLD_EXAMPLES_MIN: u32 = 16;

/// The loss that is told while a training goes on: the mean of the last whole group of steps. A group has
/// [`TOLD_EXAMPLES_MIN`] examples or more and shares no step with another, so that the loss of one slice
/// does not follow from what is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToldLoss {
    sum: f64,
    steps: u32,
    examples: u32,
    told: Option<f64>,
}

impl ToldLoss {
    /// Counts a step in; gives what may be told now.
    pub fn add(&mut self, loss: f64, examples: u32) -> Option<f64> {
        self.sum += loss;
        self.steps += 1;
        self.examples = self.examples.saturating_add(examples);
        if self.examples >= TOLD_EXAMPLES_MIN {
            let told = Some(self.sum / f64::from(self.steps));
            *self = ToldLoss { told, ..ToldLoss::default() };
        }
        self.told
    }
}

/// A whole training in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// Steps done.
    pub steps: usize,
    /// Examples seen, with repetition: the weight of this update in an average.
    pub examples: u64,
    /// The mean loss of all steps.
    pub loss_mean: f64,
    /// The mean loss of the first quarter of the steps.
    pub loss_first_quarter: f64,
    /// The mean loss of the last quarter of the steps.
    pub loss_last_quarter: f64,
    /// The mean loss by how noisy x_t was: the quarters of the diffusion's T steps, least noise first;
    /// none where no slice was drawn.
    pub loss_by_noise: [Option<f64>; 4],
    /// The median norm of the gradient before it was scaled.
    pub gradient_norm_p50: f64,
    /// The norm that 99 of 100 gradients stay below.
    pub gradient_norm_p99: f64,
}

/// What the steps of a training came to so far, of which its summary is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// The loss of each step.
    pub losses: Vec<f64>,
    /// The norm of each step's gradient before it was scaled.
    pub norms: Vec<f64>,
    /// Examples seen.
    pub examples: u64,
    /// The losses by how noisy x_t was.
    pub quarters: Quarters,
}

/// The losses of slices, added up by the quarter of the diffusion that their step is in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quarters {
    losses: [f64; 4],
    shares: [f64; 4],
}

impl Quarters {
    /// Adds a slice's part of a batch's loss; `share` is the part of the batch's pixels it has.
    pub fn add(&mut self, timestep: usize, timesteps: usize, loss: f64, share: f64) {
        let quarter = (4 * timestep / timesteps.max(1)).min(3);
        self.losses[quarter] += loss;
        self.shares[quarter] += share;
    }

    /// The sums, to be kept.
    pub fn numbers(&self) -> [f64; 8] {
        let mut numbers = [0.0; 8];
        numbers[..4].copy_from_slice(&self.losses);
        numbers[4..].copy_from_slice(&self.shares);
        numbers
    }

    /// The sums that [`Quarters::numbers`] gave.
    pub fn from_numbers([a, b, c, d, e, f, g, h]: [f64; 8]) -> Quarters {
        Quarters { losses: [a, b, c, d], shares: [e, f, g, h] }
    }

    /// The mean loss of each quarter, none where no pixel counted.
    pub fn means(&self) -> [Option<f64>; 4] {
        let mean = |i: usize| (self.shares[i] > 0.0).then(|| self.losses[i] / self.shares[i]);
        [0, 1, 2, 3].map(mean)
    }
}

impl Course {
    /// What the steps come to; there is at least one.
    pub fn summary(&self) -> TrainingSummary {
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let losses = &self.losses;
        let quarter = losses.len().div_ceil(4);
        let mut norms = self.norms.clone();
        norms.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (norms.len() * percent).div_ceil(100).max(1);
            norms.get(rank - 1).copied().unwrap_or_default()
        };
        TrainingSummary {
            steps: losses.len(),
            examples: self.examples,
            loss_mean: mean(losses),
            loss_first_quarter: mean(&losses[..quarter]),
            loss_last_quarter: mean(&losses[losses.len() - quarter..]),
            loss_by_noise: self.quarters.means(),
            gradient_norm_p50: rank(50),
            gradient_norm_p99: rank(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_as_the_mean_of_whole_groups_of_sixteen_examples_that_share_no_step() {
        let mut told = ToldLoss::default();
        let by_one: Vec<Option<f64>> = (0..48).map(|step| told.add(step.into(), 1)).collect();
        for (step, found) in by_one.into_iter().enumerate() {
            let group = (step + 1) / 16;
            let mean = (group > 0).then_some(16.0 * group as f64 - 8.5);
            assert_eq!(found, mean, "{step}");
        }
        let mut told = ToldLoss::default();
        assert_eq!([1.0, 3.0, 9.0].map(|loss| told.add(loss, 8)), [None, Some(2.0), Some(2.0)]);
        assert_eq!(ToldLoss::default().add(0.5, 1000), Some(0.5));
    }

    #[test]
    fn losses_are_averaged_by_quarters_of_the_diffusion_and_by_pixels_that_count() {
        let mut quarters = Quarters::default();
        for (t, loss, share) in
            [(0, 0.5, 0.25), (249, 0.1, 0.75), (250, 0.2, 0.1), (999, 0.3, 0.5), (999, 0.0, 0.0)]
        {
            quarters.add(t, 1000, loss, share);
        }
        let [first, second, third, last] = quarters.means();
        assert!((first.unwrap() - 0.6).abs() < 1e-12 && (second.unwrap() - 2.0).abs() < 1e-12);
        assert!(third.is_none() && (last.unwrap() - 0.6).abs() < 1e-12);
    }
}
