//! See `fuzz/bodies/segment_open.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: {
        // redb panics on some damaged files, and the outbox catches these panics. libFuzzer's own hook would end the
        // process before that. A panic that is not caught still ends it.
        std::panic::set_hook(Box::new(|info| {
            if info.location().is_none_or(|location| !location.file().contains("/redb-")) {
                eprintln!("{info}");
            }
        }));
    },
    |data: &[u8]| bodies::segment_open::run(data)
);
