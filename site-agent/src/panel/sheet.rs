//! A contact sheet: a row per case, a tile per picture, to see at a glance whether scans, labels and
//! masks are what they should be.
//!
//! It draws one row at a time, so that one case at a time is in memory. Axial slices lie as
//! radiologists expect them: the patient's right on the left, the front on top. It shows scans, so it
//! stays where they are.

use super::raster::{LETTER, Raster, Rgb};
use super::{FAINT, GAP, INK, LINE, PAPER, SCALE};
use crate::data::example::Region;
use crate::data::grid::{self, bounding_box, check_geometry};
use crate::data::normalise::{self, Window};
use crate::data::volume::Volume;

/// The side of a tile in pixels, whatever the size of the head.
const TILE: usize = 240;

/// Space between the brain and the tile's edge, as a part of the brain's larger side.
const MARGIN: f64 = 0.04;

/// The most lines that a reason is written on.
const REASON_LINES_MAX: usize = 3;

/// How much of a label's colour is laid over the scan inside its outline.
const TINT: f64 = 0.38;

/// The distance of the hatching's lines, and their width, in pixels.
const HATCH: (usize, usize) = (7, 2);

const HIDDEN: Rgb = [70, 225, 235];
const BAD: Rgb = [255, 120, 90];
const TILE_PAPER: Rgb = [0, 0, 0];
const EMPTY: Rgb = [24, 24, 27];
const ABSENT: Rgb = [70, 70, 76];
const VOID: Rgb = [20, 20, 24];
const VOID_LINE: Rgb = [110, 110, 118];

/// What colours mean, in the order of the legend.
const LEGEND: [(Rgb, &str); 5] = [
    (colour(Region::Necrosis), "necrosis"),
    (colour(Region::Oedema), "oedema"),
    (colour(Region::Enhancing), "enhancing"),
    (colour(Region::Mixed), "lesion"),
    (HIDDEN, "healthy mask"),
];

/// The colour of a region, as in the pictures of MBTI.
const fn colour(region: Region) -> Rgb {
    match region {
        Region::Healthy | Region::Box => HIDDEN,
        Region::Necrosis => [235, 60, 60],
        Region::Oedema => [70, 205, 90],
        Region::Enhancing => [75, 125, 255],
        Region::Mixed => [250, 215, 60],
    }
}

/// Why a row cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scan has no usable geometry.
    #[error(transparent)]
    Geometry(#[from] grid::Error),
    /// The scan has no grey scale.
    #[error(transparent)]
    Window(#[from] normalise::Error),
    /// There is nothing to look at.
    #[error("the scan is empty: every voxel is 0")]
    Empty,
}

/// The part of a head that is seen, one for all tiles of a row so that they lie over each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    side_mm: f64,
    /// The right and front border, in millimetres from the middle of voxel (0, 0).
    end_mm: [f64; 2],
}

impl Frame {
    /// The square round the brain of `image`, of which 0 is background.
    ///
    /// # Errors
    /// [`Error`] if it is empty or its geometry unusable.
    pub fn around(image: &Volume) -> Result<Frame, Error> {
        check_geometry(image)?;
        let bounds = bounding_box(image.dims, |i| image.voxels[i] > 0.0).ok_or(Error::Empty)?;
        let mm = |a: usize, voxels: usize| voxels as f64 * image.spacing_mm[a];
        let [width, depth] = [0, 1].map(|a: usize| mm(a, bounds[a].1 - bounds[a].0 + 1));
        let side_mm = width.max(depth) * (1.0 + 2.0 * MARGIN);
        let end_mm = [0, 1].map(|a: usize| (mm(a, bounds[a].0 + bounds[a].1) + side_mm) / 2.0);
        Ok(Frame { side_mm, end_mm })
    }
}

/// One picture: an axial slice with something on it. Every voxel of what is drawn over it lies on the
/// scan's grid.
pub struct Tile<'a> {
    /// What is written above it.
    pub title: String,
    /// The scan.
    pub image: &'a Volume,
    /// The axial slice; the last one if there are fewer.
    pub z: usize,
    /// What is drawn over it.
    pub overlay: Overlay<'a>,
}

/// What is drawn over a slice. Each slice of voxels is as long as the scan's.
pub enum Overlay<'a> {
    /// Nothing.
    None,
    /// Outlined and tinted regions.
    Lesion(&'a [Option<Region>]),
    /// What a training example hides: a healthy mask, outlined, and the lesion, hatched.
    Hidden {
        /// The voxels of the healthy mask, ascending.
        mask: &'a [u32],
        /// The lesion, if there is one.
        lesion: Option<&'a [Option<Region>]>,
    },
}

/// What a row shows.
pub enum Content<'a> {
    /// Tiles by column; a column may have none.
    Tiles(Frame, Vec<Option<Tile<'a>>>),
    /// Why there are none.
    Bad(String),
}

/// A sheet that is being drawn.
pub struct Sheet {
    columns: usize,
    rows: Vec<Raster>,
}

