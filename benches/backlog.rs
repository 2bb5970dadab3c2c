//! Claim: resident memory does not grow with the backlog: it is under 200 MiB with 5 M undelivered records, and at most
//! 20 MiB more than with 50,000, before and during the drain.
//!
//! A child process runs a whole pipeline at level `stored` with the default limits. It stores that many records while
//! Postgres is down, and continues after Postgres is up until all are delivered. The parent reads the resident memory
//! of the child every 20 ms, and the peak that the kernel recorded. At the end each record is in Postgres once, and the
//! outbox is one small file again.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, Postgres 15; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use common::machine::{Memory, memory};
use common::postgres::Cluster;
use common::postgres_control::stop_server;
use common::records::Maker;
use common::sample::rate;
use common::{argument, disk, runtime, scribing, size, table};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::record::Status;
use gatepost::audit::ring::RingLimits;
use gatepost::audit::sink::postgres::{Options, PostgresSink};

/// *Spec*: the default of `audit.ring_records_max` and `audit.ring_bytes_max`.
const RING: RingLimits = RingLimits { records: 16 * 1024, bytes: 64 * 1024 * 1024 };

/// Tasks that append. *Chosen*: enough for full segments.
const TASKS: usize = 1_000;

/// The longest drain. *Chosen*: 5 M records at a fifth of the measured rate.
const DRAIN: Duration = Duration::from_mins(10);

fn main() {
    if let (Some(dir), Some(url), Some(records)) = (argument("dir"), argument("url"), argument("records")) {
        return child(Path::new(&dir), url, records.parse().unwrap());
    }
    table::title(
        "backlog",
        "Resident memory under 200 MiB with 5 M records behind, at most 20 MiB above that with 50 k behind.",
    );
    let few = size("BACKLOG_FEW", 50_000, 5_000);
    let many = size("BACKLOG_MANY", 5_000_000, 100_000);
    let header =
        ["records behind", "outbox MiB", "files", "RSS MiB, behind", "draining, most", "VmHWM", "rows/s", "MiB after"];
    let mut shown = table::Table::new(header);
    let runs = [few, many].map(|records| run(records, &mut shown));
    shown.print();
    let peak = runs.iter().map(|run| run.peak).max().unwrap();
    table::goal("under 200 MiB", &format!("{} MiB at most", table::mebibytes(peak)), peak < 200 << 20);
    let more = runs[1].peak.saturating_sub(runs[0].peak);
    table::goal("at most 20 MiB above the small backlog", &format!("{} MiB", table::mebibytes(more)), more <= 20 << 20);
}

fn run(records: usize, shown: &mut table::Table) -> Memory {
    let dir = disk::directory("backlog");
    let outbox = dir.path().join("outbox");
    let mut cluster = Cluster::start_with("fsync=on");
    let database = runtime().block_on(cluster.create_database());
    stop_server(&mut cluster);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--records", &records.to_string(), "--url", &database.url, "--dir"])
        .arg(&outbox)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = lines(child.stdout.take().unwrap());
    said.recv().unwrap();
    let behind = memory(child.id());
    let (files, bytes) = disk::usage(&outbox);
    cluster.restart();
    let (begun, mut most) = (Instant::now(), 0);
    let elapsed = loop {
        most = most.max(memory(child.id()).resident);
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(_) => break begun.elapsed(),
            Err(mpsc::RecvTimeoutError::Timeout) => assert!(begun.elapsed() < DRAIN, "the drain takes too long"),
            Err(error) => panic!("the child died: {error}"),
        }
    };
    let all = memory(child.id());
    let in_postgres = runtime().block_on(async {
        let pool = database.pool().await;
        let count = "SELECT count(*) FROM audit_log WHERE epoch = 1 AND method = 'tools/call'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap().unsigned_abs()
    });
    assert_eq!(in_postgres, records as u64, "each record once");
    let after = disk::usage(&outbox).1;
    stop(child.stdin.take().unwrap());
    assert!(child.wait().unwrap().success());
    let mib = table::mebibytes;
    let count = table::whole(records);
    let rate = table::count(rate(records, elapsed));
    let files = files.to_string();
    shown.row([count, mib(bytes), files, mib(behind.resident), mib(most), mib(all.peak), rate, mib(after)]);
    Memory { resident: behind.resident, peak: all.peak }
}

fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
    });
    receiver
}

fn stop(mut input: ChildStdin) {
    writeln!(input, "stop").unwrap();
}

/// Stores the records, says so, waits until all is delivered and forgotten, says so, and waits for a word.
fn child(dir: &Path, url: String, records: usize) {
    let mut config = scribing::config(dir);
    config.ring = RING;
    runtime().block_on(async {
        let options = Options { url, password_file: None, statement_timeout: Duration::from_secs(30), migrate: true };
        let sink = PostgresSink::new(&options).unwrap();
        let pipeline = Pipeline::start(&config, Arc::new(DiskFs), Some(sink)).unwrap();
        let maker = Arc::new(Maker::new());
        let append = |task: usize| {
            let (audit, maker) = (pipeline.audit(), Arc::clone(&maker));
            async move {
                for number in (task..records).step_by(TASKS) {
                    let mut outcome = maker.outcome();
                    outcome.status = Status::Denied;
                    audit.record_once(maker.call(number), outcome, ()).await.unwrap().into_inner();
                }
            }
        };
        let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(append(task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        println!("stored");
        drained(&pipeline.probe(), dir).await;
        println!("delivered");
        tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await.unwrap();
        pipeline.stop(scribing::PATIENCE, scribing::PATIENCE).await;
    });
}

/// Waits until all is in Postgres and the outbox has unlinked what it need not keep.
async fn drained(probe: &Probe, dir: &Path) {
    loop {
        let gauge = probe.gauge();
        if gauge.delivered == gauge.stamped && disk::usage(dir).0 == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
