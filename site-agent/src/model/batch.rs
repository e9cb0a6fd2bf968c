//! What one call of the network reads, on the host. It knows no tensor library.

/// Slices with their steps and conditions.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// x_t, voided image, mask, region planes of every slice. `[batch, 9, size, size]`
    pub planes: Vec<f32>,
    /// The step of every slice. `[batch]`
    pub timesteps: Vec<usize>,
    /// The condition of every slice. `[batch, 6]`
    pub conditions: Vec<f32>,
    /// Whether a slice's condition is withheld, so that the model's null condition stands for it; empty
    /// where none is. Whoever withholds it also clears the slice's region planes. `[batch]`
    pub unconditional: Vec<bool>,
}
