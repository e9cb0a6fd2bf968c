//! What a spec builds: the blocks of the U-Net in order, and the name and shape of every tensor.
//!
//! Pure arithmetic, so that a received file is checked against it before any tensor library sees
//! a byte. The structure and the names are those of guided-diffusion's `UNetModel`
//! (Dhariwal and Nichol 2021, arXiv 2105.05233), with the condition embedding concatenated to the
//! time embedding (Rouzrokh et al. 2022, arXiv 2210.12113) unless the spec says to add them.

use super::spec::{CONDITION_LEN, IN_CHANNELS, ModelSpec};

/// The embedding that stands for "no condition"; guided-diffusion's own network has no such tensor.
pub const NULL_CONDITION: &str = "null_cls_embed";

/// The blocks of a U-Net, in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blueprint {
    /// The way down. The output of every stage is kept for the way up.
    pub input: Vec<Vec<Block>>,
    /// The bottom.
    pub middle: Vec<Block>,
    /// The way up. Every stage first concatenates the last kept output.
    pub output: Vec<Vec<Block>>,
    /// The width that the last stage leaves.
    pub out_width: usize,
}

/// One block, with the widths it maps between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The first 3x3 convolution.
    Stem {
        /// Channels out of it.
        out: usize,
    },
    /// A residual block.
    Residual {
        /// Channels into it.
        input: usize,
        /// Channels out of it.
        out: usize,
    },
    /// Self-attention over all pixels.
    Attention {
        /// Channels in and out.
        width: usize,
    },
    /// A 3x3 convolution with stride 2.
    Down {
        /// Channels in and out.
        width: usize,
    },
    /// Nearest neighbour times two, then a 3x3 convolution.
    Up {
        /// Channels in and out.
        width: usize,
    },
}

/// One tensor of a model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, as guided-diffusion's state dict has it.
    pub name: String,
    /// Its shape in PyTorch's layout: a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// How a tensor starts, as PyTorch's layers do by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)): Kaiming uniform with gain 1/sqrt(3).
    Uniform {
        /// The number of inputs that one output sums over.
        fan_in: usize,
    },
    /// All zero: a block that starts as the identity, or a bias.
    Zeros,
    /// All one: the scale of a normalisation.
    Ones,
    /// N(0, 1): an embedding that no linear map precedes.
    Normal,
}

impl Blueprint {
    /// The blocks that a valid `spec` builds.
    pub fn new(spec: &ModelSpec) -> Blueprint {
        let width_of = |level: usize| spec.channel_mult[level] * spec.channels;
        let attends = |level: usize| spec.attention_ds.contains(&(1 << level));
        let levels = spec.channel_mult.len();
        let mut width = width_of(0);
        let mut input = vec![vec![Block::Stem { out: width }]];
        let mut kept = vec![width];
        for level in 0..levels {
            for _ in 0..spec.res_blocks {
                let out = width_of(level);
                input.push(residual(width, out, attends(level)));
                width = out;
                kept.push(width);
            }
            if level + 1 < levels {
                input.push(vec![Block::Down { width }]);
                kept.push(width);
            }
        }
        let same = Block::Residual { input: width, out: width };
        let middle = vec![same, Block::Attention { width }, same];
        let mut output = Vec::new();
        for level in (0..levels).rev() {
            for i in 0..=spec.res_blocks {
                // As many stages go up as came down, so a kept width is always left.
                let skip = kept.pop().unwrap_or_default();
                let out = width_of(level);
                let mut stage = residual(width + skip, out, attends(level));
                width = out;
                if level > 0 && i == spec.res_blocks {
                    stage.push(Block::Up { width });
                }
                output.push(stage);
            }
        }
        Blueprint { input, middle, output, out_width: width }
    }
}

/// Every tensor of a model of this spec, in the order in which the network uses them.
pub fn tensors(spec: &ModelSpec) -> Vec<TensorSpec> {
    let blueprint = Blueprint::new(spec);
    let mut list = List { tensors: Vec::new(), embedding: spec.joint_embedding() };
    for (name, input) in [("time_embed", spec.channels), ("label_emb", CONDITION_LEN)] {
        list.affine(&format!("{name}.0"), &[spec.embedding(), input]);
        list.affine(&format!("{name}.2"), &[spec.embedding(), spec.embedding()]);
    }
    for (k, stage) in blueprint.input.iter().enumerate() {
        list.stage(&format!("input_blocks.{k}"), stage);
    }
    list.stage("middle_block", &blueprint.middle);
    for (k, stage) in blueprint.output.iter().enumerate() {
        list.stage(&format!("output_blocks.{k}"), stage);
    }
    list.norm("out.0", blueprint.out_width);
    list.zeroed("out.2", &[spec.out_channels(), blueprint.out_width, 3, 3]);
    if spec.null_condition {
        let (name, shape) = (NULL_CONDITION.to_owned(), vec![spec.embedding()]);
        list.tensors.push(TensorSpec { name, shape, init: Init::Normal });
    }
    list.tensors
}

