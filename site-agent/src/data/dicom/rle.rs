//! Whether pixels in RLE can be given to the decoder: it indexes into what a damaged stream unpacks
//! to, and panics where that is too short. Nothing is unpacked here.

use crate::data::dicom::refusal::Refusal;

/// Bytes of the header of a frame: the number of segments and 15 offsets (PS3.5 G.5).
const HEADER_BYTES: usize = 64;

/// Checks a frame of `area` pixels of `bytes` bytes, each of which has a segment of its own.
///
/// # Errors
/// [`Refusal::Decode`] for a header with other segments, or a segment that unpacks to fewer bytes.
pub(super) fn check(frame: &[u8], area: usize, bytes: usize) -> Result<(), Refusal> {
    let mut words = frame.get(..HEADER_BYTES).ok_or(Refusal::Decode)?.chunks_exact(4).map(|word| {
        word.iter().rev().fold(0_usize, |number, &byte| number << 8 | usize::from(byte))
    });
    if words.next() != Some(bytes) {
        return Err(Refusal::Decode);
    }
    let mut offsets: Vec<usize> = words.take(bytes).collect();
    offsets.push(frame.len());
    let whole = |ends: &[usize]| {
        ends[0] >= HEADER_BYTES
            && frame.get(ends[0]..ends[1]).is_some_and(|segment| unpacked(segment) >= area)
    };
    if offsets.windows(2).all(whole) { Ok(()) } else { Err(Refusal::Decode) }
}

/// Bytes that a segment unpacks to (PS3.5 G.3.2).
fn unpacked(segment: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(&control) = segment.get(at) {
        let left = segment.len() - at - 1;
        let length = usize::from(control);
        match control {
            0..=127 => {
                count += left.min(length + 1);
                at += length + 2;
            }
            128 => at += 1,
            129..=255 => {
                count += if left > 0 { 257 - length } else { 0 };
                at += 2;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of 6 pixels of 2 bytes: 5 equal and one other, and 6 that all differ.
    fn frame() -> Vec<u8> {
        let mut frame: Vec<u8> = [2_u32, 64, 68].into_iter().flat_map(u32::to_le_bytes).collect();
        frame.resize(HEADER_BYTES, 0);
        frame.extend([252, 7, 0, 9, 5, 1, 2, 3, 4, 5, 6, 0]);
        frame
    }

    #[test]
    fn a_frame_is_whole_and_each_damage_to_it_is_seen() {
        assert_eq!(check(&frame(), 6, 2), Ok(()));
        assert_eq!(check(&frame(), 7, 2), Err(Refusal::Decode));
        assert_eq!(check(&frame(), 6, 1), Err(Refusal::Decode));
        for (at, byte) in
            [(0, 3), (4, 60), (4, 69), (8, 62), (8, 70), (8, 255), (11, 255), (64, 253)]
        {
            let mut damaged = frame();
            damaged[at] = byte;
            assert_eq!(check(&damaged, 6, 2), Err(Refusal::Decode), "{at} {byte}");
        }
        for length in 0..frame().len() - 1 {
            assert_eq!(check(&frame()[..length], 6, 2), Err(Refusal::Decode), "{length}");
        }
    }

    #[test]
    fn a_control_byte_of_128_does_nothing() {
        assert_eq!(unpacked(&[128, 128, 255, 3, 128]), 2);
        assert_eq!(unpacked(&[129, 3]), 128);
        assert_eq!(unpacked(&[255]), 0);
    }
}
