//! What a model is: every choice that training, sampling and averaging must share.
//!
//! A model file carries this as one JSON value, so it describes itself. Nothing about a site, a
//! run or a training schedule belongs here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::data::example::{CONDITIONS, REGIONS};

/// Channels the network reads: x_t, the voided image, the mask, and one plane per region class.
pub const IN_CHANNELS: usize = 3 + REGIONS;
/// The length of the condition vector y.
pub const CONDITION_LEN: usize = CONDITIONS;
/// The revision of [`ModelSpec`]'s meaning; another revision is refused.
pub const SPEC_VERSION: u32 = 2;
/// The longest JSON text of a spec, in bytes.
pub const MAX_SPEC_BYTES: usize = 4096;
/// The smallest image edge in pixels.
pub const MIN_IMAGE_SIZE: usize = 8;
/// The largest image edge in pixels.
pub const MAX_IMAGE_SIZE: usize = 512;
/// The widest base width in channels.
pub const MAX_CHANNELS: usize = 256;
/// The most resolutions a network has.
pub const MAX_LEVELS: usize = 8;
/// The largest channel multiplier.
pub const MAX_MULT: usize = 16;
/// The most residual blocks per resolution.
pub const MAX_RES_BLOCKS: usize = 4;
/// The longest diffusion, in steps.
pub const MAX_TIMESTEPS: usize = 10_000;

/// The shape of the network and of the diffusion it was trained for.
///
/// The order of the fields is the order of the JSON: two equal specs are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Always [`SPEC_VERSION`].
    pub version: u32,
    /// The edge of the square slices, in pixels.
    pub image_size: usize,
    /// The base width, in channels.
    pub channels: usize,
    /// The width of each resolution as a multiple of `channels`, finest first.
    pub channel_mult: Vec<usize>,
    /// Residual blocks per resolution on the way down; one more on the way up.
    pub res_blocks: usize,
    /// The downsampling factors at which blocks attend; the middle always does.
    pub attention_ds: Vec<usize>,
    /// How attention splits its channels.
    pub heads: Heads,
    /// Groups of every group normalisation.
    pub groups: usize,
    /// How the condition's embedding joins that of the step.
    pub emb_mode: EmbMode,
    /// Whether a second output channel predicts the variance of a reverse step (Nichol and Dhariwal
    /// 2021, arXiv 2102.09672, eq. 15).
    pub learn_sigma: bool,
    /// Whether there is a learnt embedding for "no condition", which guidance needs (Ho and Salimans
    /// 2022, arXiv 2207.12598).
    pub null_condition: bool,
    /// The number of diffusion steps T.
    pub timesteps: usize,
    /// The number of steps, evenly spaced from 0 to T - 1, that are trained and may be sampled at: T for
    /// all, few for a few-step model (Jiang et al. 2024, Fast-DDPM, arXiv 2405.14802).
    pub trained_timesteps: usize,
    /// How noise grows over the steps.
    pub schedule: Schedule,
    /// Whether the schedule is shifted so that the last step is noise alone (Lin et al. 2024, arXiv
    /// 2305.08891, algorithm 1).
    pub zero_terminal_snr: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Where x_t carries noise.
    pub noise_region: NoiseRegion,
}

/// How attention splits its channels into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Heads {
    /// As many heads as there are multiples of this many channels.
    Dim(usize),
    /// This many heads, whatever the width.
    Count(usize),
}

/// How the condition's embedding joins that of the step, before every residual block reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbMode {
    /// One after the other, 8 times the base width (Rouzrokh et al. 2022, arXiv 2210.12113).
    Concat,
    /// Their sum, 4 times the base width, as guided-diffusion does.
    Add,
}

/// How noise grows over the diffusion steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Nichol and Dhariwal 2021 (arXiv 2102.09672), s = 0.008, beta at most 0.999.
    Cosine,
    /// Ho et al. 2020 (arXiv 2006.11239), beta from 1e-4 to 0.02 at T = 1000.
    Linear,
}

/// What the network predicts from x_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The velocity sqrt(ab) e - sqrt(1 - ab) x_0 of Salimans and Ho 2022 (arXiv 2202.00512).
    V,
    /// The noise e.
    Epsilon,
    /// The clean image x_0.
    Sample,
    /// The clean image from its surroundings alone: there is no noise, x_t is the voided image, the step
    /// is 0, one call paints. The regression twin of a diffusion model, with the same network.
    Direct,
}

