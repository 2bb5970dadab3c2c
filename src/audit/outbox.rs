//! The outbox: records that are stored and not yet delivered, on disk.
//!
//! The outbox is a directory of generation files (`outbox/generation.rs`). One process writes each file, in one epoch,
//! and never again after the first failed write. Every opening of the directory begins a new epoch and a new file.
//! Older files are only read, and are unlinked once all their records are delivered and were kept for a while.
//! Unlinking needs no free page, so a full disk cannot block the drain.
//!
//! [`Opening`] is the state of the directory as it was found; the first commit of the new epoch turns it into an
//! [`Outbox`]. The outbox has one writer, the scribe. A [`Reader`] serves the shipper and inspection; it works beside
//! the writer, and also on the directory of a stopped gateway, without changing it.
//!
//! The outbox does not use the ring or Postgres, and does not interpret the contents of a record. This folder is the
//! only place that uses redb.

mod absent;
mod commit;
pub mod damage;
mod damage_log;
mod delivered_note;
mod error;
mod file_number;
mod file_set;
mod frame;
pub mod fs;
mod generation;
mod heads;
mod keep;
mod listed_file;
pub mod lock;
mod new_log;
mod opening;
pub mod prune;
mod reader;
mod restore;
mod salvage;
mod scanned_file;
mod segment;
mod space;
mod storage_backend;
mod stream_end;
pub mod verify;
mod writer;

pub use commit::Commit;
pub use damage_log::FoundDamage;
pub use error::OutboxError;
pub use frame::RecordFrame;
pub use keep::Keep;
pub use new_log::mark_new_log;
pub use opening::{Opening, PreviousEpoch};
pub use reader::{OutboxStats, Reader, StoredStream};
pub use segment::Segment;
pub use space::Space;
pub use writer::Outbox;
