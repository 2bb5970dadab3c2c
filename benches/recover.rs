//! Claim: after kill -9 with 2 GB in the outbox, the first call is accepted within 1 s.
//!
//! A child process fills the outbox through the real scribe, leaves 64 calls open, and is killed with SIGKILL. Another
//! child starts a pipeline on that outbox, with an unreachable Postgres, and begins a call at level `stored`; the time
//! is from before the outbox is opened until the receipt. Each such child is itself killed, and its own file removed,
//! so that the next one finds the same crash. *Cold*: the files were dropped from the page cache before. The baseline
//! is one redb file of the same size, as an outbox without generations would have it, opened with the same checks after
//! the same kill.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, ext4; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::child::{kill, ready, spawn};
use common::records::Maker;
use common::sample::{median, milliseconds};
use common::{argument, baseline, disk, fill, runtime, scribing, size, table};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::sink::postgres::{Options, PostgresSink};

/// Calls that are open when the process is killed. *Chosen*: as in the goal for latency.
const OPEN_CALLS: usize = 64;

fn main() {
    if let (Some(role), Some(dir)) = (argument("role"), argument("dir")) {
        return child(&role, Path::new(&dir));
    }
    table::title("recover", "Start after kill -9 with 2 GB in the outbox: the first call is accepted within 1 s.");
    let rounds = size("RECOVER_ROUNDS", 3, 1);
    let dir = disk::directory("recover");
    let (outbox, single) = (dir.path().join("outbox"), dir.path().join("single"));
    kill(spawn("fill", &outbox));
    std::fs::create_dir(&single).unwrap();
    kill(spawn("single", &single));
    let (files, found) = disk::usage(&outbox);
    let filled = disk::databases(&outbox);
    let mut shown = table::Table::new(["start after kill -9", "MiB", "files", "page cache", "ms, median", "ms, worst"]);
    let mut slowest = 0.0_f64;
    for (what, role, dir) in [("gatepost", "start", &outbox), ("one redb file (baseline)", "open", &single)] {
        for cold in [true, false] {
            let mut times = Vec::new();
            for _ in 0..rounds {
                // A start writes no file but its own; without that the next one finds what the first one found.
                if role == "start" {
                    for path in disk::databases(dir).iter().filter(|path| !filled.contains(path)) {
                        std::fs::remove_file(path).unwrap();
                    }
                }
                if cold {
                    disk::cool(dir);
                }
                let (child, line) = spawn(role, dir);
                kill((child, String::new()));
                times.push(line.parse::<f64>().unwrap());
            }
            let worst = times.iter().copied().fold(0.0, f64::max);
            if role == "start" {
                slowest = slowest.max(worst);
            }
            let (files, bytes) = if role == "start" { (files, found) } else { disk::usage(dir) };
            let cache = if cold { "cold" } else { "warm" };
            let (middle, worst) = (format!("{:.0}", median(times)), format!("{worst:.0}"));
            shown.row([what.into(), table::mebibytes(bytes), files.to_string(), cache.into(), middle, worst]);
        }
    }
    shown.print();
    table::goal("first call within 1 s", &format!("{slowest:.0} ms at worst"), slowest <= 1000.0);
}

fn bytes() -> u64 {
    size("RECOVER_BYTES", 2_000_000_000, 100_000_000)
}

fn child(role: &str, dir: &Path) {
    match role {
        "fill" => {
            let _scribing = fill::with_open_calls(dir, bytes(), OPEN_CALLS);
            ready("filled");
        }
        "single" => {
            let _database = baseline::redb_one_file(&file(dir), bytes());
            ready("filled");
        }
        "open" => ready(&milliseconds(baseline::redb_open_checked(&file(dir)))),
        _ => runtime().block_on(async {
            let maker = Maker::new();
            let url = "postgres://nobody@127.0.0.1:1/none".to_owned();
            let options =
                Options { url, password_file: None, statement_timeout: Duration::from_secs(30), migrate: false };
            let sink = PostgresSink::new(&options).unwrap();
            let begun = Instant::now();
            let pipeline = Pipeline::start(&scribing::config(dir), Arc::new(DiskFs), Some(sink)).unwrap();
            let receipt = pipeline.audit().begin(maker.call(1)).await.unwrap();
            let elapsed = begun.elapsed();
            receipt.finish(maker.outcome(), ()).await.unwrap().into_inner();
            ready(&milliseconds(elapsed));
        }),
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("single.redb")
}
