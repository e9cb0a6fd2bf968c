//! The kernels of this folder as operations with their derivatives: what each reads, gives and keeps.

pub mod attention;
pub mod conv;
pub mod linear;
pub mod norm;
pub mod pointwise;
