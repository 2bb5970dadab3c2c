//! The tree as the scribe extends it, and as much of it as is stored.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::audit::outbox::Opening;
use crate::audit::record::StreamPosition;
use crate::audit::tree::Tree;
use crate::evidence::tree::{Hash, KnownNodes, prove};

/// The most hashes of records that are kept for proofs, in 8 MiB. *Chosen*: those of a minute at full load; a witness
/// that is further behind gets its proof from Postgres.
const RECENT_MAX: usize = 1 << 18;

/// The tree over all records with a position, and the one over all stored records.
#[derive(Debug)]
pub(super) struct GrowingTree {
    /// The tree over all records with a position.
    pub(super) made: Tree,
    /// The hashes of records that are not stored yet; none at level `queued`, where few records are ever stored and
    /// none are signed.
    new: Vec<[u8; 32]>,
    keeps_hashes: bool,
    stored: StoredTree,
}

/// The tree over all stored records, as it is at any time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoredTree(Arc<Mutex<Stored>>);

#[derive(Debug)]
struct Stored {
    tree: Tree,
    /// The tree as the outbox had it when it was opened.
    opening: Tree,
    /// The nodes of the tree, as far as they are computed from the last records.
    nodes: KnownNodes,
}

impl GrowingTree {
    /// The tree that the new epoch continues.
    pub(super) fn of(opening: &Opening) -> Self {
        let made = opening.tree.clone();
        Self { stored: StoredTree::of(made.clone()), new: Vec::new(), keeps_hashes: !opening.queued, made }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, position: &StreamPosition) {
        self.made.push(position);
        if self.keeps_hashes {
            self.new.push(position.hash.0);
        }
    }

    /// All records with a position are stored.
    pub(super) fn mark_stored(&mut self) {
        let mut stored = self.stored.0.lock();
        stored.tree.clone_from(&self.made);
        self.new.drain(..).for_each(|hash| stored.nodes.push(hash));
        // Moved forward in large steps, each of which costs a copy.
        if stored.nodes.records().len() > 2 * RECENT_MAX {
            stored.nodes.keep_last(RECENT_MAX);
        }
    }

    /// The tree over all stored records.
    pub(super) fn stored(&self) -> StoredTree {
        self.stored.clone()
    }
}

impl StoredTree {
    /// A tree of which all records are stored.
    pub(crate) fn of(tree: Tree) -> Self {
        let nodes = KnownNodes::new(tree.edge().clone(), Vec::new());
        Self(Arc::new(Mutex::new(Stored { opening: tree.clone(), tree, nodes })))
    }

    /// Replaces the tree, for a test without a scribe.
    #[cfg(test)]
    pub(crate) fn set(&self, tree: Tree) {
        self.0.lock().tree = tree;
    }

    /// The tree over the records that are stored now.
    #[must_use]
    pub fn get(&self) -> Tree {
        self.0.lock().tree.clone()
    }

    /// The tree as the outbox had it when it was opened, before this process added a record.
    #[must_use]
    pub fn opening(&self) -> Tree {
        self.0.lock().opening.clone()
    }

    /// The root of the tree of the first `size` records, from the hashes of the last records; `None` if they do not
    /// reach back so far.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let mut stored = self.0.lock();
        let is_known = (stored.nodes.base()..=stored.nodes.size()).contains(&size);
        is_known.then(|| prove::root(size, &mut stored.nodes).ok())?
    }

    /// The proof that the tree of `new` records continues that of `old`, from the hashes of the last records; `None` if
    /// they do not reach back so far. `new` is at most the size of the tree.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        let mut stored = self.0.lock();
        // From the tree without records there is a proof without hashes.
        if old > 0 && old < stored.nodes.base() || new > stored.nodes.size() {
            return None;
        }
        prove::consistency(old, new, &mut stored.nodes).ok()
    }

    /// The hashes of the last records, and the number of records before them.
    #[must_use]
    pub fn recent(&self) -> (u64, Vec<[u8; 32]>) {
        let stored = self.0.lock();
        (stored.nodes.base(), stored.nodes.records().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, Epoch, GatewayId, Seq};

    #[test]
    fn i6_hashes_are_kept_for_proofs_of_stored_records_only() {
        for (keeps_hashes, kept) in [(true, 3), (false, 0)] {
            let made = Tree::begin(Epoch(1));
            let mut tree = GrowingTree { stored: StoredTree::of(made.clone()), new: Vec::new(), keeps_hashes, made };
            for seq in 1..=3 {
                let (gateway_id, prev_hash) = (GatewayId(uuid::Uuid::nil()), Digest::ZERO);
                let hash = Digest([u8::try_from(seq).unwrap(); 32]);
                tree.push(&StreamPosition { gateway_id, epoch: Epoch(1), seq: Seq(seq), prev_hash, hash });
            }
            assert_eq!(tree.new.len(), kept);
            tree.mark_stored();
            assert!(tree.new.is_empty());
            let stored = tree.stored();
            assert_eq!((stored.get().size(), stored.recent().1.len()), (3, kept));
            assert_eq!(stored.root_at(3).is_some(), keeps_hashes);
            assert_eq!(stored.consistency(1, 3).is_some(), keeps_hashes);
        }
    }
}
