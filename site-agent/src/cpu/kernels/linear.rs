//! The same linear map of every row: what makes a step or a condition a modulation.

use crate::cpu::kernel::{Gradient, Kernel, View};
use crate::cpu::linear::{self, LinearShape};
use crate::cpu::profile::Operation;

/// Inputs x `[rows, in]`, weight `[out, in]`, bias `[out]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

impl Kernel<3> for Linear {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = [Operation::PointwiseForward, Operation::PointwiseBackward];

    fn shape(&self, [x, weight, _]: [&[usize]; 3]) -> Vec<usize> {
        let shape = shape_of(x, weight);
        vec![shape.rows, shape.out]
    }

    fn forward(&self, [x, weight, bias]: [View<'_>; 3], output: &mut [f32]) {
        let shape = shape_of(x.shape, weight.shape);
        linear::forward(&shape, x.values, weight.values, bias.values, output);
    }

    fn backward(
        &self,
        [x, weight, bias]: [View<'_>; 3],
        (): &(),
        dy: &[f32],
        _: [bool; 3],
    ) -> [Gradient; 3] {
        let shape = shape_of(x.shape, weight.shape);
        let [mut dx, mut dw, mut db] = [x, weight, bias].map(|of| vec![0.0; of.values.len()]);
        linear::backward(&shape, x.values, weight.values, dy, &mut dx, [&mut dw, &mut db]);
        [dx, dw, db].map(Gradient::Values)
    }
}

fn shape_of(x: &[usize], weight: &[usize]) -> LinearShape {
    let (&[rows, input], &[out, _]) = (x, weight) else {
        unreachable!("a linear map is of rows: {x:?} {weight:?}")
    };
    LinearShape { rows, input, out }
}
