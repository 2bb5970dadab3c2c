//! Verification of a trail: every check that needs only the trail itself.
//!
//! A [`Checker`] gets the cursors, then the records in the order of their positions. It keeps one head and a few counts
//! of the current stream, so its memory does not grow with the number of records. It knows neither Postgres nor the
//! outbox.
//!
//! The checks:
//!
//! * `seq` rises by one from 1, and each position has one record;
//! * every record is linked to the one before it, and its hash matches its contents;
//! * a quarantined record's bytes match its columns, and it fills its position in the stream;
//! * an epoch begins with `gateway/opened`, which names the end of the previous epoch and the number of interrupted
//!   calls;
//! * no record follows `gateway/closed`, and its count is right;
//! * the cursor is at the last record, with its hash.

mod checker;
mod report;

pub use checker::{Checker, Origin, TrailRecord};
pub use report::{Ending, Fault, FaultKind, Report, StreamId, StreamReport};
