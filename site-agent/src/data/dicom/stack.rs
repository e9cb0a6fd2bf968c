//! From the planes of a series to one grid: order, spacing, and where it lies. PURE.
//!
//! Slices are ordered by where they lie along their normal, never by file name or instance number, and
//! their spacing is the distance of their positions, never SliceThickness. Coordinates come in as
//! DICOM has them (LPS: x to the left, y to the back) and leave as NIfTI has them (RAS).

use crate::data::dicom::limits::{
    DIRECTION_TOLERANCE, FRAMES_MAX, SAME_POSITION_MM, SIDEWAYS_MM, SLICES_MIN, SPACING_TOLERANCE,
};
use crate::data::dicom::refusal::Refusal;
use crate::data::nifti::affine::Affine;
use crate::data::nifti::limits::{AXIS_VOXELS_MAX, VOXELS_MAX};

/// Where the pixels of one frame lie (PS3.3 C.7.6.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plane {
    /// Pixels of a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
    /// The centre of the first pixel, LPS. ImagePositionPatient.
    pub position_mm: [f64; 3],
    /// The unit vector along a row, LPS. First half of ImageOrientationPatient.
    pub across: [f64; 3],
    /// The unit vector along a column, LPS. Second half of ImageOrientationPatient.
    pub down: [f64; 3],
    /// The distance of neighbours along a row, then along a column: PixelSpacing, turned round.
    pub spacing_mm: [f64; 2],
}

/// The grid that the planes of a series make up.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Columns, rows, slices.
    pub dims: [usize; 3],
    /// (column, row, slice, 1) to RAS+ millimetres.
    pub affine: Affine,
    /// For each slice, in order along the normal, which plane it is.
    pub order: Vec<usize>,
}

impl Grid {
    /// Edge lengths of a voxel along a row, a column and the normal.
    pub fn spacing_mm(&self) -> [f64; 3] {
        [0, 1, 2].map(|axis: usize| length([0, 1, 2].map(|row: usize| self.affine[row][axis])))
    }
}

/// The grid of a series.
///
/// # Errors
/// A [`Refusal`] if the planes are no evenly spaced, straight stack of equal slices.
pub fn grid(planes: &[Plane]) -> Result<Grid, Refusal> {
    if planes.len() > FRAMES_MAX {
        return Err(Refusal::TooManyFrames(planes.len()));
    }
    let [first, ..] = planes else { return Err(Refusal::TooFewSlices(0)) };
    let normal = check_alike(planes, first)?;
    if planes.len() < SLICES_MIN {
        return Err(Refusal::TooFewSlices(planes.len()));
    }
    let dims = [first.columns, first.rows, planes.len()];
    let voxels = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    if dims.iter().any(|&dim| dim > AXIS_VOXELS_MAX) || voxels.is_none_or(|n| n > VOXELS_MAX) {
        return Err(Refusal::TooManyVoxels(dims));
    }
    let height = |plane: usize| dot(planes[plane].position_mm, normal);
    let mut order: Vec<usize> = (0..planes.len()).collect();
    order.sort_by(|&a, &b| height(a).total_cmp(&height(b)));
    check_steps(&order.iter().map(|&plane| height(plane)).collect::<Vec<f64>>())?;
    check_straight(&order, planes, normal)?;
    let (low, high) = (order[0], order[order.len() - 1]);
    let steps = (order.len() - 1) as f64;
    let rise = difference(planes[high].position_mm, planes[low].position_mm);
    let columns = [
        first.across.map(|unit| unit * first.spacing_mm[0]),
        first.down.map(|unit| unit * first.spacing_mm[1]),
        rise.map(|distance| distance / steps),
        planes[low].position_mm,
    ];
    let affine = [0, 1, 2].map(|row: usize| {
        let sign = if row == 2 { 1.0 } else { -1.0 };
        columns.map(|column| sign * column[row])
    });
    Ok(Grid { dims, affine, order })
}

/// That all planes have the size, spacing and direction of the first. Their normal.
fn check_alike(planes: &[Plane], first: &Plane) -> Result<[f64; 3], Refusal> {
    let unit = |v: [f64; 3]| (length(v) - 1.0).abs() <= DIRECTION_TOLERANCE;
    let orthogonal = dot(first.across, first.down).abs() <= DIRECTION_TOLERANCE;
    if !unit(first.across) || !unit(first.down) || !orthogonal {
        return Err(Refusal::Attribute("ImageOrientationPatient"));
    }
    if first.spacing_mm.iter().any(|&spacing| spacing <= 0.0) {
        return Err(Refusal::Attribute("PixelSpacing"));
    }
    let near = |a: [f64; 3], b: [f64; 3]| {
        difference(a, b).iter().all(|change| change.abs() <= DIRECTION_TOLERANCE)
    };
    for plane in planes {
        if (plane.columns, plane.rows) != (first.columns, first.rows) {
            return Err(Refusal::SizeChanges);
        }
        if !near(plane.across, first.across) || !near(plane.down, first.down) {
            return Err(Refusal::OrientationChanges);
        }
        let changed =
            |axis: usize| (plane.spacing_mm[axis] / first.spacing_mm[axis] - 1.0).abs() > 1e-3;
        if changed(0) || changed(1) {
            return Err(Refusal::PixelSpacingChanges);
        }
    }
    let normal = cross(first.across, first.down);
    Ok(normal.map(|component| component / length(normal)))
}

