//! How to paint: which sampler, with how many steps, how often, how strongly guided.
//!
//! It says what a model can be asked for and refuses the rest; it paints nothing.

use super::super::precision::Precision;
use super::super::spec::{ModelSpec, NoiseRegion, Prediction};

/// The most samples of one slice.
pub const MAX_SAMPLES: usize = 64;
/// The most slices that are painted at once.
pub const MAX_BATCH: usize = 256;
/// The strongest guidance. Beyond it every pixel is clipped.
pub const MAX_GUIDANCE: f64 = 50.0;
/// The most steps that RePaint jumps back at once, and the most often that it does so.
pub const MAX_JUMP: usize = 100;
/// How RePaint commonly goes back (Lugmayr et al. 2022, arXiv 2201.09865), and what stands in the options
/// of the samplers that do not.
pub const COMMON_JUMPS: Jumps = Jumps { length: 10, samples: 10 };

/// The way from noise to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2).
    Ddpm,
    /// Song et al. 2021 (arXiv 2010.02502), deterministic where eta is 0.
    Ddim,
    /// The second-order multistep solver of Lu et al. 2022 (DPM-Solver++, arXiv 2211.01095,
    /// algorithm 2).
    DpmSolver,
    /// Lugmayr et al. 2022 (RePaint, arXiv 2201.09865, algorithm 1): noise again and again, for a
    /// model that was not trained on masks.
    Repaint,
}

/// Which of the trained steps are sampled at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// From the first to the last, evenly.
    Even,
    /// Every n-th from the first on, as guided-diffusion's `ddimN`: the last is left out.
    Stride,
    /// Evenly in the logarithm of the signal-to-noise ratio, as DPM-Solver++'s authors take them.
    Lambda,
    /// Where DPM-Solver++ (2M) leaves Gaussian posteriors of every width as wide as they are, for ten
    /// steps and more; as [`Spacing::Lambda`] for fewer.
    Aligned,
}

/// How RePaint goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jumps {
    /// Steps that it goes back at once.
    pub length: usize,
    /// Times that it denoises each stretch.
    pub samples: usize,
}

/// How to paint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// The way from noise to an image.
    pub sampler: Sampler,
    /// Steps of the sampler. A model that knows no noise ignores it and paints in one call.
    pub steps: usize,
    /// Which steps these are.
    pub spacing: Spacing,
    /// Samples per slice.
    pub samples: usize,
    /// Names the noise.
    pub seed: u64,
    /// Slices per network call; guidance doubles what the network reads.
    pub batch: usize,
    /// How far to go from the prediction without a condition towards, and past, that with one. 1 is
    /// no guidance.
    pub guidance: f64,
    /// The part to which a guided prediction gets the spread of the unguided one back, 0 to 1 (Lin et
    /// al. 2024, arXiv 2305.08891, eq. 15 and 16).
    pub rescale: f64,
    /// The part of DDPM's noise that DDIM adds at each step, 0 to 1.
    pub eta: f64,
    /// The part of the noise's variance that all slices of a volume share, 0 to 1: neighbours that
    /// begin alike end alike.
    pub noise_share: f64,
    /// How RePaint goes back.
    pub jumps: Jumps,
    /// What convolutions and large products compute in.
    pub precision: Precision,
}