/// The number of parameters of a model of this spec.
pub fn parameters(spec: &ModelSpec) -> usize {
    tensors(spec).iter().map(TensorSpec::len).sum()
}

impl TensorSpec {
    /// The number of values in it.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values; a valid spec has no such tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A residual block, followed by attention where the resolution attends.
fn residual(input: usize, out: usize, attends: bool) -> Vec<Block> {
    let mut stage = vec![Block::Residual { input, out }];
    if attends {
        stage.push(Block::Attention { width: out });
    }
    stage
}

/// The list of tensors while it grows.
struct List {
    tensors: Vec<TensorSpec>,
    /// The width of the joint embedding that every residual block reads.
    embedding: usize,
}

impl List {
    fn stage(&mut self, prefix: &str, blocks: &[Block]) {
        for (i, block) in blocks.iter().enumerate() {
            let name = format!("{prefix}.{i}");
            match *block {
                Block::Stem { out } => self.affine(&name, &[out, IN_CHANNELS, 3, 3]),
                Block::Residual { input, out } => self.residual(&name, input, out),
                Block::Attention { width } => {
                    self.norm(&format!("{name}.norm"), width);
                    self.affine(&format!("{name}.qkv"), &[3 * width, width, 1]);
                    self.zeroed(&format!("{name}.proj_out"), &[width, width, 1]);
                }
                Block::Down { width } => {
                    self.affine(&format!("{name}.op"), &[width, width, 3, 3]);
                }
                Block::Up { width } => self.affine(&format!("{name}.conv"), &[width, width, 3, 3]),
            }
        }
    }

    fn residual(&mut self, name: &str, input: usize, out: usize) {
        self.norm(&format!("{name}.in_layers.0"), input);
        self.affine(&format!("{name}.in_layers.2"), &[out, input, 3, 3]);
        self.affine(&format!("{name}.emb_layers.1"), &[2 * out, self.embedding]);
        self.norm(&format!("{name}.out_layers.0"), out);
        self.zeroed(&format!("{name}.out_layers.3"), &[out, out, 3, 3]);
        if input != out {
            self.affine(&format!("{name}.skip_connection"), &[out, input, 1, 1]);
        }
    }

    fn affine(&mut self, name: &str, weight: &[usize]) {
        let fan_in = weight[1..].iter().product();
        self.pair(name, weight, Init::Uniform { fan_in }, Init::Uniform { fan_in });
    }

    fn zeroed(&mut self, name: &str, weight: &[usize]) {
        self.pair(name, weight, Init::Zeros, Init::Zeros);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.pair(name, &[width], Init::Ones, Init::Zeros);
    }

    fn pair(&mut self, name: &str, weight: &[usize], init: Init, bias: Init) {
        let (weight, out) = (weight.to_vec(), weight[0]);
        self.tensors.push(TensorSpec { name: format!("{name}.weight"), shape: weight, init });
        let shape = vec![out];
        self.tensors.push(TensorSpec { name: format!("{name}.bias"), shape, init: bias });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::spec::{EmbMode, Preset};
    use super::*;

    #[test]
    fn the_presets_have_the_parameter_counts_of_the_published_formula() {
        let of = |null_condition| {
            Preset::ALL.map(|p| parameters(&ModelSpec { null_condition, ..ModelSpec::preset(p) }))
        };
        let network = [344_609, 7_133_217, 25_913_217, 135_866_113];
        assert_eq!(of(false), network);
        let null = [64, 128, 256, 512];
        assert_eq!(of(true), [0, 1, 2, 3].map(|i| network[i] + null[i]));
    }

    #[test]
    fn the_variants_of_mayo_have_the_parameter_counts_of_the_published_formula() {
        let mayo = ModelSpec::preset(Preset::Mayo);
        let learnt = ModelSpec { learn_sigma: true, ..mayo };
        assert_eq!(parameters(&learnt), 135_867_266 + 512);
        // 9984 channels leave the residual blocks; each reads a half as wide embedding twice.
        let added = ModelSpec { emb_mode: EmbMode::Add, ..learnt };
        assert_eq!(parameters(&added), 125_644_162);
        assert_eq!(135_867_266 + 512 - 125_644_162, 9984 * 2 * 512);
    }

    #[test]
    fn tiny_has_171_tensors_with_distinct_names() {
        let tensors = tensors(&ModelSpec::preset(Preset::Tiny));
        let names: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!((tensors.len(), names.len()), (171, 171));
        for name in [
            "time_embed.0.weight",
            "label_emb.2.bias",
            "input_blocks.0.0.weight",
            "input_blocks.2.0.op.weight",
            "input_blocks.3.0.skip_connection.weight",
            "input_blocks.5.1.qkv.weight",
            "middle_block.1.proj_out.bias",
            "output_blocks.1.2.conv.weight",
            "output_blocks.3.1.conv.weight",
            "out.2.bias",
            "null_cls_embed",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_way_up_takes_every_output_of_the_way_down() {
        for preset in Preset::ALL {
            let blueprint = Blueprint::new(&ModelSpec::preset(preset));
            assert_eq!(blueprint.input.len(), blueprint.output.len());
        }
    }
}
