//! See `fuzz/bodies/jsonrpc_envelope.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::jsonrpc_envelope::run(data));
