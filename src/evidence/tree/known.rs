//! Nodes of a tree that are computed from a smaller tree and the records after it.

use std::convert::Infallible;

use super::edge::Edge;
use super::hash::{Hash, leaf_hash, node_hash};
use super::prove::{NodeId, NodeSource};

/// The nodes of a tree: the perfect subtrees of a smaller one, and the hashes of the records after it.
#[derive(Clone, Debug)]
pub struct KnownNodes {
    edge: Edge,
    records: Vec<[u8; 32]>,
}

impl KnownNodes {
    /// The nodes of the tree that has the records with these hashes after the tree of `edge`.
    #[must_use]
    pub fn new(edge: Edge, records: Vec<[u8; 32]>) -> Self {
        Self { edge, records }
    }

    /// The number of records in the smaller tree. Proofs from older trees cannot be made.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.edge.size()
    }

    /// Adds the hash of the next record.
    pub fn push(&mut self, record: [u8; 32]) {
        self.records.push(record);
    }

    /// The number of records in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size() + self.records.len() as u64
    }

    /// The hashes of the records after the smaller tree.
    #[must_use]
    pub fn records(&self) -> &[[u8; 32]] {
        &self.records
    }

    /// The edge of the whole tree.
    #[must_use]
    pub fn whole_edge(&self) -> Edge {
        let mut edge = self.edge.clone();
        for record in &self.records {
            // Full only after more records than seqs have numbers.
            edge.push(record, |_, _, _| {}).ok();
        }
        edge
    }
}

/// Proofs need no other nodes: what is to the left of a record after the smaller tree is a subtree of its edge.
impl NodeSource for KnownNodes {
    type Error = Infallible;

    fn node(&mut self, id: NodeId) -> Result<Hash, Infallible> {
        let (begin, end) = (id.index << id.level, (id.index + 1) << id.level);
        let mut at = 0;
        for (bit, hash) in (0..u64::BITS).rev().filter(|bit| self.edge.size() >> bit & 1 == 1).zip(self.edge.hashes()) {
            if at == begin && u32::from(id.level) == bit {
                return Ok(*hash);
            }
            at += 1 << bit;
        }
        if let Some(record) = begin.checked_sub(self.edge.size()).filter(|_| end - begin == 1) {
            let record = usize::try_from(record).ok().and_then(|at| self.records.get(at));
            return Ok(record.map_or(Hash([0; 32]), leaf_hash));
        }
        let Some(level) = id.level.checked_sub(1) else { return Ok(Hash([0; 32])) };
        let left = self.node(NodeId { level, index: id.index * 2 })?;
        let right = self.node(NodeId { level, index: id.index * 2 + 1 })?;
        Ok(node_hash(&left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tree::{TreeHead, prove, verify_consistency, verify_inclusion};

    fn record(index: u64) -> [u8; 32] {
        leaf_hash(&[u8::try_from(index).unwrap(); 32]).0
    }

    fn edge(size: u64) -> Edge {
        let mut edge = Edge::default();
        (0..size).for_each(|index| edge.push(&record(index), |_, _, _| {}).unwrap());
        edge
    }

    #[test]
    fn proofs_are_made_from_an_edge_and_the_records_after_it() {
        for old in 0..40 {
            for new in old + 1..70 {
                let mut nodes = KnownNodes { edge: edge(old), records: (old..new).map(record).collect() };
                let (before, head) = (edge(old), TreeHead { size: new, root: edge(new).root() });
                assert_eq!((nodes.size(), nodes.whole_edge()), (new, edge(new)));
                for index in old..new {
                    let proof = prove::inclusion(index, new, &mut nodes).unwrap();
                    verify_inclusion(index, leaf_hash(&record(index)), head, &proof).unwrap();
                }
                let proof = prove::consistency(old, new, &mut nodes).unwrap();
                verify_consistency(TreeHead { size: old, root: before.root() }, head, &proof).unwrap();
            }
        }
    }

    #[test]
    fn an_older_tree_than_the_last_is_continued() {
        for base in 0..20 {
            for old in base.max(1)..40 {
                for new in old..45 {
                    let mut nodes = KnownNodes::new(edge(base), (base..new).map(record).collect());
                    let proof = prove::consistency(old, new, &mut nodes).unwrap();
                    let head = |size| TreeHead { size, root: edge(size).root() };
                    verify_consistency(head(old), head(new), &proof).unwrap();
                }
            }
        }
    }
}
