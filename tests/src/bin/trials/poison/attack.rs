//! What a bad site makes of its own update and of those of the honest ones. Pure: numbers in, numbers out.

use clap::ValueEnum;
use fedpaint_proto::limits::EXAMPLES_MAX;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The standard deviation of noise that is about as large as the weights are.
const NOISE: f64 = 0.1;

/// How many standard deviations below the honest mean `Alie` goes, by the paper's rule for n = 10 sites of
/// which m = 2 are bad: it needs s = floor(n / 2 + 1) - m = 4 honest ones on its side, and z is the greatest of
/// which Phi(z) is below (n - s) / n = 0.6. Most programs have (n - m - s) / (n - m) = 0.5 there, by which z is 0
/// and nothing is left of the attack.
const ALIE_DEVIATIONS: f64 = 0.25;

/// The same of `AlieFar`, which is farther than any such rule allows two of ten to go: what the authors' own
/// program takes, for 12 of 51.
const ALIE_FAR_DEVIATIONS: f64 = 1.5;

/// How far `InnerProduct` goes against the honest mean.
const AGAINST: f64 = 2.0;

/// A well-formed update that is no honest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// They send nothing: what the federation loses with the two sites' scans.
    Absent,
    /// A hundred times the change that it has trained.
    Hundredfold,
    /// The change the other way.
    SignFlip,
    /// Noise that is about as large as the weights are.
    Gaussian,
    /// A little is enough (Baruch et al. 2019, arXiv 1902.06156): the honest mean less as many standard
    /// deviations as the paper's rule allows, from both.
    Alie,
    /// The same with 1.5 standard deviations.
    AlieFar,
    /// Against the honest mean (Xie et al. 2019, "Fall of empires", arXiv 1903.03936).
    InnerProduct,
    /// What it sent in the first round.
    Replay,
    /// The base model itself.
    Zero,
    /// An update that was trained from another model, and says it was not.
    WrongBase,
    /// A flipped update that claims as many examples as anybody may.
    Weight,
}

/// What an attacker knows: weights are one list, tensor after tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// The round's base model.
    pub(crate) base: &'a [f32],
    /// What its own training gives, from the base model or, for `WrongBase`, from another.
    pub(crate) own: &'a [f32],
    /// What it sent in the first round.
    pub(crate) first: &'a [f32],
    /// The updates of the honest sites.
    pub(crate) honest: &'a [Vec<f32>],
}

impl Attack {
    pub(crate) const ALL: [Attack; 11] = [
        Attack::Absent,
        Attack::Hundredfold,
        Attack::SignFlip,
        Attack::Gaussian,
        Attack::Alie,
        Attack::AlieFar,
        Attack::InnerProduct,
        Attack::Replay,
        Attack::Zero,
        Attack::WrongBase,
        Attack::Weight,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Attack::Absent => "absent",
            Attack::Hundredfold => "x100",
            Attack::SignFlip => "sign flip",
            Attack::Gaussian => "gaussian",
            Attack::Alie => "alie",
            Attack::AlieFar => "alie, z = 1.5",
            Attack::InnerProduct => "inner product",
            Attack::Replay => "stale replay",
            Attack::Zero => "zero",
            Attack::WrongBase => "wrong base",
            Attack::Weight => "absurd weight",
        }
    }

    /// Whether anything is sent.
    pub(crate) fn sends(self) -> bool {
        self != Attack::Absent
    }

    /// How many examples the site says that it has seen.
    pub(crate) fn examples(self, honest: u64) -> u64 {
        if self == Attack::Weight { EXAMPLES_MAX } else { honest }
    }

    /// What the site sends.
    pub(crate) fn update(self, known: Known<'_>, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let Known { base, own, first, honest } = known;
        let moved = |by: f64| -> Vec<f32> {
            let pairs = base.iter().zip(own);
            pairs
                .map(|(b, w)| (f64::from(*b) + by * (f64::from(*w) - f64::from(*b))) as f32)
                .collect()
        };
        let of_honest = |of: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f32> {
            let one = |(at, base): (usize, &f32)| {
                let (mean, deviation) = spread(honest, at);
                of(f64::from(*base), mean, deviation) as f32
            };
            base.iter().enumerate().map(one).collect()
        };
        match self {
            Attack::Absent | Attack::Zero => base.to_vec(),
            Attack::Hundredfold => moved(100.0),
            Attack::SignFlip | Attack::Weight => moved(-1.0),
            Attack::Gaussian => {
                base.iter().map(|b| (f64::from(*b) + NOISE * normal(rng)) as f32).collect()
            }
            Attack::Alie => of_honest(&|_, mean, deviation| mean - ALIE_DEVIATIONS * deviation),
            Attack::AlieFar => {
                of_honest(&|_, mean, deviation| mean - ALIE_FAR_DEVIATIONS * deviation)
            }
            Attack::InnerProduct => of_honest(&|base, mean, _| base - AGAINST * (mean - base)),
            Attack::Replay => first.to_vec(),
            Attack::WrongBase => own.to_vec(),
        }
    }
}

/// The mean of the honest sites' values of a weight, and their standard deviation.
fn spread(honest: &[Vec<f32>], at: usize) -> (f64, f64) {
    let count = honest.len().max(1) as f64;
    let values = || honest.iter().map(|update| f64::from(update[at]));
    let mean = values().sum::<f64>() / count;
    let square = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, square.sqrt())
}

/// Approximately normal: the sum of twelve uniform numbers.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_attack_sends_what_its_paper_says() {
        let (base, own) = ([1.0_f32, 2.0], [1.5_f32, 1.0]);
        let honest = [vec![2.0_f32, 2.0], vec![4.0, 0.0]];
        let known = Known { base: &base, own: &own, first: &[7.0, 8.0], honest: &honest };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (attack, expected) in [
            (Attack::Hundredfold, [51.0, -98.0]),
            (Attack::SignFlip, [0.5, 3.0]),
            (Attack::Weight, [0.5, 3.0]),
            (Attack::Alie, [2.75, 0.75]),
            (Attack::AlieFar, [1.5, -0.5]),
            (Attack::InnerProduct, [-3.0, 4.0]),
            (Attack::Replay, [7.0, 8.0]),
            (Attack::Zero, [1.0, 2.0]),
            (Attack::WrongBase, [1.5, 1.0]),
        ] {
            assert_eq!(attack.update(known, &mut rng), expected, "{attack:?}");
        }
        let noisy = Attack::Gaussian.update(known, &mut rng);
        assert!(noisy.iter().zip(base).all(|(noisy, base)| (noisy - base).abs() < 0.7));
        assert_eq!((Attack::Weight.examples(8), Attack::Zero.examples(8)), (EXAMPLES_MAX, 8));
    }
}
