//! The number type that convolutions and the large matrix products compute in.
//!
//! Parameters, normalisations, softmax, embeddings, the loss and the optimiser are f32 whatever is
//! chosen: a sum over thousands of values, or a step of a millionth of a weight, does not fit eight
//! or eleven bits (Micikevicius et al. 2018, arXiv 1710.03740). On a GPU the short types are faster
//! and halve what a convolution keeps of its input; on the processor they are emulated, which is
//! for tests and never faster.

use burn::tensor::{Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// The number type of convolutions and large matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 24 bits of mantissa, on every device.
    #[default]
    F32,
    /// 8 bits of mantissa and the range of f32. WGSL has no such type: it needs `cuda`, or a GPU on
    /// which the build's back end can compute in it.
    Bf16,
    /// 11 bits of mantissa and a range up to 65,504: gradients need a loss scale, see
    /// [`crate::train::scaling`].
    F16,
}

/// Why a device cannot compute so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device cannot compute in {}, choose {}", .0.name(), .0.instead())]
pub struct Unsupported(pub Precision);

impl Precision {
    /// Every precision there is.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// Whether `device` can compute so.
    ///
    /// # Errors
    /// [`Unsupported`] if it cannot.
    pub fn check(self, device: &Device) -> Result<(), Unsupported> {
        // Every device computes in f32; asking would open it.
        let can = self == Precision::F32 || device.supports_dtype(self.dtype());
        if can { Ok(()) } else { Err(Unsupported(self)) }
    }

    /// `x` in this precision; in f32 the tensor itself.
    pub fn lower<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Precision::F32 => x,
            Precision::Bf16 | Precision::F16 => x.cast(self.dtype()),
        }
    }

    /// A result of lowered operands in f32 again.
    pub fn widen<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Precision::F32 => x,
            Precision::Bf16 | Precision::F16 => x.cast(FloatDType::F32),
        }
    }

    /// The product of two f32 matrices, or of two stacks of them, taken in this precision.
    pub fn matmul(self, a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
        self.widen(self.lower(a).matmul(self.lower(b)))
    }

    fn instead(self) -> &'static str {
        match self {
            Precision::F32 => "another device",
            Precision::Bf16 => "f16 or f32",
            Precision::F16 => "bf16 or f32",
        }
    }

    fn dtype(self) -> FloatDType {
        match self {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
            Precision::F16 => FloatDType::F16,
        }
    }
}
