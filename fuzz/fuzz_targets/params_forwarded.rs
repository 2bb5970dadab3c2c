//! See `fuzz/bodies/params_forwarded.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::params_forwarded::run(data));
