//! A proof over the audit log: that an entry is in it, or that a longer log begins with a shorter one.

use fedpaint_proto::merkle::{
    Frontier, HASHES_MAX, Hash, Node, Part, consistency, inclusion, verify_consistency,
    verify_inclusion,
};

/// The most leaves of the tree that is made of the bytes.
const LEAVES_MAX: usize = 64;

/// Bytes as a proof: two numbers of eight bytes, then hashes. As they come, over a tree that they name; and as a
/// change to a good proof over a tree of ours. No other entry than the tree's own is in it, and no other tree
/// is its beginning.
///
/// # Panics
/// If it is not so.
pub fn any(bytes: &[u8]) -> bool {
    let Some((numbers, rest)) = bytes.split_at_checked(16) else { return false };
    let number = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&numbers[at..at + 8]);
        u64::from_be_bytes(eight)
    };
    let (small, large) = (number(0), number(8));
    let (hashes, _) = rest.as_chunks::<32>();
    let hashes: Vec<Hash> =
        hashes.iter().take(HASHES_MAX).filter_map(|hash| Hash::try_from(&hash[..]).ok()).collect();
    believes_nothing_of_two(small, large, &hashes);
    is_its_own_tree(small, large, rest);
    !hashes.is_empty()
}

/// Of claims that contradict each other one at most is believed.
fn believes_nothing_of_two(small: u64, large: u64, hashes: &[Hash]) {
    let [root, leaf, proof @ ..] = hashes else { return };
    let other = Hash::of_node(*leaf, *root);
    if verify_inclusion((small, *leaf), (large, *root), proof) {
        assert!(!verify_inclusion((small, other), (large, *root), proof));
        assert!(!verify_inclusion((small, *leaf), (large, other), proof));
    }
    if verify_consistency((small, *leaf), (large, *root), proof) {
        assert!(small == 0 || !verify_consistency((small, other), (large, *root), proof));
        assert!(
            small == 0
                || small == large
                || !verify_consistency((small, *leaf), (large, other), proof)
        );
    }
    // Whatever sizes are named, the parts of a proof are few.
    assert!(inclusion(small, large).len() <= HASHES_MAX);
    assert!(consistency(small, large).len() <= HASHES_MAX);
}

/// A tree of the bytes proves each of its leaves and every beginning of it, and nothing that is changed.
fn is_its_own_tree(small: u64, large: u64, rest: &[u8]) {
    let leaves: Vec<Hash> = rest.chunks(7).take(LEAVES_MAX).map(Hash::of_leaf).collect();
    if leaves.is_empty() {
        return;
    }
    let count = leaves.len() as u64;
    let (mut tree, mut nodes, mut roots) = (Frontier::default(), Vec::new(), Vec::new());
    for leaf in &leaves {
        roots.push(tree.root());
        nodes.extend(tree.push(*leaf));
    }
    roots.push(tree.root());
    let hash = |node: &Node| nodes.iter().find(|(of, _)| of == node).map(|(_, hash)| *hash);
    let proof = |parts: Vec<Part>| -> Vec<Hash> {
        let of = |part: &Part| {
            let found: Option<Vec<Hash>> = part.nodes().iter().map(hash).collect();
            Part::hash(&found.expect("a full subtree of the tree"))
        };
        parts.iter().map(of).collect()
    };
    let (index, root) = (small % count, tree.root());
    let mut included = proof(inclusion(index, count));
    let leaf = leaves[index as usize];
    assert!(verify_inclusion((index, leaf), (count, root), &included));
    let old = large % (count + 1);
    let mut begins = proof(consistency(old, count));
    assert!(verify_consistency((old, roots[old as usize]), (count, root), &begins));
    // One hash that is another's, or one too many.
    for proof in [&mut included, &mut begins] {
        match proof.first_mut() {
            Some(first) => *first = Hash::of_node(*first, *first),
            None => proof.push(leaf),
        }
    }
    assert!(!verify_inclusion((index, leaf), (count, root), &included));
    assert!(!verify_consistency((old, roots[old as usize]), (count, root), &begins));
}
