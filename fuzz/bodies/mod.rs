//! The assertions of the fuzz targets. The targets in `fuzz/fuzz_targets` run these bodies on libFuzzer's inputs;
//! `tests/crash/fuzz.rs` runs them on the committed corpus and on proptest's variations of it.
//!
//! A body panics if a promise is broken, and returns otherwise.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code; each user needs only a part of it"
)]

pub mod config;
pub mod jsonrpc_envelope;
pub mod jwt_header;
pub mod outbox_ops;
pub mod params_forwarded;
pub mod record_decode;
pub mod samples;
pub mod segment_open;

/// The name and the body of a target.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("config", config::run),
    ("jsonrpc_envelope", jsonrpc_envelope::run),
    ("jwt_header", jwt_header::run),
    ("outbox_ops", outbox_ops::run),
    ("params_forwarded", params_forwarded::run),
    ("record_decode", record_decode::run),
    ("segment_open", segment_open::run),
];
