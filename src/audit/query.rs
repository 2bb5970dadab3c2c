//! Queries on the trail in Postgres, and the filter that also applies to the outbox.

mod checkpoints;
mod copied;
mod export;
mod filter;
mod reading;
mod row;
mod select;
mod silent;
mod snapshot;
mod stated;
mod tables;
mod verify;
mod windows;

pub use checkpoints::{LogReading, Side, StoredAnchor, StoredCheckpoint, StoredLog, signing_gateways, stored_logs};
pub use export::{Exported, Pager};
pub use filter::{Filter, LIMIT_MAX, PageKey, RESULT_BYTES_MAX, WhoMatch, matched_by};
pub use select::{delivered_positions, kept_policy, quarantined, query, remedy};
pub use snapshot::TrailSnapshot;
pub use sqlx::Error;
pub use stated::lost_runs;
