//! The tree as the scribe extends it, and as much of it as is stored.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::audit::outbox::Opening;
use crate::audit::record::StreamPosition;
use crate::audit::tree::Tree;

/// The tree over all records with a position, and the one over all stored records.
#[derive(Debug)]
pub(super) struct GrowingTree {
    /// The tree over all records with a position.
    pub(super) made: Tree,
    stored: StoredTree,
}

/// The tree over all stored records, as it is at any time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoredTree(Arc<Mutex<Tree>>);

impl GrowingTree {
    /// The tree that the new epoch continues.
    pub(super) fn of(opening: &Opening) -> Self {
        let made = opening.tree.clone();
        Self { stored: StoredTree(Arc::new(Mutex::new(made.clone()))), made }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, position: &StreamPosition) {
        self.made.push(position);
    }

    /// All records with a position are stored.
    pub(super) fn mark_stored(&self) {
        self.stored.0.lock().clone_from(&self.made);
    }

    /// The tree over all stored records.
    pub(super) fn stored(&self) -> StoredTree {
        self.stored.clone()
    }
}

impl StoredTree {
    /// A tree that [`StoredTree::set`] replaces, for a test without a scribe.
    #[cfg(test)]
    pub(crate) fn of(tree: Tree) -> Self {
        Self(Arc::new(Mutex::new(tree)))
    }

    #[cfg(test)]
    pub(crate) fn set(&self, tree: Tree) {
        *self.0.lock() = tree;
    }

    /// The tree over the records that are stored now.
    #[must_use]
    pub fn get(&self) -> Tree {
        self.0.lock().clone()
    }
}
