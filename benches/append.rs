//! Claim: to append to the ring takes less than 1 us at the median, without I/O, with 1 and with 8 tasks.
//!
//! Tasks append intents and records as the gateway does, without receipts (level `queued`; the channel of a receipt is
//! one more allocation, made before the append). A thread drains the ring as the scribe does, and drops what it takes.
//! Calls and entries are made outside the timed section. The baseline is the same work with a plain `Mutex<VecDeque>`
//! and `Condvar`: the least that any queue with one consumer costs. The cost of reading the clock is shown, and is
//! included in every figure.
//!
//! Measured in 2026-11 on 2 cores, Debian 12; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::records::Maker;
use common::sample::{Sample, nanoseconds};
use common::scribing::{PATIENCE, RING};
use common::{runtime, size, table};
use gatepost::audit::chain::Head;
use gatepost::audit::record::{Call, Entry};
use gatepost::audit::ring::{Phase, Ring};

/// Calls that a task makes before others have their turn.
const BURST: usize = 16;

fn main() {
    table::title("append", "Append to the ring: under 1 us at the median with 1 and 8 tasks, no I/O.");
    let calls = size("APPEND_CALLS", 200_000, 20_000);
    let rounds = size("APPEND_ROUNDS", 5, 1);
    let mut shown = table::Table::new(["what", "tasks", "appends", "p50 ns", "p99 ns", "p50 / baseline"]);
    let mut clock = Sample::with_capacity(calls);
    for _ in 0..calls {
        clock.add(Instant::now().elapsed());
    }
    let p50 = nanoseconds(clock.percentile(50.0));
    shown.row([
        "the clock alone".into(),
        "1".into(),
        calls.to_string(),
        p50,
        nanoseconds(clock.percentile(99.0)),
        String::new(),
    ]);
    let mut worst = Duration::ZERO;
    for tasks in [1, 8] {
        let (mut baseline, mut begins, mut ends) = (Sample::default(), Sample::default(), Sample::default());
        for _ in 0..rounds {
            baseline.extend(plain_queue(tasks, calls / rounds));
            let (begin, end) = ring(tasks, calls / rounds);
            begins.extend(begin);
            ends.extend(end);
        }
        let limit = baseline.percentile(50.0);
        for (what, sample) in [
            ("plain queue (baseline)", &mut baseline),
            ("ring: reserve and begin", &mut begins),
            ("ring: end", &mut ends),
        ] {
            let p50 = sample.percentile(50.0);
            worst = worst.max(p50);
            let by_baseline = table::ratio(p50.as_secs_f64() / limit.as_secs_f64());
            let p99 = nanoseconds(sample.percentile(99.0));
            shown.row([what.into(), tasks.to_string(), sample.len().to_string(), nanoseconds(p50), p99, by_baseline]);
        }
    }
    shown.print();
    let met = worst < Duration::from_micros(1);
    table::goal("under 1 us at the median", &format!("{} ns at worst", nanoseconds(worst)), met);
}

/// How long `begin` (with its reservation) and `end` take.
fn ring(tasks: usize, calls: usize) -> (Sample, Sample) {
    let ring = Ring::new(RING, Head::START);
    let drain = {
        let ring = Arc::clone(&ring);
        std::thread::spawn(move || drain(&ring))
    };
    let maker = Arc::new(Maker::new());
    let samples = runtime().block_on(async {
        let task = |_| {
            let (ring, maker) = (Arc::clone(&ring), Arc::clone(&maker));
            tokio::spawn(async move {
                let (mut begins, mut ends) = (Sample::default(), Sample::default());
                for number in 0..calls / tasks {
                    let call = maker.call(number);
                    let begun = Instant::now();
                    let mut reservation = ring.reserve_call(&call, PATIENCE).await.unwrap();
                    ring.begin(&mut reservation, &call, None).unwrap();
                    begins.add(begun.elapsed());
                    let entry = Entry::new(call, maker.outcome(), Duration::ZERO);
                    let begun = Instant::now();
                    ring.end(reservation, entry, true, None).unwrap();
                    ends.add(begun.elapsed());
                    if number % BURST == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                (begins, ends)
            })
        };
        gather((0..tasks).map(task).collect()).await
    });
    ring.advance_phase(Phase::Finished);
    drain.join().unwrap();
    samples.into_iter().fold(Default::default(), |(mut begins, mut ends): (Sample, Sample), (begin, end)| {
        begins.extend(begin);
        ends.extend(end);
        (begins, ends)
    })
}

/// What the scribe does with the ring, without an outbox behind it.
fn drain(ring: &Ring) {
    loop {
        let work = ring.take(None);
        ring.publish(Vec::new(), work.room);
        if work.phase == Phase::Finished {
            return;
        }
    }
}

type Queue = (Mutex<VecDeque<Box<Call>>>, Condvar);

fn push(queue: &Queue, call: Box<Call>) {
    let mut calls = queue.0.lock().unwrap();
    let first = calls.is_empty();
    calls.push_back(call);
    drop(calls);
    if first {
        queue.1.notify_one();
    }
}

/// How long it takes to push boxed calls into a plain queue.
fn plain_queue(tasks: usize, calls: usize) -> Sample {
    let queue: Arc<Queue> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let drain = {
        let (queue, stop) = (Arc::clone(&queue), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let mut calls = queue.0.lock().unwrap();
                while calls.is_empty() && !stop.load(Ordering::Acquire) {
                    calls = queue.1.wait_timeout(calls, Duration::from_millis(10)).unwrap().0;
                }
                let taken = std::mem::take(&mut *calls);
                drop(calls);
                drop(taken);
            }
        })
    };
    let maker = Arc::new(Maker::new());
    let samples = runtime().block_on(async {
        let task = |_| {
            let (queue, maker) = (Arc::clone(&queue), Arc::clone(&maker));
            tokio::spawn(async move {
                let mut pushes = Sample::default();
                for number in 0..calls * 2 / tasks {
                    let call = maker.call(number);
                    let begun = Instant::now();
                    push(&queue, Box::new(call));
                    pushes.add(begun.elapsed());
                    if number % (2 * BURST) == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                pushes
            })
        };
        gather((0..tasks).map(task).collect()).await
    });
    stop.store(true, Ordering::Release);
    queue.1.notify_one();
    drain.join().unwrap();
    let mut all = Sample::default();
    for sample in samples {
        all.extend(sample);
    }
    all
}

async fn gather<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
