//! The same linear map of channels at every pixel.

use crate::cpu::conv;
use crate::cpu::conv::pointwise::{forward, input_gradient, weight_gradient};
use crate::cpu::kernel::{Gradient, Kernel, View};
use crate::cpu::profile::Operation;

const COUNTS_AS: [Operation; 2] = [Operation::PointwiseForward, Operation::PointwiseBackward];

/// Inputs x `[…, in]`, weight `[out, in]`, bias `[out]`.
#[derive(Clone, Copy, Debug)]
pub struct Pointwise;

/// As [`Pointwise`], plus a fourth input of the output's shape that is added to it.
#[derive(Clone, Copy, Debug)]
pub struct PointwiseAdded;

/// As [`Pointwise`] for the channels of two maps together: a, b, weight, bias.
#[derive(Clone, Copy, Debug)]
pub struct PointwiseJoined;

impl Kernel<3> for Pointwise {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, weight, _]: [&[usize]; 3]) -> Vec<usize> {
        out_shape(x, weight)
    }

    fn forward(&self, [x, weight, bias]: [View<'_>; 3], output: &mut [f32]) {
        forward(widths(weight), x.values, weight.values, bias.values, None, output);
    }

    fn backward(
        &self,
        [x, weight, _]: [View<'_>; 3],
        (): &(),
        dy: &[f32],
        wanted: [bool; 3],
    ) -> [Gradient; 3] {
        gradients(x, weight, dy, wanted)
    }
}

impl Kernel<4> for PointwiseAdded {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, weight, _, _]: [&[usize]; 4]) -> Vec<usize> {
        out_shape(x, weight)
    }

    fn forward(&self, [x, weight, bias, added]: [View<'_>; 4], output: &mut [f32]) {
        let added = Some(added.values);
        forward(widths(weight), x.values, weight.values, bias.values, added, output);
    }

    fn backward(
        &self,
        [x, weight, _, _]: [View<'_>; 4],
        (): &(),
        dy: &[f32],
        [x_wanted, weight_wanted, bias_wanted, added_wanted]: [bool; 4],
    ) -> [Gradient; 4] {
        let [dx, dw, db] = gradients(x, weight, dy, [x_wanted, weight_wanted, bias_wanted]);
        [dx, dw, db, if added_wanted { Gradient::Passed } else { Gradient::Unwanted }]
    }
}

impl Kernel<4> for PointwiseJoined {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [a, _, weight, _]: [&[usize]; 4]) -> Vec<usize> {
        out_shape(a, weight)
    }

    fn forward(&self, [a, b, weight, bias]: [View<'_>; 4], output: &mut [f32]) {
        let [of_a, of_b] = columns(a, weight);
        let out = bias.values.len();
        let mut first = vec![0.0; output.len()];
        forward([of_a.len() / out, out], a.values, &of_a, bias.values, None, &mut first);
        let none = vec![0.0; out];
        forward([of_b.len() / out, out], b.values, &of_b, &none, Some(&first), output);
    }

    fn backward(
        &self,
        [a, b, weight, bias]: [View<'_>; 4],
        (): &(),
        dy: &[f32],
        [a_wanted, b_wanted, weight_wanted, bias_wanted]: [bool; 4],
    ) -> [Gradient; 4] {
        let [of_a, of_b] = columns(a, weight);
        let out = bias.values.len();
        let [a_widths, b_widths] = [&of_a, &of_b].map(|weight| [weight.len() / out, out]);
        let da = Gradient::when(a_wanted, a.values.len(), |da| {
            input_gradient(a_widths, dy, &of_a, da);
        });
        let db = Gradient::when(b_wanted, b.values.len(), |db| {
            input_gradient(b_widths, dy, &of_b, db);
        });
        let dw = Gradient::when(weight_wanted, weight.values.len(), |dw| {
            let mut parts = [&of_a, &of_b].map(|weight| vec![0.0; weight.len()]);
            weight_gradient(a_widths, a.values, dy, &mut parts[0]);
            weight_gradient(b_widths, b.values, dy, &mut parts[1]);
            let rows = dw.chunks_exact_mut(a_widths[0] + b_widths[0]);
            let parts = parts[0].chunks_exact(a_widths[0]).zip(parts[1].chunks_exact(b_widths[0]));
            for (row, (a, b)) in rows.zip(parts) {
                row[..a.len()].copy_from_slice(a);
                row[a.len()..].copy_from_slice(b);
            }
        });
        [da, db, dw, Gradient::when(bias_wanted, out, |db| conv::bias_gradient(dy, db))]
    }
}

/// The gradients of x, weight and bias.
fn gradients(
    x: View<'_>,
    weight: View<'_>,
    dy: &[f32],
    [x_wanted, weight_wanted, bias_wanted]: [bool; 3],
) -> [Gradient; 3] {
    let [input, out] = widths(weight);
    let dx = Gradient::when(x_wanted, x.values.len(), |dx| {
        input_gradient([input, out], dy, weight.values, dx);
    });
    let dw = Gradient::when(weight_wanted, weight.values.len(), |dw| {
        weight_gradient([input, out], x.values, dy, dw);
    });
    [dx, dw, Gradient::when(bias_wanted, out, |db| conv::bias_gradient(dy, db))]
}

/// The columns of the weight that belong to the first map, and those that belong to the second.
fn columns(first: View<'_>, weight: View<'_>) -> [Vec<f32>; 2] {
    let ([input, _], width) = (widths(weight), first.shape.last().copied().unwrap_or_default());
    let rows = || weight.values.chunks_exact(input);
    let cut = |from: usize, to: usize| rows().flat_map(|row| &row[from..to]).copied().collect();
    [cut(0, width), cut(width, input)]
}

/// Channels in and out.
fn widths(weight: View<'_>) -> [usize; 2] {
    let &[out, input] = weight.shape else { unreachable!("a weight has two sizes") };
    [input, out]
}

fn out_shape(x: &[usize], weight: &[usize]) -> Vec<usize> {
    let mut shape = x.to_vec();
    if let (Some(width), Some(&out)) = (shape.last_mut(), weight.first()) {
        *width = out;
    }
    shape
}
