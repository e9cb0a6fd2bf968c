//! The tree against RFC 6962's definition, written down as it stands there, and against the values that
//! other implementations of the RFC are tested with.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// MTH of the RFC.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of_nothing(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            Hash::of_node(naive_root(left), naive_root(right))
        }
    }
}

/// A tree with every node that its frontier has made.
#[derive(Default)]
struct Tree {
    leaves: Vec<Hash>,
    frontier: Frontier,
    nodes: BTreeMap<Node, Hash>,
}

impl Tree {
    fn of(leaves: impl IntoIterator<Item = Vec<u8>>) -> Tree {
        let mut tree = Tree::default();
        for leaf in leaves {
            let hash = Hash::of_leaf(&leaf);
            tree.leaves.push(hash);
            tree.nodes.extend(tree.frontier.push(hash));
        }
        tree
    }

    fn numbered(size: u64) -> Tree {
        Tree::of((0..size).map(|number| number.to_be_bytes().to_vec()))
    }

    fn prove(&self, parts: Vec<Part>) -> Vec<Hash> {
        let hash = |part: &Part| {
            Part::hash(&part.nodes().iter().map(|node| self.nodes[node]).collect::<Vec<_>>())
        };
        parts.iter().map(hash).collect()
    }

    fn head(&self, size: u64) -> (u64, Hash) {
        (size, naive_root(&self.leaves[..size as usize]))
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(digit).collect()
}

/// The eight leaves that Certificate Transparency's implementations share, the root after each, and
/// proofs over them.
#[test]
fn the_tree_is_that_of_certificate_transparency() {
    let leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Frontier::default().root().to_string(), empty);
    for (size, root) in (1..).zip(roots) {
        let tree = Tree::of(leaves[..size].iter().map(|leaf| hex(leaf)));
        assert_eq!(tree.frontier.root().to_string(), root);
    }
    let tree = Tree::of(leaves.iter().map(|leaf| hex(leaf)));
    let texts = |parts| tree.prove(parts).iter().map(Hash::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(inclusion(5, 8)),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        texts(consistency(6, 8)),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
}

#[test]
fn every_proof_between_small_trees_holds_and_no_other() {
    let tree = Tree::numbered(40);
    for new in 0..=40 {
        let head = tree.head(new);
        for old in 0..=new {
            let proof = tree.prove(consistency(old, new));
            assert!(verify_consistency(tree.head(old), head, &proof), "{old} to {new}");
            let other = (old, Hash::of_leaf(b"other"));
            assert!(!verify_consistency(other, head, &proof), "{old} to {new}");
            if old > 0 && old < new {
                assert!(!verify_consistency(head, tree.head(old), &proof), "{new} to {old}");
                let longer = [&proof[..], &[Hash::of_nothing()]].concat();
                assert!(!verify_consistency(tree.head(old), head, &longer));
                for left_out in 0..proof.len() {
                    let mut shorter = proof.clone();
                    shorter.remove(left_out);
                    assert!(!verify_consistency(tree.head(old), head, &shorter));
                }
            }
        }
        for index in 0..new {
            let (leaf, proof) = (tree.leaves[index as usize], tree.prove(inclusion(index, new)));
            assert!(verify_inclusion((index, leaf), head, &proof), "{index} in {new}");
            assert!(!verify_inclusion((index, Hash::of_leaf(b"other")), head, &proof));
            assert!(!verify_inclusion((index + 1, leaf), head, &proof));
        }
    }
}

proptest! {
    #[test]
    fn a_frontier_tells_the_root_by_definition_and_can_be_restored(size in 0_u64..300) {
        let tree = Tree::numbered(size);
        prop_assert_eq!(tree.frontier.root(), naive_root(&tree.leaves));
        let peaks = Node::peaks(size).iter().map(|node| tree.nodes[node]).collect();
        prop_assert_eq!(Frontier::restore(size, peaks), Some(tree.frontier));
        prop_assert_eq!(Frontier::restore(size, vec![Hash::of_nothing(); 65]), None);
    }

    #[test]
    fn an_entry_that_was_changed_fails_every_proof_from_a_head_over_it(
        (new, old, changed) in (2_u64..400).prop_flat_map(|new| (Just(new), 1..new)).prop_flat_map(
            |(new, old)| (Just(new), Just(old), 0..old)
        )
    ) {
        let honest = Tree::numbered(new);
        let forged = Tree::of((0..new).map(|number| {
            if number == changed { b"forged".to_vec() } else { number.to_be_bytes().to_vec() }
        }));
        let proof = forged.prove(consistency(old, new));
        prop_assert!(!verify_consistency(honest.head(old), forged.head(new), &proof));
        prop_assert!(proof.len() * 32 <= 1024, "a proof of {} hashes", proof.len());
    }

    #[test]
    fn a_proof_that_nobody_made_is_refused(
        old in 1_u64..1000, new in 1_u64..1000, seeds in prop::collection::vec(any::<u64>(), 0..20)
    ) {
        let hash = |seed: u64| Hash::of_leaf(&seed.to_le_bytes());
        let proof: Vec<Hash> = seeds.into_iter().map(hash).collect();
        let (old, new) = ((old, hash(1)), (new, hash(2)));
        prop_assert!(!verify_consistency(old, new, &proof));
        prop_assert!(!verify_inclusion((old.0, hash(3)), new, &proof));
    }
}

#[test]
fn a_proof_over_the_largest_trees_is_bounded() {
    for (old, new) in [(1, u64::MAX), (u64::MAX / 3, u64::MAX), (u64::MAX - 1, u64::MAX)] {
        let parts = consistency(old, new);
        assert!(parts.len() <= HASHES_MAX);
        let nodes: usize = parts.iter().map(|part| part.nodes().len()).sum();
        assert!(nodes <= 2 * HASHES_MAX, "{nodes} nodes");
        assert!(inclusion(old, new).len() <= HASHES_MAX);
    }
}
