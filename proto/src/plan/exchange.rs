//! In what form a site's update travels: the plan's `[exchange]`.
//!
//! It is left out of a plan's canonical form where it is at its default, so that plans from before it keep
//! their digests. A program that does not know it refuses the plan by the name of the section, and so never
//! sends an update of another form than the one that was asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the names of a decoder's tensors begin: guided-diffusion's way back up, and its head.
const DECODER: [&str; 2] = ["output_blocks.", "out."];

/// In what form a site's update travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangePlan {
    /// How numbers are written.
    pub encoding: Encoding,
    /// Which tensors travel.
    pub part: Part,
}

/// How an update's numbers are written. `f32` is the trained weights themselves; what is shorter is their
/// change since the base model, and what is lost of it stays at the site, which adds it to its next update
/// (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// 32 bits, nothing is lost.
    #[default]
    F32,
    /// The upper 16 bits of an f32.
    Bf16,
    /// 8 bits, and a scale for every block of values.
    Int8,
    /// 4 bits, and a scale for every block of values.
    Int4,
}

/// Which tensors travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Every tensor.
    #[default]
    All,
    /// Those of the U-Net's decoder; sites train no other, and the others stay what they are in the run's
    /// initial model. It is the exchange of FedDiffuse's UDec (de Goede et al. 2024, arXiv 2406.12575),
    /// whose sites train encoders of their own beside it; here there is one model for all.
    Decoder,
}

impl ExchangePlan {
    /// Whether an update is the trained model itself.
    pub fn is_whole_model(self) -> bool {
        self == ExchangePlan::default()
    }
}

impl Encoding {
    /// Whether an encoding loses nothing.
    pub fn is_lossless(self) -> bool {
        self == Encoding::F32
    }
}

impl Part {
    /// Whether the tensor of this name travels.
    pub fn has(self, tensor: &str) -> bool {
        self == Part::All || DECODER.iter().any(|begin| tensor.starts_with(begin))
    }
}

impl fmt::Display for ExchangePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = match self.encoding {
            Encoding::F32 => "f32",
            Encoding::Bf16 => "bf16",
            Encoding::Int8 => "int8",
            Encoding::Int4 => "int4",
        };
        match self.part {
            Part::All => f.write_str(encoding),
            Part::Decoder => write!(f, "{encoding} of the decoder"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RunPlan;

    const SHORT: &str = "version = 1\nrounds = 1\n";

    #[test]
    fn a_plan_says_in_what_form_updates_travel_and_its_canonical_form_reads_back() {
        for (word, encoding) in [
            ("f32", Encoding::F32),
            ("bf16", Encoding::Bf16),
            ("int8", Encoding::Int8),
            ("int4", Encoding::Int4),
        ] {
            let text = format!("{SHORT}[exchange]\nencoding = \"{word}\"\npart = \"decoder\"");
            let plan = RunPlan::from_toml(&text).unwrap();
            assert_eq!(plan.exchange, ExchangePlan { encoding, part: Part::Decoder });
            assert_eq!(plan.exchange.to_string(), format!("{word} of the decoder"));
            assert_eq!(RunPlan::from_toml(&plan.to_toml()).unwrap(), plan);
        }
        for wrong in ["encoding = \"int2\"", "part = \"encoder\"", "topk = 0.1"] {
            assert!(RunPlan::from_toml(&format!("{SHORT}[exchange]\n{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_of_whole_models_keeps_its_digest_and_any_other_is_refused_by_who_knows_no_exchange() {
        let silent = RunPlan::from_toml(SHORT).unwrap();
        let said = format!("{SHORT}[exchange]\nencoding = \"f32\"\npart = \"all\"");
        assert_eq!(RunPlan::from_toml(&said).unwrap().digest(), silent.digest());
        assert!(!silent.to_toml().contains("exchange"));

        /// The plan as it was read before there was a choice.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "it is only parsed into")]
        struct Before {
            version: u32,
            rounds: u32,
            round: toml::Value,
            training: toml::Value,
            aggregation: toml::Value,
        }
        toml::from_str::<Before>(&silent.to_toml()).unwrap();
        let int8 = RunPlan::from_toml(&said.replace("f32", "int8")).unwrap().to_toml();
        let refused = toml::from_str::<Before>(&int8).unwrap_err().to_string();
        assert!(refused.contains("unknown field `exchange`"), "{refused}");
    }

    #[test]
    fn a_decoder_is_the_way_back_up_and_the_head_and_nothing_else() {
        for name in ["output_blocks.0.0.in_layers.0.weight", "out.2.bias"] {
            assert!(Part::Decoder.has(name) && Part::All.has(name), "{name}");
        }
        for name in
            ["input_blocks.0.0.weight", "middle_block.1.qkv.weight", "time_embed.0.bias", "outer"]
        {
            assert!(!Part::Decoder.has(name) && Part::All.has(name), "{name}");
        }
    }
}