/// That sorted heights are distinct and evenly spaced.
fn check_steps(heights: &[f64]) -> Result<(), Refusal> {
    let mut steps: Vec<f64> = heights.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let same = steps.iter().filter(|&&step| step < SAME_POSITION_MM).count();
    if same > 0 {
        return Err(Refusal::DuplicatePosition(same));
    }
    let mean = steps.iter().sum::<f64>() / steps.len() as f64;
    let apart = |step: &f64| (step / mean - 1.0).abs();
    let worst = steps.iter().map(apart).fold(0.0, f64::max);
    if worst <= SPACING_TOLERANCE {
        return Ok(());
    }
    // Steps that are multiples of the smallest are holes in an even stack.
    steps.sort_by(f64::total_cmp);
    let multiple = |step: f64| (step / steps[0]).round();
    let whole = |&step: &f64| (step / (multiple(step) * steps[0]) - 1.0).abs() <= SPACING_TOLERANCE;
    if steps.iter().all(whole) {
        let missing: f64 = steps.iter().map(|&step| multiple(step) - 1.0).sum();
        return Err(Refusal::MissingSlices(missing as usize));
    }
    Err(Refusal::UnevenSpacing(worst))
}

/// That the positions run along the normal: a stack of a tilted gantry is sheared.
fn check_straight(order: &[usize], planes: &[Plane], normal: [f64; 3]) -> Result<(), Refusal> {
    let start = planes[order[0]].position_mm;
    for &plane in &order[1..] {
        let step = difference(planes[plane].position_mm, start);
        let along = dot(step, normal);
        let sideways = length(difference(step, normal.map(|component| component * along)));
        if sideways > SIDEWAYS_MM.max(SPACING_TOLERANCE * along) {
            return Err(Refusal::Tilt(sideways.atan2(along).to_degrees()));
        }
    }
    Ok(())
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn difference(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn length(v: [f64; 3]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five oblique slices, 2.5 mm apart, in a shuffled order.
    fn planes() -> Vec<Plane> {
        let (sin, cos) = 0.3_f64.sin_cos();
        let (across, down) = ([cos, sin, 0.0], [-sin * 0.6, cos * 0.6, -0.8]);
        let normal = cross(across, down);
        let plane = |slice: usize| Plane {
            columns: 7,
            rows: 6,
            position_mm: [0, 1, 2].map(|i: usize| 10.0 + 2.5 * slice as f64 * normal[i]),
            across,
            down,
            spacing_mm: [0.9, 0.8],
        };
        [3, 0, 4, 1, 2].map(plane).to_vec()
    }

    #[test]
    fn slices_are_ordered_by_their_position_along_the_normal() {
        let grid = grid(&planes()).unwrap();
        assert_eq!(grid.order, [1, 3, 4, 0, 2]);
        assert_eq!(grid.dims, [7, 6, 5]);
        for (found, expected) in grid.spacing_mm().into_iter().zip([0.9, 0.8, 2.5]) {
            assert!((found - expected).abs() < 1e-9);
        }
        // LPS to RAS: x and y change sign, z does not.
        let origin = [0, 1, 2].map(|row: usize| grid.affine[row][3]);
        assert_eq!(origin, [-10.0, -10.0, 10.0]);
    }

    #[test]
    fn each_defect_of_a_stack_is_refused_by_its_own_name() {
        let refused = |change: fn(&mut Vec<Plane>)| {
            let mut planes = planes();
            change(&mut planes);
            grid(&planes).unwrap_err()
        };
        assert_eq!(refused(|p| p.truncate(2)), Refusal::TooFewSlices(2));
        assert_eq!(refused(Vec::clear), Refusal::TooFewSlices(0));
        assert_eq!(refused(|p| p[0] = p[1]), Refusal::DuplicatePosition(1));
        // Without slice 1 the stack has a hole; without slice 0 it is only shorter.
        let hole = refused(|p| {
            p.remove(3);
        });
        assert_eq!(hole, Refusal::MissingSlices(1));
        assert_eq!(refused(|p| p[2].rows = 5), Refusal::SizeChanges);
        assert_eq!(refused(|p| p[2].spacing_mm[1] = 0.81), Refusal::PixelSpacingChanges);
        assert_eq!(refused(|p| p[2].across = [1.0, 0.0, 0.0]), Refusal::OrientationChanges);
        let bad_axes = refused(|p| p.iter_mut().for_each(|p| p.down = p.across));
        assert_eq!(bad_axes, Refusal::Attribute("ImageOrientationPatient"));
        let uneven = refused(|p| {
            let normal = cross(p[0].across, p[0].down);
            (0..3).for_each(|i| p[4].position_mm[i] += 0.1 * normal[i]);
        });
        assert!(matches!(uneven, Refusal::UnevenSpacing(by) if (0.03..0.05).contains(&by)));
        let tilted = refused(|p| {
            for (plane, slice) in p.iter_mut().zip([3.0, 0.0, 4.0, 1.0, 2.0]) {
                (0..3).for_each(|i| plane.position_mm[i] += slice * plane.down[i]);
            }
        });
        assert!(matches!(tilted, Refusal::Tilt(degrees) if (21.0..22.5).contains(&degrees)));
        let wide = refused(|p| p.iter_mut().for_each(|p| p.rows = 70_000));
        assert_eq!(wide, Refusal::TooManyVoxels([7, 70_000, 5]));
        assert_eq!(refused(|p| *p = vec![p[0]; 5_000]), Refusal::TooManyFrames(5_000));
    }
}
