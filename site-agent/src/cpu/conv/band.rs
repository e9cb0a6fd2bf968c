//! Pieces of images with zeros around them, so that a kernel's taps need no special case at an
//! edge; and the pieces of a result, which threads write side by side.
//!
//! A piece is copied once into memory that stays in the second-level cache. The copy is where
//! parts are joined and pixels repeated, so that neither exists as a tensor.

use super::{Part, PartMut};

/// Images as a convolution reads them.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) parts: &'a [Part<'a>],
    /// Of all parts.
    pub(super) channels: usize,
    /// Height and width as stored.
    pub(super) size: [usize; 2],
    /// Whether every pixel stands for two by two.
    pub(super) doubled: bool,
}

/// A rectangle of one image's pixels, which may reach over its edges.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) image: usize,
    /// How many rows and columns the window starts above and left of `first`.
    pub(super) border: usize,
    /// Row and column.
    pub(super) first: [usize; 2],
    /// Rows and columns, the border included.
    pub(super) size: [usize; 2],
}

impl Source<'_> {
    /// Copies `window` to `to` `[rows, columns, channels]`; what lies outside of the image is zero.
    pub(super) fn copy(&self, window: &Window, to: &mut [f32]) {
        let [rows, columns] = window.size;
        let scale = if self.doubled { 2 } else { 1 };
        let [height, width] = self.size.map(|edge| edge * scale);
        for (row, to) in to.chunks_exact_mut(columns * self.channels).take(rows).enumerate() {
            let y = (window.first[0] + row).wrapping_sub(window.border);
            if y >= height {
                to.fill(0.0);
                continue;
            }
            // The columns of the window that lie in the image.
            let before = window.border.saturating_sub(window.first[1]).min(columns);
            let x = window.first[1] + before - window.border;
            let count = (columns - before).min(width.saturating_sub(x));
            let inside = before * self.channels..(before + count) * self.channels;
            to[..inside.start].fill(0.0);
            to[inside.end..].fill(0.0);
            self.copy_row(
                (window.image * self.size[0] + y / scale) * self.size[1],
                x,
                &mut to[inside],
            );
        }
    }

    /// Copies pixels from column `x` on of the row whose first pixel is the `row`th stored.
    fn copy_row(&self, row: usize, x: usize, to: &mut [f32]) {
        if let ([part], false) = (self.parts, self.doubled) {
            to.copy_from_slice(&part.values[(row + x) * self.channels..][..to.len()]);
            return;
        }
        let mut offset = 0;
        for part in self.parts {
            let channels = part.channels;
            for (j, to) in to.chunks_exact_mut(self.channels).enumerate() {
                let column = if self.doubled { (x + j) / 2 } else { x + j };
                let pixel = &part.values[(row + column) * channels..][..channels];
                to[offset..offset + channels].copy_from_slice(pixel);
            }
            offset += channels;
        }
    }
}

/// Some rows of one image of a result.
pub(super) struct Band<'a> {
    pub(super) image: usize,
    /// The first of the rows.
    pub(super) row: usize,
    /// The rows of each part, and the part's channels.
    pub(super) parts: Vec<(&'a mut [f32], usize)>,
}

/// Cuts the parts of a result into bands of `rows` rows; the last of an image may have fewer.
pub(super) fn bands<'a>(
    parts: &'a mut [PartMut<'_>],
    [height, width]: [usize; 2],
    rows: usize,
) -> Vec<Band<'a>> {
    let mut bands: Vec<Band<'a>> = Vec::new();
    for (at, part) in parts.iter_mut().enumerate() {
        let row_len = width * part.channels;
        let images = part.values.chunks_mut((height * row_len).max(1)).enumerate();
        let cut = images.flat_map(|(image, values)| {
            let bands = values.chunks_mut((rows * row_len).max(1)).enumerate();
            bands.map(move |(k, values)| (image, k * rows, values))
        });
        for (k, (image, row, values)) in cut.enumerate() {
            if at == 0 {
                bands.push(Band { image, row, parts: Vec::with_capacity(1) });
            }
            bands[k].parts.push((values, part.channels));
        }
    }
    bands
}
