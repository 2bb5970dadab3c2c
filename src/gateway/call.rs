//! The parts that handling a call needs: the state that requests share, the rules and limits that decide about it, and
//! its audit entry.

pub mod audit_entry;
pub(crate) mod caller_token;
pub(crate) mod catalog_changes;
pub mod context;
pub mod core;
pub mod counters;
pub mod limits;
pub(crate) mod list_changes;
pub(crate) mod named;
pub(crate) mod questions;
pub(crate) mod recorded_content;
pub(crate) mod recorded_params;
pub mod refusal_windows;
pub mod refusals;
pub mod request_state;
pub mod resource_owners;
pub mod rules;
pub mod session_end;
pub(crate) mod stream_counts;
pub(crate) mod stream_rights;
pub mod token_bucket;
pub mod trace;
