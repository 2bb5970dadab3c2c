//! The lock, the signals and the clock of the ring and the scribe, under names of their own.
//!
//! Here they are the standard library's and Tokio's. `tests/crash/schedules.rs` compiles the same ring and the same scribe
//! against others of these names, and so decides who runs next and what time it is.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
pub(super) use std::time::Instant;

pub(super) use tokio::sync::Notify;
pub(super) use tokio::time::timeout;
