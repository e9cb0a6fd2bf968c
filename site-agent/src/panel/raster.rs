//! A small RGB image to draw on: rectangles, letters, PNG. It knows nothing of scans.

use font8x8::{BASIC_FONTS, UnicodeFonts};

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// Pixels along a side of a letter at scale 1.
pub(crate) const LETTER: usize = 8;

/// An image, rows from top to bottom.
pub(crate) struct Raster {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Raster {
    /// An image of one colour.
    pub(crate) fn new(width: usize, height: usize, background: Rgb) -> Raster {
        Raster { width, height, pixels: background.repeat(width * height) }
    }

    /// Images of one width below each other.
    ///
    /// # Panics
    /// If their widths differ: that is a bug of the caller.
    pub(crate) fn stacked(parts: &[Raster]) -> Raster {
        let width = parts.first().map_or(0, |part| part.width);
        assert!(parts.iter().all(|part| part.width == width), "images of one width");
        let height = parts.iter().map(|part| part.height).sum();
        let pixels = parts.iter().flat_map(|part| part.pixels.iter().copied()).collect();
        Raster { width, height, pixels }
    }

    /// Colours a pixel; what lies outside the image is left out.
    pub(crate) fn set(&mut self, x: usize, y: usize, colour: Rgb) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Colours a rectangle of `size` (width, height) with its upper left corner at `corner`.
    pub(crate) fn fill(&mut self, corner: (usize, usize), size: (usize, usize), colour: Rgb) {
        for y in corner.1..corner.1 + size.1 {
            for x in corner.0..corner.0 + size.0 {
                self.set(x, y, colour);
            }
        }
    }

    /// Writes a line of text, its upper left corner at `corner`, in letters of [`LETTER`] times
    /// `scale` pixels. What is not ASCII becomes a question mark; what does not fit is left out.
    pub(crate) fn text(&mut self, corner: (usize, usize), scale: usize, colour: Rgb, text: &str) {
        for (index, letter) in text.chars().enumerate() {
            let x = corner.0 + index * LETTER * scale;
            if x >= self.width {
                return;
            }
            let glyph = BASIC_FONTS.get(letter).or_else(|| BASIC_FONTS.get('?'));
            for (row, bits) in glyph.unwrap_or_default().into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let dot = (x + column * scale, corner.1 + row * scale);
                    self.fill(dot, (scale, scale), colour);
                }
            }
        }
    }

    /// The image as a PNG file that says of itself what it shows.
    pub(crate) fn png(&self, comment: &str) -> Result<Vec<u8>, png::EncodingError> {
        let too_large = || png::EncodingError::LimitsExceeded;
        let width = u32::try_from(self.width).map_err(|_| too_large())?;
        let height = u32::try_from(self.height).map_err(|_| too_large())?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.add_text_chunk("Comment".to_owned(), comment.to_owned())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::Raster;

    fn lit(raster: &Raster) -> usize {
        raster.pixels.chunks_exact(3).filter(|pixel| pixel[0] == 255).count()
    }

    #[test]
    fn letters_grow_with_their_scale_and_unknown_ones_are_question_marks() {
        let written = |scale, text| {
            let mut raster = Raster::new(64, 32, [0; 3]);
            raster.text((0, 0), scale, [255; 3], text);
            raster
        };
        assert_eq!(lit(&written(2, "R")), 4 * lit(&written(1, "R")));
        assert_eq!(written(1, "\u{e9}").pixels, written(1, "?").pixels);
        assert_ne!(written(1, "R").pixels, written(1, "L").pixels);
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let mut raster = Raster::new(10, 10, [0; 3]);
        raster.fill((8, 8), (5, 5), [255; 3]);
        assert_eq!(lit(&raster), 4);
        raster.text((5, 5), 3, [255; 3], "far too long a line");
    }
}
