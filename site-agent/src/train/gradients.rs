//! What is done to all gradients of a step together, before the optimiser has them.
//!
//! Visitors over the network's parameters: nothing here knows a loss or an optimiser.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, ExecutionError, Tensor};

use crate::model::unet::Unet;

/// The norm of all gradients together.
///
/// # Errors
/// [`ExecutionError`] if the device cannot give it back.
pub fn norm(
    net: &Unet,
    gradients: &GradientsParams,
    device: &Device,
) -> Result<f64, ExecutionError> {
    let total = Tensor::zeros([1, 1], &device.clone().inner());
    let mut squares = Squares { gradients, total };
    net.visit(&mut squares);
    let square = squares.total.try_into_data()?.convert::<f64>().try_into_vec::<f64>();
    // What cannot be read as a number is not finite.
    Ok(square.unwrap_or_default().first().map_or(f64::NAN, |square| square.sqrt()))
}

/// Multiplies every gradient by one factor.
pub fn scale(net: &Unet, gradients: &mut GradientsParams, factor: f64) {
    net.visit(&mut Scale { gradients, factor });
}

/// Moves the gradients that `from` has to `to`, and adds them to what is there.
pub fn add(net: &Unet, from: &mut GradientsParams, to: &mut GradientsParams) {
    net.visit(&mut Add { from, to });
}

/// Where a round began: the parameters of its base model, on the plain device.
#[derive(Debug)]
pub struct Anchor {
    parameters: Vec<Tensor<1>>,
}

impl Anchor {
    /// The parameters of `net` as they are.
    pub fn new(net: &Unet) -> Anchor {
        let mut collect = Collect { parameters: Vec::new() };
        net.visit(&mut collect);
        Anchor { parameters: collect.parameters }
    }

    /// Adds the gradient of mu / 2 |w - w_base|^2, which keeps a site near the model that all began
    /// from (FedProx: Li et al. 2020, arXiv 1812.06127, eq. 2).
    pub fn pull(&self, net: &Unet, gradients: &mut GradientsParams, mu: f64) {
        net.visit(&mut Pull { base: self.parameters.iter(), gradients, mu });
    }
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    total: Tensor<2>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let count = gradient.shape().num_elements();
            let flat: Tensor<2> = gradient.reshape([1, count]);
            self.total = self.total.clone() + (flat.clone() * flat).sum_dim(1);
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}

struct Add<'a> {
    from: &'a mut GradientsParams,
    to: &'a mut GradientsParams,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.from.remove::<D>(param.id) {
            let sum = match self.to.remove::<D>(param.id) {
                Some(before) => before + gradient,
                None => gradient,
            };
            self.to.register(param.id, sum);
        }
    }
}

struct Collect {
    parameters: Vec<Tensor<1>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().inner();
        let count = values.shape().num_elements();
        self.parameters.push(values.reshape([count]));
    }
}

/// Visits parameters in the order in which [`Collect`] did.
struct Pull<'a> {
    base: std::slice::Iter<'a, Tensor<1>>,
    gradients: &'a mut GradientsParams,
    mu: f64,
}

impl ModuleVisitor for Pull<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // What is not trained is where it began.
        let trained = |_: &&Tensor<1>| param.val().is_require_grad();
        if let Some(base) = self.base.next().filter(trained) {
            let here = param.val().inner();
            let shape = here.dims();
            let pull = (here - base.clone().reshape(shape)) * self.mu;
            // A parameter that the step did not use has no gradient, and is pulled all the same.
            let gradient = match self.gradients.remove::<D>(param.id) {
                Some(gradient) => gradient + pull,
                None => pull,
            };
            self.gradients.register(param.id, gradient);
        }
    }
}
