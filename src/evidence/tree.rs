//! The Merkle tree of RFC 6962, section 2.1, over the hashes of records.
//!
//! ```text
//! leaf hash = SHA-256( 0x00 || hash of the record (32 bytes) )
//! node hash = SHA-256( 0x01 || left (32 bytes) || right (32 bytes) )
//! root of the empty tree = SHA-256( "" )
//! ```
//!
//! A tree of n > 1 leaves has as its left child the tree of the first k, and as its right child that of the rest, where
//! k is the largest power of two below n. A *perfect subtree* of level l is one of 2^l leaves whose first index is a
//! multiple of 2^l; its hash never changes once it is full.
//!
//! [`edge`] grows a tree by its right edge, [`prove`] makes proofs from stored hashes, [`verify`] checks them.

pub mod edge;
pub mod hash;
pub mod known;
pub mod prove;
pub mod verify;
mod wanted;

pub use edge::{Edge, EdgeError};
pub use hash::{Hash, empty_root, leaf_hash, node_hash};
pub use known::KnownNodes;
pub use prove::{NodeId, NodeList, NodeSource, ProveError};
pub use verify::{TreeHead, VerifyError, verify_consistency, verify_inclusion};
pub use wanted::{MissingNode, WantedNodes};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::hash::PROOF_HASHES_MAX;
    use super::prove::{consistency, edge, inclusion, root};
    use super::*;

    /// A record's hash; the same for the same index.
    fn record(index: u64) -> [u8; 32] {
        leaf_hash(&[u8::try_from(index % 251).unwrap(); 32]).0.map(|byte| byte ^ u8::try_from(index % 256).unwrap())
    }

    /// A tree with all its perfect subtrees, and its edge at each size.
    struct Grown {
        leaves: Vec<Hash>,
        nodes: BTreeMap<NodeId, Hash>,
        edges: Vec<Edge>,
    }

    impl Grown {
        fn to(size: u64) -> Self {
            let mut grown = Self { leaves: Vec::new(), nodes: BTreeMap::new(), edges: vec![Edge::EMPTY] };
            let mut edge = Edge::EMPTY;
            for index in 0..size {
                grown.leaves.push(leaf_hash(&record(index)));
                let mut keep = |level, index, hash: &Hash| {
                    assert_eq!(grown.nodes.insert(NodeId { level, index }, *hash), None, "a node is completed once");
                };
                edge.push(&record(index), &mut keep).unwrap();
                grown.edges.push(edge.clone());
            }
            grown
        }

        /// The nodes that are full in a tree of `size`; others are not there.
        fn at(&self, size: u64) -> impl NodeSource<Error = NodeId> {
            move |id: NodeId| {
                let is_full = (id.index + 1) << id.level <= size;
                self.nodes.get(&id).copied().filter(|_| is_full).ok_or(id)
            }
        }

        fn head(&self, size: u64) -> TreeHead {
            TreeHead { size, root: self.edges[usize::try_from(size).unwrap()].root() }
        }
    }

    /// The definitions of RFC 6962, section 2.1, word for word.
    mod defined {
        use super::*;

        fn split(n: usize) -> usize {
            let mut k = 1;
            while k * 2 < n {
                k *= 2;
            }
            k
        }

        pub(super) fn mth(d: &[Hash]) -> Hash {
            match d {
                [] => empty_root(),
                [leaf] => *leaf,
                _ => node_hash(&mth(&d[..split(d.len())]), &mth(&d[split(d.len())..])),
            }
        }

        pub(super) fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
            if d.len() == 1 {
                return Vec::new();
            }
            let k = split(d.len());
            if m < k {
                [path(m, &d[..k]), vec![mth(&d[k..])]].concat()
            } else {
                [path(m - k, &d[k..]), vec![mth(&d[..k])]].concat()
            }
        }

        pub(super) fn subproof(m: usize, d: &[Hash], is_whole: bool) -> Vec<Hash> {
            if m == d.len() {
                return if is_whole { Vec::new() } else { vec![mth(d)] };
            }
            let k = split(d.len());
            if m <= k {
                [subproof(m, &d[..k], is_whole), vec![mth(&d[k..])]].concat()
            } else {
                [subproof(m - k, &d[k..], false), vec![mth(&d[..k])]].concat()
            }
        }
    }

    fn small(number: u64) -> usize {
        usize::try_from(number).unwrap()
    }

    fn check_inclusion(grown: &Grown, index: u64, size: u64) -> Vec<Hash> {
        let proof = inclusion(index, size, &mut grown.at(size)).unwrap();
        assert_eq!(proof, defined::path(small(index), &grown.leaves[..small(size)]), "{index} of {size}");
        verify_inclusion(index, grown.leaves[small(index)], grown.head(size), &proof).unwrap();
        proof
    }

    fn check_consistency(grown: &Grown, old: u64, new: u64) -> Vec<Hash> {
        let proof = consistency(old, new, &mut grown.at(new)).unwrap();
        let defined =
            if old == 0 { Vec::new() } else { defined::subproof(small(old), &grown.leaves[..small(new)], true) };
        assert_eq!(proof, defined, "{old} to {new}");
        verify_consistency(grown.head(old), grown.head(new), &proof).unwrap();
        proof
    }

    fn check_size(grown: &Grown, size: u64) {
        let head = grown.head(size);
        assert_eq!(head.root, defined::mth(&grown.leaves[..small(size)]), "{size}");
        assert_eq!(root(size, &mut grown.at(size)).unwrap(), head.root);
        assert_eq!(edge(size, &mut grown.at(size)).unwrap(), grown.edges[small(size)]);
    }

    #[test]
    fn small_trees_are_as_rfc_6962_defines_them() {
        let grown = Grown::to(70);
        for size in 0..=70 {
            check_size(&grown, size);
            for index in 0..size {
                check_inclusion(&grown, index, size);
            }
            for old in 0..=size {
                check_consistency(&grown, old, size);
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
        #[test]
        fn trees_of_thousands_are_as_rfc_6962_defines_them(size in 71_u64..4000, old in 0_u64..4000, index in 0_u64..4000) {
            let grown = Grown::to(size);
            check_size(&grown, size);
            check_inclusion(&grown, index % size, size);
            check_consistency(&grown, old % (size + 1), size);
        }
    }

    /// Every proof that differs from `proof` in one place.
    fn changed(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all = vec![[proof, &[empty_root()]].concat(), [&[empty_root()], proof].concat()];
        for at in 0..proof.len() {
            let mut other = proof.to_vec();
            other.remove(at);
            all.push(other);
            for bit in [0, 100, 255] {
                let mut other = proof.to_vec();
                other[at].0[bit / 8] ^= 1 << (bit % 8);
                all.push(other);
            }
            let mut other = proof.to_vec();
            other.insert(at, proof[at]);
            all.push(other);
            if at > 0 {
                let mut other = proof.to_vec();
                other.swap(at - 1, at);
                all.push(other);
            }
        }
        all.retain(|other| other != proof);
        all
    }

    #[test]
    fn every_manipulated_inclusion_proof_is_refused() {
        let grown = Grown::to(40);
        for (index, size) in (1..=40).flat_map(|size| (0..size).map(move |index| (index, size))) {
            let (proof, leaf, head) =
                (check_inclusion(&grown, index, size), grown.leaves[small(index)], grown.head(size));
            for other in changed(&proof) {
                assert!(verify_inclusion(index, leaf, head, &other).is_err(), "{index} of {size}: {other:?}");
            }
            for other in (0..=size + 1).filter(|other| *other != index) {
                assert!(verify_inclusion(other, leaf, head, &proof).is_err(), "{index} as {other} of {size}");
            }
            let other_root = TreeHead { root: leaf_hash(&head.root.0), ..head };
            assert!(matches!(verify_inclusion(index, leaf, other_root, &proof), Err(VerifyError::Root { .. })));
            assert!(verify_inclusion(index, leaf_hash(&leaf.0), head, &proof).is_err());
        }
    }

    #[test]
    fn every_manipulated_consistency_proof_is_refused() {
        let grown = Grown::to(40);
        for (old, new) in (1..=40).flat_map(|new| (0..=new).map(move |old| (old, new))) {
            let (proof, before, after) = (check_consistency(&grown, old, new), grown.head(old), grown.head(new));
            for other in changed(&proof) {
                assert!(verify_consistency(before, after, &other).is_err(), "{old} to {new}: {other:?}");
            }
            let other_root = |head: TreeHead| TreeHead { root: leaf_hash(&head.root.0), ..head };
            assert!(verify_consistency(other_root(before), after, &proof).is_err(), "{old} to {new}");
            // Nothing is claimed of the first tree that a verifier sees.
            assert_eq!(verify_consistency(before, other_root(after), &proof).is_ok(), old == 0, "{old} to {new}");
        }
        let (smaller, larger) = (grown.head(3), grown.head(5));
        assert_eq!(verify_consistency(larger, smaller, &[]), Err(VerifyError::Sizes { old: 5, new: 3 }));
    }

    #[test]
    fn an_empty_proof_of_a_longer_tree_is_too_short() {
        let grown = Grown::to(9);
        for old in 1..9 {
            let found = verify_consistency(grown.head(old), grown.head(9), &[]);
            assert_eq!(found, Err(VerifyError::TooShort { found: 0 }), "{old}");
        }
        let leaf = grown.leaves[0];
        assert_eq!(verify_inclusion(0, leaf, grown.head(9), &[]), Err(VerifyError::TooShort { found: 0 }));
    }

    #[test]
    fn sizes_at_the_limit_cause_an_error_and_no_panic() {
        let huge = TreeHead { size: u64::MAX, root: empty_root() };
        let largest = TreeHead { size: hash::SIZE_MAX, root: empty_root() };
        let long = [empty_root(); PROOF_HASHES_MAX + 1];
        assert_eq!(verify_inclusion(0, empty_root(), huge, &[]), Err(VerifyError::Size { size: u64::MAX }));
        assert!(verify_inclusion(0, empty_root(), largest, &long).is_err());
        assert!(verify_inclusion(u64::MAX, empty_root(), largest, &long).is_err());
        assert!(verify_consistency(TreeHead { size: 1, ..largest }, largest, &long).is_err());
        assert!(verify_consistency(largest, huge, &[]).is_err());
        for (old, new) in [(1, hash::SIZE_MAX), (hash::SIZE_MAX - 1, hash::SIZE_MAX), (1 << 62, hash::SIZE_MAX)] {
            let mut list = NodeList::default();
            let proof = consistency(old, new, &mut list).unwrap();
            assert!(proof.len() <= PROOF_HASHES_MAX && !list.0.is_empty());
        }
        assert!(inclusion(u64::MAX, u64::MAX, &mut NodeList::default()).is_err());
        assert_eq!(inclusion(0, 0, &mut NodeList::default()), Err(ProveError::Index { index: 0, size: 0 }));
        assert_eq!(consistency(2, 1, &mut NodeList::default()), Err(ProveError::Sizes { old: 2, new: 1 }));
    }

    #[test]
    fn an_edge_survives_storage_and_damage_is_refused() {
        let grown = Grown::to(70);
        for edge in &grown.edges {
            let bytes = edge.encode();
            assert_eq!(Edge::decode(&bytes).as_ref(), Ok(edge));
            for cut in 0..bytes.len() {
                assert!(Edge::decode(&bytes[..cut]).is_err(), "{} cut to {cut}", edge.size());
            }
            assert!(Edge::decode(&[&bytes[..], &[0; 32]].concat()).is_err());
            assert!(Edge::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert_eq!(Edge::decode(&u64::MAX.to_le_bytes()), Err(EdgeError::Size { size: u64::MAX }));
        let full = Edge::from_hashes(hash::SIZE_MAX, vec![empty_root(); 63]).unwrap();
        let mut pushed = full.clone();
        assert_eq!(pushed.push(&[0; 32], |_, _, _| ()), Err(EdgeError::Full));
        assert_eq!(pushed, full);
    }

    #[test]
    fn a_missing_node_is_reported_by_the_source() {
        let grown = Grown::to(8);
        let missing = NodeId { level: 1, index: 1 };
        let mut source = |id| if id == missing { Err(id) } else { grown.at(8).node(id) };
        assert_eq!(inclusion(0, 8, &mut source), Err(ProveError::Source(missing)));
        let mut list = NodeList::default();
        inclusion(0, 8, &mut list).unwrap();
        assert_eq!(list.0, [NodeId { level: 0, index: 1 }, missing, NodeId { level: 2, index: 1 }]);
    }
}
