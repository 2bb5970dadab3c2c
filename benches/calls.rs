//! Claim: the cost of the whole gateway for a call: 64 clients for a minute against the example backend, with and
//! without it.
//!
//! *Alone*: 64 calls are always open at the example backend, over its own pipe. *Gateway*: the release binary is in
//! between, as `serve` runs it, store-only; each client has one persistent connection and calls without a session.
//! Clients, gateway and backend share the two cores of the machine, so throughput depends on processor time. The
//! processor time of the gateway process alone, without the backend, is shown too.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, ext4; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::gateway::{BINARY, CLIENTS, Gateway, Load, call};
use common::sample::{Sample, milliseconds};
use common::{disk, runtime, size, table};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, oneshot};

struct Run {
    sample: Sample,
    took: Duration,
    /// Processor time of the gateway's process.
    own: Duration,
}

fn main() {
    table::title("calls", "What the whole gateway costs a call: 64 clients against the example backend.");
    let during = Duration::from_secs(size("CALLS_SECONDS", 60, 2));
    let mut shown = table::Table::new(["side", "calls/s", "p50 ms", "p99 ms", "gateway CPU us a call", "of alone"]);
    let mut alone = None;
    for side in ["backend alone", "gateway, not audited", "gateway, queued", "gateway, stored"] {
        let run = runtime().block_on(async {
            match side.strip_prefix("gateway, ") {
                None => direct(during).await,
                Some(level) => through(level, during).await,
            }
        });
        let mut sample = run.sample;
        let rate = sample.len() as f64 / run.took.as_secs_f64();
        let of_alone = table::ratio(rate / *alone.get_or_insert(rate));
        let own = run.own.as_secs_f64() * 1e6 / sample.len() as f64;
        let own = if run.own.is_zero() { String::new() } else { format!("{own:.0}") };
        let (p50, p99) = (milliseconds(sample.percentile(50.0)), milliseconds(sample.percentile(99.0)));
        shown.row([side.to_owned(), format!("{rate:.0}"), p50, p99, own, of_alone]);
    }
    shown.print();
}

/// Calls over the backend's own pipe.
async fn direct(during: Duration) -> Run {
    let mut command = tokio::process::Command::new(BINARY);
    command.arg("example-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let input = Arc::new(Mutex::new(child.stdin.take().unwrap()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let info = json!({"name": "bench", "version": "1"});
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    input.lock().await.write_all(format!("{hello}\n{initialized}\n").as_bytes()).await.unwrap();
    lines.next_line().await.unwrap().unwrap();
    let waiting = Arc::new(std::sync::Mutex::new(std::collections::HashMap::<u64, oneshot::Sender<()>>::new()));
    let told = Arc::clone(&waiting);
    let reader = tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let message: serde_json::Value = serde_json::from_str(&line).unwrap();
            let answered = told.lock().unwrap().remove(&message["id"].as_u64().unwrap());
            answered.unwrap().send(()).ok();
        }
    });
    let next = Arc::new(AtomicU64::new(1));
    let one = move || {
        let (input, waiting, next) = (Arc::clone(&input), Arc::clone(&waiting), Arc::clone(&next));
        async move {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            waiting.lock().unwrap().insert(id, answer);
            input.lock().await.write_all(format!("{}\n", call(id, "echo")).as_bytes()).await.unwrap();
            answered.await.unwrap();
        }
    };
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let one = one.clone();
            tokio::spawn(async move {
                let mut sample = Sample::default();
                while begun.elapsed() < during {
                    let asked = Instant::now();
                    one().await;
                    sample.add(asked.elapsed());
                }
                sample
            })
        })
        .collect();
    let mut sample = Sample::default();
    for task in tasks {
        sample.extend(task.await.unwrap());
    }
    let took = begun.elapsed();
    reader.abort();
    Run { sample, took, own: Duration::ZERO }
}

/// Calls through the gateway.
async fn through(level: &str, during: Duration) -> Run {
    let dir = disk::directory("calls");
    let gateway = Arc::new(Gateway::start(dir.path(), &dir.path().join("data"), level).await);
    let before = gateway.processor_time();
    let Load { sample, took } = gateway.load(during).await;
    let own = gateway.processor_time().saturating_sub(before);
    Arc::into_inner(gateway).unwrap().end(Signal::SIGTERM).await;
    Run { sample, took, own }
}
