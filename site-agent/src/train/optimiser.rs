//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the gradient's joint norm clipped.
//!
//! On the processor it is one pass over all parameters by [`crate::cpu::optimiser`]; elsewhere burn's
//! own. Both decay matrices and kernels only: what has one dimension, a norm's scale or a bias, has no
//! reason to be small. Nothing here knows a loss.

use std::borrow::Cow;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::store::RecordError;
use burn::tensor::{Bytes, Device, ExecutionError, Tensor, TensorData};

use super::gradients;
use crate::cpu::optimiser::{self, AdamW, Parameter};
use crate::model::ops::Ops;
use crate::model::unet::Unet;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// How far a step goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSize {
    /// The learning rate.
    pub rate: f64,
    /// The decay of matrices, per unit of learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm over all parameters together.
    pub norm_max: f64,
}

/// Why what an optimiser keeps cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The device does not give a tensor back.
    #[error("{0}")]
    Device(#[from] ExecutionError),
    /// burn's does not write its record.
    #[error("the optimiser does not write its record: {0}")]
    Record(RecordError),
}

/// Why a memory cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is of another network.
    #[error("its tensors are not those of this network")]
    Network,
    /// It is of another optimiser.
    #[error("it is of another optimiser")]
    Optimiser,
    /// What burn's has written does not read.
    #[error("its optimiser's record does not read: {0}")]
    Record(RecordError),
}

/// AdamW and what it keeps from step to step.
pub enum Optimiser {
    /// Our own pass, for the processor.
    Own(Own),
    /// burn's, for any other device.
    Stock(ModuleOptimizer),
}

impl Optimiser {
    /// The one that suits a network that works by `ops`.
    pub fn new(ops: Ops, net: &Unet) -> Optimiser {
        match ops {
            Ops::Own => Optimiser::Own(Own::new(net)),
            Ops::Stock(_) => Optimiser::Stock(
                AdamWConfig::new()
                    .with_beta_1(BETA_1)
                    .with_beta_2(BETA_2)
                    .with_epsilon(EPSILON)
                    .with_weight_decay(0.0)
                    .init(),
            ),
        }
    }

    /// What the next step depends on, beside the gradients: of our own pass every parameter with its two
    /// moments, of burn's the parameters and its record.
    ///
    /// # Errors
    /// [`NotKept`] if the device cannot give a tensor back, or burn's cannot write its record.
    ///
    /// # Panics
    /// Where it is burn's and the device fails.
    pub fn kept(&self, net: &Unet) -> Result<Memory<Cow<'_, [f32]>>, NotKept> {
        match self {
            Optimiser::Own(Own { parameters, steps }) => {
                let tensors = parameters
                    .iter()
                    .flat_map(|held| [&held.weight, &held.first, &held.second])
                    .map(|values| Cow::Borrowed(values.as_slice()));
                Ok(Memory { steps: *steps, tensors: tensors.collect(), stock: None })
            }
            Optimiser::Stock(burn) => {
                let mut read = Read { ids: Vec::new(), tensors: Ok(Vec::new()) };
                net.visit(&mut read);
                let tensors = read.tensors?.into_iter().map(Cow::Owned).collect();
                let record = burn.into_bytes().map_err(NotKept::Record)?.to_vec();
                let stock = Some(Stock { ids: read.ids, record });
                Ok(Memory { steps: 0, tensors, stock })
            }
        }
    }

    /// Takes up what [`Optimiser::kept`] gave, and gives `net` its weights.
    ///
    /// # Errors
    /// [`Unfit`] if it is of another network or another optimiser, or burn's cannot read its record. Then the
    /// optimiser is of no use any more.
    ///
    /// # Panics
    /// Where it is burn's and the device fails.
    pub fn restore(
        &mut self,
        net: &mut Unet,
        Memory { steps, tensors, stock }: Memory<Vec<f32>>,
    ) -> Result<(), Unfit> {
        match (self, stock) {
            (Optimiser::Own(own), None) => own.restore(net, steps, tensors),
            (Optimiser::Stock(burn), Some(Stock { ids, record })) => {
                let mut own = Lengths(Vec::new());
                net.visit(&mut own);
                if ids.len() != tensors.len()
                    || !own.0.iter().copied().eq(tensors.iter().map(Vec::len))
                {
                    return Err(Unfit::Network);
                }
                let mut moved = Moved { weights: tensors.iter(), ids: Some(ids.into_iter()) };
                *net = net.clone().map(&mut moved);
                let read = burn.clone().from_bytes(Bytes::from_bytes_vec(record));
                *burn = read.map_err(Unfit::Record)?;
                Ok(())
            }
            _ => Err(Unfit::Optimiser),
        }
    }

    /// Moves `net` by one step and gives the norm of all gradients before it was clipped. Where that is
    /// not finite nothing is moved.
    ///
    /// # Errors
    /// [`ExecutionError`] if the device cannot give a tensor back.
    pub fn step(
        &mut self,
        net: &mut Unet,
        mut gradients: GradientsParams,
        size: StepSize,
        device: &Device,
    ) -> Result<f64, ExecutionError> {
        match self {
            Optimiser::Own(own) => own.step(net, &mut gradients, size),
            Optimiser::Stock(burn) => {
                let norm = gradients::norm(net, &gradients, device)?;
                if norm.is_finite() {
                    if norm > size.norm_max {
                        gradients::scale(net, &mut gradients, size.norm_max / norm);
                    }
                    let mut decay = Decay { keep: 1.0 - size.rate * size.weight_decay };
                    let before = match size.weight_decay {
                        0.0 => net.clone(),
                        _ => net.clone().map(&mut decay),
                    };
                    *net = burn.step(size.rate, before, gradients);
                }
                Ok(norm)
            }
        }
    }
}

