//! A [`Room`] as bytes, so that finding it once serves every round.

use super::Room;

/// Bytes before the two bit maps: dims, spacing, bounds, diameter.
const HEAD_BYTES: usize = 8 * (3 + 3 + 6 + 1);

impl Room {
    /// Voxels along x, y and z.
    pub(crate) fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// The room as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.brain.len() / 4 + 2);
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        self.dims.iter().for_each(|&n| put(n as u64));
        self.spacing_mm.iter().for_each(|mm| put(mm.to_bits()));
        self.bounds.iter().for_each(|&(first, last)| {
            put(first as u64);
            put(last as u64);
        });
        put(self.diameter_max_mm.to_bits());
        for map in [&self.brain, &self.near_lesion] {
            bytes.extend(map.chunks(8).map(packed));
        }
        bytes
    }

    /// The room of [`Room::to_bytes`]; none if the bytes are of no room.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Room> {
        let (head, maps) = bytes.split_at_checked(HEAD_BYTES)?;
        let word = |i: usize| {
            let bytes = head.get(8 * i..8 * i + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let whole = |i: usize| usize::try_from(word(i)?).ok();
        let dims = [whole(0)?, whole(1)?, whole(2)?];
        let spacing_mm = [3, 4, 5].map(|i| word(i).map_or(f64::NAN, f64::from_bits));
        let mut bounds = [(0, 0); 3];
        for (axis, bound) in bounds.iter_mut().enumerate() {
            *bound = (whole(6 + 2 * axis)?, whole(7 + 2 * axis)?);
            if bound.0 > bound.1 || bound.1 >= dims[axis] {
                return None;
            }
        }
        let diameter_max_mm = f64::from_bits(word(12)?);
        let voxels = dims.iter().try_fold(1usize, |all, &n| all.checked_mul(n))?;
        let (brain, near_lesion) = maps.split_at_checked(voxels.div_ceil(8))?;
        let fits = near_lesion.len() == brain.len() && spacing_mm.iter().all(|&mm| mm > 0.0);
        fits.then(|| Room {
            dims,
            spacing_mm,
            bounds,
            brain: unpacked(brain, voxels),
            near_lesion: unpacked(near_lesion, voxels),
            diameter_max_mm,
        })
    }
}

fn packed(bits: &[bool]) -> u8 {
    bits.iter().enumerate().fold(0, |byte, (i, &bit)| byte | (u8::from(bit) << i))
}

fn unpacked(bytes: &[u8], count: usize) -> Vec<bool> {
    let mut bits = vec![false; bytes.len() * 8];
    for (bits, &byte) in bits.chunks_exact_mut(8).zip(bytes) {
        for (i, bit) in bits.iter_mut().enumerate() {
            *bit = (byte >> i) & 1 == 1;
        }
    }
    bits.truncate(count);
    bits
}

#[cfg(test)]
mod tests {
    use super::super::{Room, TRAINING_DIAMETER_MM};
    use crate::data::phantom_for_tests::{brain, tumour};
    use crate::data::stream::stream;

    #[test]
    fn a_room_read_back_draws_the_same_masks_and_half_a_room_is_none() {
        let image = brain();
        let lesion = tumour(&image);
        let room = Room::new(&image, |i| lesion[i].is_some()).unwrap();
        let bytes = room.to_bytes();
        let again = Room::from_bytes(&bytes).unwrap();
        let draw = |room: &Room| room.draw(TRAINING_DIAMETER_MM, &mut stream("test", &[]));
        assert_eq!(draw(&room), draw(&again));
        assert_eq!(again.to_bytes(), bytes);
        for length in [0, 50, 104, bytes.len() - 1] {
            assert!(Room::from_bytes(&bytes[..length]).is_none(), "{length}");
        }
    }
}
