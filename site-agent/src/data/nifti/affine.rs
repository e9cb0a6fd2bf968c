//! Where voxels lie: the affine of a header and the nearest order of axes that is RAS+.
//!
//! Pure arithmetic. It never touches a voxel and never trusts the order in which a file stores its
//! axes.

use crate::data::nifti::claims::Pose;
use crate::data::nifti::fault::Fault;

/// Rows of a 3x4 matrix that maps a voxel (i, j, k, 1) to RAS+ millimetres.
pub type Affine = [[f64; 4]; 3];

/// The smallest determinant that the unit vectors of the voxel axes may have. Orthogonal axes have 1, a gantry
/// tilted by 30 degrees 0.87; below this no order of axes describes the grid.
const AXES_DETERMINANT_MIN: f64 = 0.8;

/// How one canonical axis (x, y or z of RAS+) is stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The file's axis, 0 the fastest.
    pub file_axis: usize,
    /// True where the file counts against the canonical direction.
    pub flipped: bool,
}

/// A file's grid seen from RAS+.
#[derive(Clone, Debug, PartialEq)]
pub struct Orientation {
    /// For x, y and z the file's axis.
    pub axes: [Axis; 3],
    /// Voxels along x, y and z.
    pub dims: [usize; 3],
    /// Edge lengths of a voxel along x, y and z.
    pub spacing_mm: [f64; 3],
    /// The affine of the canonical voxel order.
    pub affine: Affine,
}

/// Which of a header's transforms says where the voxels lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A matrix (NIfTI-1 method 3).
    Sform,
    /// A quaternion (NIfTI-1 method 2).
    Qform,
    /// Only voxel sizes (NIfTI-1 method 1): the axes are taken to run as those of RAS+, which
    /// nobody promised.
    VoxelSizes,
}

/// The affine of a header: sform, else qform, else voxel sizes alone.
///
/// # Errors
/// [`Fault::Affine`] if the chosen transform is singular, strongly sheared or not finite.
pub(super) fn of_pose(pose: &Pose) -> Result<(Affine, Source), Fault> {
    let (affine, source) = if pose.sform_code > 0 {
        (pose.sform, Source::Sform)
    } else if pose.qform_code > 0 {
        (from_quaternion(pose), Source::Qform)
    } else {
        let [x, y, z] = voxel_sizes(pose);
        let sizes = [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]];
        (sizes, Source::VoxelSizes)
    };
    let finite = affine.iter().flatten().all(|value| value.is_finite());
    let unit = unit_columns(&affine).0;
    if finite && determinant(&unit).abs() >= AXES_DETERMINANT_MIN {
        Ok((affine, source))
    } else {
        Err(Fault::Affine)
    }
}

/// The order and direction of axes that brings a grid of `file_dims` voxels nearest to RAS+.
pub fn orientation(affine: &Affine, file_dims: [usize; 3]) -> Orientation {
    const ORDERS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let (unit, lengths) = unit_columns(affine);
    let agreement = |order: &[usize; 3]| -> f64 { (0..3).map(|w| unit[w][order[w]].abs()).sum() };
    let mut order = ORDERS[0];
    for candidate in &ORDERS[1..] {
        if agreement(candidate) > agreement(&order) {
            order = *candidate;
        }
    }
    let axes = [0, 1, 2].map(|world: usize| Axis {
        file_axis: order[world],
        flipped: unit[world][order[world]] < 0.0,
    });
    let mut canonical = [[0.0; 4]; 3];
    for (row, out) in affine.iter().zip(&mut canonical) {
        out[3] = row[3];
        for (axis, column) in axes.iter().zip(0..3) {
            let step = row[axis.file_axis];
            out[column] = if axis.flipped { -step } else { step };
            if axis.flipped {
                out[3] += step * (file_dims[axis.file_axis] - 1) as f64;
            }
        }
    }
    Orientation {
        axes,
        dims: axes.map(|axis| file_dims[axis.file_axis]),
        spacing_mm: axes.map(|axis| lengths[axis.file_axis]),
        affine: canonical,
    }
}

/// The largest distance in millimetres between where two affines put a corner of one grid.
pub fn largest_distance_mm(a: &Affine, b: &Affine, dims: [usize; 3]) -> f64 {
    let mut largest: f64 = 0.0;
    for corner in 0..8_usize {
        let index = [0, 1, 2].map(|axis| if corner >> axis & 1 == 1 { dims[axis] - 1 } else { 0 });
        let squared: f64 = (0..3)
            .map(|row| {
                let d = |c: usize| a[row][c] - b[row][c];
                let along: f64 = (0..3).map(|c| d(c) * index[c] as f64).sum();
                (along + d(3)).powi(2)
            })
            .sum();
        largest = largest.max(squared.sqrt());
    }
    largest
}

