//! Claim: at level `queued` a healthy Postgres leaves the disk idle at 5,000 records a second; while Postgres is frozen
//! for 10 s no call is refused and no record lost; and a lone record is delivered within 50 ms.
//!
//! The bench runs a whole pipeline with the default limits and a real Postgres. Calls (`begin` and `finish`) start at a
//! fixed rate, each in a task of its own; bytes written to the outbox are counted at the file system. For the freeze
//! the processes of the server are stopped (SIGSTOP) and later resumed. At the end each record is in Postgres once.
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

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::disk::{self, Counters, CountingFs};
use common::postgres::Cluster;
use common::postgres_control::{freeze, thaw};
use common::records::Maker;
use common::sample::{Sample, milliseconds};
use common::{runtime, scribing, size, table};
use gatepost::audit::Audit;
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::ring::RingLimits;
use gatepost::audit::scribe::Mode;
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use tokio::task::JoinSet;

/// *Spec*: the default of `audit.ring_records_max` and `audit.ring_bytes_max`.
const RING: RingLimits = RingLimits { records: 16 * 1024, bytes: 64 * 1024 * 1024 };

/// *Spec*: the default of `audit.spill_after`.
const SPILL_AFTER: Duration = Duration::from_millis(200);

/// How often calls are begun, a group at a time. *Chosen*: timers of tokio go by the millisecond.
const TICK: Duration = Duration::from_millis(5);

/// Lone records. *Chosen*: enough for a 99th percentile.
const LONE: usize = 200;

struct Load {
    audit: Audit,
    probe: Probe,
    maker: Arc<Maker>,
    written: Arc<Counters>,
    made: AtomicUsize,
    refused: AtomicUsize,
}

/// What a phase showed.
struct Seen {
    calls: usize,
    added: Sample,
    refused: usize,
    bytes: u64,
    syncs: u64,
}

