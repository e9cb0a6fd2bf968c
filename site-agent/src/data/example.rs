//! What the model learns from: one masked slice with its condition.

/// The classes a region can be painted as, in the order of the model's region channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Apparently normal tissue.
    Healthy = 0,
    /// Necrotic tumour core.
    Necrosis = 1,
    /// Peritumoral oedema.
    Oedema = 2,
    /// Enhancing tumour.
    Enhancing = 3,
    /// Any mix of the three tumour components.
    Mixed = 4,
    /// The flag of a bounding box: the model chooses the contour inside it.
    Box = 5,
}

/// The number of region channels.
pub const REGIONS: usize = 6;

/// The length of the condition vector y: one-hot contrast (t1n, t1c, t2w, t2f), the slice's height
/// within the brain from 0 to 1, and 1 if tumour is visible outside the mask.
pub const CONDITIONS: usize = 6;

/// One slice of `size` x `size` pixels. Every plane is row-major, x fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The true slice x_0 in [-1, 1], background -1. `[size * size]`
    pub image: Vec<f32>,
    /// 1 where the model paints, 0 where the image is known. `[size * size]`
    pub mask: Vec<f32>,
    /// What to paint where, 0 or 1 per [`Region`]. `[REGIONS * size * size]`
    pub regions: Vec<f32>,
    /// 1 where the truth is known and the loss counts; never outside `mask`. `[size * size]`
    pub loss_mask: Vec<f32>,
    /// The condition vector y.
    pub condition: [f32; CONDITIONS],
}
