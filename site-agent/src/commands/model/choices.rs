//! What a model is, as options: a preset, and what differs from it.

use std::num::ParseIntError;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::model::spec::{
    EmbMode, Heads, ModelSpec, NoiseRegion, Prediction, Preset, Schedule, SpecError,
};

/// What differs from a preset in the network's tensors.
#[derive(Clone, Debug, clap::Args)]
pub struct NetworkChoices {
    /// The base width in channels, instead of the preset's.
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// The width of each resolution as a multiple of the base width, finest first, as in 1,2,2. Each halves
    /// the one before. By default the preset's.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    channel_mult: Option<Vec<usize>>,
    /// Residual blocks per resolution, instead of the preset's.
    #[arg(long, value_name = "N")]
    res_blocks: Option<usize>,
    /// How many times smaller than the slice those resolutions are at which blocks attend, as in 8,16; none
    /// for the middle alone, which always does. By default the preset's.
    #[arg(long, value_name = "N,N,…|none", value_parser = factors)]
    attention_ds: Option<Factors>,
    /// Attention heads, however wide a block is. By default the preset's.
    #[arg(long, value_name = "N", conflicts_with = "head_channels")]
    heads: Option<usize>,
    /// Channels of each attention head, so that wider blocks have more heads. By default the preset's.
    #[arg(long, value_name = "N")]
    head_channels: Option<usize>,
    /// Groups of every group normalisation, which divide every width. By default the preset's.
    #[arg(long, value_name = "N")]
    groups: Option<usize>,
    /// How the condition's embedding joins that of the step: concat, one after the other, or add, their
    /// sum as in guided-diffusion. By default the preset's.
    #[arg(long, value_name = "MODE", value_parser = word::<EmbMode>)]
    emb_mode: Option<EmbMode>,
    /// Give the network a second output channel that predicts the variance of a reverse step.
    #[arg(long)]
    learn_sigma: bool,
    /// Leave out the learnt embedding for "no condition"; such a model can not be guided.
    #[arg(long)]
    no_null_condition: bool,
}

/// What differs from a preset.
#[derive(Clone, Debug, clap::Args)]
pub struct Choices {
    /// Pixels along a side of a slice, instead of the preset's.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    #[command(flatten)]
    network: NetworkChoices,
    /// How noise grows over the steps: cosine or linear. By default the preset's.
    #[arg(long, value_name = "NAME", value_parser = word::<Schedule>)]
    schedule: Option<Schedule>,
    /// Shift the schedule so that its last step is noise alone; not with epsilon.
    #[arg(long)]
    zero_terminal_snr: bool,
    /// What the network predicts: v, epsilon, sample (the clean image), or direct (the clean image in
    /// one call and without noise: a regression model to compare with). By default the preset's.
    #[arg(long, value_name = "NAME", value_parser = word::<Prediction>)]
    prediction: Option<Prediction>,
    /// Where x_t carries noise: masked, only where it is painted, or full, everywhere. By default the
    /// preset's.
    #[arg(long, value_name = "NAME", value_parser = word::<NoiseRegion>)]
    noise_region: Option<NoiseRegion>,
    /// Train and sample at only this many steps, evenly spaced from first to last: a few-step model. By
    /// default all steps.
    #[arg(long, value_name = "STEPS")]
    trained_timesteps: Option<usize>,
}

/// Downsampling factors as they are typed.
#[derive(Clone, Debug)]
struct Factors(Vec<usize>);

impl NetworkChoices {
    /// How attention splits its channels, if that was said.
    fn heads(&self) -> Option<Heads> {
        self.heads.map(Heads::Count).or(self.head_channels.map(Heads::Dim))
    }

    /// The preset with these choices, as yet unchecked.
    fn of(&self, preset: Preset) -> ModelSpec {
        let spec = ModelSpec::preset(preset);
        let ds = self.attention_ds.as_ref().map(|Factors(factors)| factors.clone());
        ModelSpec {
            channels: self.channels.unwrap_or(spec.channels),
            channel_mult: self.channel_mult.clone().unwrap_or(spec.channel_mult),
            res_blocks: self.res_blocks.unwrap_or(spec.res_blocks),
            attention_ds: ds.unwrap_or(spec.attention_ds),
            heads: self.heads().unwrap_or(spec.heads),
            groups: self.groups.unwrap_or(spec.groups),
            emb_mode: self.emb_mode.unwrap_or(spec.emb_mode),
            learn_sigma: self.learn_sigma || spec.learn_sigma,
            null_condition: !self.no_null_condition && spec.null_condition,
            ..spec
        }
    }

    /// The preset with these choices.
    ///
    /// # Errors
    /// [`SpecError`] if they do not go together.
    pub fn spec(&self, preset: Preset) -> Result<ModelSpec, SpecError> {
        let spec = self.of(preset);
        spec.validate()?;
        Ok(spec)
    }

    /// The first thing in which a model is not what was asked for: the preset's widths and blocks, and
    /// whatever was chosen. What was not chosen may be as it is, for the model says itself how it is.
    pub fn difference(&self, preset: Option<Preset>, found: &ModelSpec) -> Option<&'static str> {
        let asked = self.of(preset.unwrap_or(Preset::Tiny));
        let (named, heads) = (preset.is_some(), self.heads());
        let parts = [
            ("channels", named || self.channels.is_some(), asked.channels == found.channels),
            (
                "channel_mult",
                named || self.channel_mult.is_some(),
                asked.channel_mult == found.channel_mult,
            ),
            (
                "res_blocks",
                named || self.res_blocks.is_some(),
                asked.res_blocks == found.res_blocks,
            ),
            ("attention_ds", self.attention_ds.is_some(), asked.attention_ds == found.attention_ds),
            ("heads", heads.is_some(), asked.heads == found.heads),
            ("groups", self.groups.is_some(), asked.groups == found.groups),
            ("emb_mode", self.emb_mode.is_some(), asked.emb_mode == found.emb_mode),
            ("learn_sigma", self.learn_sigma, found.learn_sigma),
            ("null_condition", self.no_null_condition, !found.null_condition),
        ];
        parts.into_iter().find(|&(_, counts, same)| counts && !same).map(|(name, ..)| name)
    }
}

impl Choices {
    /// The preset with these choices.
    ///
    /// # Errors
    /// [`SpecError`] if they do not go together.
    pub fn spec(&self, preset: Preset) -> Result<ModelSpec, SpecError> {
        let spec = self.network.of(preset);
        let spec = ModelSpec {
            image_size: self.image_size.unwrap_or(spec.image_size),
            schedule: self.schedule.unwrap_or(spec.schedule),
            zero_terminal_snr: self.zero_terminal_snr || spec.zero_terminal_snr,
            prediction: self.prediction.unwrap_or(spec.prediction),
            noise_region: self.noise_region.unwrap_or(spec.noise_region),
            trained_timesteps: self.trained_timesteps.unwrap_or(spec.trained_timesteps),
            ..spec
        };
        spec.validate()?;
        Ok(spec)
    }
}

/// `none`, or numbers with commas between them.
fn factors(text: &str) -> Result<Factors, ParseIntError> {
    if text == "none" {
        return Ok(Factors(Vec::new()));
    }
    text.split(',').map(str::parse).collect::<Result<_, _>>().map(Factors)
}

/// A word that a spec's JSON knows too, so that each is spelt in one place.
fn word<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, Error> {
    let text: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(text)
}
