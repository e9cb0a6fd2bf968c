//! The Merkle tree of RFC 6962 over an append-only list: roots, and proofs that an entry is in the list
//! and that a longer list begins with a shorter one. Pure; nothing here stores or signs.
//!
//! SHA-256, as in the RFC and not BLAKE3 as for blobs, so that an auditor's own tools check what we make.
//! A leaf and an inner node are hashed with different first bytes, so that neither passes for the other.

mod proof;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use self::proof::{
    HASHES_MAX, Part, consistency, inclusion, verify_consistency, verify_inclusion,
};

/// What a leaf's bytes are hashed behind.
const LEAF: u8 = 0;

/// What the hashes of an inner node's two children are hashed behind.
const NODE: u8 = 1;

/// A hash in the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// The text or the bytes are not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hash of the log: expected 32 bytes, or 64 lower-case hexadecimal digits")]
pub struct NotAHash;

impl Hash {
    /// The hash of a leaf.
    pub fn of_leaf(bytes: &[u8]) -> Hash {
        Hash::sha256(&[&[LEAF][..], bytes].concat())
    }

    /// The hash of the node over two others.
    pub fn of_node(left: Hash, right: Hash) -> Hash {
        Hash::sha256(&[&[NODE][..], &left.0, &right.0].concat())
    }

    /// The root of the empty tree.
    pub fn of_nothing() -> Hash {
        Hash::sha256(&[])
    }

    fn sha256(bytes: &[u8]) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Hash(hash)
    }

    /// The hash as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = NotAHash;
    fn try_from(bytes: &[u8]) -> Result<Hash, NotAHash> {
        bytes.try_into().map(Hash).map_err(|_| NotAHash)
    }
}

impl FromStr for Hash {
    type Err = NotAHash;
    fn from_str(text: &str) -> Result<Hash, NotAHash> {
        // One spelling, as of a blob's digest.
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NotAHash);
        }
        blake3::Hash::from_hex(text).map(|hash| Hash(*hash.as_bytes())).map_err(|_| NotAHash)
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHash;
    fn try_from(text: String) -> Result<Hash, NotAHash> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A full subtree: the `2^level` leaves from number `index * 2^level` on. Once its leaves are there, its
/// hash never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0 is a leaf.
    pub level: u32,
    /// Its place among those of its level, from 0 on.
    pub index: u64,
}

impl Node {
    /// The leaf of a number, from 0 on.
    pub fn leaf(index: u64) -> Node {
        Node { level: 0, index }
    }

    /// The fewest full subtrees that together are the leaves from `from` to before `to`, from left to
    /// right; `from` is where a subtree of that many leaves may begin.
    fn covering(from: u64, to: u64) -> Vec<Node> {
        let (mut at, mut nodes) = (from, Vec::new());
        while at < to {
            let level = (to - at).ilog2();
            nodes.push(Node { level, index: at >> level });
            at += 1 << level;
        }
        nodes
    }

    /// The full subtrees that a tree of `size` leaves consists of, the largest first.
    pub fn peaks(size: u64) -> Vec<Node> {
        Node::covering(0, size)
    }
}

/// The hash over full subtrees from left to right, each of them larger than the next.
fn fold(hashes: &[Hash]) -> Hash {
    let folded = hashes.iter().rev().copied().reduce(|right, left| Hash::of_node(left, right));
    folded.unwrap_or_else(Hash::of_nothing)
}

/// A tree as its right edge: enough to append to it and to tell its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The hashes of [`Node::peaks`].
    peaks: Vec<Hash>,
}

impl Frontier {
    /// A tree of `size` leaves with these hashes of its [`Node::peaks`]; none if they are not as many.
    pub fn restore(size: u64, peaks: Vec<Hash>) -> Option<Frontier> {
        (peaks.len() == size.count_ones() as usize).then_some(Frontier { size, peaks })
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its root.
    pub fn root(&self) -> Hash {
        fold(&self.peaks)
    }

    /// Appends a leaf. Every full subtree that it completes, beginning with the leaf itself.
    pub fn push(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let mut node = Node::leaf(self.size);
        let mut hash = leaf;
        let mut made = vec![(node, hash)];
        // A node with an odd place is the right child of one that is full with it.
        while node.index % 2 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            node = Node { level: node.level + 1, index: node.index / 2 };
            hash = Hash::of_node(left, hash);
            made.push((node, hash));
        }
        self.peaks.push(hash);
        self.size += 1;
        made
    }
}

#[cfg(test)]
mod tests;