/// Where x_t carries noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseRegion {
    /// Only inside the mask: the known region stays clean and only the inside is learnt (Saharia
    /// et al. 2022, Palette, arXiv 2111.05826).
    Masked,
    /// Everywhere.
    Full,
}

/// A network size that somebody has thought through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 0.34 M parameters, 32 pixels: tests and the demo on two cores.
    Tiny,
    /// 7.1 M parameters, 64 pixels: a workstation without a GPU.
    Small,
    /// 25.9 M parameters, 128 pixels: one GPU.
    Base,
    /// 135.9 M parameters, 256 pixels: the size of guided-diffusion's table for this resolution. It
    /// learns the noise and sees noise everywhere, as models of its field do.
    Mayo,
}

/// Why a spec is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The text is longer than [`MAX_SPEC_BYTES`].
    #[error("the model spec has {bytes} bytes, at most {MAX_SPEC_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The text is not a spec.
    #[error("the model spec is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A field is out of bounds or does not fit the others.
    #[error("model spec: {field} is {value}, it must be {must}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value as text.
        value: String,
        /// What it must be.
        must: String,
    },
    /// No preset has that name.
    #[error("no preset is called {0:?}, choose one of tiny, small, base, mayo")]
    UnknownPreset(String),
}

impl ModelSpec {
    /// The spec of a preset, at the preset's image size.
    pub fn preset(preset: Preset) -> ModelSpec {
        let (image_size, channels, channel_mult, res_blocks): (_, _, &[usize], _) = match preset {
            Preset::Tiny => (32, 16, &[1, 2, 2], 1),
            Preset::Small => (64, 32, &[1, 2, 4, 4], 2),
            Preset::Base => (128, 64, &[1, 1, 2, 3, 4], 2),
            Preset::Mayo => (256, 128, &[1, 1, 2, 2, 4, 4], 2),
        };
        let (attention_ds, heads, groups): (&[usize], _, _) = match preset {
            Preset::Tiny => (&[4], Heads::Dim(16), 8),
            Preset::Small => (&[8], Heads::Dim(32), 32),
            Preset::Base => (&[8, 16], Heads::Dim(64), 32),
            Preset::Mayo => (&[8, 16, 32], Heads::Count(4), 32),
        };
        // What is to be trained on little learns v inside the mask alone: at the noisiest steps the
        // noise says next to nothing of x_0. The large one is the field's: Ho et al. 2020 (arXiv
        // 2006.11239) learn the noise, and RePaint wants it everywhere.
        let (prediction, noise_region) = match preset {
            Preset::Tiny | Preset::Small | Preset::Base => (Prediction::V, NoiseRegion::Masked),
            Preset::Mayo => (Prediction::Epsilon, NoiseRegion::Full),
        };
        ModelSpec {
            version: SPEC_VERSION,
            image_size,
            channels,
            channel_mult: channel_mult.to_vec(),
            res_blocks,
            attention_ds: attention_ds.to_vec(),
            heads,
            groups,
            emb_mode: EmbMode::Concat,
            learn_sigma: false,
            null_condition: true,
            timesteps: 1000,
            trained_timesteps: 1000,
            schedule: Schedule::Cosine,
            zero_terminal_snr: false,
            prediction,
            noise_region,
        }
    }

    /// The same network for slices of another size.
    ///
    /// # Errors
    /// [`SpecError::Field`] if the network cannot halve `image_size` as often as it does.
    pub fn with_image_size(mut self, image_size: usize) -> Result<ModelSpec, SpecError> {
        self.image_size = image_size;
        self.validate()?;
        Ok(self)
    }

    /// How many times smaller the coarsest resolution is.
    pub fn downsampling(&self) -> usize {
        // A spec has at most MAX_LEVELS levels, which `validate` asserts before calling this.
        1 << self.channel_mult.len().saturating_sub(1)
    }

    /// The width of the time embedding and of the condition embedding, in channels.
    pub fn embedding(&self) -> usize {
        4 * self.channels
    }

    /// The width of the two embeddings joined, which every residual block reads, in channels.
    pub fn joint_embedding(&self) -> usize {
        match self.emb_mode {
            EmbMode::Concat => 2 * self.embedding(),
            EmbMode::Add => self.embedding(),
        }
    }

    /// Channels the network gives: the prediction, and the variance where it is learnt.
    pub fn out_channels(&self) -> usize {
        if self.learn_sigma { 2 } else { 1 }
    }

    /// How many heads attend over `channels` channels.
    pub fn heads(&self, channels: usize) -> usize {
        match self.heads {
            Heads::Dim(dim) => channels / dim,
            Heads::Count(count) => count,
        }
    }

