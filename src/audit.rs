//! The audit pipeline: records every call before it is forwarded and before it is answered.
//!
//! The gateway sees [`Audit::begin`], [`Receipt::finish`] and [`Audit::record_once`]. `begin` returns once the call's
//! intent has reached the configured level; forwarding a call needs its [`Receipt`] and a permit. `finish` consumes the
//! receipt and the backend's answer, and returns the answer as [`Released`] once the record has reached the level. The
//! HTTP layer can send nothing else, so an unaudited call does not compile (I1). A receipt that is dropped unfinished
//! still ends its call, with status `error` (I2).
//!
//! [`pipeline::Pipeline`] builds and stops the parts. Nothing here knows MCP.

mod ages;
pub mod chain;
pub mod codec;
mod gate;
mod handle;
pub mod lost;
pub mod meter;
pub mod outbox;
pub mod outbox_head;
pub mod pipeline;
pub mod query;
pub mod record;
pub mod redact;
pub mod retired;
pub mod ring;
pub mod scribe;
pub mod shipper;
pub mod sink;
mod sql;
mod sync;
pub mod tree;
pub mod verify;

pub use gate::Gate;
pub use handle::{Audit, Receipt, Released, Timeouts, UnavailableError};