/// The qform: rotation by the unit quaternion (a, b, c, d), a >= 0, voxel sizes and qfac, the sign of
/// the third axis (NIfTI-1 method 2).
fn from_quaternion(pose: &Pose) -> Affine {
    let [b, c, d] = pose.quaternion;
    let squared = b * b + c * c + d * d;
    // Rounding to f32 may leave a vector slightly longer than 1: then a is 0 and the rest unit.
    let (a, b, c, d) = if squared > 1.0 {
        let length = squared.sqrt();
        (0.0, b / length, c / length, d / length)
    } else {
        ((1.0 - squared).sqrt(), b, c, d)
    };
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let [x, y, z] = voxel_sizes(pose);
    let z = if pose.pixdim[0] < 0.0 { -z } else { z };
    [0, 1, 2].map(|row: usize| {
        let r = rotation[row];
        [r[0] * x, r[1] * y, r[2] * z, pose.offset_mm[row]]
    })
}

/// The header's voxel sizes; the standard asks for positive ones, some writers leave a sign.
fn voxel_sizes(pose: &Pose) -> [f64; 3] {
    let [_, x, y, z] = pose.pixdim;
    [x, y, z].map(f64::abs)
}

/// The columns of the linear part scaled to length 1, and their lengths.
fn unit_columns(affine: &Affine) -> ([[f64; 3]; 3], [f64; 3]) {
    let lengths = [0, 1, 2].map(|column: usize| {
        affine.iter().map(|row| row[column] * row[column]).sum::<f64>().sqrt()
    });
    let unit = [0, 1, 2]
        .map(|row: usize| [0, 1, 2].map(|column: usize| affine[row][column] / lengths[column]));
    (unit, lengths)
}

/// The determinant of a 3x3 matrix. NaN if an axis has no length.
fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pose whose sform is the identity and not meant.
    fn pose(quaternion: [f64; 3], qfac: f64) -> Pose {
        Pose {
            sform_code: 0,
            sform: [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            qform_code: 1,
            quaternion,
            offset_mm: [0.0, 239.0, 0.0],
            pixdim: [qfac, 1.0, 1.0, 2.0],
        }
    }

    #[test]
    fn the_quaternion_of_a_half_turn_about_z_is_the_brats_affine() {
        let placed = of_pose(&pose([0.0, 0.0, 1.0], 1.0)).unwrap();
        let expected = [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 2.0, 0.0]];
        assert_eq!(placed, (expected, Source::Qform));
    }

    #[test]
    fn a_negative_qfac_turns_the_third_axis_round() {
        let (affine, _) = of_pose(&pose([0.0, 0.0, 0.0], -1.0)).unwrap();
        assert_eq!(affine[2][2], -2.0);
    }

    #[test]
    fn a_slightly_rotated_grid_takes_the_nearest_axes_and_keeps_its_real_affine() {
        let (sin, cos) = 0.1_f64.sin_cos();
        // File axes: i runs left, j up, k front.
        let affine = [[-cos, 0.0, -sin, 90.0], [-sin, 0.0, cos, -100.0], [0.0, 1.5, 0.0, -70.0]];
        let seen = orientation(&affine, [10, 20, 30]);
        assert_eq!(
            seen.axes,
            [
                Axis { file_axis: 0, flipped: true },
                Axis { file_axis: 2, flipped: false },
                Axis { file_axis: 1, flipped: false }
            ]
        );
        assert_eq!(seen.dims, [10, 30, 20]);
        for (spacing, expected) in seen.spacing_mm.into_iter().zip([1.0, 1.0, 1.5]) {
            assert!((spacing - expected).abs() < 1e-12);
        }
        // The canonical voxel (0, 0, 0) is the file voxel (9, 0, 0).
        assert!((seen.affine[0][3] - (90.0 - 9.0 * cos)).abs() < 1e-12);
        assert!((seen.affine[1][3] - (-100.0 - 9.0 * sin)).abs() < 1e-12);
    }

    #[test]
    fn a_singular_or_sheared_affine_is_refused() {
        let mut pose = Pose { sform_code: 1, ..pose([0.0; 3], 1.0) };
        assert!(of_pose(&pose).is_ok());
        for row in [[0.0; 4], [0.0, 1.0, 0.2, 0.0], [0.0, 0.0, f64::NAN, 0.0]] {
            pose.sform[2] = row;
            assert!(matches!(of_pose(&pose), Err(Fault::Affine)), "{row:?}");
        }
        pose.sform = [[0.0; 4]; 3];
        assert!(matches!(of_pose(&pose), Err(Fault::Affine)));
    }

    #[test]
    fn the_distance_of_two_affines_is_measured_at_the_worst_corner() {
        let a = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let mut b = a;
        b[2][2] = 1.01;
        assert!((largest_distance_mm(&a, &b, [5, 5, 101]) - 1.0).abs() < 1e-9);
    }
}
