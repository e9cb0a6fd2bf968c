//! Work on a model by blocks of its values, on several threads and in order.
//!
//! A block is cut by the model and the number of updates alone and never by the number of threads, and what
//! comes of the blocks is taken in their order: so neither the bytes nor a sum can tell how many threads there
//! were. It knows no rule and opens no file.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use fedpaint_proto::weights::TensorSpec;

use super::Error;

/// The most threads at work, beside the one that takes what they make.
const THREADS_MAX: usize = 16;

/// The most values of all updates together that a thread holds, 4 MiB of them.
const VALUES_MAX: usize = 1 << 20;

/// The most values of one update in a block: 16 of them are half of a second-level cache.
const BLOCK_MAX: usize = 1 << 13;

/// The fewest: what is read at once should not be less than a page.
const BLOCK_MIN: usize = 1 << 10;

/// How many blocks a thread hands over at a time: with more threads than processors each handing over may wake
/// one of them and put another to sleep.
const BLOCKS_AT_ONCE: usize = 8;

/// How often a thread may have handed some over that are not taken yet.
const AHEAD: usize = 1;

/// A run of values of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Which tensor, in the base model's order.
    pub(super) tensor: usize,
    /// Its first value.
    pub(super) first: usize,
    /// How many values.
    pub(super) len: usize,
}

/// How many threads this machine can keep busy.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// The values of a block where there are so many updates.
pub(super) fn block_len(updates: usize) -> usize {
    (VALUES_MAX / updates.max(1)).clamp(BLOCK_MIN, BLOCK_MAX)
}

/// A model's blocks, tensor after tensor; a tensor without values has one that is empty.
pub(super) fn cut(specs: &[TensorSpec], len: usize) -> impl Iterator<Item = Block> + Clone + Send {
    specs.iter().enumerate().flat_map(move |(tensor, spec)| {
        let all = spec.len();
        let firsts = (0..all.max(1)).step_by(len);
        firsts.map(move |first| Block { tensor, first, len: len.min(all - first) })
    })
}

/// What comes of blocks that follow each other; of them all but the last have not failed.
type Batch<T> = Vec<Result<T, Error>>;

/// Has `threads` threads do `work` on every block, each with room of its own, and `take` what comes of it in
/// the blocks' order.
///
/// # Errors
/// The first block's that fails, in their order, or `take`'s; or if no thread can be begun.
pub(super) fn in_order<R, T: Send>(
    blocks: impl Iterator<Item = Block> + Clone + Send,
    threads: usize,
    room: impl Fn() -> R + Sync,
    work: impl Fn(Block, &mut R) -> Result<T, Error> + Sync,
    mut take: impl FnMut(Block, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let (room, work) = (&room, &work);
    thread::scope(|scope| {
        let mut made: Vec<Receiver<Batch<T>>> = Vec::with_capacity(threads);
        for turn in 0..threads {
            let (send, receive) = sync_channel(AHEAD);
            let own = blocks.clone().enumerate();
            let own = own.filter(move |(at, _)| at / BLOCKS_AT_ONCE % threads == turn);
            let labour = move || {
                let mut room = room();
                let mut outcomes = own.map(|(_, block)| work(block, &mut room));
                loop {
                    let batch = next(&mut outcomes);
                    let is_last = batch.last().is_none_or(Result::is_err);
                    // Nobody takes it any more where another block has failed.
                    if batch.is_empty() || send.send(batch).is_err() || is_last {
                        return;
                    }
                }
            };
            thread::Builder::new().spawn_scoped(scope, labour).map_err(Error::Thread)?;
            made.push(receive);
        }
        // A thread that ends without a word has panicked, and the scope passes it on.
        let batches = made.iter().cycle().map_while(|receive| receive.recv().ok());
        for (block, outcome) in blocks.zip(batches.flatten()) {
            take(block, outcome?)?;
        }
        Ok(())
    })
}

/// What comes of the next blocks, up to the first that fails.
fn next<T>(outcomes: &mut impl Iterator<Item = Result<T, Error>>) -> Batch<T> {
    let mut batch = Vec::with_capacity(BLOCKS_AT_ONCE);
    while batch.len() < BLOCKS_AT_ONCE
        && batch.last().is_none_or(Result::is_ok)
        && let Some(outcome) = outcomes.next()
    {
        batch.push(outcome);
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use fedpaint_proto::weights::Dtype;

    use super::*;

    fn specs(lens: &[usize]) -> Vec<TensorSpec> {
        let spec = |len: &usize| TensorSpec {
            name: len.to_string(),
            dtype: Dtype::F32,
            shape: vec![*len],
        };
        lens.iter().map(spec).collect()
    }

    #[test]
    fn blocks_cover_every_value_once_in_order_and_an_empty_tensor_has_one() {
        let blocks: Vec<Block> = cut(&specs(&[5, 0, 4, 1]), 2).collect();
        let told: Vec<_> = blocks.iter().map(|b| (b.tensor, b.first, b.len)).collect();
        let expected =
            [(0, 0, 2), (0, 2, 2), (0, 4, 1), (1, 0, 0), (2, 0, 2), (2, 2, 2), (3, 0, 1)];
        assert_eq!(told, expected);
    }

    #[test]
    fn however_many_the_updates_a_thread_holds_no_more_than_its_share() {
        for updates in [0, 1, 16, 64, 100, 1_000] {
            let len = block_len(updates);
            assert!((BLOCK_MIN..=BLOCK_MAX).contains(&len));
            assert!(updates * len <= VALUES_MAX, "{updates} updates of {len}");
        }
    }

    #[test]
    fn what_comes_of_blocks_is_taken_in_their_order_whatever_the_threads() {
        let specs = specs(&[1000, 3, 77]);
        for threads in [1, 2, 3, 8, 40] {
            let mut taken = Vec::new();
            let work = |block: Block, _: &mut ()| Ok(block.first * 10 + block.tensor);
            let take = |block: Block, made: usize| {
                assert_eq!(made, block.first * 10 + block.tensor);
                taken.push(block);
                Ok(())
            };
            in_order(cut(&specs, 7), threads, || (), work, take).unwrap();
            assert_eq!(taken, cut(&specs, 7).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn the_first_failure_in_order_is_told_and_ends_the_work() {
        let specs = specs(&[100_000]);
        let begun = Mutex::new(BTreeSet::new());
        let work = |block: Block, _: &mut ()| {
            begun.lock().unwrap().insert(block.first);
            let whose = block.first.to_string();
            let missing = Error::Missing { whose, tensor: String::new() };
            if block.first >= 20 { Err(missing) } else { Ok(()) }
        };
        let error = in_order(cut(&specs, 1), 4, || (), work, |_, ()| Ok(())).unwrap_err();
        assert!(matches!(error, Error::Missing { ref whose, .. } if whose == "20"), "{error}");
        assert!(begun.lock().unwrap().len() < 100, "nobody goes on");
        let refused =
            in_order(cut(&specs, 1), 4, || (), |_, _| Ok(()), |_, ()| Err(Error::NoExamples));
        assert!(matches!(refused, Err(Error::NoExamples)));
    }
}
