//! Queries on the trail in Postgres, and the filter that also applies to the outbox.

mod checkpoints;
mod confirmed;
mod copied;
mod denials;
mod export;
mod filter;
mod reading;
mod row;
mod select;
mod silent;
mod snapshot;
mod stated;
mod summary;
mod tables;
mod verify;
mod windows;

pub use checkpoints::{LogReading, Side, StoredAnchor, StoredCheckpoint, StoredLog, signing_gateways, stored_logs};
pub use confirmed::{Confirmation, confirmations};
pub use denials::{DENIALS_MAX, Denial, denials, denials_of};
pub use export::{Exported, Pager};
pub use filter::{Filter, LIMIT_MAX, PageKey, RESULT_BYTES_MAX, WhoMatch, matched_by};
pub use select::{delivered_positions, kept_policy, quarantined, query, remedy};
pub use snapshot::TrailSnapshot;
pub use sqlx::Error;
pub use stated::lost_runs;
pub use summary::{Basis, Effort, Facet, FacetValue, Summary, summary, summary_of};
