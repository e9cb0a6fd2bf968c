//! A [`Room`] as bytes for a cache on the site's disk: reading it back costs a tenth of finding it.

use super::Room;
use super::bits::{Bits, Points};
use crate::data::grid::{SPACING_MM_MAX, SPACING_MM_MIN};

/// What the bytes begin with.
const MAGIC: &[u8; 8] = b"fproom01";

/// Numbers between the magic and the three sets: dims, spacing, largest diameter, tumour fraction.
const NUMBERS: usize = 3 + 3 + 1 + 1;

impl Room {
    /// Voxels along x, y and z.
    pub fn dims(&self) -> [usize; 3] {
        self.brain.dims()
    }

    /// The room as bytes, little-endian, three bits per voxel.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        self.dims().iter().for_each(|&n| put(n as u64));
        self.spacing_mm.iter().for_each(|mm| put(mm.to_bits()));
        put(self.diameter_max_mm.to_bits());
        put(self.tumour_fraction.to_bits());
        for set in [&self.brain, &self.lesion, &self.near_lesion] {
            set.words().iter().for_each(|&word| put(word));
        }
        bytes
    }

    /// The room of [`Room::to_bytes`]; none if the bytes are of no room. Nothing larger than `bytes`
    /// is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Option<Room> {
        let (words, rest) = bytes.strip_prefix(MAGIC)?.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let word = |i: usize| words.get(i).copied().map(u64::from_le_bytes);
        let mut dims = [0; 3];
        for (axis, n) in dims.iter_mut().enumerate() {
            *n = usize::try_from(word(axis)?).ok()?;
        }
        let number = |i: usize| word(i).map_or(f64::NAN, f64::from_bits);
        let spacing_mm = [3, 4, 5].map(number);
        let (diameter_max_mm, tumour_fraction) = (number(6), number(7));
        let is_believable =
            spacing_mm.iter().all(|mm| (SPACING_MM_MIN..=SPACING_MM_MAX).contains(mm))
                && diameter_max_mm.is_finite()
                && tumour_fraction.is_finite();
        let sets = words.get(NUMBERS..)?;
        let each = [dims[0].div_ceil(64), dims[1], dims[2]];
        let each = each.into_iter().try_fold(1usize, usize::checked_mul)?;
        if !is_believable || each == 0 || each.checked_mul(3) != Some(sets.len()) {
            return None;
        }
        let set = |i: usize| {
            let words = &sets[i * each..(i + 1) * each];
            Bits::from_words(dims, words.iter().copied().map(u64::from_le_bytes).collect())
        };
        let (brain, lesion, near_lesion) = (set(0)?, set(1)?, set(2)?);
        Some(Room {
            spacing_mm,
            open: Points::new(brain.zip(&near_lesion, |brain, near| brain & !near)),
            diameter_max_mm,
            tumour_fraction,
            brain,
            lesion,
            near_lesion,
            official: std::sync::OnceLock::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::data::mask::{Mode, Room, TRAINING_DIAMETER_MM};
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::stream::stream;

    #[test]
    fn a_room_read_back_draws_the_same_masks_and_a_part_of_a_room_is_none() {
        let image = brain();
        let lesion = tumour(&image);
        let room = Room::new(&image, |i| lesion[i].is_some()).unwrap();
        let bytes = room.to_bytes();
        let again = Room::from_bytes(&bytes).unwrap();
        let draw = |room: &Room| room.draw(TRAINING_DIAMETER_MM, &mut stream("test", &[]));
        assert_eq!(draw(&room), draw(&again));
        assert_eq!(room.shapes(Mode::Corrected), again.shapes(Mode::Corrected));
        assert_eq!(again.to_bytes(), bytes);
        for length in [0, 7, 50, 72, 104, bytes.len() - 8, bytes.len() - 1] {
            assert!(Room::from_bytes(&bytes[..length]).is_none(), "{length}");
        }
        // Sizes that no memory holds.
        let mut lying = bytes.clone();
        lying[8..32].fill(0xff);
        assert!(Room::from_bytes(&lying).is_none());
        lying[8..32].fill(0);
        assert!(Room::from_bytes(&lying).is_none());
    }
}
