//! The shell: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;

/// Records are made by one thread, stamped by a second, read from the outbox by a third and dropped by a fourth. glibc's
/// malloc keeps an arena a thread for them. *Measured* in `benches/backlog.rs` and `benches/store.rs`, 2026-11.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gatepost::cli::Cli::parse().run()
}
