//! The voxels of a series: its pixels, scaled and stacked.

use crate::data::dicom::file;
use crate::data::dicom::folder::Series;
use crate::data::dicom::frame::{Frame, Scale};
use crate::data::dicom::pixels;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::stack::Grid;

/// A series in memory, in the order of its slices.
#[derive(Clone, Debug, PartialEq)]
pub struct Voxels {
    /// Where they lie.
    pub grid: Grid,
    /// Real values, columns fastest, then rows, then slices.
    pub values: Vec<f32>,
    /// The scale of all slices, where they have one.
    pub scale: Option<Scale>,
}

/// Reads a series.
///
/// # Errors
/// A [`Refusal`] of the stack, of a file, or of its pixels.
pub fn read(series: &Series) -> Result<Voxels, Refusal> {
    let grid = series.grid()?;
    let area = grid.dims[0] * grid.dims[1];
    let mut slice_of = vec![0; grid.order.len()];
    grid.order.iter().enumerate().for_each(|(slice, &plane)| slice_of[plane] = slice);
    let mut slice_of = slice_of.into_iter();
    let mut values = vec![0.0; area * grid.order.len()];
    let mut scales: Vec<Scale> = Vec::new();
    for instance in &series.instances {
        let image = instance.image.as_ref().map_err(Clone::clone)?;
        let object = file::whole(&instance.path)?;
        let bytes = pixels::bytes(&object, &image.storage, area * image.frames.len())?;
        let raws = bytes.chunks_exact(area * image.storage.bytes());
        for ((&Frame { scale, .. }, raw), slice) in image.frames.iter().zip(raws).zip(&mut slice_of)
        {
            let voxels = &mut values[slice * area..(slice + 1) * area];
            pixels::scale_into(raw, &image.storage, scale, voxels);
            scales.push(scale);
        }
    }
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => {}
        count => return Err(Refusal::NotFinite(count)),
    }
    let scale = scales.first().copied().filter(|first| scales.iter().all(|scale| scale == first));
    Ok(Voxels { grid, values, scale })
}