    /// The spec as JSON, fields in declaration order.
    pub fn to_json(&self) -> String {
        // Unwrap safety: a struct of integers, strings and lists always serialises.
        #[expect(clippy::unwrap_used, reason = "a struct of integers and lists always serialises")]
        serde_json::to_string(self).unwrap()
    }

    /// Reads and validates [`Self::to_json`]'s text.
    ///
    /// # Errors
    /// [`SpecError`] if it is too long, not a spec, or a spec that describes no network.
    pub fn from_json(text: &str) -> Result<ModelSpec, SpecError> {
        if text.len() > MAX_SPEC_BYTES {
            return Err(SpecError::TooLong { bytes: text.len() });
        }
        let spec: ModelSpec = serde_json::from_str(text)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Whether a network of this shape can exist.
    ///
    /// # Errors
    /// [`SpecError::Field`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        check(self.version == SPEC_VERSION, "version", self.version, || SPEC_VERSION.to_string())?;
        in_range("channels", self.channels, 2, MAX_CHANNELS)?;
        check(self.channels.is_multiple_of(2), "channels", self.channels, || "even".into())?;
        in_range("channel_mult's length", self.channel_mult.len(), 1, MAX_LEVELS)?;
        for &mult in &self.channel_mult {
            in_range("channel_mult", mult, 1, MAX_MULT)?;
        }
        in_range("res_blocks", self.res_blocks, 1, MAX_RES_BLOCKS)?;
        in_range("timesteps", self.timesteps, 2, MAX_TIMESTEPS)?;
        in_range("trained_timesteps", self.trained_timesteps, 1, self.timesteps)?;
        self.validate_diffusion()?;
        in_range("image_size", self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)?;
        let ds = self.downsampling();
        check(self.image_size.is_multiple_of(ds), "image_size", self.image_size, || {
            format!("a multiple of {ds}, the network's downsampling")
        })?;
        for &at in &self.attention_ds {
            check(at.is_power_of_two() && at <= ds, "attention_ds", at, || {
                format!("a power of two up to {ds}")
            })?;
        }
        self.validate_widths()
    }

    /// Whether what is predicted can be predicted with this noise.
    fn validate_diffusion(&self) -> Result<(), SpecError> {
        // Noise alone says nothing about the noise: x_0 cannot be had from it.
        let can = !(self.zero_terminal_snr && self.prediction == Prediction::Epsilon);
        check(can, "prediction", "epsilon", || {
            "v or sample where zero_terminal_snr is set".into()
        })?;
        // Where there is no noise there is no variance to learn and no last step to shift.
        let direct = self.prediction == Prediction::Direct;
        let without = |field, set: bool| {
            check(!(direct && set), field, set, || "false where prediction is direct".into())
        };
        without("learn_sigma", self.learn_sigma)?;
        without("zero_terminal_snr", self.zero_terminal_snr)
    }

    /// Whether groups and heads divide the widths they must divide.
    fn validate_widths(&self) -> Result<(), SpecError> {
        let groups = self.groups;
        in_range("groups", groups, 1, MAX_CHANNELS)?;
        let head = match self.heads {
            Heads::Dim(n) | Heads::Count(n) => n,
        };
        in_range("heads", head, 1, MAX_CHANNELS)?;
        let last = self.channel_mult.len() - 1;
        for (level, &mult) in self.channel_mult.iter().enumerate() {
            let width = mult * self.channels;
            check(width.is_multiple_of(groups), "groups", groups, || {
                format!("a divisor of {width}, the width of resolution {level}")
            })?;
            if level == last || self.attention_ds.contains(&(1 << level)) {
                check(width.is_multiple_of(head), "heads", head, || {
                    format!("a divisor of {width}, the width of resolution {level}")
                })?;
            }
        }
        Ok(())
    }
}

impl Preset {
    /// Every preset, smallest first.
    pub const ALL: [Preset; 4] = [Preset::Tiny, Preset::Small, Preset::Base, Preset::Mayo];