/// Why a model cannot paint so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionError {
    /// A count is out of range.
    #[error("{name} is {value}, it must be 1 to {max}")]
    Count {
        /// The option.
        name: &'static str,
        /// Its value.
        value: usize,
        /// Its largest value.
        max: usize,
    },
    /// A number is out of range.
    #[error("{name} is {value}, it must be 0 to {max}")]
    Number {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// Its largest value.
        max: f64,
    },
    /// The model has no null condition.
    #[error("the model was trained without a null condition, so guidance must be 1")]
    Guidance,
    /// RePaint noises the known region too, which the model has never seen noisy.
    #[error(
        "repaint needs a model trained with noise everywhere, this one's known region is clean: choose \
         another sampler"
    )]
    Repaint,
    /// There is nothing to average.
    #[error("the model predicts without noise, so every sample is the same: ask for 1, not {0}")]
    Direct(usize),
    /// Only RePaint jumps.
    #[error(
        "jumps of length {} and {} samples are those of the sampler repaint alone: leave them out",
        .0.length, .0.samples
    )]
    Jumps(Jumps),
    /// Only what is guided is rescaled.
    #[error("guidance rescale is {0}, which without guidance changes nothing: leave it at 0")]
    Rescale(f64),
    /// Only DDIM has an eta.
    #[error("eta is {0}, which only the sampler ddim has: leave it at 0")]
    Eta(f64),
    /// No stride gives this number of steps.
    #[error(
        "no stride through {trained} trained steps gives {steps}: choose another number of steps"
    )]
    Stride {
        /// Steps asked for.
        steps: usize,
        /// Steps to choose from.
        trained: usize,
    },
}

impl Sampler {
    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Ddpm => "ddpm",
            Sampler::Ddim => "ddim",
            Sampler::DpmSolver => "dpm-solver",
            Sampler::Repaint => "repaint",
        }
    }

    /// The options under which it is commonly used.
    pub fn options(self) -> SampleOptions {
        let (steps, spacing) = match self {
            Sampler::Ddpm => (1000, Spacing::Even),
            Sampler::Ddim => (25, Spacing::Even),
            Sampler::DpmSolver => (10, Spacing::Aligned),
            Sampler::Repaint => (250, Spacing::Even),
        };
        SampleOptions {
            sampler: self,
            steps,
            spacing,
            samples: 1,
            seed: 1,
            batch: 16,
            guidance: 1.0,
            rescale: 0.0,
            eta: 0.0,
            noise_share: 0.8,
            jumps: COMMON_JUMPS,
            precision: Precision::F32,
        }
    }
}

impl Spacing {
    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Even => "even",
            Spacing::Stride => "stride",
            Spacing::Lambda => "lambda",
            Spacing::Aligned => "aligned",
        }
    }
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        Sampler::DpmSolver.options()
    }
}

impl SampleOptions {
    /// Whether each step asks the network twice.
    pub fn is_guided(&self) -> bool {
        self.guidance != 1.0
    }

