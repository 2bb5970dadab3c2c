//! The Merkle tree over the records of a gateway, of which checkpoints are signed.
//!
//! Leaves are the hashes of the records, in the order of (epoch, seq), over all epochs of one **log**. A gateway has
//! one log for its whole life, unless something is lost that the tree needs: then a new log begins with the next epoch.
//! So no log contradicts what was signed of it.
//!
//! The scribe adds each record as it gives it a position, and stores the tree in the commit that stores the record.

use super::record::{Epoch, Seq, StreamPosition};
use crate::evidence::tree::{Edge, Hash};

/// The tree of one log, as far as its right edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The first epoch of the log, which names it: an epoch is never used again.
    pub log: Epoch,
    /// The place of the last leaf; `None` in an empty tree.
    pub last: Option<(Epoch, Seq)>,
    edge: Edge,
}

impl Tree {
    /// The empty tree of the log that begins with `epoch`.
    #[must_use]
    pub fn begin(epoch: Epoch) -> Self {
        Self { log: epoch, last: None, edge: Edge::default() }
    }

    /// Adds the next record.
    pub fn push(&mut self, position: &StreamPosition) {
        self.add((position.epoch, position.seq), &position.hash.0);
    }

    /// Adds the record at `place` with this hash.
    pub fn add(&mut self, place: (Epoch, Seq), hash: &[u8; 32]) {
        // Full only after more records than seqs have numbers.
        self.edge.push(hash, |_, _, _| {}).ok();
        self.last = Some(place);
    }

    /// The number of leaves, which is the index of the next one.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// The right edge of the tree.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// The tree as bytes: the log, epoch and seq of the last leaf (u64 LE each, 0 if there is none), and the edge.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (epoch, seq) = self.last.unwrap_or((Epoch(0), Seq::ZERO));
        let numbers = [self.log.0, epoch.0, seq.0].map(u64::to_le_bytes);
        [numbers.as_flattened(), &self.edge.encode()].concat()
    }

    /// The tree that [`Tree::to_bytes`] wrote; `None` if the bytes are not a tree.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, edge) = bytes.split_first_chunk::<24>()?;
        let (numbers, _) = numbers.as_chunks::<8>();
        let &[log, epoch, seq] = numbers else { return None };
        let [log, epoch, seq] = [log, epoch, seq].map(u64::from_le_bytes);
        let edge = Edge::decode(edge).ok()?;
        let last = (edge.size() > 0).then_some((Epoch(epoch), Seq(seq)));
        Some(Self { log: Epoch(log), last, edge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, GatewayId};

    #[test]
    fn bytes_give_the_same_tree_and_others_give_none() {
        let mut tree = Tree::begin(Epoch(3));
        assert_eq!(Tree::from_bytes(&tree.to_bytes()).as_ref(), Some(&tree));
        for seq in 1..=37 {
            let hash = Digest([u8::try_from(seq).unwrap(); 32]);
            let (gateway_id, prev_hash) = (GatewayId(uuid::Uuid::nil()), Digest::ZERO);
            tree.push(&StreamPosition { gateway_id, epoch: Epoch(4), seq: Seq(seq), prev_hash, hash });
        }
        assert_eq!((tree.size(), tree.last), (37, Some((Epoch(4), Seq(37)))));
        let bytes = tree.to_bytes();
        assert_eq!(Tree::from_bytes(&bytes).as_ref(), Some(&tree));
        assert_eq!(Tree::from_bytes(bytes.get(..bytes.len() - 1).unwrap()), None);
        assert_eq!(Tree::from_bytes(&[]), None);
    }
}
