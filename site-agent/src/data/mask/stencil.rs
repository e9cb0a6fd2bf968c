//! A shape ready to be laid into a brain, and where it may lie: within the volume, clear of what is
//! blocked, mostly on brain. Blobs, bank shapes and the official masks all pass through this test.

use super::bits::{Bits, runs, shifted};
use super::{HealthyMask, INSIDE_MIN, VOXELS_MIN};

/// A shape on the grid of a volume, cut to its own box.
pub(crate) struct Stencil {
    body: Bits,
    /// The voxel of the box that is laid on the place drawn. It may lie outside the box.
    anchor: [isize; 3],
}

/// What a stencil is laid into.
pub(crate) struct Ground<'a> {
    /// The brain.
    pub(crate) brain: &'a Bits,
    /// Where no voxel of a mask may lie.
    pub(crate) blocked: &'a Bits,
    /// Whether a shape that sticks out of the volume is cut there, or refused.
    pub(crate) is_cut_at_border: bool,
}

impl Ground<'_> {
    /// Whether a box of `dims` with its first voxel on `corner` lies within the volume.
    pub(crate) fn holds(&self, corner: [isize; 3], dims: [usize; 3]) -> bool {
        let volume = self.brain.dims();
        (0..3).all(|axis| corner[axis] >= 0 && corner[axis] as usize + dims[axis] <= volume[axis])
    }
}

/// The first voxel of a box of `dims` that has its middle on `at`.
pub(crate) fn corner(at: [usize; 3], dims: [usize; 3]) -> [isize; 3] {
    [0, 1, 2].map(|axis| at[axis] as isize - (dims[axis] / 2) as isize)
}

impl Stencil {
    /// `body` with the middle of its box as the anchor; none if it is too small to be a mask.
    pub(crate) fn centred(body: &Bits) -> Option<Stencil> {
        let middle = body.bounds()?.map(|(first, last)| (first + last).div_ceil(2));
        Stencil::anchored(body, middle)
    }

    /// `body` with the anchor at a voxel of its grid; none if it is too small to be a mask.
    pub(crate) fn anchored(body: &Bits, anchor: [usize; 3]) -> Option<Stencil> {
        let bounds = body.bounds()?;
        if body.count() < VOXELS_MIN {
            return None;
        }
        let anchor = [0, 1, 2].map(|axis| anchor[axis] as isize - bounds[axis].0 as isize);
        Some(Stencil { body: body.cropped(bounds), anchor })
    }

    /// `body` with its whole grid as its box: the official masks keep their empty border.
    pub(crate) fn boxed(body: Bits) -> Option<Stencil> {
        let anchor = corner([0; 3], body.dims()).map(|at| -at);
        (body.count() >= VOXELS_MIN).then_some(Stencil { body, anchor })
    }

    /// The mask with the anchor on voxel `at`, unless the shape touches what is blocked, lies outside
    /// the brain too much, or leaves the volume.
    pub(crate) fn lay(&self, at: [usize; 3], ground: &Ground<'_>) -> Option<HealthyMask> {
        let dims = ground.brain.dims();
        let corner = [0, 1, 2].map(|axis| at[axis] as isize - self.anchor[axis]);
        if !ground.is_cut_at_border && !ground.holds(corner, self.body.dims()) {
            return None;
        }
        let (voxels, inside) = self.overlap(corner, ground)?;
        if voxels < VOXELS_MIN || (inside as f64) < INSIDE_MIN * voxels as f64 {
            return None;
        }
        let mut mask = Vec::with_capacity(voxels);
        self.each_row(corner, dims, |y, z, row| {
            let first = dims[0] * (y + dims[1] * z);
            for (low, high) in runs(row) {
                mask.extend((first + low..=first + high).filter_map(|i| u32::try_from(i).ok()));
            }
            Some(())
        })?;
        (mask.len() == voxels).then_some(HealthyMask { voxels: mask })
    }

    /// Voxels of the laid shape, and how many of them are brain; none if any is blocked.
    fn overlap(&self, corner: [isize; 3], ground: &Ground<'_>) -> Option<(usize, usize)> {
        let (mut voxels, mut inside) = (0, 0);
        self.each_row(corner, ground.brain.dims(), |y, z, row| {
            let others = ground.blocked.row(y, z).iter().zip(ground.brain.row(y, z));
            for (word, (blocked, brain)) in row.iter().zip(others) {
                if word & blocked != 0 {
                    return None;
                }
                voxels += word.count_ones() as usize;
                inside += (word & brain).count_ones() as usize;
            }
            Some(())
        })?;
        Some((voxels, inside))
    }

    /// Visits the rows of the volume that the shape covers with the shape's bits there, until `visit`
    /// returns none.
    fn each_row(
        &self,
        corner: [isize; 3],
        dims: [usize; 3],
        mut visit: impl FnMut(usize, usize, &[u64]) -> Option<()>,
    ) -> Option<()> {
        let mut words = vec![0; dims[0].div_ceil(64)];
        let end = u64::MAX >> ((64 - dims[0] % 64) % 64);
        for ((y, z), row) in self.body.rows() {
            let at = [corner[1] + y as isize, corner[2] + z as isize].map(usize::try_from);
            let [Ok(y), Ok(z)] = at else { continue };
            if y >= dims[1] || z >= dims[2] {
                continue;
            }
            let count = words.len();
            for (at, word) in words.iter_mut().enumerate() {
                *word = shifted(row, corner[0], at) & if at + 1 == count { end } else { u64::MAX };
            }
            visit(y, z, &words)?;
        }
        Some(())
    }
}
