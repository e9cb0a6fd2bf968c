//! A 3-D image in memory, always in one orientation whatever the file's was.
//!
//! Volumes are canonical: RAS+, x grows to the patient's right, y to the front, z to the head, so an
//! axial slice is one z. Reading turns a file into this, writing turns it back ([`super::nifti`]).

/// A 3-D image, x fastest: the voxel (x, y, z) is `voxels[x + nx * (y + ny * z)]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Voxels along x, y and z.
    pub dims: [usize; 3],
    /// Edge lengths of a voxel along x, y and z.
    pub spacing_mm: [f64; 3],
    /// The centre of voxel (0, 0, 0) in RAS+ millimetres.
    pub origin_mm: [f64; 3],
    /// Intensities or labels, one per voxel.
    pub voxels: Vec<f32>,
}

impl Volume {
    /// A volume of the same geometry as `self` with the given voxels.
    ///
    /// # Panics
    /// If `voxels` does not hold one value per voxel: that is a bug of the caller.
    pub fn with_voxels(&self, voxels: Vec<f32>) -> Volume {
        assert_eq!(voxels.len(), self.voxels.len(), "one value per voxel");
        Volume { dims: self.dims, spacing_mm: self.spacing_mm, origin_mm: self.origin_mm, voxels }
    }

    /// Where voxel (x, y, z) lies in `voxels`.
    pub fn index(&self, x: usize, y: usize, z: usize) -> usize {
        x + self.dims[0] * (y + self.dims[1] * z)
    }

    /// The value of voxel (x, y, z).
    pub fn at(&self, x: usize, y: usize, z: usize) -> f32 {
        self.voxels[self.index(x, y, z)]
    }

    /// The voxels of axial slice `z`, x fastest. `[ny * nx]`
    pub fn slice(&self, z: usize) -> &[f32] {
        let area = self.dims[0] * self.dims[1];
        &self.voxels[z * area..(z + 1) * area]
    }
}
