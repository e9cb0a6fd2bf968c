//! Shapes of tumours, the bank they make, and the ends of the search for a place.

use proptest::prelude::*;

use super::bank::{Bank, SHAPES_MAX, Shape};
use super::{Error, Masks, Mode, Room, TRAINING_DIAMETER_MM};
use crate::data::stream::stream;
use crate::data::volume::Volume;

const DIMS: [usize; 3] = [48, 40, 36];

/// A block of brain with a border of background.
fn brain() -> Volume {
    let inside = |i: usize, n: usize| (2..n - 2).contains(&i);
    let voxels = (0..DIMS.iter().product())
        .map(at)
        .map(|[x, y, z]| inside(x, DIMS[0]) && inside(y, DIMS[1]) && inside(z, DIMS[2]))
        .map(f32::from)
        .collect();
    Volume { dims: DIMS, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels }
}

fn at(i: usize) -> [usize; 3] {
    [i % DIMS[0], i / DIMS[0] % DIMS[1], i / DIMS[0] / DIMS[1]]
}

/// Whether a voxel lies in a block.
fn block(i: usize, low: [usize; 3], high: [usize; 3]) -> bool {
    (0..3).all(|axis| (low[axis]..high[axis]).contains(&at(i)[axis]))
}

/// A large, hollow block, a small block and a speck.
fn is_tumour(i: usize) -> bool {
    let hollow = block(i, [10, 10, 10], [13, 13, 13]);
    block(i, [5, 5, 5], [20, 20, 20]) && !hollow
        || block(i, [30, 20, 20], [40, 30, 30])
        || block(i, [42, 4, 4], [45, 7, 7])
}

fn shapes() -> Vec<Shape> {
    Room::new(&brain(), is_tumour).unwrap().shapes(Mode::Corrected)
}

#[test]
fn the_shapes_are_the_components_with_their_holes_filled_and_without_specks() {
    let brain_voxels = (44 * 36 * 32) as f64;
    let found = shapes();
    let sizes: Vec<(usize, f64)> =
        found.iter().map(|s| (s.body().count(), s.fraction() * brain_voxels)).collect();
    assert_eq!(sizes.iter().map(|s| s.0).collect::<Vec<_>>(), [15 * 15 * 15, 1000]);
    assert!(sizes.iter().all(|(voxels, by_fraction)| (*voxels as f64 - by_fraction).abs() < 1e-6));
    assert_eq!(found[0].body().dims(), [15; 3]);
    // In voxels of 8 mm³, 216 are more than the least volume.
    let coarse = Volume { spacing_mm: [2.0; 3], ..brain() };
    let is_small = |i: usize| block(i, [5, 5, 5], [11, 11, 11]);
    let room = Room::new(&coarse, is_small).unwrap();
    assert_eq!(room.shapes(Mode::Corrected).len(), 1);
    assert_eq!(room.shapes(Mode::Compat).len(), 0);
}

#[test]
fn a_scan_without_brain_has_no_room_and_no_shapes_are_no_bank() {
    let empty = brain().with_voxels(vec![0.0; DIMS.iter().product()]);
    assert_eq!(Room::new(&empty, is_tumour).err(), Some(Error::NoRoom));
    let torn = Volume { dims: [1, 2, 3], ..brain() };
    assert!(matches!(Room::new(&torn, |_| true), Err(Error::Geometry(_))));
    assert!(Bank::new(Vec::new()).is_none());
}

#[test]
fn a_bank_thins_what_is_too_many() {
    let one = shapes().remove(1);
    let bank = Bank::new(vec![one; 2 * SHAPES_MAX + 7]).unwrap();
    assert_eq!(bank.count(), SHAPES_MAX);
}

#[test]
fn a_shape_comes_back_from_its_bytes() {
    for shape in shapes() {
        assert_eq!(Shape::from_bytes(&shape.to_bytes()), Ok(shape));
    }
}

