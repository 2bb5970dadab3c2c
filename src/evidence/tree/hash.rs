//! Hashes of leaves and nodes.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};

/// The length of a hash. *Spec*: SHA-256.
pub const HASH_BYTES: usize = 32;

/// The most leaves that a tree can have. *Derived*: the number of a record is a `bigint` in Postgres.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// The most hashes in a proof. *Derived*: a tree of [`SIZE_MAX`] leaves is 63 levels high. The same limit is in C2SP
/// tlog-witness.
pub const PROOF_HASHES_MAX: usize = 63;

/// The first byte of what a leaf hash is of. *Spec*: RFC 6962, section 2.1.
const LEAF: u8 = 0;
/// The first byte of what a node hash is of. *Spec*: RFC 6962, section 2.1.
const NODE: u8 = 1;

/// The hash of a leaf, of a node, or of a whole tree. Its `Debug` output has hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Hash {
    fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
        Self(hash)
    }
}

/// The hash of the leaf that holds the hash of a record.
#[must_use]
pub fn leaf_hash(record: &[u8; HASH_BYTES]) -> Hash {
    let mut bytes = [LEAF; 1 + HASH_BYTES];
    let (_, data) = bytes.split_at_mut(1);
    data.copy_from_slice(record);
    Hash::of(&bytes)
}

/// The hash of the node over two subtrees.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [NODE; 1 + 2 * HASH_BYTES];
    let (_, children) = bytes.split_at_mut(1);
    let (first, second) = children.split_at_mut(HASH_BYTES);
    first.copy_from_slice(&left.0);
    second.copy_from_slice(&right.0);
    Hash::of(&bytes)
}

/// The root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Hash::of(b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_rfc_6962() {
        // Known answers: printf '' | sha256sum, and the same with the bytes of the module's head.
        assert_eq!(format!("{:?}", empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let leaf = leaf_hash(&[7; 32]);
        assert_eq!(format!("{leaf:?}"), LEAF_OF_SEVENS);
        assert_eq!(format!("{:?}", node_hash(&leaf, &empty_root())), NODE_OVER_IT);
    }

    const LEAF_OF_SEVENS: &str = "0a958d726efea0a71eb66b07c78738717b22d1fbd44756e82803a5ed461e13f9";
    const NODE_OVER_IT: &str = "ecf5654803f0e52b314e99825b32b8cff1eb6c0e76f546b6c9f2d360877bd96b";
}