    /// The preset's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Base => "base",
            Preset::Mayo => "mayo",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Preset {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Preset, SpecError> {
        let found = Preset::ALL.into_iter().find(|preset| preset.as_str() == name);
        found.ok_or_else(|| SpecError::UnknownPreset(name.to_owned()))
    }
}

/// Refuses a field unless `good`.
fn check(
    good: bool,
    field: &'static str,
    value: impl fmt::Display,
    must: impl FnOnce() -> String,
) -> Result<(), SpecError> {
    if good {
        return Ok(());
    }
    Err(SpecError::Field { field, value: value.to_string(), must: must() })
}

/// Refuses a field outside `min..=max`.
fn in_range(field: &'static str, value: usize, min: usize, max: usize) -> Result<(), SpecError> {
    check((min..=max).contains(&value), field, value, || format!("{min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_its_json() {
        for preset in Preset::ALL {
            let spec = ModelSpec::preset(preset);
            spec.validate().unwrap();
            assert_eq!(ModelSpec::from_json(&spec.to_json()).unwrap(), spec);
            assert_eq!(preset.as_str().parse::<Preset>().unwrap(), preset);
        }
    }

    #[test]
    fn mayo_learns_the_noise_everywhere_and_the_smaller_ones_v_inside_the_mask() {
        for preset in Preset::ALL {
            let spec = ModelSpec::preset(preset);
            let expected = match preset {
                Preset::Mayo => (Prediction::Epsilon, NoiseRegion::Full),
                _ => (Prediction::V, NoiseRegion::Masked),
            };
            assert_eq!((spec.prediction, spec.noise_region), expected, "{preset}");
            // The cosine schedule, and a variance that is fixed to the smallest.
            assert_eq!((spec.schedule, spec.learn_sigma), (Schedule::Cosine, false), "{preset}");
        }
    }

    #[test]
    fn the_json_of_a_spec_has_one_fixed_form() {
        let json = ModelSpec::preset(Preset::Tiny).to_json();
        assert_eq!(
            json,
            "{\"version\":2,\"image_size\":32,\"channels\":16,\"channel_mult\":[1,2,2],\
             \"res_blocks\":1,\"attention_ds\":[4],\"heads\":{\"dim\":16},\"groups\":8,\
             \"emb_mode\":\"concat\",\"learn_sigma\":false,\"null_condition\":true,\
             \"timesteps\":1000,\"trained_timesteps\":1000,\"schedule\":\"cosine\",\
             \"zero_terminal_snr\":false,\"prediction\":\"v\",\"noise_region\":\"masked\"}"
        );
    }

    #[test]
    fn an_image_size_that_cannot_be_halved_is_refused() {
        let tiny = ModelSpec::preset(Preset::Tiny);
        assert_eq!(tiny.clone().with_image_size(48).unwrap().image_size, 48);
        for bad in [0, 4, 50, 516, usize::MAX] {
            let error = tiny.clone().with_image_size(bad).unwrap_err();
            assert!(error.to_string().contains("image_size"), "{error}");
        }
    }

    #[test]
    fn a_spec_that_describes_no_network_is_refused_by_the_name_of_its_field() {
        type Spoil = fn(&mut ModelSpec);
        let cases: [(&str, Spoil); 15] = [
            ("version", |s| s.version = 1),
            ("channels", |s| s.channels = 15),
            ("channels", |s| s.channels = 1 << 40),
            ("channel_mult", |s| s.channel_mult = vec![1; 70]),
            ("channel_mult", |s| s.channel_mult = vec![]),
            ("res_blocks", |s| s.res_blocks = 0),
            ("timesteps", |s| s.timesteps = 1),
            ("groups", |s| s.groups = 32),
            ("heads", |s| s.heads = Heads::Dim(0)),
            ("attention_ds", |s| s.attention_ds = vec![3]),
            ("trained_timesteps", |s| s.trained_timesteps = 0),
            ("trained_timesteps", |s| s.trained_timesteps = 1001),
            ("prediction", |s| {
                (s.zero_terminal_snr, s.prediction) = (true, Prediction::Epsilon);
            }),
            ("learn_sigma", |s| (s.learn_sigma, s.prediction) = (true, Prediction::Direct)),
            ("zero_terminal_snr", |s| {
                (s.zero_terminal_snr, s.prediction) = (true, Prediction::Direct);
            }),
        ];
        for (field, spoil) in cases {
            let mut spec = ModelSpec::preset(Preset::Tiny);
            spoil(&mut spec);
            let error = spec.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn an_overlong_or_unknown_json_is_refused() {
        let long = " ".repeat(MAX_SPEC_BYTES + 1);
        assert!(matches!(ModelSpec::from_json(&long), Err(SpecError::TooLong { .. })));
        let json = ModelSpec::preset(Preset::Tiny).to_json().replace("groups", "grps");
        assert!(matches!(ModelSpec::from_json(&json), Err(SpecError::Json(_))));
    }
}
