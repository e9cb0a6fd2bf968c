//! How much of a list goes into one answer. Whoever wants more asks for the next page.

use fedpaint_proto::limits::MESSAGE_BYTES_MAX;
use prost::Message;

/// The most bytes of a list in one answer; the longest element fits beside them.
const PAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4;

/// What an element of a list takes beside its own bytes, at most: its field and its length.
const FRAMING_BYTES: usize = 8;

/// The first elements that fit into one answer: one at least, so that every page gets on.
pub(crate) fn first<M: Message>(mut list: Vec<M>) -> Vec<M> {
    let fits = fits(list.iter());
    list.truncate(fits);
    list
}

/// The last elements that fit into one answer, likewise.
pub(crate) fn last<M: Message>(mut list: Vec<M>) -> Vec<M> {
    let fits = fits(list.iter().rev());
    list.split_off(list.len().saturating_sub(fits))
}

fn fits<'a, M: Message + 'a>(list: impl Iterator<Item = &'a M>) -> usize {
    let mut bytes = 0;
    let fits = list.take_while(|element| {
        bytes += element.encoded_len() + FRAMING_BYTES;
        bytes <= PAGE_BYTES_MAX
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::v1::{Event, ListEventsResponse};

    use super::*;

    fn event(seq: u64, bytes: usize) -> Event {
        Event { seq, detail: "x".repeat(bytes), ..Event::default() }
    }

    #[test]
    fn a_page_is_decoded_by_the_other_side_and_no_element_stops_the_list() {
        let seqs = |page: &[Event]| page.iter().map(|event| event.seq).collect::<Vec<_>>();
        for bytes in [0, 1, 100, 10_000, PAGE_BYTES_MAX, 2 * PAGE_BYTES_MAX] {
            let list = || (1..=2_000).map(|seq| event(seq, bytes)).take(20_000_000 / (bytes + 1));
            let all = list().count();
            for page in [first(list().collect()), last(list().collect())] {
                let encoded = ListEventsResponse { events: page.clone() }.encoded_len();
                assert!(encoded <= MESSAGE_BYTES_MAX && !page.is_empty(), "{bytes}: {encoded}");
            }
            let page = first(list().collect());
            assert_eq!(seqs(&page), (1..=page.len() as u64).collect::<Vec<_>>());
            let page = last(list().collect());
            let begin = (all - page.len()) as u64;
            assert_eq!(seqs(&page), (begin + 1..=all as u64).collect::<Vec<_>>());
        }
        assert_eq!(last::<Event>(Vec::new()), []);
    }
}