impl Sheet {
    /// An empty sheet of `columns` tiles a row.
    pub fn new(columns: usize) -> Sheet {
        Sheet { columns: columns.max(1), rows: Vec::new() }
    }

    /// Draws the row of one case under its name.
    ///
    /// # Errors
    /// [`Error`] if a scan cannot be drawn; then the sheet is as it was.
    pub fn draw(&mut self, name: &str, content: &Content<'_>) -> Result<(), Error> {
        let row = match content {
            Content::Tiles(frame, tiles) => {
                let mut row = self.raster(2 * LINE + TILE + 2 * GAP);
                for (column, tile) in tiles.iter().take(self.columns).enumerate() {
                    let corner = (GAP + column * (TILE + GAP), 2 * LINE);
                    match tile {
                        Some(tile) => draw_tile(frame, tile, corner, &mut row)?,
                        None => absent(corner, &mut row),
                    }
                }
                row.text((GAP, 4), SCALE, INK, name);
                row
            }
            Content::Bad(reason) => {
                let lines = wrapped(&format!("set aside: {reason}"), self.letters());
                let mut row = self.raster((1 + lines.len()) * LINE + 2 * GAP);
                row.text((GAP, 4), SCALE, INK, name);
                for (i, line) in lines.iter().enumerate() {
                    row.text((GAP, (1 + i) * LINE), SCALE, BAD, line);
                }
                row
            }
        };
        self.rows.push(row);
        Ok(())
    }

    /// The sheet as a PNG file, with a line that says what was left out and a legend.
    ///
    /// # Errors
    /// If it is too large for the format.
    pub fn png(mut self, note: &str) -> Result<Vec<u8>, png::EncodingError> {
        let mut legend = self.raster(3 * LINE);
        let mut x = GAP;
        for (colour, name) in LEGEND {
            legend.fill((x, 2), (LETTER * SCALE, LETTER * SCALE), colour);
            legend.text((x + LETTER * SCALE + 6, 2), SCALE, FAINT, name);
            x += (name.len() + 2) * LETTER * SCALE + 12;
        }
        hatch((x, 2), LETTER * SCALE, &mut legend);
        legend.text((x + LETTER * SCALE + 6, 2), SCALE, FAINT, "voided lesion");
        legend.text((GAP, 2 + LINE), SCALE, FAINT, "R, L: the patient's right, left; front on top");
        legend.text((GAP, 2 + 2 * LINE), SCALE, FAINT, note);
        self.rows.insert(0, self.raster(GAP));
        self.rows.push(legend);
        Raster::stacked(&self.rows).png("scans, labels and masks, fedpaint")
    }

    fn raster(&self, height: usize) -> Raster {
        // A single column still has room for names and the legend.
        Raster::new(GAP + self.columns.max(4) * (TILE + GAP), height, PAPER)
    }

    /// How many letters fit in a line.
    fn letters(&self) -> usize {
        self.columns.max(4) * (TILE + GAP) / (LETTER * SCALE)
    }
}

/// The axial slice with most lesion, else the middle one of the brain; none if all is empty.
pub fn best_slice(image: &Volume, lesion: Option<&[Option<Region>]>) -> Option<usize> {
    let area = image.dims[0] * image.dims[1];
    let most = lesion.and_then(|lesion| {
        let count = |slice: &[Option<Region>]| slice.iter().filter(|r| r.is_some()).count();
        let counts = lesion.chunks_exact(area.max(1)).map(count).enumerate();
        // The lowest of equals: `max_by_key` alone would take the highest.
        counts.rev().max_by_key(|&(_, count)| count).filter(|&(_, count)| count > 0)
    });
    most.map(|(z, _)| z).or_else(|| {
        let [_, _, (low, high)] = bounding_box(image.dims, |i| image.voxels[i] > 0.0)?;
        Some(low.midpoint(high))
    })
}

/// Words of `text` on lines of at most `letters`, the last of [`REASON_LINES_MAX`] cut off.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > letters {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.truncate(REASON_LINES_MAX);
    lines
}

/// Where the pixels of a tile lie in a slice.
struct View<'a> {
    image: &'a Volume,
    z: usize,
    frame: Frame,
}

