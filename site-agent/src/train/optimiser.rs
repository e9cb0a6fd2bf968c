//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the gradient's joint norm clipped.
//!
//! On the processor it is one pass over all parameters by [`crate::cpu::optimiser`]; elsewhere burn's
//! own. Both decay matrices and kernels only: what has one dimension, a norm's scale or a bias, has no
//! reason to be small. Nothing here knows a loss.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, ExecutionError, Tensor, TensorData};

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

    /// The steps taken and every parameter with its two moments, in the order in which the network is
    /// visited. burn's own keeps them on its device; nothing is had from there.
    pub fn kept(&self) -> Option<(u32, Vec<&[f32]>)> {
        match self {
            Optimiser::Own(Own { parameters, steps }) => {
                let tensors = parameters
                    .iter()
                    .flat_map(|held| [&held.weight, &held.first, &held.second].map(Vec::as_slice));
                Some((*steps, tensors.collect()))
            }
            Optimiser::Stock(_) => None,
        }
    }

    /// Takes up what [`Optimiser::kept`] gave, and gives `net` its weights.
    ///
    /// # Panics
    /// If it is of another network, or this is burn's own: then the caller has mixed up two trainings.
    pub fn restore(&mut self, net: &mut Unet, steps: u32, tensors: Vec<Vec<f32>>) {
        let Optimiser::Own(own) = self else { panic!("burn's optimiser keeps no checkpoint") };
        own.steps = steps;
        assert_eq!(tensors.len(), 3 * own.parameters.len(), "tensors of the checkpoint");
        let mut tensors = tensors.into_iter();
        for held in &mut own.parameters {
            for place in [&mut held.weight, &mut held.first, &mut held.second] {
                let kept = tensors.next().unwrap_or_default();
                assert_eq!(kept.len(), place.len(), "numbers of a tensor of the checkpoint");
                *place = kept;
            }
        }
        own.move_to(net);
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
        let mut moved = Moved { weights: self.parameters.iter().map(|held| &held.weight) };
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

/// Gives the parameters their new values.
struct Moved<I> {
    weights: I,
}

impl<'a, I: Iterator<Item = &'a Vec<f32>>> ModuleMapper for Moved<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.weights.next() else { return param };
        param.map(|before| {
            let data = TensorData::new(values.clone(), before.dims());
            Tensor::from_data(data, &before.device()).set_require_grad(before.is_require_grad())
        })
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