    /// Whether a model of this spec can paint so.
    ///
    /// # Errors
    /// [`OptionError`] names the first option that is wrong.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), OptionError> {
        let is_direct = spec.prediction == Prediction::Direct;
        let steps_max = if is_direct { usize::MAX } else { spec.trained_timesteps };
        for (name, value, max) in [
            ("steps", self.steps, steps_max),
            ("samples", self.samples, MAX_SAMPLES),
            ("batch", self.batch, MAX_BATCH),
            ("jump length", self.jumps.length, MAX_JUMP),
            ("jump samples", self.jumps.samples, MAX_JUMP),
        ] {
            if !(1..=max).contains(&value) {
                return Err(OptionError::Count { name, value, max });
            }
        }
        for (name, value, max) in [
            ("guidance", self.guidance, MAX_GUIDANCE),
            ("guidance rescale", self.rescale, 1.0),
            ("eta", self.eta, 1.0),
            ("noise share", self.noise_share, 1.0),
        ] {
            // A NaN is in no range.
            if !(0.0..=max).contains(&value) {
                return Err(OptionError::Number { name, value, max });
            }
        }
        if self.is_guided() && !spec.null_condition {
            return Err(OptionError::Guidance);
        }
        if !self.is_guided() && self.rescale != 0.0 {
            return Err(OptionError::Rescale(self.rescale));
        }
        if self.sampler != Sampler::Ddim && self.eta != 0.0 {
            return Err(OptionError::Eta(self.eta));
        }
        if self.sampler != Sampler::Repaint && self.jumps != COMMON_JUMPS {
            return Err(OptionError::Jumps(self.jumps));
        }
        if is_direct {
            return if self.samples > 1 { Err(OptionError::Direct(self.samples)) } else { Ok(()) };
        }
        if self.sampler == Sampler::Repaint && spec.noise_region != NoiseRegion::Full {
            return Err(OptionError::Repaint);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::Preset;
    use super::*;

    fn refused(change: impl FnOnce(&mut SampleOptions, &mut ModelSpec)) -> Option<OptionError> {
        let (mut options, mut spec) = (SampleOptions::default(), ModelSpec::preset(Preset::Tiny));
        change(&mut options, &mut spec);
        options.check(&spec).err()
    }

    #[test]
    fn what_a_model_was_not_trained_for_is_refused() {
        assert_eq!(refused(|_, _| {}), None);
        let error = refused(|options, spec| {
            (options.guidance, spec.null_condition) = (2.0, false);
        });
        assert_eq!(error, Some(OptionError::Guidance));
        assert_eq!(refused(|_, spec| spec.null_condition = false), None);
        let repaint = |options: &mut SampleOptions, _: &mut ModelSpec| {
            *options = Sampler::Repaint.options();
        };
        assert_eq!(refused(repaint), Some(OptionError::Repaint));
        let error = refused(|options, spec| {
            repaint(options, spec);
            spec.noise_region = NoiseRegion::Full;
        });
        assert_eq!(error, None);
        let error = refused(|options, spec| {
            (options.steps, spec.trained_timesteps) = (5, 4);
        });
        assert_eq!(error, Some(OptionError::Count { name: "steps", value: 5, max: 4 }));
    }

    #[test]
    fn a_model_without_noise_gives_one_sample_in_any_number_of_steps() {
        let direct = |samples| {
            refused(move |options, spec| {
                spec.prediction = Prediction::Direct;
                (options.samples, options.steps) = (samples, 123_456);
            })
        };
        assert_eq!(direct(1), None);
        assert_eq!(direct(2), Some(OptionError::Direct(2)));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let name = |change: fn(&mut SampleOptions)| match refused(|options, _| change(options)) {
            Some(OptionError::Count { name, .. } | OptionError::Number { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name(|o| o.steps = 0), "steps");
        assert_eq!(name(|o| o.samples = MAX_SAMPLES + 1), "samples");
        assert_eq!(name(|o| o.batch = 0), "batch");
        assert_eq!(name(|o| o.jumps.length = 0), "jump length");
        assert_eq!(name(|o| o.guidance = f64::NAN), "guidance");
        assert_eq!(name(|o| o.rescale = 1.5), "guidance rescale");
        assert_eq!(name(|o| o.eta = -0.1), "eta");
        assert_eq!(name(|o| o.noise_share = 2.0), "noise share");
    }

    #[test]
    fn what_the_sampler_would_not_heed_is_refused() {
        let plain = |change: fn(&mut SampleOptions)| refused(|options, _| change(options));
        assert_eq!(plain(|o| o.eta = 0.5), Some(OptionError::Eta(0.5)));
        assert_eq!(plain(|o| (o.sampler, o.eta) = (Sampler::Ddim, 0.5)), None);
        assert_eq!(plain(|o| o.rescale = 0.7), Some(OptionError::Rescale(0.7)));
        assert_eq!(plain(|o| (o.guidance, o.rescale) = (2.0, 0.7)), None);
        let jumps = Jumps { length: 5, samples: 10 };
        for sampler in [Sampler::Ddpm, Sampler::Ddim, Sampler::DpmSolver] {
            let error = refused(|o, _| *o = SampleOptions { jumps, ..sampler.options() });
            assert_eq!(error, Some(OptionError::Jumps(jumps)));
        }
        let error = refused(|o, spec| {
            *o = SampleOptions { jumps, ..Sampler::Repaint.options() };
            spec.noise_region = NoiseRegion::Full;
        });
        assert_eq!(error, None);
    }
}
