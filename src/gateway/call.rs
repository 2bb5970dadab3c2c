//! The handling of one call: the state that requests share, what a request is decided by, and what is recorded of it.

pub mod audit_entry;
pub mod context;
pub mod core;
pub mod counters;
pub mod limits;
pub(crate) mod outcome;
pub mod refusal_windows;
pub mod request_state;
pub mod resource_owners;
pub mod rules;
pub mod session_end;
pub mod trace;
