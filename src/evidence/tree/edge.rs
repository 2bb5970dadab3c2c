//! The right edge of a growing tree: all that is needed to add leaves and to compute the root.
//!
//! ```text
//! offset  width    stored edge
//! 0       8        size: u64, little-endian, at most 2^63 - 1
//! 8       32 * n   hashes of the perfect subtrees, from left to right; n is the number of one bits of size
//! ```

use super::hash::{HASH_BYTES, Hash, SIZE_MAX, empty_root, leaf_hash, node_hash};

/// The length of the size in a stored edge. *Derived*: `u64`.
const SIZE_BYTES: usize = 8;

/// The size of a tree, and the hashes of the perfect subtrees that it consists of: one for each one bit of the size,
/// from the largest to the smallest, at most 63.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    hashes: Vec<Hash>,
}

/// Bytes or hashes are not an edge.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// The bytes end before the size does.
    #[error("stored edge has {found} bytes, and begins with a size of {SIZE_BYTES}")]
    Cut {
        /// The number of bytes.
        found: usize,
    },
    /// The size is not one that a tree can have.
    #[error("stored edge has size {size}, limit {SIZE_MAX}")]
    Size {
        /// The size.
        size: u64,
    },
    /// There are more or fewer hashes than the size has one bits.
    #[error("edge of a tree of {size} records has {found} bytes of hashes instead of {wanted}")]
    Hashes {
        /// The size.
        size: u64,
        /// The bytes of hashes that there are.
        found: usize,
        /// The bytes of hashes that the size needs.
        wanted: usize,
    },
    /// The tree has as many records as a tree can have.
    #[error("the tree has {SIZE_MAX} records, which is the limit")]
    Full,
}

impl Edge {
    /// The edge of the tree without leaves.
    pub const EMPTY: Self = Self { size: 0, hashes: Vec::new() };

    /// The edge of a tree of `size` leaves, from the hashes of its perfect subtrees, the largest first.
    ///
    /// # Errors
    /// [`EdgeError::Size`] and [`EdgeError::Hashes`].
    pub fn from_hashes(size: u64, hashes: Vec<Hash>) -> Result<Self, EdgeError> {
        if size > SIZE_MAX {
            return Err(EdgeError::Size { size });
        }
        let (found, wanted) = (hashes.len() * HASH_BYTES, size.count_ones() as usize * HASH_BYTES);
        if found == wanted { Ok(Self { size, hashes }) } else { Err(EdgeError::Hashes { size, found, wanted }) }
    }

    /// The number of leaves of the tree, which is also the index of the next leaf.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the perfect subtrees, the largest first.
    #[must_use]
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Adds the leaf of a record. The hashes of the perfect subtrees that this completes, from level 0 upward, go to
    /// `completed`, each with its level and its index in that level.
    ///
    /// # Errors
    /// [`EdgeError::Full`]; the edge is unchanged.
    pub fn push(
        &mut self,
        record: &[u8; HASH_BYTES],
        mut completed: impl FnMut(u8, u64, &Hash),
    ) -> Result<(), EdgeError> {
        if self.size == SIZE_MAX {
            return Err(EdgeError::Full);
        }
        let (mut hash, mut level, mut index) = (leaf_hash(record), 0, self.size);
        completed(level, index, &hash);
        while index & 1 == 1
            && let Some(left) = self.hashes.pop()
        {
            hash = node_hash(&left, &hash);
            (level, index) = (level + 1, index >> 1);
            completed(level, index, &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
        Ok(())
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_right = self.hashes.iter().rev();
        let Some(last) = from_right.next() else { return empty_root() };
        from_right.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The bytes to be stored, as drawn above.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIZE_BYTES + self.hashes.len() * HASH_BYTES);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend(self.hashes.iter().flat_map(|hash| hash.0));
        bytes
    }

    /// The edge that these bytes were stored of.
    ///
    /// # Errors
    /// [`EdgeError`]: the bytes are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, EdgeError> {
        let (size, rest) = bytes.split_first_chunk::<SIZE_BYTES>().ok_or(EdgeError::Cut { found: bytes.len() })?;
        let size = u64::from_le_bytes(*size);
        let (hashes, left_over) = rest.as_chunks::<HASH_BYTES>();
        if !left_over.is_empty() {
            let wanted = size.count_ones() as usize * HASH_BYTES;
            return Err(EdgeError::Hashes { size, found: rest.len(), wanted });
        }
        Self::from_hashes(size, hashes.iter().map(|bytes| Hash(*bytes)).collect())
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self::EMPTY
    }
}
