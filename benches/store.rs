//! Claim: stored appends at 1,000 waiters reach at least 0.5 of an append-only file with one fdatasync a batch of the
//! same size, and 50 times one redb commit a record; the disk is written at most 1.5 times the records' encoded size.
//!
//! Each waiter appends a record of 730 B, waits until it is stored, and appends the next one. The sides, interleaved
//! and repeated, the median of all rounds shown:
//!
//! * *plain file*: the limit; one loop, no waiters: as many frames as there are waiters, one fdatasync, again;
//! * *file, waiters*: frames that were encoded before, a queue, one thread with group commit, a receipt each;
//! * *redb, batches*: what redb leaves of the limit; one loop, no waiters: such a batch under one key, two-phase;
//! * *redb, waiters*: the same with group commit and a receipt each: what is left of the limit for the outbox;
//! * *redb, chained*: and each frame linked to the one before by SHA-256 and given its CRC-32C;
//! * *redb, made*: and each waiter makes its record and encodes it, which is unavoidable: what is left of the limit for
//!   ring, scribe and window;
//! * *outbox, records*: ring, scribe (place, hash chain, codec), outbox: what is stored is a whole record each;
//! * *outbox, calls*: `Audit::begin` and `finish`: two group commits a call, an intent and a record;
//! * *redb, commit a record*: redb with its defaults, one after another.
//!
//! *CPU us each* is processor time of the whole process a record: what other processes on the machine do to the rates,
//! they do not do to it.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, ext4; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench: it prints, and ends where anything is amiss"
)]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::baseline::{self, GroupCommit};
use common::disk::{self, CountingFs};
use common::records::{Maker, RECORD_BYTES};
use common::sample::{Sample, median, milliseconds, rate};
use common::scribing::{PATIENCE, Scribing, append, config, push};
use common::{machine, runtime, size, table};
use gatepost::audit::Audit;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::sink::postgres::PostgresSink;

/// Records in a batch whose bytes on disk are counted. *Spec*: docs/design.md, "Targets".
const COUNTED_BATCH: usize = 1024;

/// The sides, in the order in which the goals below name them.
const SIDES: [&str; 9] = [
    "plain file",
    "file, waiters",
    "redb, batches",
    "redb, waiters",
    "redb, chained",
    "redb, made",
    "outbox, records",
    "outbox, calls",
    "redb, commit a record",
];

