//! See `fuzz/bodies/outbox_ops.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::outbox_ops::run(data));
