//! The healthy head: tissue fractions of Colin27, seen through a patient's warp.
//!
//! The template is part of the program (its notice lies beside it). Nothing here knows a tumour.

use crate::data::nifti;
use crate::data::nifti::fault::Fault;
use crate::phantom::grid::{Grid, Point};
use crate::phantom::warp::Warp;

/// Fractions of white matter, grey matter and cerebrospinal fluid in a voxel; together at most 1.
pub type Fractions = [f32; 3];

/// Places in [`Fractions`].
pub const WHITE: usize = 0;
/// See [`WHITE`].
pub const GREY: usize = 1;
/// See [`WHITE`].
pub const FLUID: usize = 2;

/// From this sum of fractions on, a voxel belongs to the brain.
pub const BRAIN_FRACTION_MIN: f32 = 0.5;

/// The grid of the template, 2 mm over the whole BraTS frame.
pub const TEMPLATE_GRID: Grid = Grid { dims: [120, 120, 78], edge_mm: 2.0, first_mm: [0.5; 3] };

/// A grid of half as many voxels along each axis, over the same frame.
const COARSE_GRID: Grid = Grid { dims: [60, 60, 39], edge_mm: 4.0, first_mm: [1.5; 3] };

/// From this voxel size on, an image shows nothing that the coarse grid does not.
const COARSE_FROM_MM: f32 = 5.0;

const WHITE_FILE: &[u8] = include_bytes!("../../assets/colin27-wm-2mm.nii.gz");
const GREY_FILE: &[u8] = include_bytes!("../../assets/colin27-gm-2mm.nii.gz");
const FLUID_FILE: &[u8] = include_bytes!("../../assets/colin27-csf-2mm.nii.gz");

/// The tissue fractions of the template on [`TEMPLATE_GRID`].
#[derive(Clone, Debug)]
pub struct Template {
    fractions: Vec<Fractions>,
}

impl Template {
    /// Unpacks the template.
    ///
    /// # Errors
    /// A [`Fault`] if the files built into the program are damaged or have another grid.
    pub fn new() -> Result<Template, Fault> {
        let mut fractions = vec![[0.0; 3]; TEMPLATE_GRID.voxels()];
        for (tissue, file) in [WHITE_FILE, GREY_FILE, FLUID_FILE].into_iter().enumerate() {
            let volume = nifti::decode(file)?.volume;
            if volume.dims != TEMPLATE_GRID.dims {
                return Err(Fault::Shape { expected: TEMPLATE_GRID.dims, found: volume.dims });
            }
            for (voxel, value) in fractions.iter_mut().zip(volume.voxels) {
                voxel[tissue] = value;
            }
        }
        Ok(Template { fractions })
    }

    /// The fractions at a point of the template.
    pub fn at(&self, point: Point) -> Fractions {
        TEMPLATE_GRID.around(point).of_vectors(&self.fractions)
    }
}

/// The grid on which the tumour of an image with voxels of `edge_mm` grows.
pub fn growth_grid(edge_mm: f32) -> Grid {
    if edge_mm < COARSE_FROM_MM { TEMPLATE_GRID } else { COARSE_GRID }
}

/// The fractions of a patient on `grid`. `[grid.voxels()]`
pub fn fractions(template: &Template, warp: &Warp, grid: &Grid) -> Vec<Fractions> {
    let at = |i| template.at(warp.template_point(grid.centre(grid.voxel(i))));
    (0..grid.voxels()).map(at).collect()
}

/// The smallest part of `grid` that holds the brain, widened by `margin_mm` where the grid goes on,
/// as its lowest and highest voxel. `patient` are the fractions on `coarse`.
pub fn brain_box(
    patient: &[Fractions],
    coarse: &Grid,
    grid: &Grid,
    margin_mm: f32,
) -> ([usize; 3], [usize; 3]) {
    let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
    for (i, voxel) in patient.iter().enumerate() {
        if voxel.iter().sum::<f32>() >= BRAIN_FRACTION_MIN / 2.0 {
            let place = grid.place(coarse.centre(coarse.voxel(i)));
            for a in 0..3 {
                low[a] = low[a].min(place[a]);
                high[a] = high[a].max(place[a]);
            }
        }
    }
    let margin = margin_mm / grid.edge_mm;
    let last = grid.dims.map(|n| (n - 1) as f32);
    // A conversion from float to integer saturates, so an empty brain is the whole grid's corner.
    let low = [0, 1, 2].map(|a: usize| (low[a] - margin).floor().clamp(0.0, last[a]) as usize);
    let high = [0, 1, 2].map(|a: usize| (high[a] + margin).ceil().clamp(0.0, last[a]) as usize);
    (low, [0, 1, 2].map(|a: usize| high[a].max(low[a])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_brain_of_human_size() {
        let template = Template::new().unwrap();
        let volume_l =
            |tissue: usize| template.fractions.iter().map(|f| f[tissue]).sum::<f32>() * 8.0 / 1e6;
        assert!((0.3..0.8).contains(&volume_l(WHITE)), "{}", volume_l(WHITE));
        assert!((0.4..1.0).contains(&volume_l(GREY)), "{}", volume_l(GREY));
        assert!((0.1..0.5).contains(&volume_l(FLUID)), "{}", volume_l(FLUID));
        assert!(template.fractions.iter().all(|f| f.iter().sum::<f32>() <= 1.05));
    }

    #[test]
    fn the_templates_files_lie_on_the_brats_frame() {
        for file in [WHITE_FILE, GREY_FILE, FLUID_FILE] {
            let scan = nifti::decode(file).unwrap();
            assert_eq!(scan.geometry.axis_codes(), "LPS");
            // RAS+ x runs from -238.5, which is 0.5 in the frame.
            assert_eq!(scan.volume.origin_mm, [-238.5, 0.5, 0.5]);
            assert_eq!(scan.volume.spacing_mm, [2.0; 3]);
        }
    }
}
