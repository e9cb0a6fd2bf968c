//! A picture to judge inpainting by eye: one row per slice with the original, what the model was
//! given, what other methods make of it, what the model painted, and the difference. Axial slices are
//! shown as radiologists expect them: the patient's right on the left, the front on top.
//!
//! It shows scans, so it stays where they are. It never stretches a row's grey scale by what was
//! painted: all tiles of a row share the original's window.

mod raster;
pub mod sheet;

use std::io::Write;
use std::path::Path;

use crate::data::grid::{self, bounding_box, check_geometry};
use crate::data::normalise::{self, Window};
use crate::data::volume::Volume;

use self::raster::{LETTER, Raster, Rgb};

/// The most rows of a panel.
pub const ROWS_MAX: usize = 24;

/// The most voxels of a tile's longer side.
pub const TILE_VOXELS_MAX: usize = 512;

/// The least side of a tile in pixels; voxels grow by a whole factor until it is reached.
const TILE_MIN: usize = 300;

/// The difference, as a part of the grey window, that has the full colour.
const DIFFERENCE_SPAN: f64 = 0.4;

/// Space between tiles.
const GAP: usize = 12;

/// The scale of letters.
const SCALE: usize = 2;

/// The height of a line of text with its space.
const LINE: usize = LETTER * SCALE + 8;

/// The size of the colour scale under the panel.
const LEGEND: (usize, usize) = (320, 16);

/// The tiles before those of other methods, and after them.
const BEFORE: [&str; 2] = ["original", "voided"];
const AFTER: [&str; 2] = ["inpainted", "difference"];

/// The most other methods that are shown.
pub const BESIDE_MAX: usize = 6;

const PAPER: Rgb = [16, 16, 18];
const INK: Rgb = [235, 235, 235];
const FAINT: Rgb = [150, 150, 155];
const VOID: Rgb = [38, 62, 92];
const OUTLINE: Rgb = [255, 210, 60];
const SEAM: Rgb = [90, 90, 96];
const DARKER: Rgb = [60, 160, 255];
const BRIGHTER: Rgb = [255, 120, 40];

