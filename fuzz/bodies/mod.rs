//! What each fuzz target asserts. The targets in `fuzz/fuzz_targets` run these bodies on what libFuzzer finds;
//! `tests/crash/fuzz.rs` runs them on the committed corpus and on what proptest makes of it.
//!
//! A body panics where a promise is broken, and returns otherwise.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests, in part used by each"
)]

pub mod config;
pub mod jsonrpc_envelope;
pub mod jwt_header;
pub mod outbox_ops;
pub mod record_decode;
pub mod samples;
pub mod segment_open;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("config", config::run),
    ("jsonrpc_envelope", jsonrpc_envelope::run),
    ("jwt_header", jwt_header::run),
    ("outbox_ops", outbox_ops::run),
    ("record_decode", record_decode::run),
    ("segment_open", segment_open::run),
];