impl View<'_> {
    /// A pixel in units of voxels from the middle of voxel (0, 0).
    fn place(&self, column: usize, row: usize) -> [f64; 2] {
        let pixel_mm = self.frame.side_mm / TILE as f64;
        let mm = [column, row].map(|pixel| (pixel as f64 + 0.5) * pixel_mm);
        [0, 1].map(|a: usize| (self.frame.end_mm[a] - mm[a]) / self.image.spacing_mm[a])
    }

    /// The voxel nearest to a pixel, if the scan reaches there.
    fn voxel(&self, column: usize, row: usize) -> Option<usize> {
        let [x, y] = self.place(column, row).map(f64::round);
        let [nx, ny, _] = self.image.dims;
        let is_inside = x >= 0.0 && y >= 0.0 && x < nx as f64 && y < ny as f64;
        is_inside.then(|| self.image.index(x as usize, y as usize, self.z))
    }

    /// The intensity at a pixel, between the four voxels around it; beyond the scan it is 0.
    fn intensity(&self, column: usize, row: usize) -> f32 {
        let place = self.place(column, row);
        let low = place.map(f64::floor);
        let mut sum = 0.0;
        for corner in 0..4_usize {
            let (mut weight, mut at) = (1.0, [0; 2]);
            for a in 0..2 {
                let upper = (corner >> a & 1) as f64;
                let along = place[a] - low[a];
                weight *= if upper > 0.0 { along } else { 1.0 - along };
                let voxel = low[a] + upper;
                if voxel < 0.0 || voxel >= self.image.dims[a] as f64 {
                    weight = 0.0;
                } else {
                    at[a] = voxel as usize;
                }
            }
            sum += weight as f32 * self.image.at(at[0], at[1], self.z);
        }
        sum
    }
}

fn draw_tile(
    frame: &Frame,
    tile: &Tile<'_>,
    corner: (usize, usize),
    raster: &mut Raster,
) -> Result<(), Error> {
    check_geometry(tile.image)?;
    let view = View { image: tile.image, z: tile.z.min(tile.image.dims[2] - 1), frame: *frame };
    // Of the brain alone: with the background in it, as in training, its bright parts would be white.
    let brain = Window::of(tile.image.voxels.iter().copied().filter(|&v| v > 0.0))?;
    let window = Window { low: 0.0, ..brain };
    let region = |column: usize, row: usize| -> Option<Region> {
        let voxel = view.voxel(column, row)?;
        match &tile.overlay {
            Overlay::None => None,
            Overlay::Lesion(lesion) => lesion[voxel],
            Overlay::Hidden { mask, lesion } => {
                let is_hidden = u32::try_from(voxel).is_ok_and(|v| mask.binary_search(&v).is_ok());
                let lesion = lesion.and_then(|lesion| lesion[voxel]).map(|_| Region::Mixed);
                if is_hidden { Some(Region::Healthy) } else { lesion }
            }
        }
    };
    let is_masks = matches!(tile.overlay, Overlay::Hidden { .. });
    for row in 0..TILE {
        for column in 0..TILE {
            let unit = window.to_unit(view.intensity(column, row));
            let grey = [(255.0 * unit).round() as u8; 3];
            let here = region(column, row);
            let differs = |c: usize, r: usize| region(c.min(TILE - 1), r.min(TILE - 1)) != here;
            let is_outline = here.is_some()
                && (differs(column + 1, row)
                    || differs(column, row + 1)
                    || differs(column.saturating_sub(1), row)
                    || differs(column, row.saturating_sub(1)));
            let pixel = (corner.0 + column, corner.1 + row);
            match here {
                None => raster.set(pixel.0, pixel.1, if unit > 0.0 { grey } else { TILE_PAPER }),
                Some(Region::Mixed) if is_masks => raster.set(pixel.0, pixel.1, hatched(pixel)),
                Some(region) if is_outline => raster.set(pixel.0, pixel.1, colour(region)),
                Some(region) => raster.set(pixel.0, pixel.1, tinted(grey, colour(region))),
            }
        }
    }
    raster.text((corner.0, corner.1 - LINE + 4), SCALE, FAINT, &tile.title);
    let letter = LETTER * SCALE;
    let middle = corner.1 + (TILE - letter) / 2;
    raster.text((corner.0 + 3, middle), SCALE, FAINT, "R");
    raster.text((corner.0 + TILE - letter - 3, middle), SCALE, FAINT, "L");
    Ok(())
}

/// A tile without a picture.
fn absent(corner: (usize, usize), raster: &mut Raster) {
    const WORD: &str = "none";
    let indent = (TILE - WORD.len() * LETTER * SCALE) / 2;
    raster.fill(corner, (TILE, TILE), EMPTY);
    let middle = (corner.0 + indent, corner.1 + (TILE - LETTER * SCALE) / 2);
    raster.text(middle, SCALE, ABSENT, WORD);
}

/// Grey with a little of a colour.
fn tinted(grey: Rgb, over: Rgb) -> Rgb {
    [0, 1, 2].map(|k: usize| {
        ((1.0 - TINT) * f64::from(grey[k]) + TINT * f64::from(over[k])).round() as u8
    })
}

/// The colour of a pixel of the hatching.
fn hatched((x, y): (usize, usize)) -> Rgb {
    if (x + y) % HATCH.0 < HATCH.1 { VOID_LINE } else { VOID }
}

fn hatch(corner: (usize, usize), side: usize, raster: &mut Raster) {
    for (x, y) in (0..side).flat_map(|x| (0..side).map(move |y| (corner.0 + x, corner.1 + y))) {
        raster.set(x, y, hatched((x, y)));
    }
}

#[cfg(test)]
mod tests;
