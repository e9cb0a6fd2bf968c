//! What a contact sheet shows where.

use super::*;

/// A brain that is bright on the patient's right; voxels twice as deep as wide.
fn brain() -> Volume {
    let dims = [40, 20, 3];
    let mut image =
        Volume { dims, spacing_mm: [1.0, 2.0, 4.0], origin_mm: [0.0; 3], voxels: vec![0.0; 2400] };
    for (x, y) in (4..36).flat_map(|x| (2..18).map(move |y| (x, y))) {
        let voxel = image.index(x, y, 1);
        image.voxels[voxel] = if x < 20 { 100.0 } else { 900.0 };
    }
    image
}

fn lesion(image: &Volume) -> Vec<Option<Region>> {
    let mut lesion = vec![None; image.voxels.len()];
    for (x, y) in (8..14).flat_map(|x| (5..9).map(move |y| (x, y))) {
        lesion[image.index(x, y, 1)] = Some(Region::Oedema);
    }
    lesion
}

fn decoded(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}

fn tile<'a>(image: &'a Volume, overlay: Overlay<'a>) -> Option<Tile<'a>> {
    Some(Tile { title: "a".to_owned(), image, z: 1, overlay })
}

#[test]
fn every_column_shows_its_picture() {
    let image = brain();
    let lesion = lesion(&image);
    let mask: Vec<u32> = (24..30).map(|x| image.index(x, 10, 1) as u32).collect();
    let tiles = vec![
        tile(&image, Overlay::None),
        tile(&image, Overlay::Lesion(&lesion)),
        tile(&image, Overlay::Hidden { mask: &mask, lesion: Some(&lesion) }),
        None,
    ];
    let mut sheet = Sheet::new(4);
    sheet.draw("case", &Content::Tiles(Frame::around(&image).unwrap(), tiles)).unwrap();
    let (width, height, pixels) = decoded(&sheet.png("a note").unwrap());
    assert_eq!(width, GAP + 4 * (TILE + GAP));
    let at = |column: usize, x: f64, y: f64| {
        // The frame is 32 mm and a margin of 4 % to both sides; its middle is at (19.5, 19) mm.
        let pixel = |middle: f64, mm: f64| ((middle - mm) / (32.0 * 1.08) + 0.5) * TILE as f64;
        let left = GAP + column * (TILE + GAP) + pixel(19.5, x) as usize;
        let top = GAP + 2 * LINE + pixel(19.0, 2.0 * y) as usize;
        assert!(top < height);
        let at = 3 * (top * width + left);
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    };
    // The patient's right is the larger x, and brighter.
    assert_eq!(at(0, 30.0, 10.0), [255; 3]);
    let dark = at(0, 10.0, 10.0);
    assert!(dark[0] < 60 && dark[0] == dark[2], "{dark:?}");
    assert_eq!(at(0, 3.0, 1.0), TILE_PAPER);
    // Oedema is green, more so on its outline.
    let inside = at(1, 11.0, 7.0);
    assert!(inside[1] > inside[0] + 20 && inside != colour(Region::Oedema), "{inside:?}");
    assert_eq!(at(1, 10.0, 8.45), colour(Region::Oedema));
    // Where training hides the lesion nothing of the scan is seen.
    assert!([VOID, VOID_LINE].contains(&at(2, 11.0, 7.0)));
    assert_eq!(at(2, 27.0, 10.45), HIDDEN);
    assert_eq!(at(3, 10.0, 10.0), EMPTY);
}

#[test]
fn a_bad_case_is_a_row_with_its_reason_and_the_others_are_drawn() {
    let image = brain();
    let mut sheet = Sheet::new(2);
    let reason = "the scan is truncated ".repeat(40);
    sheet.draw("bad", &Content::Bad(reason)).unwrap();
    let frame = Frame::around(&image).unwrap();
    sheet.draw("good", &Content::Tiles(frame, vec![tile(&image, Overlay::None)])).unwrap();
    let (_, height, pixels) = decoded(&sheet.png("").unwrap());
    let bad = (1 + REASON_LINES_MAX) * LINE + 2 * GAP;
    assert_eq!(height, GAP + bad + 2 * LINE + TILE + 2 * GAP + 3 * LINE);
    assert!(pixels.chunks_exact(3).any(|pixel| pixel == BAD));
    assert!(pixels.chunks_exact(3).any(|pixel| pixel == [255; 3]));
}

#[test]
fn a_row_that_cannot_be_drawn_leaves_the_sheet_as_it_was() {
    let image = brain();
    let frame = Frame::around(&image).unwrap();
    let flat = image.with_voxels(vec![7.0; image.voxels.len()]);
    let mut sheet = Sheet::new(2);
    let tiles = vec![tile(&image, Overlay::None), tile(&flat, Overlay::None)];
    assert!(sheet.draw("x", &Content::Tiles(frame, tiles)).is_err());
    assert!(sheet.rows.is_empty());
    let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
    assert!(matches!(Frame::around(&empty), Err(Error::Empty)));
}

#[test]
fn the_slice_shown_has_most_lesion_or_lies_in_the_middle_of_the_brain() {
    let image = brain();
    let mut lesion = vec![None; image.voxels.len()];
    assert_eq!(best_slice(&image, None), Some(1));
    assert_eq!(best_slice(&image, Some(&lesion)), Some(1));
    lesion[image.index(3, 3, 2)] = Some(Region::Mixed);
    assert_eq!(best_slice(&image, Some(&lesion)), Some(2));
    let empty = image.with_voxels(vec![0.0; image.voxels.len()]);
    assert_eq!(best_slice(&empty, None), None);
}

#[test]
fn a_long_reason_is_wrapped_at_words() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("incomprehensible", 7), ["incomprehensible"]);
    assert_eq!(wrapped("a b c d e", 1).len(), REASON_LINES_MAX);
}
