//! Evidence that outsiders can check: the formats of a public log over the hashes of records.
//!
//! One log for each gateway: an RFC 6962 Merkle tree ([`tree`]) whose leaves are the 32-byte hashes of its records. A
//! [`checkpoint`] is the tree's size and root as a signed [`note`]; a witness adds a [`cosignature`] with its time. A
//! [`proof`] shows that one record is in the tree of a checkpoint, and a [`policy`] says whose signatures suffice. All
//! formats are those of C2SP (signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof, tlog-policy);
//! `docs/evidence.md` has their bytes and test vectors. A [`time_stamp`] is that of RFC 3161.
//!
//! These modules know no record, no trail, no file and no network: they turn values into bytes and back.

pub mod add_checkpoint;
pub mod checkpoint;
pub mod cosignature;
pub mod key;
pub mod note;
pub mod policy;
pub mod proof;
pub mod signature;
pub mod time_stamp;
pub mod time_stamp_roots;
pub mod tree;

mod text;
