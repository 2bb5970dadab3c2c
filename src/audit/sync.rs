//! The lock, the signals and the clock of the ring and the scribe, in a module of their own.
//!
//! Here they are those of the standard library and Tokio. `tests/crash/schedules.rs` compiles the same ring and scribe
//! with a different `sync` module, which decides which thread runs next and what time it is.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
pub(super) use std::time::Instant;

pub(super) use tokio::sync::Notify;
pub(super) use tokio::time::timeout;