fn main() {
    table::title(
        "queued",
        "With a healthy Postgres the disk is idle at 5,000 records a second; a freeze of 10 s costs no record and no \
         refusal; a lone record is delivered within 50 ms.",
    );
    let rate = size("QUEUED_RATE", 5_000, 1_000);
    let healthy = Duration::from_secs(size("QUEUED_HEALTHY_S", 20, 2));
    let frozen = Duration::from_secs(size("QUEUED_FROZEN_S", 10, 1));
    let dir = disk::directory("queued");
    let cluster = Cluster::start_with("fsync=on");
    let fs = CountingFs::default();
    let written = Arc::clone(&fs.0);
    runtime().block_on(async {
        let database = cluster.create_database().await;
        let mut config = scribing::config(&dir.path().join("outbox"));
        (config.mode, config.ring) = (Mode::Queued { spill_after: SPILL_AFTER }, RING);
        let options = Options {
            url: database.url.clone(),
            password_file: None,
            statement_timeout: Duration::from_secs(30),
            migrate: true,
        };
        let sink = PostgresSink::new(&options).unwrap();
        let pipeline = Pipeline::start(&config, Arc::new(fs), Some(sink)).unwrap();
        let load = Arc::new(Load {
            audit: pipeline.audit(),
            probe: pipeline.probe(),
            maker: Arc::new(Maker::new()),
            written,
            made: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        load.delivered().await;
        let mut lone = load.lone().await;
        let idle = load.paced(rate, healthy).await;
        freeze(&cluster);
        let spilled = load.paced(rate, frozen).await;
        thaw(&cluster);
        let thawed = Instant::now();
        let behind = load.paced(rate, healthy).await;
        load.delivered().await;
        let caught_up = thawed.elapsed().saturating_sub(healthy);
        let again = load.paced(rate, healthy).await;
        load.delivered().await;
        pipeline.stop(scribing::PATIENCE, scribing::PATIENCE).await;
        let pool = database.pool().await;
        let count = "SELECT count(*) FROM audit_log WHERE method = 'tools/call'";
        let rows = sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap().unsigned_abs();
        let mut shown =
            table::Table::new(["Postgres", "calls", "added p50 ms", "p99 ms", "refused", "bytes written", "fsyncs"]);
        let phases = [("healthy", idle), ("frozen", spilled), ("going on", behind), ("healthy again", again)];
        let (mut refused, mut idle_bytes) = (0, 0);
        for (name, mut seen) in phases {
            refused += seen.refused;
            idle_bytes += if name.starts_with("healthy") { seen.bytes } else { 0 };
            let (p50, p99) = (milliseconds(seen.added.percentile(50.0)), milliseconds(seen.added.percentile(99.0)));
            let whole = |count: u64| table::whole(usize::try_from(count).unwrap());
            let (calls, refused) = (table::whole(seen.calls), table::whole(seen.refused));
            shown.row([name.to_owned(), calls, p50, p99, refused, whole(seen.bytes), whole(seen.syncs)]);
        }
        shown.print();
        let made = load.made.load(Ordering::Relaxed) as u64;
        println!(
            "- {rows} rows of {made} calls; all delivered {} ms after the last phase behind\n",
            caught_up.as_millis()
        );
        table::goal("no byte written while Postgres is healthy", &format!("{idle_bytes}"), idle_bytes == 0);
        table::goal("no call refused", &format!("{refused}"), refused == 0);
        table::goal("each record once", &format!("{rows} of {made}"), rows == made);
        let p99 = lone.percentile(99.0);
        table::goal(
            "a lone record delivered within 50 ms",
            &format!("p50 {} ms, p99 {} ms", milliseconds(lone.percentile(50.0)), milliseconds(p99)),
            p99 < Duration::from_millis(50),
        );
    });
}

impl Load {
    /// Begins and ends calls at `rate` a second for as long.
    async fn paced(self: &Arc<Self>, rate: usize, during: Duration) -> Seen {
        let before = (self.written.written.load(Ordering::Relaxed), self.written.syncs.load(Ordering::Relaxed));
        let refused_before = self.refused.load(Ordering::Relaxed);
        let (begun, mut calls, mut tasks) = (Instant::now(), 0, JoinSet::new());
        let mut ticks = tokio::time::interval(TICK);
        while begun.elapsed() < during {
            ticks.tick().await;
            let due = usize::try_from(begun.elapsed().as_micros()).unwrap() * rate / 1_000_000;
            while calls < due {
                let load = Arc::clone(self);
                let number = calls;
                tasks.spawn(async move { load.call(number).await });
                calls += 1;
            }
        }
        let added = tasks.join_all().await.into_iter().fold(Sample::default(), |mut all, one| {
            all.add(one);
            all
        });
        Seen {
            calls,
            added,
            refused: self.refused.load(Ordering::Relaxed) - refused_before,
            bytes: self.written.written.load(Ordering::Relaxed) - before.0,
            syncs: self.written.syncs.load(Ordering::Relaxed) - before.1,
        }
    }

    /// One call; what auditing adds to it.
    async fn call(&self, number: usize) -> Duration {
        let asked = Instant::now();
        match self.audit.begin(self.maker.call(number)).await {
            Ok(receipt) => {
                receipt.finish(self.maker.outcome(), ()).await.unwrap().into_inner();
                self.made.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        asked.elapsed()
    }

    /// Calls one by one, each behind the delivery of the one before: how long after its end each is in Postgres.
    async fn lone(&self) -> Sample {
        let mut sample = Sample::default();
        for number in 0..LONE {
            self.call(number).await;
            let ended = Instant::now();
            self.delivered().await;
            sample.add(ended.elapsed());
        }
        sample
    }

    /// Waits until all that was appended, behind the opening record, is delivered.
    async fn delivered(&self) {
        let stamped = self.made.load(Ordering::Relaxed) as u64;
        loop {
            let gauge = self.probe.gauge();
            if gauge.delivered == gauge.stamped && gauge.stamped.0 > stamped {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
