//! What the benches share: sizes, the table, records of a known size, places for files, and the throwaway Postgres of
//! the tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "benches: each uses a part of this, prints its table, and ends where anything is amiss"
)]

pub mod baseline;
pub mod child;
#[path = "../tests/common/command.rs"]
pub mod command;
pub mod disk;
pub mod fill;
#[path = "../tests/common/flood.rs"]
pub mod flood;
pub mod gateway;
pub mod machine;
#[path = "../tests/common/postgres.rs"]
pub mod postgres;
#[path = "../tests/common/postgres_control.rs"]
pub mod postgres_control;
#[path = "../tests/common/process.rs"]
pub mod process;
pub mod records;
#[path = "../tests/common/rng.rs"]
pub mod rng;
pub mod sample;
pub mod scribing;
#[path = "../tests/common/stored_records.rs"]
pub mod stored_records;
pub mod table;
pub mod unnest;
#[path = "../tests/common/wait.rs"]
pub mod wait;

use std::str::FromStr;

/// The gateway's own, see `src/main.rs`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A size: `GATEPOST_BENCH_<name>` where it is set, else `quick` where the run is a smoke test, else `full`.
pub fn size<T: FromStr>(name: &str, full: T, quick: T) -> T {
    let variable = format!("GATEPOST_BENCH_{name}");
    match std::env::var(&variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) if is_quick() => quick,
        Err(_) => full,
    }
}

/// Whether this is a smoke test: `--quick`, or `GATEPOST_BENCH_QUICK` set.
pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick") || std::env::var_os("GATEPOST_BENCH_QUICK").is_some()
}

/// The value behind `--<name>` on the command line, as parents give it to their children.
pub fn argument(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| *arg != format!("--{name}"));
    args.next().and_then(|_| args.next())
}

/// A runtime with a worker a core, as the gateway has it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}