/// A side: its name, stored a second and processor microseconds each by round, its latencies.
type Side = (&'static str, Vec<(f64, f64)>, Sample);

fn main() {
    table::title(
        "store",
        "Stored appends at 1,000 waiters: at least 0.5 of an append-only file with one fdatasync a batch of the same \
         size, at least 50 times one redb commit a record; at most 1.5 bytes written a byte of record.",
    );
    let during = Duration::from_millis(size("STORE_MS", 2_000, 200));
    let rounds = size("STORE_ROUNDS", 5, 1);
    let maker = Arc::new(Maker::new());
    let mut shown = table::Table::new([
        "side",
        "waiters",
        "stored/s",
        "p50 ms",
        "p99 ms",
        "CPU us each",
        "of plain file",
        "of redb",
    ]);
    let mut reached = (0.0, 0.0, [0.0; 3]);
    for waiters in [100, 1_000, 10_000] {
        let mut sides: Vec<Side> = SIDES.map(|side| (side, Vec::new(), Sample::default())).to_vec();
        for _ in 0..rounds {
            for (side, rates, latencies) in &mut sides {
                let used = machine::processor_time();
                let dir = disk::directory("store");
                let path = dir.path().join("file");
                let (rate, latency) = match *side {
                    "plain file" => (baseline::plain_file(&path, &maker.frame(), waiters, during), Sample::default()),
                    "file, waiters" => frames(GroupCommit::into_file(&path), &maker, waiters, during),
                    "redb, waiters" => frames(GroupCommit::into_redb(&path), &maker, waiters, during),
                    "redb, chained" => frames(GroupCommit::chained_into_redb(&path), &maker, waiters, during),
                    "redb, batches" => {
                        (baseline::redb_batches(&path, &maker.frame(), waiters, during), Sample::default())
                    }
                    "redb, made" => made(GroupCommit::chained_into_redb(&path), &maker, waiters, during),
                    "outbox, records" => records(dir.path(), &maker, waiters, during),
                    "outbox, calls" => calls(dir.path(), &maker, waiters, during),
                    _ => (baseline::redb_commit_a_record(&path, &maker.frame(), during), Sample::default()),
                };
                let used = machine::processor_time().saturating_sub(used);
                rates.push((rate, used.as_secs_f64() * 1e6 / (rate * during.as_secs_f64())));
                latencies.extend(latency);
            }
        }
        let of = |side: &Vec<(f64, f64)>, figure: fn(&(f64, f64)) -> f64| median(side.iter().map(figure).collect());
        let rates: Vec<f64> = sides.iter().map(|(_, rounds, _)| of(rounds, |round| round.0)).collect();
        if waiters == 1_000 {
            let of_file = |side: usize| rates[side] / rates[0];
            reached = (of_file(6), rates[6] / rates[8], [3, 4, 5].map(of_file));
        }
        for ((side, rounds, mut latencies), rate) in sides.into_iter().zip(rates.iter().copied()) {
            let mut percentile = |percent| {
                if latencies.is_empty() { String::new() } else { milliseconds(latencies.percentile(percent)) }
            };
            let (p50, p99) = (percentile(50.0), percentile(99.0));
            let (of_file, of_redb) = (table::ratio(rate / rates[0]), table::ratio(rate / rates[8]));
            let used = table::ratio(of(&rounds, |round| round.1));
            let waiters = waiters.to_string();
            shown.row([side.to_owned(), waiters, table::count(rate), p50, p99, used, of_file, of_redb]);
        }
    }
    shown.print();
    table::goal("at least 0.5 of the plain file at 1,000 waiters", &table::ratio(reached.0), reached.0 >= 0.5);
    let [redb, chained, made] = reached.2.map(table::ratio);
    println!(
        "- what redb and a receipt each leave of it: {redb}; with SHA-256 and CRC-32C: {chained}; with making the record: \
         {made}\n"
    );
    table::goal("at least 50 times one redb commit a record", &table::ratio(reached.1), reached.1 >= 50.0);
    written(&maker);
}

/// Runs `waiters` tasks that do `one` again and again; gives how many were done a second, and how long each took.
async fn waiting<F: Future<Output = ()> + Send>(
    waiters: usize,
    during: Duration,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) -> (f64, Sample) {
    let (one, stop) = (Arc::new(one), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let task = |waiter| {
        let (one, stop) = (Arc::clone(&one), Arc::clone(&stop));
        async move {
            let (mut count, mut latencies) = (0, Sample::default());
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                one(waiter + count).await;
                latencies.add(asked.elapsed());
                count += 1;
            }
            (count, latencies)
        }
    };
    let tasks: Vec<_> = (0..waiters).map(|waiter| tokio::spawn(task(waiter))).collect();
    tokio::time::sleep(during).await;
    stop.store(true, Ordering::Relaxed);
    let (mut count, mut latencies) = (0, Sample::default());
    for task in tasks {
        let (done, sample) = task.await.unwrap();
        count += done;
        latencies.extend(sample);
    }
    (rate(count, begun.elapsed()), latencies)
}

fn frames(baseline: GroupCommit, maker: &Maker, waiters: usize, during: Duration) -> (f64, Sample) {
    let appender = baseline.appender();
    let frame: Arc<[u8]> = maker.frame().into();
    let result = runtime().block_on(waiting(waiters, during, move |_| {
        let stored = appender.append(Arc::clone(&frame));
        async move { stored.await.unwrap() }
    }));
    baseline.end();
    result
}

fn made(baseline: GroupCommit, maker: &Arc<Maker>, waiters: usize, during: Duration) -> (f64, Sample) {
    let (appender, maker) = (baseline.appender(), Arc::clone(maker));
    let result = runtime().block_on(waiting(waiters, during, move |number| {
        let stored = appender.append(Maker::frame_of(maker.entry(number)).into());
        async move { stored.await.unwrap() }
    }));
    baseline.end();
    result
}

fn records(dir: &std::path::Path, maker: &Arc<Maker>, waiters: usize, during: Duration) -> (f64, Sample) {
    let scribing = Scribing::begin(Arc::new(DiskFs), &dir.join("outbox"));
    let (ring, maker) = (Arc::clone(&scribing.ring), Arc::clone(maker));
    let result = runtime().block_on(waiting(waiters, during, move |number| {
        let (ring, entry) = (Arc::clone(&ring), maker.entry(number));
        async move {
            append(&ring, entry).await.await.unwrap();
        }
    }));
    scribing.end();
    result
}

fn calls(dir: &std::path::Path, maker: &Arc<Maker>, waiters: usize, during: Duration) -> (f64, Sample) {
    let config = config(&dir.join("outbox"));
    runtime().block_on(async {
        let pipeline = Pipeline::start::<PostgresSink>(&config, Arc::new(DiskFs), None).unwrap();
        let (audit, maker) = (pipeline.audit(), Arc::clone(maker));
        let result = waiting(waiters, during, move |number| call(audit.clone(), Arc::clone(&maker), number)).await;
        pipeline.stop(PATIENCE, Duration::ZERO).await;
        result
    })
}

async fn call(audit: Audit, maker: Arc<Maker>, number: usize) {
    let receipt = audit.begin(maker.call(number)).await.unwrap();
    receipt.finish(maker.outcome(), ()).await.unwrap().into_inner();
}

/// Bytes written a byte of record, in batches of [`COUNTED_BATCH`].
fn written(maker: &Maker) {
    let batches = size("STORE_COUNTED_BATCHES", 500, 50);
    let dir = disk::directory("written");
    let fs = CountingFs::default();
    let counters = Arc::clone(&fs.0);
    let scribing = Scribing::begin(Arc::new(fs), &dir.path().join("outbox"));
    let ring = Arc::clone(&scribing.ring);
    let before = (counters.written.load(Ordering::Relaxed), counters.syncs.load(Ordering::Relaxed));
    runtime().block_on(async {
        // While the disk holds the scribe up in one commit, the next batch arrives whole.
        counters.close_gate();
        let mut last = append(&ring, maker.entry(0)).await;
        for _ in 0..batches {
            for number in 1..COUNTED_BATCH {
                push(&ring, maker.entry(number)).await;
            }
            let next = append(&ring, maker.entry(0)).await;
            counters.open_gate();
            last.await.unwrap();
            counters.close_gate();
            last = next;
        }
        counters.open_gate();
        last.await.unwrap();
    });
    let bytes = counters.written.load(Ordering::Relaxed) - before.0;
    let commits = (counters.syncs.load(Ordering::Relaxed) - before.1) as f64 / 2.0;
    let records = (batches * COUNTED_BATCH + 1) as f64;
    scribing.end();
    let ratio = bytes as f64 / records / RECORD_BYTES as f64;
    println!();
    let mut shown = table::Table::new(["records", "a commit", "bytes written", "a record", "of its encoded size"]);
    let (per_commit, per_record) = (table::count(records / commits), table::count(bytes as f64 / records));
    shown.row([table::count(records), per_commit, table::count(bytes as f64), per_record, table::ratio(ratio)]);
    shown.print();
    table::goal("at most 1.5 bytes written a byte of record", &table::ratio(ratio), ratio <= 1.5);
}