/// What an optimiser and its network are made of again, in the order in which the network is visited.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory<T> {
    /// The steps taken; where burn's optimiser works its record has them.
    pub steps: u32,
    /// Weights, and what our own pass keeps of each.
    pub tensors: Vec<T>,
    /// What burn's keeps, where it works.
    pub stock: Option<Stock>,
}

/// What burn's optimiser keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    /// By what names it knows the parameters.
    pub ids: Vec<u64>,
    /// Its moments, in the form that it writes.
    pub record: Vec<u8>,
}

/// The parameters on the host, in the order in which the network is visited.
pub struct Own {
    parameters: Vec<Held>,
    /// Steps taken.
    steps: u32,
}

/// One parameter with its moments.
struct Held {
    weight: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Whether it has more than one dimension.
    decays: bool,
}

impl Own {
    fn new(net: &Unet) -> Own {
        let mut own = Own { parameters: Vec::new(), steps: 0 };
        net.visit(&mut own);
        own
    }

    fn restore(&mut self, net: &mut Unet, steps: u32, tensors: Vec<Vec<f32>>) -> Result<(), Unfit> {
        let places = self
            .parameters
            .iter_mut()
            .flat_map(|held| [&mut held.weight, &mut held.first, &mut held.second]);
        let places: Vec<&mut Vec<f32>> = places.collect();
        if !places.iter().map(|place| place.len()).eq(tensors.iter().map(Vec::len)) {
            return Err(Unfit::Network);
        }
        for (place, kept) in places.into_iter().zip(tensors) {
            *place = kept;
        }
        self.steps = steps;
        self.move_to(net);
        Ok(())
    }

    fn step(
        &mut self,
        net: &mut Unet,
        gradients: &mut GradientsParams,
        StepSize { rate, weight_decay, norm_max }: StepSize,
    ) -> Result<f64, ExecutionError> {
        let mut taken = Taken { gradients, found: Ok(Vec::with_capacity(self.parameters.len())) };
        net.visit(&mut taken);
        let found = taken.found?;
        let used = self.parameters.iter_mut().zip(&found).filter_map(|(held, gradient)| {
            let gradient = gradient.as_deref()?;
            let Held { weight, first, second, decays } = held;
            let decays = *decays;
            Some(Parameter { weight, gradient, first, second, decays, average: None })
        });
        let options = AdamW {
            rate,
            beta_1: BETA_1,
            beta_2: BETA_2,
            epsilon: EPSILON,
            weight_decay: weight_decay as f32,
            norm_max,
            average_decay: 0.0,
        };
        let norm = optimiser::step(used.collect(), &options, self.steps + 1);
        if norm.is_finite() {
            self.steps += 1;
            self.move_to(net);
        }
        Ok(norm)
    }

    /// Gives the network the weights that are here.
    fn move_to(&self, net: &mut Unet) {
        let weights = self.parameters.iter().map(|held| &held.weight);
        let mut moved = Moved { weights, ids: None };
        *net = net.clone().map(&mut moved);
    }
}

impl ModuleVisitor for Own {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A tensor that cannot be read has no values, and its gradient then has the wrong length.
        let weight = param.val().into_data().try_into_vec().unwrap_or_default();
        let zeros = vec![0.0; weight.len()];
        self.parameters.push(Held { first: zeros.clone(), second: zeros, weight, decays: D > 1 });
    }
}

/// Takes every gradient off its tensor.
struct Taken<'a> {
    gradients: &'a mut GradientsParams,
    found: Result<Vec<Option<Vec<f32>>>, ExecutionError>,
}

impl ModuleVisitor for Taken<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.remove::<D>(param.id).map(Tensor::try_into_data).transpose();
        match (gradient, &mut self.found) {
            (Ok(data), Ok(found)) => {
                found.push(data.map(|data| data.try_into_vec().unwrap_or_default()));
            }
            (Err(error), found @ Ok(_)) => *found = Err(error),
            (_, Err(_)) => {}
        }
    }
}

/// Takes every parameter's values and name.
struct Read {
    ids: Vec<u64>,
    tensors: Result<Vec<Vec<f32>>, ExecutionError>,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.ids.push(param.id.val());
        let Ok(tensors) = &mut self.tensors else { return };
        match param.val().try_into_data() {
            Ok(data) => tensors.push(data.try_into_vec().unwrap_or_default()),
            Err(error) => self.tensors = Err(error),
        }
    }
}

/// How many numbers every parameter has.
struct Lengths(Vec<usize>);

impl ModuleVisitor for Lengths {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().shape().num_elements());
    }
}

/// Gives the parameters their new values, and the names that they had before.
struct Moved<I> {
    weights: I,
    ids: Option<std::vec::IntoIter<u64>>,
}

impl<'a, I: Iterator<Item = &'a Vec<f32>>> ModuleMapper for Moved<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.weights.next() else { return param };
        let moved = param.map(|before| {
            let data = TensorData::new(values.clone(), before.dims());
            Tensor::from_data(data, &before.device()).set_require_grad(before.is_require_grad())
        });
        match self.ids.as_mut().and_then(Iterator::next) {
            Some(id) => Param::initialized(ParamId::from(id), moved.into_value()),
            None => moved,
        }
    }
}

/// Shrinks what is trained and has more than one dimension.
struct Decay {
    keep: f64,
}

impl ModuleMapper for Decay {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 || !param.val().is_require_grad() {
            return param;
        }
        let keep = self.keep;
        param.map(|before| (before.detach() * keep).detach().require_grad())
    }
}
