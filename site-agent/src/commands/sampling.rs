//! The options of sampling, for every verb that paints.

use clap::{Args, ValueEnum};

use crate::model::precision::Precision;
use crate::model::sampler::options::{Jumps, SampleOptions, Sampler, Spacing};
use crate::model::spec::ModelSpec;

/// Slices per network call.
pub const SLICES_PER_CALL: usize = 16;

/// How to paint.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// The way from noise to an image.
    #[arg(long, value_enum, default_value = "dpm-solver")]
    sampler: SamplerName,
    /// Sampling steps. By default 10 of dpm-solver, 25 of ddim, 250 of repaint, 1000 of ddpm, or as many
    /// as a few-step model has. A model that knows no noise paints in one call, whatever is said here.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Which steps of the diffusion these are. By default aligned for dpm-solver, else even.
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,
    /// Samples, whose mean is the result.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub samples: usize,
    /// How strongly to follow what is asked for: 1 is as trained, more exaggerates.
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    guidance: f64,
    /// How far guidance is kept from raising the contrast, 0 to 1; refused without guidance.
    #[arg(long, value_name = "PHI", default_value_t = 0.0)]
    guidance_rescale: f64,
    /// The noise that ddim adds at each step, 0 to 1; refused for other samplers.
    #[arg(long, default_value_t = 0.0)]
    eta: f64,
    /// The part of the noise that all slices of a scan share, 0 to 1: more means fewer stripes.
    #[arg(long, value_name = "RHO", default_value_t = 0.8)]
    noise_share: f64,
    /// Steps that repaint jumps back at once; refused for other samplers.
    #[arg(long, value_name = "N", default_value_t = 10)]
    jump_length: usize,
    /// Times that repaint walks each stretch of steps; refused for other samplers.
    #[arg(long, value_name = "N", default_value_t = 10)]
    jump_samples: usize,
    /// What convolutions compute in: bf16 and f16 are for GPUs, and slower on a processor.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionName,
    /// Names the noise, which is another for each scan, slice and sample; and the masks of an evaluation.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A sampler as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SamplerName {
    /// Ancestral sampling.
    Ddpm,
    /// Deterministic, or with --eta of its noise.
    Ddim,
    /// DPM-Solver++ 2M.
    DpmSolver,
    /// For a model trained with noise everywhere.
    Repaint,
}

/// A precision as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    /// 24 bits of mantissa.
    F32,
    /// 8 bits.
    Bf16,
    /// 11 bits.
    F16,
}

/// A spacing as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SpacingName {
    Even,
    Stride,
    Lambda,
    Aligned,
}

impl SamplingArgs {
    /// The options that were typed, on top of those that the sampler commonly has, in no more steps than
    /// a model of this spec, if there is one, was trained at.
    pub fn options(&self, spec: Option<&ModelSpec>) -> SampleOptions {
        let common = self.sampler.sampler().options();
        let trained = spec.map_or(usize::MAX, |spec| spec.trained_timesteps);
        SampleOptions {
            steps: self.steps.unwrap_or(common.steps.min(trained)),
            spacing: self.spacing.map_or(common.spacing, SpacingName::spacing),
            samples: self.samples,
            seed: self.seed,
            batch: SLICES_PER_CALL,
            guidance: self.guidance,
            rescale: self.guidance_rescale,
            eta: self.eta,
            noise_share: self.noise_share,
            jumps: Jumps { length: self.jump_length, samples: self.jump_samples },
            precision: self.precision.precision(),
            ..common
        }
    }
}

impl SamplerName {
    fn sampler(self) -> Sampler {
        match self {
            SamplerName::Ddpm => Sampler::Ddpm,
            SamplerName::Ddim => Sampler::Ddim,
            SamplerName::DpmSolver => Sampler::DpmSolver,
            SamplerName::Repaint => Sampler::Repaint,
        }
    }
}

impl PrecisionName {
    /// What it names.
    pub fn precision(self) -> Precision {
        match self {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::F16 => Precision::F16,
        }
    }
}

impl SpacingName {
    fn spacing(self) -> Spacing {
        match self {
            SpacingName::Even => Spacing::Even,
            SpacingName::Stride => Spacing::Stride,
            SpacingName::Lambda => Spacing::Lambda,
            SpacingName::Aligned => Spacing::Aligned,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::spec::Preset;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn typed(words: &[&str]) -> SampleOptions {
        let spec = ModelSpec::preset(Preset::Tiny);
        Typed::parse_from([&["x"], words].concat()).sampling.options(Some(&spec))
    }

    #[test]
    fn a_few_step_model_is_painted_with_in_its_few_steps() {
        let spec = ModelSpec { trained_timesteps: 4, ..ModelSpec::preset(Preset::Tiny) };
        for name in ["ddpm", "ddim", "dpm-solver", "repaint"] {
            let sampling = Typed::parse_from(["x", "--sampler", name]).sampling;
            assert_eq!(sampling.options(Some(&spec)).steps, 4);
        }
    }

    #[test]
    fn what_is_not_typed_is_what_the_sampler_commonly_has() {
        let common = SampleOptions { batch: SLICES_PER_CALL, ..SampleOptions::default() };
        assert_eq!(typed(&[]), common);
        for (name, sampler) in [
            ("ddpm", Sampler::Ddpm),
            ("ddim", Sampler::Ddim),
            ("dpm-solver", Sampler::DpmSolver),
            ("repaint", Sampler::Repaint),
        ] {
            assert_eq!(sampler.name(), name);
            let common = SampleOptions { batch: SLICES_PER_CALL, ..sampler.options() };
            assert_eq!(typed(&["--sampler", name]), common);
        }
    }

    #[test]
    fn what_is_typed_is_what_is_done() {
        let words = "--sampler ddim --steps 7 --spacing stride --samples 3 --guidance 2.5 \
                     --guidance-rescale 0.7 --eta 0.5 --noise-share 0.1 --seed 9 --jump-length 4 \
                     --jump-samples 2 --precision bf16";
        let expected = SampleOptions {
            sampler: Sampler::Ddim,
            steps: 7,
            spacing: Spacing::Stride,
            samples: 3,
            seed: 9,
            batch: SLICES_PER_CALL,
            guidance: 2.5,
            rescale: 0.7,
            eta: 0.5,
            noise_share: 0.1,
            jumps: Jumps { length: 4, samples: 2 },
            precision: Precision::Bf16,
        };
        assert_eq!(typed(&words.split_whitespace().collect::<Vec<_>>()), expected);
    }
}
