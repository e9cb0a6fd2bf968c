//! How noise grows over the steps, and which steps there are: tables in f64, no state.
//!
//! It knows nothing of images, noise or networks.

use std::f64::consts::FRAC_PI_2;

use super::super::spec::Schedule;

/// The offset s of the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17).
const COSINE_OFFSET: f64 = 0.008;
/// The largest beta of the cosine schedule (same paper, section 3.2).
const MAX_BETA: f64 = 0.999;

/// A noise schedule: one value per step, from 0 to T - 1.
#[derive(Clone, Debug)]
pub struct Table {
    /// The share of x_{t-1}'s variance that step t replaces by noise.
    pub beta: Vec<f64>,
    /// The share of x_0's variance that is left in x_t: the product of all 1 - beta up to t.
    pub alpha_bar: Vec<f64>,
}

/// The schedule of `timesteps` steps, at least 2; with `zero_terminal_snr` the last of them is noise
/// alone.
pub fn table(schedule: Schedule, timesteps: usize, zero_terminal_snr: bool) -> Table {
    let beta = betas(schedule, timesteps);
    let product = |kept: &mut f64, beta: &f64| {
        *kept *= 1.0 - beta;
        Some(*kept)
    };
    let alpha_bar: Vec<f64> = beta.iter().scan(1.0, product).collect();
    if zero_terminal_snr { without_terminal_signal(&alpha_bar) } else { Table { beta, alpha_bar } }
}

/// `count` steps from 0 to T - 1, evenly spaced, ascending, without repetition; T - 1 alone for one.
///
/// A half goes to the even neighbour, so that 25 of 1000 are guided-diffusion's 0, 42, 83, 125, 166.
pub fn spaced(count: usize, timesteps: usize) -> Vec<usize> {
    let last = timesteps.saturating_sub(1);
    if count == 1 {
        return vec![last];
    }
    let gaps = count.saturating_sub(1) as f64;
    let at = |k: usize| ((k * last) as f64 / gaps).round_ties_even() as usize;
    let mut steps: Vec<usize> = (0..count).map(at).collect();
    steps.dedup();
    steps
}

/// beta_t for every step.
///
/// Cosine: beta_t = min(1 - f((t + 1) / T) / f(t / T), 0.999) with
/// f(u) = cos((u + 0.008) / 1.008 * pi / 2)^2. Linear: from 0.1 / T to 20 / T.
fn betas(schedule: Schedule, timesteps: usize) -> Vec<f64> {
    let total = timesteps as f64;
    let kept = |t: usize| {
        let angle = (t as f64 / total + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * FRAC_PI_2;
        angle.cos().powi(2)
    };
    let beta = |t: usize| match schedule {
        Schedule::Cosine => (1.0 - kept(t + 1) / kept(t)).min(MAX_BETA),
        // A T under 20 would ask for more than all of the signal.
        Schedule::Linear => {
            let (first, last) = (0.1 / total, 20.0 / total);
            (first + (last - first) * t as f64 / (total - 1.0)).min(MAX_BETA)
        }
    };
    (0..timesteps).map(beta).collect()
}

/// The schedule whose sqrt(ab) is shifted to 0 at the last step and scaled back to what it was at the
/// first (Lin et al. 2024, arXiv 2305.08891, algorithm 1).
fn without_terminal_signal(alpha_bar: &[f64]) -> Table {
    let edge = |value: Option<&f64>| value.copied().unwrap_or(1.0).sqrt();
    let (first, last) = (edge(alpha_bar.first()), edge(alpha_bar.last()));
    let shifted = |kept: &f64| ((kept.sqrt() - last) * first / (first - last)).powi(2);
    let alpha_bar: Vec<f64> = alpha_bar.iter().map(shifted).collect();
    let before = std::iter::once(&1.0).chain(&alpha_bar);
    let beta = alpha_bar.iter().zip(before).map(|(here, before)| 1.0 - here / before).collect();
    Table { beta, alpha_bar }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedules_have_the_published_values() {
        let golden = [
            (Schedule::Linear, 0, 1e-4, 0.9999),
            (Schedule::Linear, 1, 1.199_199_199_2e-4, 0.999_780_092_07),
            (Schedule::Linear, 250, 5.079_979_98e-3, 0.521_423_030_62),
            (Schedule::Linear, 500, 1.005_995_996e-2, 7.779_665_836_5e-2),
            (Schedule::Linear, 999, 0.02, 4.035_829_765_4e-5),
            (Schedule::Cosine, 0, 4.128_422_482_2e-5, 0.999_958_715_78),
            (Schedule::Cosine, 1, 4.614_175_273_7e-5, 0.999_912_575_93),
            (Schedule::Cosine, 250, 1.327_223_954_2e-3, 0.845_887_986_5),
            (Schedule::Cosine, 500, 3.155_691_441_6e-3, 0.492_285_172_45),
            (Schedule::Cosine, 999, 0.999, 2.428_766_907e-9),
        ];
        for (schedule, t, beta, alpha_bar) in golden {
            let table = table(schedule, 1000, false);
            let close = |a: f64, b: f64| ((a - b) / b).abs() < 1e-10;
            assert!(close(table.beta[t], beta), "{schedule:?} {t}");
            assert!(close(table.alpha_bar[t], alpha_bar), "{schedule:?} {t}");
        }
    }

    #[test]
    fn a_zero_terminal_schedule_keeps_its_first_step_and_ends_in_noise_alone() {
        for (schedule, before_last) in
            [(Schedule::Linear, 4.213_26e-9), (Schedule::Cosine, 2.277_81e-6)]
        {
            let (plain, zero) = (table(schedule, 1000, false), table(schedule, 1000, true));
            assert!((zero.alpha_bar[0] - plain.alpha_bar[0]).abs() < 1e-15);
            assert_eq!((zero.alpha_bar[999], zero.beta[999]), (0.0, 1.0));
            assert!((zero.alpha_bar[998] / before_last - 1.0).abs() < 1e-5);
        }
        let linear = table(Schedule::Linear, 1000, true);
        assert!((linear.alpha_bar[500] - 0.075_246_215_7).abs() < 1e-10);
    }

    #[test]
    fn every_schedule_of_every_length_loses_signal_with_every_step() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            for timesteps in [2, 3, 10, 25, 100, 1000, 10_000] {
                for zero in [false, true] {
                    let table = table(schedule, timesteps, zero);
                    assert_eq!(table.alpha_bar.len(), timesteps);
                    assert!(table.alpha_bar.windows(2).all(|pair| pair[1] < pair[0]));
                    assert!(table.alpha_bar[0] < 1.0 && table.alpha_bar[timesteps - 1] >= 0.0);
                    assert!(table.beta.iter().all(|beta| (0.0..=1.0).contains(beta)));
                }
            }
        }
    }

    #[test]
    fn spaced_steps_run_from_the_first_to_the_last_as_in_guided_diffusion() {
        let steps = spaced(25, 1000);
        let published = [0, 42, 83, 125, 166, 208, 250, 291, 333, 375, 416, 458, 500, 541];
        assert_eq!(steps[..14], published);
        assert_eq!((steps.len(), steps[24]), (25, 999));
        assert_eq!(spaced(1, 1000), [999]);
        assert_eq!(spaced(1000, 1000), (0..1000).collect::<Vec<_>>());
    }
}
