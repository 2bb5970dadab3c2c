//! The notary: signs checkpoints of the gateway's log, so that outsiders can check the trail (`docs/evidence.md`).
//!
//! ```text
//! scribe -> stored tree -> notary -> memory on disk -> Postgres -> anchors
//! ```
//!
//! It signs a tree only after its records are stored, and after Postgres and a witness told that they have no later
//! checkpoint of the log: a gateway that lost its memory, or whose disk was set back, would contradict itself. What it
//! signed is in its memory on disk before anyone else sees it. No call ever waits for the notary.

mod anchor;
mod anchors;
mod bucket;
mod client;
mod command;
mod database;
mod memory;
mod recheck;
mod records;
mod signer;
mod status;
mod task;
mod time_stamp;
mod witness;

pub use anchor::{Anchor, AnchorClient, AnchorError, History, Largest, ProofError};
pub use bucket::{BucketAnchor, BucketError, BucketSettings};
pub use client::Client;
pub use command::CommandAnchor;
pub use memory::{Memory, MemoryError, Signed};
pub use recheck::RecheckError;
pub use signer::{SignCommand, Signer, SignerError, log_name};
pub use status::{Anchored, EvidenceState, PlaceState, Status};
pub use task::{Notary, POSTGRES, Settings};
pub use time_stamp::{TimeStampAnchor, TimeStampAnchorError};
pub use witness::WitnessAnchor;

#[cfg(test)]
mod tests;
