//! Makes operations of burn of [`Kernel`]s, on the processor's back end and under its autodiff.
//!
//! The only file that knows both. A tensor on another device never comes here: the caller takes
//! burn's own operations there.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::kernel::{Gradient, Kernel, View};
use super::profile::measure;

/// A back end whose tensors are slices of this process.
pub trait Slices: Backend {
    /// The tensor with its values in the order of its dimensions.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The values of a contiguous tensor.
    fn values(tensor: &FloatTensor<Self>) -> &[f32];

    /// A tensor of these values.
    fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FloatTensor<Self>;
}

/// A back end that runs kernels; the arities are those that the network needs.
#[backend_extension(Autodiff, Flex)]
pub trait Kernels: Backend {
    /// Runs a kernel of one tensor.
    fn run_1<K: Kernel<1>>(kernel: K, a: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Runs a kernel of three tensors.
    fn run_3<K: Kernel<3>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Runs a kernel of four tensors.
    fn run_4<K: Kernel<4>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// `kernel` of one tensor on the processor.
pub fn run_1<K: Kernel<1>, const A: usize, const R: usize>(kernel: K, a: Tensor<A>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::run_1(kernel, a.into_dispatch()))
}

/// `kernel` of three tensors on the processor.
pub fn run_3<K: Kernel<3>, const A: usize, const B: usize, const C: usize, const R: usize>(
    kernel: K,
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
) -> Tensor<R> {
    let (a, b, c) = (a.into_dispatch(), b.into_dispatch(), c.into_dispatch());
    Tensor::from_dispatch(Dispatch::run_3(kernel, a, b, c))
}

/// `kernel` of four tensors on the processor.
pub fn run_4<
    K: Kernel<4>,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const R: usize,
>(
    kernel: K,
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
    d: Tensor<D>,
) -> Tensor<R> {
    let (a, b) = (a.into_dispatch(), b.into_dispatch());
    Tensor::from_dispatch(Dispatch::run_4(kernel, a, b, c.into_dispatch(), d.into_dispatch()))
}

impl Slices for Flex {
    fn contiguous(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
        if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
    }

    fn values(tensor: &FloatTensor<Flex>) -> &[f32] {
        // Training and sampling on the processor are in f32 throughout; an empty slice of any other
        // type fails the kernel's length check.
        tensor.as_slice().unwrap_or_default()
    }

    fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FloatTensor<Flex> {
        FloatTensor::<Flex>::from_data(TensorData::new(values, shape))
    }
}

impl Kernels for Flex {
    fn run_1<K: Kernel<1>>(kernel: K, a: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self, K, 1>(&kernel, [a]).0
    }

    fn run_3<K: Kernel<3>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        forward::<Self, K, 3>(&kernel, [a, b, c]).0
    }

    fn run_4<K: Kernel<4>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        forward::<Self, K, 4>(&kernel, [a, b, c, d]).0
    }
}

impl<B: Slices, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn run_1<K: Kernel<1>>(kernel: K, a: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, C, K, 1>(kernel, [a])
    }

    fn run_3<K: Kernel<3>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        tracked::<B, C, K, 3>(kernel, [a, b, c])
    }

    fn run_4<K: Kernel<4>>(
        kernel: K,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        tracked::<B, C, K, 4>(kernel, [a, b, c, d])
    }
}

/// Runs the forward pass.
fn forward<B: Slices, K: Kernel<N>, const N: usize>(
    kernel: &K,
    inputs: [FloatTensor<B>; N],
) -> (FloatTensor<B>, K::Kept) {
    let inputs = inputs.map(B::contiguous);
    let shapes = inputs.each_ref().map(|input| input.shape().to_vec());
    let shape = kernel.shape(shapes.each_ref().map(Vec::as_slice));
    let mut output = vec![0.0; shape.iter().product()];
    let views = views::<B, N>(&inputs, &shapes);
    let kept = measure(K::COUNTS_AS[0], || kernel.forward(views, &mut output));
    (B::tensor(output, shape), kept)
}

/// The inputs as a kernel reads them.
fn views<'a, B: Slices, const N: usize>(
    inputs: &'a [FloatTensor<B>; N],
    shapes: &'a [Vec<usize>; N],
) -> [View<'a>; N] {
    std::array::from_fn(|i| View { shape: &shapes[i], values: B::values(&inputs[i]) })
}

/// Runs the forward pass and, if any input has a gradient, remembers what the backward pass needs.
fn tracked<B: Slices, C: CheckpointStrategy, K: Kernel<N>, const N: usize>(
    kernel: K,
    inputs: [FloatTensor<Autodiff<B, C>>; N],
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    let plain = || inputs.each_ref().map(|input| input.primitive().clone());
    let step = Step::<K, N> { kernel: kernel.clone() };
    match Backward::<B, N>::prepare::<C>(step, nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut preparation) => {
            let (output, kept) = forward::<B, K, N>(&kernel, plain());
            let inputs = inputs.each_ref().map(|input| preparation.checkpoint(input));
            preparation.finish(State { kept, inputs }, output)
        }
        OpsKind::UnTracked(preparation) => {
            preparation.finish(forward::<B, K, N>(&kernel, plain()).0)
        }
    }
}

/// The backward pass of one kernel's run.
#[derive(Debug)]
struct Step<K, const N: usize> {
    kernel: K,
}

/// What a backward pass needs.
#[derive(Clone, Debug)]
struct State<T, const N: usize> {
    kept: T,
    inputs: [NodeId; N],
}

impl<B: Slices, K: Kernel<N>, const N: usize> Backward<B, N> for Step<K, N> {
    type State = State<K::Kept, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let dy = B::contiguous(gradients.consume::<B>(&ops.node));
        let State { kept, inputs } = ops.state;
        let inputs =
            inputs.map(|id| B::contiguous(checkpointer.retrieve_node_output::<FloatTensor<B>>(id)));
        let shapes = inputs.each_ref().map(|input| input.shape().to_vec());
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let views = views::<B, N>(&inputs, &shapes);
        let found =
            measure(K::COUNTS_AS[1], || self.kernel.backward(views, &kept, B::values(&dy), wanted));
        for ((parent, gradient), shape) in ops.parents.into_iter().zip(found).zip(shapes) {
            let gradient = match gradient {
                Gradient::Unwanted => continue,
                Gradient::Passed => dy.clone(),
                Gradient::Values(values) => B::tensor(values, shape),
            };
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}
