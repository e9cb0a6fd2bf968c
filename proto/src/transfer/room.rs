//! Room for what is read of a file that is sent. A block that has been sent whole is where a later one is read into,
//! so that the system need not give, clear and take back pages for each. It reads nothing itself.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// How many blocks are kept in mind: one whose last pieces are on their way while the next is handed out.
const BLOCKS_MAX: usize = 2;

/// The blocks of one transfer.
#[derive(Debug, Default)]
pub struct Room {
    /// The newest that were given, the oldest first.
    given: VecDeque<Bytes>,
}

impl Room {
    /// Room for so many bytes. What stands in it may be of a block before: it is all to be written over.
    pub fn take(&mut self, bytes: usize) -> BytesMut {
        let oldest = if self.given.len() < BLOCKS_MAX { None } else { self.given.pop_front() };
        match oldest.map(Bytes::try_into_mut) {
            Some(Ok(mut block)) => {
                block.resize(bytes, 0);
                block
            }
            // Somebody has a piece of it still.
            Some(Err(_)) | None => BytesMut::zeroed(bytes),
        }
    }

    /// A block to be sent, in whatever pieces.
    pub fn give(&mut self, block: BytesMut) -> Bytes {
        let block = block.freeze();
        self.given.push_back(block.clone());
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(room: &mut Room, byte: u8, bytes: usize) -> Bytes {
        let mut block = room.take(bytes);
        block.fill(byte);
        room.give(block)
    }

    #[test]
    fn a_block_is_written_over_once_it_is_sent_and_never_while_a_piece_of_it_is_on_its_way() {
        let mut room = Room::default();
        let first = block(&mut room, 1, 100);
        let place = first.as_ptr();
        let piece = block(&mut room, 2, 100).split_off(90);
        drop(first);
        let third = block(&mut room, 3, 70);
        assert_eq!(third.as_ptr(), place, "the first block's room is used again");
        let fourth = block(&mut room, 4, 100);
        let fifth = block(&mut room, 5, 100);
        for (held, byte, bytes) in
            [(piece, 2, 10), (third, 3, 70), (fourth, 4, 100), (fifth, 5, 100)]
        {
            assert_eq!(held.len(), bytes);
            assert!(held.iter().all(|held| *held == byte), "{byte}");
        }
        let sixth = block(&mut room, 6, 120);
        assert_eq!((sixth.len(), room.given.len()), (120, BLOCKS_MAX));
    }
}