proptest! {
    #[test]
    fn damaged_bytes_are_refused_or_a_shape_but_never_a_panic(
        at in 0usize..400, value in any::<u8>(), cut in 0usize..5000,
    ) {
        let shape = shapes().remove(1);
        let mut bytes = shape.to_bytes();
        let whole = bytes.len();
        bytes.truncate(cut);
        if cut < whole {
            prop_assert!(Shape::from_bytes(&bytes).is_err());
        }
        let mut bytes = shape.to_bytes();
        bytes[at % whole] = value;
        if let Ok(read) = Shape::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }
}

#[test]
fn sizes_that_would_fill_the_memory_are_refused() {
    let mut bytes = shapes()[0].to_bytes();
    bytes[8..14].fill(0xff);
    assert!(Shape::from_bytes(&bytes).is_err());
    bytes[8..14].fill(0);
    assert!(Shape::from_bytes(&bytes).is_err());
}

#[test]
fn a_brain_full_of_tumour_is_an_error_and_no_loop() {
    let room = Room::new(&brain(), |_| true).unwrap();
    let bank = Bank::new(shapes()).unwrap();
    let mut rng = stream("test", &[]);
    for mode in [Mode::Compat, Mode::Corrected] {
        assert_eq!(room.draw_shape(&bank, mode, &mut rng), Err(Error::NoRoom));
    }
    let masks = Masks { mode: Mode::Compat, bank: Some(bank.into()) };
    assert_eq!(room.draw_training(&masks, TRAINING_DIAMETER_MM, &mut rng), Err(Error::NoRoom));
}

#[test]
fn where_there_is_a_place_but_no_shape_fits_the_search_ends() {
    // One corner of the brain is more than 10 voxels from the tumour, but no shape has room there.
    let corner = |i: usize| block(i, [32, 24, 20], DIMS);
    let room = Room::new(&brain(), |i| !corner(i)).unwrap();
    let big = |i: usize| block(i, [4, 4, 4], [44, 36, 32]);
    let bank = Bank::new(Room::new(&brain(), big).unwrap().shapes(Mode::Compat)).unwrap();
    for mode in [Mode::Compat, Mode::Corrected] {
        let found = room.draw_shape(&bank, mode, &mut stream("test", &[]));
        assert_eq!(found, Err(Error::NoRoom), "{mode:?}");
    }
    assert!(room.official.get().is_some_and(Option::is_some), "there are places");
    // What fits no shape may fit a blob, and training takes it.
    let masks = Masks { mode: Mode::Compat, bank: Some(bank.into()) };
    assert!(room.draw_training(&masks, (5.0, 8.0), &mut stream("test", &[])).is_ok());
}

#[test]
fn half_of_the_training_masks_are_shapes_where_there_is_a_bank() {
    // Blobs of 6 mm have some hundred voxels, the shape has 1000 unless it had to shrink.
    let bank = Bank::new(vec![shapes().remove(1)]).unwrap();
    let masks = Masks { mode: Mode::Corrected, bank: Some(bank.into()) };
    let room = Room::new(&brain(), |_| false).unwrap();
    let mut rng = stream("test", &[b"half"]);
    let large = (0..400)
        .map(|_| room.draw_training(&masks, (6.0, 6.0), &mut rng).unwrap())
        .filter(|mask| mask.voxels.len() > 700)
        .count();
    assert!((160..240).contains(&large), "{large}");
    let blobs = Masks::default();
    let mask = room.draw_training(&blobs, (6.0, 6.0), &mut rng).unwrap();
    assert!(mask.voxels.len() < 700);
}

#[test]
fn any_healthy_place_is_as_likely_as_any_other() {
    // A tumour at one end: were the farther of two places taken, the other end would come up more.
    let is_lesion = |i: usize| at(i)[0] < 8;
    let room = Room::new(&brain(), is_lesion).unwrap();
    let mut rng = stream("test", &[b"uniform"]);
    let middle = |voxels: &[u32]| {
        voxels.iter().map(|&v| at(v as usize)[0] as f64).sum::<f64>() / voxels.len() as f64
    };
    let mean =
        (0..600).map(|_| middle(&room.draw((4.5, 4.5), &mut rng).unwrap().voxels)).sum::<f64>()
            / 600.0;
    // The healthy part spans 13 to 45 along x; masks keep their own radius from its ends.
    assert!((mean - 29.5).abs() < 1.5, "{mean}");
}
