//! The nodes of a tree that a proof needs, caught while the hashes of its records pass by.

use std::collections::{BTreeMap, BTreeSet};

use super::edge::Edge;
use super::hash::Hash;
use super::prove::{NodeId, NodeList, NodeSource, ProveError, consistency, inclusion};

/// Catches the nodes that a proof needs, of however many records.
#[derive(Clone, Debug)]
pub struct WantedNodes {
    edge: Edge,
    wanted: BTreeSet<NodeId>,
    found: BTreeMap<NodeId, Hash>,
}

/// A node is not in the records that passed by.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hashes of records {} to {} are not known", .0.index << .0.level, (.0.index + 1) << .0.level)]
pub struct MissingNode(pub NodeId);

/// Lists what a proof asks for, as a source that could lack it.
struct Lister<'a>(&'a mut NodeList);

impl NodeSource for Lister<'_> {
    type Error = MissingNode;

    fn node(&mut self, id: NodeId) -> Result<Hash, MissingNode> {
        self.0.node(id).map_err(|never| match never {})
    }
}

impl WantedNodes {
    /// The nodes of the proof that the tree of `new` records continues that of `old`. The records after the tree of
    /// `edge`, which has at most `old`, pass by next.
    ///
    /// # Errors
    /// See [`consistency`].
    pub fn of_consistency(old: u64, new: u64, edge: Edge) -> Result<Self, ProveError<MissingNode>> {
        Self::listed(edge, |nodes| consistency(old, new, nodes))
    }

    /// The nodes of the proof that the record `index` is in the tree of `size` records. The records after the tree of
    /// `edge`, which has at most `index`, pass by next.
    ///
    /// # Errors
    /// See [`inclusion`].
    pub fn of_inclusion(index: u64, size: u64, edge: Edge) -> Result<Self, ProveError<MissingNode>> {
        Self::listed(edge, |nodes| inclusion(index, size, nodes))
    }

    /// The nodes that `prove` asks for.
    fn listed(
        edge: Edge,
        prove: impl FnOnce(&mut Lister<'_>) -> Result<Vec<Hash>, ProveError<MissingNode>>,
    ) -> Result<Self, ProveError<MissingNode>> {
        let mut list = NodeList::default();
        prove(&mut Lister(&mut list))?;
        let wanted: BTreeSet<_> = list.0.into_iter().collect();
        let mut found = BTreeMap::new();
        let mut at = 0;
        let sizes = (0..u64::BITS).rev().filter(|bit| edge.size() >> bit & 1 == 1);
        for (bit, hash) in sizes.zip(edge.hashes()) {
            let id = NodeId { level: u8::try_from(bit).unwrap_or(u8::MAX), index: at >> bit };
            if wanted.contains(&id) {
                found.insert(id, *hash);
            }
            at += 1 << bit;
        }
        Ok(Self { edge, wanted, found })
    }

    /// The hashes of the next records pass by, until there are `size`.
    pub fn extend<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8; 32]>, size: u64) {
        let count = usize::try_from(size.saturating_sub(self.size())).unwrap_or(usize::MAX);
        for record in records.into_iter().take(count) {
            self.push(record);
        }
    }

    /// The hash of the next record passes by.
    pub fn push(&mut self, record: &[u8; 32]) {
        let Self { edge, wanted, found } = self;
        let catch = |level, index, hash: &Hash| {
            let id = NodeId { level, index };
            if wanted.contains(&id) {
                found.insert(id, *hash);
            }
        };
        // Full only after more records than seqs have numbers.
        edge.push(record, catch).ok();
    }

    /// The number of records so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root of the tree of the records so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.edge.root()
    }
}

impl NodeSource for WantedNodes {
    type Error = MissingNode;

    fn node(&mut self, id: NodeId) -> Result<Hash, MissingNode> {
        self.found.get(&id).copied().ok_or(MissingNode(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tree::{TreeHead, leaf_hash, verify_consistency, verify_inclusion};

    fn record(index: u64) -> [u8; 32] {
        leaf_hash(&[u8::try_from(index).unwrap(); 32]).0
    }

    fn edge(size: u64) -> Edge {
        let mut edge = Edge::default();
        for index in 0..size {
            edge.push(&record(index), |_, _, _| {}).unwrap();
        }
        edge
    }

    #[test]
    fn the_nodes_of_a_proof_are_caught_whatever_is_before_them() {
        for new in 1..70 {
            for old in 1..=new {
                for base in [0, old / 2, old - 1, old] {
                    let mut nodes = WantedNodes::of_consistency(old, new, edge(base)).unwrap();
                    let early = (old < new).then(|| consistency(old, new, &mut nodes.clone()));
                    assert!(early.is_none_or(|early| early.is_err()), "{base} {old} {new}");
                    for index in base..new {
                        nodes.push(&record(index));
                    }
                    let head = |size| TreeHead { size, root: edge(size).root() };
                    assert_eq!((nodes.size(), nodes.root()), (new, head(new).root));
                    let proof = consistency(old, new, &mut nodes).unwrap();
                    verify_consistency(head(old), head(new), &proof).unwrap();
                    assert!(nodes.found.len() <= 63);
                }
            }
        }
    }

    #[test]
    fn the_proof_of_a_record_needs_few_nodes_of_the_records_around_it() {
        for size in 1..70 {
            let head = TreeHead { size, root: edge(size).root() };
            for index in 0..size {
                for base in [0, index / 2, index] {
                    let mut nodes = WantedNodes::of_inclusion(index, size, edge(base)).unwrap();
                    for index in base..size {
                        nodes.push(&record(index));
                    }
                    let proof = inclusion(index, size, &mut nodes).unwrap();
                    verify_inclusion(index, leaf_hash(&record(index)), head, &proof).unwrap();
                    assert!(nodes.found.len() <= 63);
                }
            }
            assert!(WantedNodes::of_inclusion(size, size, edge(0)).is_err());
        }
    }
}
