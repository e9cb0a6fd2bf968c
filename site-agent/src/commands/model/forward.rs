//! `model forward`: the bare network on given tensors, so that anyone can hold it against another
//! implementation. It knows no diffusion, no mask and no guidance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::choices::NetworkChoices;
use super::read_file;
use crate::commands::options::ComputeOptions;
use crate::commands::output;
use crate::model::checkpoint::{self, MAX_HEADER_BYTES};
use crate::model::spec::{CONDITION_LEN, IN_CHANNELS, Preset};
use crate::model::state_dict::{self, MAX_STATE_BYTES, floats};
use crate::model::unet::{Unet, embed_timesteps};
use crate::model::weights::Weights;

/// The largest file of inputs, in bytes: some 450 slices of 256 x 256.
const MAX_INPUT_BYTES: u64 = 1 << 30;
/// The most pixels that go through the network at once: four slices of 256 x 256.
const MAX_CALL_PIXELS: usize = 1 << 18;
/// The most slices that go through the network at once, however small.
const MAX_CALL_SLICES: usize = 64;

/// Options of `model forward`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The size of the model: tiny, small, base or mayo. Needed for a state dict that does not say what
    /// it is, and the options below with it; a model that says so itself is refused where it is not
    /// what is said here, and needs none of them.
    #[arg(long)]
    preset: Option<Preset>,
    #[command(flatten)]
    choices: NetworkChoices,
    /// The model's file, or a PyTorch state dict in a safetensors file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// A safetensors file with x [n, 9, s, s] and y [n, 6] of a float type, and t [n] of a float
    /// type, I32 or I64.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// The safetensors file for `out`: f32, [n, 1, s, s], or [n, 2, s, s] with a learnt variance.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// What the network is to read.
#[derive(Debug)]
struct Inputs {
    /// Slices.
    count: usize,
    /// Their edge, in pixels.
    size: usize,
    /// `[count, 9, size, size]`
    x: Vec<f32>,
    /// `[count]`
    t: Vec<f64>,
    /// `[count, 6]`
    y: Vec<f32>,
}

/// Writes what the network makes of the inputs.
///
/// # Errors
/// If a file cannot be used, the tensors do not fit the network, or the device fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let named = || args.model.display().to_string();
    let bytes = read_file(&args.model, MAX_STATE_BYTES)?;
    let weights = network(&bytes, args.preset, &args.choices).with_context(named)?;
    let named = || args.inputs.display().to_string();
    let inputs = parse(&read_file(&args.inputs, MAX_INPUT_BYTES)?).with_context(named)?;
    weights.spec().clone().with_image_size(inputs.size).with_context(named)?;
    let device = args.compute.open()?;
    let out = forward(&weights, &inputs, &device)?;
    let data: Vec<u8> = out.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![inputs.count, weights.spec().out_channels(), inputs.size, inputs.size];
    let view = TensorView::new(Dtype::F32, shape, &data)?;
    let file = safetensors::serialize([("out", view)], None)?;
    output::write_file(&args.out, &file).with_context(|| args.out.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The network in a file, which says itself what it is or is what the options say.
fn network(bytes: &[u8], preset: Option<Preset>, choices: &NetworkChoices) -> Result<Weights> {
    if !state_dict::carries_spec(bytes)? {
        let Some(preset) = preset else {
            bail!("the file does not say which network it is of, name it with --preset");
        };
        // A null condition that is missing is not read here, so any seed will do.
        return Ok(state_dict::adopt(bytes, &choices.spec(preset)?, 0)?);
    }
    let weights = checkpoint::from_bytes(bytes)?;
    if let Some(part) = choices.difference(preset, weights.spec()) {
        let own = weights.spec().to_json();
        bail!("the model has another {part} than was asked for, it says it is {own}");
    }
    Ok(weights)
}

/// The inputs in the bytes of a safetensors file.
fn parse(bytes: &[u8]) -> Result<Inputs> {
    let header = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    ensure!(header <= MAX_HEADER_BYTES, "the header has {header} bytes, more than are read");
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
    let mut take = |name: &str| {
        tensors.remove(name).with_context(|| format!("there is no tensor {name}, give x, t and y"))
    };
    let (x, t, y) = (take("x")?, take("t")?, take("y")?);
    if let Some(name) = tensors.keys().next() {
        bail!("there is a tensor {:?} that is not read, give x, t and y alone", name);
    }
    let &[count, IN_CHANNELS, size, width] = x.shape() else {
        bail!("x has shape {:?}, it must be [n, {IN_CHANNELS}, s, s]", x.shape());
    };
    ensure!(size == width && count > 0, "x has shape {:?}, it must be square slices", x.shape());
    ensure!(t.shape() == [count], "t has shape {:?}, it must be [{count}]", t.shape());
    let expected = [count, CONDITION_LEN];
    ensure!(y.shape() == expected, "y has shape {:?}, it must be {expected:?}", y.shape());
    Ok(Inputs { count, size, x: values("x", &x)?, t: steps(&t)?, y: values("y", &y)? })
}

/// The values of a float tensor, all finite.
fn values(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    let values = floats(view).with_context(|| {
        format!("{name} is of type {:?}, it must be F16, BF16, F32 or F64", view.dtype())
    })?;
    ensure!(values.iter().all(|value| value.is_finite()), "{name} has a value that is not finite");
    Ok(values)
}

/// Steps, which may be whole numbers.
fn steps(view: &TensorView<'_>) -> Result<Vec<f64>> {
    let words = || view.data().as_chunks::<8>().0.iter();
    let halves = || view.data().as_chunks::<4>().0.iter();
    match view.dtype() {
        Dtype::I64 => Ok(words().map(|word| i64::from_le_bytes(*word) as f64).collect()),
        Dtype::I32 => Ok(halves().map(|word| i32::from_le_bytes(*word).into()).collect()),
        _ => Ok(values("t", view)?.into_iter().map(f64::from).collect()),
    }
}

/// The network's output for every slice. `[count, out channels, size, size]`
fn forward(weights: &Weights, inputs: &Inputs, device: &Device) -> Result<Vec<f32>> {
    let (spec, size) = (weights.spec(), inputs.size);
    let net = Unet::new(weights, device);
    let area = size * size;
    let slices = (MAX_CALL_PIXELS / area).clamp(1, MAX_CALL_SLICES);
    let mut out = Vec::with_capacity(inputs.count * spec.out_channels() * area);
    let x = inputs.x.chunks(slices * IN_CHANNELS * area);
    let y = inputs.y.chunks(slices * CONDITION_LEN);
    for ((x, t), y) in x.zip(inputs.t.chunks(slices)).zip(y) {
        let count = t.len();
        let tensor = |values: Vec<f32>, width: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [count, width]), device)
        };
        let time = tensor(embed_timesteps(t, spec.channels), spec.channels);
        let condition =
            net.condition(tensor(y.to_vec(), CONDITION_LEN), Tensor::zeros([count, 1], device));
        let x = TensorData::new(x.to_vec(), [count, IN_CHANNELS, size, size]);
        let x = Tensor::from_data(x, device);
        let data = net.forward(x, time, condition).try_into_data()?;
        let values = data.convert::<f32>().try_into_vec::<f32>();
        out.extend(values.ok().context("the device gave something else than numbers")?);
    }
    Ok(out)
}
