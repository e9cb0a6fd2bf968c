//! Proofs over the tree. A prover asks which parts of the tree a proof consists of, reads the full
//! subtrees that those are made of, and folds them: O(log n) reads, whatever the sizes.

use super::{Hash, Node, fold};

/// The most hashes of a proof that anybody reads: two for each level of the largest tree there can be.
pub const HASHES_MAX: usize = 2 * u64::BITS as usize;

/// A part of a tree whose hash is one of a proof's: leaves `from` to before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    from: u64,
    to: u64,
}

impl Part {
    /// The full subtrees that it is made of.
    pub fn nodes(&self) -> Vec<Node> {
        Node::covering(self.from, self.to)
    }

    /// Its hash, from those of [`Part::nodes`].
    pub fn hash(hashes: &[Hash]) -> Hash {
        fold(hashes)
    }
}

/// Where a tree of `size` leaves is divided in two: the largest power of two below it.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The parts of a proof that the tree of `new` leaves begins with that of `old` leaves (RFC 6962, 2.1.2).
/// None are needed where `old` is 0 or `new`, and there are none where it is larger.
pub fn consistency(old: u64, new: u64) -> Vec<Part> {
    if old == 0 || old >= new {
        return Vec::new();
    }
    let (mut from, mut to, mut old) = (0, new, old);
    let (mut parts, mut is_known) = (Vec::new(), true);
    loop {
        let size = to - from;
        if old == size {
            break;
        }
        let half = split(size);
        if old <= half {
            parts.push(Part { from: from + half, to });
            to = from + half;
        } else {
            parts.push(Part { from, to: from + half });
            (from, old, is_known) = (from + half, old - half, false);
        }
    }
    if !is_known {
        parts.push(Part { from, to });
    }
    parts.reverse();
    parts
}

/// The parts of a proof that leaf `index` is in the tree of `size` leaves (RFC 6962, 2.1.1). None where it
/// is not.
pub fn inclusion(index: u64, size: u64) -> Vec<Part> {
    if index >= size {
        return Vec::new();
    }
    let (mut from, mut to, mut parts) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            parts.push(Part { from: middle, to });
            to = middle;
        } else {
            parts.push(Part { from, to: middle });
            from = middle;
        }
    }
    parts.reverse();
    parts
}

/// Whether the tree of `new` leaves and this root begins with that of `old` leaves and that root
/// (RFC 9162, 2.1.4.2). Every tree begins with the empty one.
pub fn verify_consistency(
    (old, old_root): (u64, Hash),
    (new, root): (u64, Hash),
    proof: &[Hash],
) -> bool {
    if old == 0 || old >= new {
        let same = old == 0 && old_root == Hash::of_nothing() || old == new && old_root == root;
        return same && proof.is_empty() && old <= new;
    }
    // Of an old tree that is a full subtree of the new one, the prover need not tell the root.
    let known = old.is_power_of_two().then_some(old_root);
    let mut path = known.into_iter().chain(proof.iter().copied());
    let Some(first) = path.next() else { return false };
    let skipped = (old - 1).trailing_ones();
    let (mut in_old, mut in_new) = ((old - 1) >> skipped, (new - 1) >> skipped);
    let (mut old_made, mut made) = (first, first);
    for hash in path {
        if in_new == 0 {
            return false;
        }
        if in_old % 2 == 1 || in_old == in_new {
            old_made = Hash::of_node(hash, old_made);
            made = Hash::of_node(hash, made);
            while in_old % 2 == 0 && in_old != 0 {
                (in_old, in_new) = (in_old >> 1, in_new >> 1);
            }
        } else {
            made = Hash::of_node(made, hash);
        }
        (in_old, in_new) = (in_old >> 1, in_new >> 1);
    }
    in_new == 0 && old_made == old_root && made == root
}

/// Whether the leaf of this hash is number `index` of the tree of `size` leaves and this root
/// (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(
    (index, leaf): (u64, Hash),
    (size, root): (u64, Hash),
    proof: &[Hash],
) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut made) = (index, size - 1, leaf);
    for hash in proof.iter().copied() {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            made = Hash::of_node(hash, made);
            while at % 2 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            made = Hash::of_node(made, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && made == root
}
