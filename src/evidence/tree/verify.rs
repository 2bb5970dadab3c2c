//! Verification of proofs, as RFC 9162 describes it in sections 2.1.3.2 (inclusion) and 2.1.4.2 (consistency).

use super::hash::{Hash, SIZE_MAX, empty_root, node_hash};

/// A proof does not show what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The record cannot be in a tree of this size.
    #[error("record {index} cannot be in a tree of {size} records")]
    Index {
        /// The index of the record.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    #[error("a tree of {new} records cannot continue one of {old}")]
    Sizes {
        /// The size of the older tree.
        old: u64,
        /// The size of the newer tree.
        new: u64,
    },
    /// A tree cannot have this size.
    #[error("a tree of {size} records: the limit is {SIZE_MAX}")]
    Size {
        /// The size.
        size: u64,
    },
    /// The proof has fewer hashes than the sizes need.
    #[error("the proof is too short: it has {found} hashes")]
    TooShort {
        /// The number of hashes.
        found: usize,
    },
    /// The proof has more hashes than the sizes need.
    #[error("the proof is too long: it has {found} hashes")]
    TooLong {
        /// The number of hashes.
        found: usize,
    },
    /// The proof leads to another root: the record is not in this tree, or the newer tree has another root.
    #[error("the proof leads to the root {found:?}, not to {wanted:?}")]
    Root {
        /// The root that the proof leads to.
        found: Hash,
        /// The root that was expected.
        wanted: Hash,
    },
    /// The proof leads to another root of the older tree: the newer tree does not continue it.
    #[error("the proof leads to the root {found:?} of the older tree, not to {wanted:?}")]
    OldRoot {
        /// The root that the proof leads to.
        found: Hash,
        /// The root that was expected.
        wanted: Hash,
    },
}

/// The size and the root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// The number of records.
    pub size: u64,
    /// The root.
    pub root: Hash,
}

impl TreeHead {
    fn check(self) -> Result<Self, VerifyError> {
        if self.size > SIZE_MAX {
            return Err(VerifyError::Size { size: self.size });
        }
        if self.size == 0 { same_root(empty_root(), self.root).map(|()| self) } else { Ok(self) }
    }
}

/// Checks that the leaf with the hash `leaf` is number `index` of the tree.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_inclusion(index: u64, leaf: Hash, tree: TreeHead, proof: &[Hash]) -> Result<(), VerifyError> {
    let size = tree.check()?.size;
    if index >= size {
        return Err(VerifyError::Index { index, size });
    }
    let mut climb = Climb { at: index, last: size - 1 };
    let mut hash = leaf;
    for sibling in proof {
        hash = match climb.up().ok_or(VerifyError::TooLong { found: proof.len() })? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    if climb.last > 0 {
        return Err(VerifyError::TooShort { found: proof.len() });
    }
    same_root(hash, tree.root)
}

/// Checks that the tree `new` continues the tree `old`: that its first `old.size` leaves are those of `old`. Any tree
/// continues the empty one; that needs no proof.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_consistency(old: TreeHead, new: TreeHead, proof: &[Hash]) -> Result<(), VerifyError> {
    let (old, new) = (old.check()?, new.check()?);
    if old.size > new.size {
        return Err(VerifyError::Sizes { old: old.size, new: new.size });
    }
    let found = proof.len();
    if old.size == 0 || old.size == new.size {
        return match (proof, old.size == new.size) {
            ([_, ..], _) => Err(VerifyError::TooLong { found }),
            ([], true) => same_root(new.root, old.root),
            ([], false) => Ok(()),
        };
    }
    let mut climb = Climb { at: old.size - 1, last: new.size - 1 };
    while climb.at & 1 == 1 {
        climb.shift();
    }
    // An older tree that is perfect is a node of the newer one: its root is known and is not in the proof.
    let (first, rest) = if old.size.is_power_of_two() {
        (old.root, proof)
    } else {
        proof.split_first().map(|(first, rest)| (*first, rest)).ok_or(VerifyError::TooShort { found })?
    };
    let (mut old_root, mut new_root) = (first, first);
    for sibling in rest {
        match climb.up().ok_or(VerifyError::TooLong { found })? {
            Side::Left => {
                old_root = node_hash(sibling, &old_root);
                new_root = node_hash(sibling, &new_root);
            }
            Side::Right => new_root = node_hash(&new_root, sibling),
        }
    }
    if climb.last > 0 {
        return Err(VerifyError::TooShort { found });
    }
    if old_root != old.root {
        return Err(VerifyError::OldRoot { found: old_root, wanted: old.root });
    }
    same_root(new_root, new.root)
}

fn same_root(found: Hash, wanted: Hash) -> Result<(), VerifyError> {
    if found == wanted { Ok(()) } else { Err(VerifyError::Root { found, wanted }) }
}

/// The side on which the next hash of a proof is.
enum Side {
    Left,
    Right,
}

/// The way from a node to the root: the node's index in its level, and the index of the last node of that level.
/// RFC 9162 calls them `fn` and `sn`.
struct Climb {
    at: u64,
    last: u64,
}

impl Climb {
    fn shift(&mut self) {
        self.at >>= 1;
        self.last >>= 1;
    }

    /// Goes up by one hash of the proof. `None` at the root.
    fn up(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let is_left = self.at & 1 == 1 || self.at == self.last;
        if is_left {
            // The last node of an incomplete level has no sibling there: it is moved up until it has one.
            while self.at & 1 == 0 && self.at != 0 {
                self.shift();
            }
        }
        self.shift();
        Some(if is_left { Side::Left } else { Side::Right })
    }
}
