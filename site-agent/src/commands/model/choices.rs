//! What a model is, as options: a preset, and what differs from it.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::model::spec::{
    EmbMode, ModelSpec, NoiseRegion, Prediction, Preset, Schedule, SpecError,
};

/// What differs from a preset in the network's tensors.
#[derive(Clone, Debug, clap::Args)]
pub struct NetworkChoices {
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

impl NetworkChoices {
    /// The preset with these choices, as yet unchecked.
    fn of(&self, preset: Preset) -> ModelSpec {
        let spec = ModelSpec::preset(preset);
        ModelSpec {
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

/// A word that a spec's JSON knows too, so that each is spelt in one place.
fn word<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, Error> {
    let text: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(text)
}
