//! The shell: reads the command line and hands over.

use std::process::ExitCode;

/// Several threads handle each record: it is made by one, stamped by a second, read from the outbox by a third and
/// dropped by a fourth. glibc's malloc keeps an arena for each of them. *Measured* in `benches/backlog.rs` and
/// `benches/store.rs`, 2026-11.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gatepost::cli::run()
}
