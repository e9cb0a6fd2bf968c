//! The 3x3 convolution with padding 1.

use crate::cpu::conv::{self, Conv, Part, PartMut, Scale};
use crate::cpu::kernel::{Gradient, Kernel, View};
use crate::cpu::profile::Operation;

const COUNTS_AS: [Operation; 2] = [Operation::ConvForward, Operation::ConvBackward];

/// Inputs x `[batch, height, width, in]`, weight `[out, in, 3, 3]`, bias `[out]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv3x3 {
    /// How height and width change.
    pub scale: Scale,
}

/// As [`Conv3x3`], plus a fourth input of the output's shape that is added to it.
#[derive(Clone, Copy, Debug)]
pub struct Conv3x3Added {
    /// How height and width change.
    pub scale: Scale,
}

impl Kernel<3> for Conv3x3 {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, weight, _]: [&[usize]; 3]) -> Vec<usize> {
        out_shape(&conv_of(self.scale, x, weight))
    }

    fn forward(&self, [x, weight, bias]: [View<'_>; 3], output: &mut [f32]) {
        let conv = conv_of(self.scale, x.shape, weight.shape);
        conv::forward(&conv, &[part(&conv, x)], weight.values, bias.values, None, output);
    }

    fn backward(
        &self,
        [x, weight, _]: [View<'_>; 3],
        (): &(),
        dy: &[f32],
        wanted: [bool; 3],
    ) -> [Gradient; 3] {
        gradients(self.scale, x, weight, dy, wanted)
    }
}

impl Kernel<4> for Conv3x3Added {
    type Kept = ();
    const COUNTS_AS: [Operation; 2] = COUNTS_AS;

    fn shape(&self, [x, weight, _, _]: [&[usize]; 4]) -> Vec<usize> {
        out_shape(&conv_of(self.scale, x, weight))
    }

    fn forward(&self, [x, weight, bias, added]: [View<'_>; 4], output: &mut [f32]) {
        let conv = conv_of(self.scale, x.shape, weight.shape);
        let added = Some(added.values);
        conv::forward(&conv, &[part(&conv, x)], weight.values, bias.values, added, output);
    }

    fn backward(
        &self,
        [x, weight, _, _]: [View<'_>; 4],
        (): &(),
        dy: &[f32],
        [x_wanted, weight_wanted, bias_wanted, added_wanted]: [bool; 4],
    ) -> [Gradient; 4] {
        let wanted = [x_wanted, weight_wanted, bias_wanted];
        let [dx, dw, db] = gradients(self.scale, x, weight, dy, wanted);
        [dx, dw, db, if added_wanted { Gradient::Passed } else { Gradient::Unwanted }]
    }
}

/// The gradients of x, weight and bias.
fn gradients(
    scale: Scale,
    x: View<'_>,
    weight: View<'_>,
    dy: &[f32],
    [x_wanted, weight_wanted, bias_wanted]: [bool; 3],
) -> [Gradient; 3] {
    let conv = conv_of(scale, x.shape, weight.shape);
    let dx = Gradient::when(x_wanted, x.values.len(), |dx| {
        let dx = &mut [PartMut { values: dx, channels: conv.input }];
        conv::input_gradient(&conv, dy, weight.values, dx);
    });
    let dw = Gradient::when(weight_wanted, weight.values.len(), |dw| {
        conv::weight_gradient(&conv, &[part(&conv, x)], dy, dw);
    });
    let db = Gradient::when(bias_wanted, conv.out, |db| conv::bias_gradient(dy, db));
    [dx, dw, db]
}

fn part<'a>(conv: &Conv, x: View<'a>) -> Part<'a> {
    Part { values: x.values, channels: conv.input }
}

fn conv_of(scale: Scale, x: &[usize], weight: &[usize]) -> Conv {
    let (&[batch, height, width, input], &[out, ..]) = (x, weight) else {
        unreachable!("a convolution is of maps: {x:?} {weight:?}")
    };
    Conv { batch, input, out, size: [height, width], scale }
}

fn out_shape(conv: &Conv) -> Vec<usize> {
    let [height, width] = conv.out_size();
    vec![conv.batch, height, width, conv.out]
}
