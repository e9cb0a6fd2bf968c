//! What the convolutions of one training step leave behind for their weight gradients.
//!
//! On the processor burn's own weight gradient is several times dearer than the rest of a
//! convolution. So the weight is kept out of burn's graph, a leaf is added to every convolution's
//! output whose gradient is the output's, and [`super::conv_grad`] does the rest. On any other
//! device, and for any convolution that does not compute in f32, burn differentiates everything.

use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, ExecutionError, Gradients, Tensor, TensorData};

use super::conv_grad::{ConvShape, bias_gradient, weight_gradient};

/// The convolutions of one forward pass, or nothing where burn differentiates them.
#[derive(Debug)]
pub struct Tape {
    entries: Option<Vec<Entry>>,
}

/// One convolution.
#[derive(Debug)]
struct Entry {
    weight: ParamId,
    bias: ParamId,
    stride: usize,
    /// Its input, on the plain device. `[batch, in, height, width]`
    input: Tensor<4>,
    /// The bias of every pixel, a leaf of the graph. `[batch, out, height, width]`
    leaf: Tensor<4>,
}

impl Tape {
    /// A tape that records nothing: burn differentiates everything, or nothing is differentiated.
    pub fn off() -> Tape {
        Tape { entries: None }
    }

    /// The tape for training on `device`.
    pub fn for_training(device: &Device) -> Tape {
        let on = device.clone().inner() == Device::flex() && device.is_autodiff();
        Tape { entries: on.then(Vec::new) }
    }

    /// Whether convolutions leave their weights to this tape.
    pub fn records(&self) -> bool {
        self.entries.is_some()
    }

    /// Adds the bias to a convolution's `output`, remembering what its gradients need.
    pub fn add_bias(
        &mut self,
        input: Tensor<4>,
        output: Tensor<4>,
        weight: &Param<Tensor<4>>,
        bias: &Param<Tensor<1>>,
        stride: usize,
    ) -> Tensor<4> {
        let (device, shape) = (output.device(), output.dims());
        let plain = bias.val().inner().reshape([1, shape[1], 1, 1]).expand(shape);
        let leaf = Tensor::from_inner(plain).to_device(&device);
        // burn wants one strategy in an operation, and a tensor from outside has the default.
        let leaf = match output.gradient_checkpointing_strategy() {
            Some(strategy) => leaf.with_gradient_checkpointing_strategy(strategy).require_grad(),
            None => leaf.require_grad(),
        };
        if let Some(entries) = &mut self.entries {
            let (weight, bias, leaf) = (weight.id, bias.id, leaf.clone());
            entries.push(Entry { weight, bias, stride, input: input.inner(), leaf });
        }
        output + leaf
    }

    /// Adds the gradients of every recorded convolution to `params`, once the loss of the pass has
    /// been differentiated into `gradients`.
    ///
    /// # Errors
    /// [`ExecutionError`] if the device cannot give a tensor back.
    pub fn finish(
        self,
        gradients: &Gradients,
        params: &mut GradientsParams,
    ) -> Result<(), ExecutionError> {
        for entry in self.entries.into_iter().flatten() {
            // A convolution whose output the loss does not read has no gradient.
            if let Some(dy) = entry.leaf.grad(gradients) {
                entry.finish(dy, params)?;
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Registers dL/dw and dL/db for dL/dy.
    fn finish(self, dy: Tensor<4>, params: &mut GradientsParams) -> Result<(), ExecutionError> {
        let [batch, input, height, width] = self.input.dims();
        let [_, out, out_height, out_width] = dy.dims();
        let device = dy.device();
        let shape = ConvShape {
            batch,
            input,
            out,
            size: [out_height, out_width],
            input_size: [height, width],
            stride: self.stride,
        };
        let (x, dy) = (self.input.try_into_data()?, dy.try_into_data()?);
        // The processor's tensors are f32; a device with others never has a tape.
        let (Ok(x), Ok(dy)) = (x.try_into_vec::<f32>(), dy.try_into_vec::<f32>()) else {
            return Ok(());
        };
        let dw = TensorData::new(weight_gradient(&shape, &x, &dy), [out, input, 3, 3]);
        let db = TensorData::new(bias_gradient(&shape, &dy), [out]);
        params.register(self.weight, Tensor::<4>::from_data(dw, &device));
        params.register(self.bias, Tensor::<1>::from_data(db, &device));
        Ok(())
    }
}