/// Why there is no panel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no rows or too many.
    #[error("a panel has 1 to {ROWS_MAX} rows, not {0}")]
    Rows(usize),
    /// A row's scan has no usable geometry.
    #[error("row {row} of the panel: {source}")]
    Geometry {
        /// Which row, from 0.
        row: usize,
        /// Why not.
        source: grid::Error,
    },
    /// The methods beside the model are not those of the first row, or too many.
    #[error(
        "row {row} of the panel: other methods beside the model than in the first row, or more than {BESIDE_MAX}"
    )]
    Beside {
        /// Which row, from 0.
        row: usize,
    },
    /// The volumes of a row do not fit together.
    #[error("row {row} of the panel: the {what} has another shape than the original")]
    Shape {
        /// Which row, from 0.
        row: usize,
        /// Which volume.
        what: &'static str,
    },
    /// A row's slice is not in its volume.
    #[error("row {row} of the panel: there is no slice {z}")]
    Slice {
        /// Which row, from 0.
        row: usize,
        /// The slice asked for.
        z: usize,
    },
    /// A row's volume is empty or too wide to draw.
    #[error("row {row} of the panel: the brain is empty or wider than {TILE_VOXELS_MAX} voxels")]
    Extent {
        /// Which row, from 0.
        row: usize,
    },
    /// A row's volume has no grey scale.
    #[error("row {row} of the panel: {source}")]
    Window {
        /// Which row, from 0.
        row: usize,
        /// Why not.
        source: normalise::Error,
    },
    /// The picture could not be encoded.
    #[error("the panel cannot be encoded: {0}")]
    Encode(#[from] png::EncodingError),
    /// The file could not be written.
    #[error("the panel cannot be written to {path}: {source}")]
    Write {
        /// Where to.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// What another method made of a row's slice.
#[derive(Clone, Debug)]
pub struct Beside {
    /// What is written above its tile.
    pub title: &'static str,
    /// The slice, in the order of the volume it is of.
    pub slice: Vec<f32>,
}

/// One slice of one scan. All volumes have the same shape.
pub struct Row<'a> {
    /// What is written above the tiles.
    pub label: String,
    /// The scan as it was.
    pub original: &'a Volume,
    /// The scan as it was inpainted.
    pub inpainted: &'a Volume,
    /// What was hidden, not 0.
    pub mask: &'a Volume,
    /// The axial slice.
    pub z: usize,
    /// What other methods made of it, the same ones in every row.
    pub beside: &'a [Beside],
}

/// Draws the rows and writes them to `path` as a PNG file, whole or not at all.
///
/// # Errors
/// [`Error`] if a row cannot be drawn or the file not be written.
pub fn write(path: &Path, rows: &[Row<'_>]) -> Result<(), Error> {
    let png = render(rows)?;
    let failed = |source| Error::Write { path: path.display().to_string(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(&png).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The rows as a PNG file in memory.
///
/// # Errors
/// [`Error`] if a row cannot be drawn.
pub fn render(rows: &[Row<'_>]) -> Result<Vec<u8>, Error> {
    if rows.is_empty() || rows.len() > ROWS_MAX {
        return Err(Error::Rows(rows.len()));
    }
    let is_other =
        |row: &Row<'_>| row.beside.len() > BESIDE_MAX || !titles(row).eq(titles(&rows[0]));
    if let Some(row) = rows.iter().position(is_other) {
        return Err(Error::Beside { row });
    }
    let views: Vec<View<'_>> =
        rows.iter().enumerate().map(|(row, r)| View::new(row, r)).collect::<Result<_, _>>()?;
    let beside: Vec<&str> = titles(&rows[0]).collect();
    let titles: Vec<&str> = BEFORE.iter().chain(&beside).chain(&AFTER).copied().collect();
    // Unwrap safety: there is at least one row.
    let column = views.iter().map(|view| view.side).max().unwrap_or(TILE_MIN);
    let width = GAP + titles.len() * (column + GAP);
    let rows_height: usize = views.iter().map(|view| LINE + view.side + GAP).sum();
    let mut raster = Raster::new(width, GAP + LINE + rows_height + 2 * LINE + GAP, PAPER);
    let left = |tile: usize| GAP + tile * (column + GAP);
    for (tile, title) in titles.iter().enumerate() {
        raster.text((left(tile), GAP), SCALE, INK, title);
    }
    let mut top = GAP + LINE;
    for view in &views {
        raster.text((GAP, top), SCALE, FAINT, &view.row.label);
        top += LINE;
        for tile in 0..titles.len() {
            view.draw(tile, (left(tile) + (column - view.side) / 2, top), &mut raster);
        }
        top += view.side + GAP;
    }
    legend(&mut raster, width, top);
    Ok(raster.png("SYNTHETIC where it was inpainted, fedpaint")?)
}

/// The titles of the methods beside the model.
fn titles<'a>(row: &Row<'a>) -> impl Iterator<Item = &'static str> + use<'a> {
    row.beside.iter().map(|beside| beside.title)
}

/// The axial slice that `mask` hides most of, the lowest if several; none if it hides nothing.
pub fn fullest_slice(mask: &Volume) -> Option<usize> {
    let hidden = |z: usize| mask.slice(z).iter().filter(|&&m| m != 0.0).count();
    (0..mask.dims[2]).rev().max_by_key(|&z| hidden(z)).filter(|&z| hidden(z) > 0)
}

/// How one row is seen: the square around the brain, and its pixels.
struct View<'a> {
    row: &'a Row<'a>,
    window: Window,
    /// Pixels along a side of a tile.
    side: usize,
    /// The edge of a pixel.
    pixel_mm: f64,
    /// The right and front border, in millimetres from the outer edge of voxel (0, 0).
    end_mm: [f64; 2],
    /// The width of lines, in pixels.
    stroke: usize,
}

impl<'a> View<'a> {
    fn new(index: usize, row: &'a Row<'a>) -> Result<View<'a>, Error> {
        let original = row.original;
        check_geometry(original).map_err(|source| Error::Geometry { row: index, source })?;
        for (what, volume) in [("inpainted scan", row.inpainted), ("mask", row.mask)] {
            if volume.dims != original.dims || volume.voxels.len() != original.voxels.len() {
                return Err(Error::Shape { row: index, what });
            }
        }
        if row.z >= original.dims[2] {
            return Err(Error::Slice { row: index, z: row.z });
        }
        let pixels = original.dims[0] * original.dims[1];
        if let Some(Beside { title, .. }) = row.beside.iter().find(|b| b.slice.len() != pixels) {
            return Err(Error::Shape { row: index, what: title });
        }
        let window = Window::of(original.voxels.iter().copied())
            .map_err(|source| Error::Window { row: index, source })?;
        let brain = bounding_box(original.dims, |i| original.voxels[i] > 0.0);
        let [x, y, _] = brain.ok_or(Error::Extent { row: index })?;
        let [sx, sy, _] = original.spacing_mm;
        let mm = |(first, last): (usize, usize), spacing: f64| (last + 3 - first) as f64 * spacing;
        let (side_mm, voxel_mm) = (mm(x, sx).max(mm(y, sy)), sx.min(sy));
        let voxels = (side_mm / voxel_mm).ceil() as usize;
        if !(1..=TILE_VOXELS_MAX).contains(&voxels) {
            return Err(Error::Extent { row: index });
        }
        let factor = TILE_MIN.div_ceil(voxels);
        let end = |(first, last): (usize, usize), spacing: f64| {
            ((first + last + 1) as f64 * spacing + voxels as f64 * voxel_mm) / 2.0
        };
        Ok(View {
            row,
            window,
            side: voxels * factor,
            pixel_mm: voxel_mm / factor as f64,
            end_mm: [end(x, sx), end(y, sy)],
            stroke: factor.div_ceil(2),
        })
    }

    /// The voxel under a pixel, if the volume reaches there.
    fn voxel(&self, column: usize, row: usize) -> Option<usize> {
        let [nx, ny, _] = self.row.original.dims;
        let along = |pixel: usize, axis: usize| {
            let mm = self.end_mm[axis] - (pixel as f64 + 0.5) * self.pixel_mm;
            (mm / self.row.original.spacing_mm[axis]).floor()
        };
        let (x, y) = (along(column, 0), along(row, 1));
        let is_inside = x >= 0.0 && y >= 0.0 && x < nx as f64 && y < ny as f64;
        is_inside.then(|| self.row.original.index(x as usize, y as usize, self.row.z))
    }

    fn is_hidden(&self, column: usize, row: usize) -> bool {
        self.voxel(column, row).is_some_and(|voxel| self.row.mask.voxels[voxel] != 0.0)
    }

    /// Whether a hidden pixel lies within a stroke of one that is not.
    fn is_outline(&self, column: usize, row: usize) -> bool {
        let step = self.stroke;
        self.is_hidden(column, row)
            && (column < step
                || row < step
                || !self.is_hidden(column - step, row)
                || !self.is_hidden(column + step, row)
                || !self.is_hidden(column, row - step)
                || !self.is_hidden(column, row + step))
    }

    fn grey(&self, value: f32) -> Rgb {
        [(255.0 * self.window.to_unit(value)).round() as u8; 3]
    }

    fn colour(&self, tile: usize, column: usize, row: usize) -> Rgb {
        let Some(voxel) = self.voxel(column, row) else { return [0; 3] };
        let Row { original, inpainted, mask, z, beside, .. } = self.row;
        let is_hidden = mask.voxels[voxel] != 0.0;
        let in_slice = voxel - original.index(0, 0, *z);
        let other = tile.checked_sub(BEFORE.len()).and_then(|at| beside.get(at));
        let painted = BEFORE.len() + beside.len();
        match tile {
            0 => self.grey(original.voxels[voxel]),
            1 if is_hidden => VOID,
            1 => self.grey(original.voxels[voxel]),
            _ if tile <= painted && self.is_outline(column, row) => OUTLINE,
            _ if tile <= painted => {
                self.grey(other.map_or(inpainted.voxels[voxel], |other| other.slice[in_slice]))
            }
            _ if self.is_outline(column, row) => SEAM,
            _ => {
                let to_unit = |volume: &Volume| self.window.to_unit(volume.voxels[voxel]);
                difference(to_unit(inpainted) - to_unit(original))
            }
        }
    }

    fn draw(&self, tile: usize, corner: (usize, usize), raster: &mut Raster) {
        for row in 0..self.side {
            for column in 0..self.side {
                let colour = self.colour(tile, column, row);
                raster.set(corner.0 + column, corner.1 + row, colour);
            }
        }
        let letter = LETTER * SCALE;
        let middle = corner.1 + (self.side - letter) / 2;
        raster.text((corner.0 + 4, middle), SCALE, FAINT, "R");
        raster.text((corner.0 + self.side - letter - 4, middle), SCALE, FAINT, "L");
    }
}

/// The colour of a difference, which is a part of the window: black is none.
fn difference(part: f64) -> Rgb {
    let strength = (part.abs() / DIFFERENCE_SPAN).min(1.0);
    let full = if part < 0.0 { DARKER } else { BRIGHTER };
    full.map(|channel| (f64::from(channel) * strength).round() as u8)
}

/// The scale of the differences, under the last column, and what the signs mean.
fn legend(raster: &mut Raster, width: usize, top: usize) {
    let left = width.saturating_sub(GAP + LEGEND.0);
    for x in 0..LEGEND.0 {
        let part = (2.0 * x as f64 / (LEGEND.0 - 1) as f64 - 1.0) * DIFFERENCE_SPAN;
        raster.fill((left + x, top), (1, LEGEND.1), difference(part));
    }
    let span = (100.0 * DIFFERENCE_SPAN).round();
    let below = top + LEGEND.1 + 6;
    let (low, high) = (format!("-{span}%"), format!("+{span}%"));
    let letter = LETTER * SCALE;
    raster.text((left, below), SCALE, FAINT, &low);
    raster.text((left + (LEGEND.0 - letter) / 2, below), SCALE, FAINT, "0");
    raster.text((left + LEGEND.0 - high.len() * letter, below), SCALE, FAINT, &high);
    raster.text((GAP, top), SCALE, FAINT, "R, L: the patient's right, left; front on top");
    let signs = "difference: inpainted - original, % of the grey scale";
    raster.text((GAP, below), SCALE, FAINT, signs);
}

#[cfg(test)]
mod tests {
    use super::{
        BRIGHTER, Beside, Error, GAP, LINE, OUTLINE, ROWS_MAX, Row, VOID, fullest_slice, render,
    };
    use crate::data::volume::Volume;

    /// A brain that is bright on the patient's right, and a mask on its left.
    fn volumes() -> [Volume; 3] {
        let dims = [30, 24, 3];
        let mut original = Volume {
            dims,
            spacing_mm: [1.0, 1.0, 4.0],
            origin_mm: [0.0; 3],
            voxels: vec![0.0; 30 * 24 * 3],
        };
        let mut mask = original.clone();
        for y in 2..22 {
            for x in 2..28 {
                let voxel = original.index(x, y, 1);
                original.voxels[voxel] = if x < 15 { 100.0 } else { 900.0 };
                mask.voxels[voxel] = f32::from(u8::from(x < 10 && (8..16).contains(&y)));
            }
        }
        let painted = original.voxels.iter().zip(&mask.voxels);
        let inpainted = original
            .with_voxels(painted.map(|(&v, &m)| if m == 1.0 { 900.0 } else { v }).collect());
        [original, inpainted, mask]
    }

    fn row([original, inpainted, mask]: &[Volume; 3]) -> Row<'_> {
        let label = "a patient, t1n, slice 1".to_owned();
        Row { label, original, inpainted, mask, z: 1, beside: &[] }
    }

    fn decoded(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, info.height as usize, pixels)
    }

    #[test]
    fn every_tile_shows_what_its_title_says() {
        let volumes = volumes();
        let (width, height, pixels) = decoded(&render(&[row(&volumes)]).unwrap());
        // 26 voxels and a border make 28, 11 times enlarged.
        let side = 28 * 11;
        assert_eq!(width, GAP + 4 * (side + GAP));
        let at = |tile: usize, x: usize, y: usize| {
            // Column 0 is the patient's right, which is the largest x; line 0 the largest y.
            let column = GAP + tile * (side + GAP) + (28 - x) * 11 + 5;
            let line = GAP + 2 * LINE + (25 - y) * 11 + 5;
            assert!(line < height);
            let at = 3 * (line * width + column);
            [pixels[at], pixels[at + 1], pixels[at + 2]]
        };
        // Inside the mask, on the patient's left: dark, hidden, painted bright, brighter.
        assert_eq!([at(0, 5, 10), at(1, 5, 10)], [[28; 3], VOID]);
        assert_eq!([at(2, 5, 10), at(3, 5, 10)], [[255; 3], BRIGHTER]);
        // Outside, on the right: bright everywhere, no difference.
        assert_eq!([at(0, 20, 10), at(1, 20, 10), at(2, 20, 10)], [[255; 3]; 3]);
        assert_eq!(at(3, 20, 10), [0; 3]);
        assert!(pixels.chunks_exact(3).any(|pixel| pixel == OUTLINE));
    }

    #[test]
    fn another_method_has_its_tile_between_what_was_hidden_and_what_the_model_painted() {
        let volumes = volumes();
        let other = |title, value| Beside { title, slice: vec![value; 30 * 24] };
        let beside = [other("dark", 100.0), other("bright", 900.0)];
        let with = |beside| Row { beside, ..row(&volumes) };
        let (width, _, pixels) = decoded(&render(&[with(&beside)]).unwrap());
        let side = 28 * 11;
        assert_eq!(width, GAP + 6 * (side + GAP));
        let in_mask = |tile: usize| {
            let (column, line) =
                (GAP + tile * (side + GAP) + 23 * 11 + 5, GAP + 2 * LINE + 15 * 11);
            pixels[3 * ((line + 5) * width + column)]
        };
        assert_eq!([0, 2, 3, 4].map(in_mask), [28, 28, 255, 255]);
        assert_eq!([1, 5].map(in_mask), [VOID[0], BRIGHTER[0]]);

        let refused = render(&[with(&beside), with(&beside[..1])]);
        assert!(matches!(refused, Err(Error::Beside { row: 1 })));
        let short = [Beside { title: "short", slice: vec![0.0; 30] }];
        assert!(matches!(render(&[with(&short)]), Err(Error::Shape { row: 0, what: "short" })));
    }

    #[test]
    fn the_fullest_slice_is_where_the_mask_is() {
        let [original, _, mask] = volumes();
        assert_eq!(fullest_slice(&mask), Some(1));
        assert_eq!(fullest_slice(&original.with_voxels(vec![0.0; original.voxels.len()])), None);
    }

    #[test]
    fn rows_that_cannot_be_drawn_are_refused() {
        let volumes = volumes();
        assert!(matches!(render(&[]), Err(Error::Rows(0))));
        let rows: Vec<Row<'_>> = (0..=ROWS_MAX).map(|_| row(&volumes)).collect();
        assert!(matches!(render(&rows), Err(Error::Rows(_))));
        let refused = render(&[row(&volumes), Row { z: 3, ..row(&volumes) }]);
        assert!(matches!(refused, Err(Error::Slice { row: 1, z: 3 })));
        let flat = volumes[0].with_voxels(vec![0.0; volumes[0].voxels.len()]);
        let refused = render(&[Row { original: &flat, ..row(&volumes) }]);
        assert!(matches!(refused, Err(Error::Window { row: 0, .. })));
        let turned = Volume { dims: [24, 30, 3], ..flat };
        let refused = render(&[Row { mask: &turned, ..row(&volumes) }]);
        assert!(matches!(refused, Err(Error::Shape { row: 0, what: "mask" })));
        let broken = Volume { spacing_mm: [0.0, 1.0, 1.0], ..volumes[0].clone() };
        let refused = render(&[Row { original: &broken, ..row(&volumes) }]);
        assert!(matches!(refused, Err(Error::Geometry { row: 0, .. })));
        let thin = Volume { spacing_mm: [0.05, 50.0, 1.0], ..volumes[0].clone() };
        let refused = render(&[Row { original: &thin, ..row(&volumes) }]);
        assert!(matches!(refused, Err(Error::Extent { row: 0 })));
    }

    #[test]
    fn a_panel_is_written_whole_or_not_at_all() {
        let volumes = volumes();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("panel.png");
        super::write(&path, &[row(&volumes)]).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(super::write(&path, &[]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(super::write(&folder.path().join("no/panel.png"), &[row(&volumes)]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
