//! Claim: 32 gateways that drain into one Postgres at once reach 0.8 or more of the rate of one, and a row costs
//! Postgres no more than 1.6 times of its processor time, most of which is for smaller batches.
//!
//! Each gateway is a whole pipeline with an outbox, a connection and a stream of its own. Two loads for each number of
//! gateways, into one database with one month's partition:
//! - *drain*: outboxes that hold the same number of records together are delivered, in batches of up to 2,000. It shows
//!   where Postgres saturates.
//! - *calls*: calls at a fixed rate, divided among the gateways, at level `queued`, each delivered as soon as it ends.
//!   Batches are as small as they get, so that this is what a row costs at most.
//!
//! The processor time of Postgres is that of all its processes, also of those that ended. Bench and Postgres share the
//! cores of the machine: the rate of a Postgres with cores of its own follows from the time a row.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, Postgres 15; figures in `docs/scale.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::machine;
use common::postgres::{Cluster, Database};
use common::records::Maker;
use common::sample::rate;
use common::{disk, fill, runtime, scribing, size, table};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::{Config, Pipeline};
use gatepost::audit::scribe::Mode;
use gatepost::audit::sink::postgres::{self, Options, PostgresSink};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

/// Time between two looks at the counters. *Chosen*: short beside a run.
const LOOK: Duration = Duration::from_millis(50);

/// *Spec*: the default of `audit.spill_after`.
const SPILL_AFTER: Duration = Duration::from_millis(200);

/// The cost of a load.
struct Seen {
    rows: usize,
    took: Duration,
    /// Processor time of Postgres.
    postgres: Duration,
    /// Processor time of all gateways together.
    gateways: Duration,
    transactions: u64,
}

fn main() {
    table::title(
        "fleet",
        "32 gateways drain into one Postgres at 0.8 or more of the rate of one, and a row costs Postgres at most 1.6 \
         times of its processor time.",
    );
    let most: usize = size("FLEET_MAX", 32, 2);
    let fleets: Vec<usize> = (0..=most.ilog2()).map(|power| 1 << power).collect();
    let records = size("FLEET_RECORDS", 256_000, 8_000);
    let calls = size("FLEET_RATE", 1_000, 200);
    let during = Duration::from_secs(size("FLEET_SECONDS", 10, 2));
    let maker = Arc::new(Maker::new());
    let cluster = Cluster::start_with("fsync=on");
    let (mut drains, mut paced) = (Vec::new(), Vec::new());
    for gateways in &fleets {
        let dir = disk::directory("fleet");
        let outboxes = |load: &str| -> Vec<PathBuf> {
            (0..*gateways).map(|number| dir.path().join(format!("{load}-{number}"))).collect()
        };
        let filled = outboxes("drain");
        for outbox in &filled {
            fill::closed(outbox, &maker, records / gateways);
        }
        let database = runtime().block_on(migrated(&cluster));
        drains.push(runtime().block_on(drain(&cluster, &database, &filled, records / gateways)));
        let database = runtime().block_on(migrated(&cluster));
        paced.push(runtime().block_on(call(&cluster, &database, &outboxes("calls"), calls, during, &maker)));
    }
    println!("drain: {} records in the outboxes of all gateways together\n", table::whole(records));
    show(&fleets, &drains);
    println!("\ncalls: {} a second, divided among the gateways, for {} s\n", table::whole(calls), during.as_secs());
    show(&fleets, &paced);
    let (first, last) = (&drains[0], &drains[drains.len() - 1]);
    let speed = rate(last.rows, last.took) / rate(first.rows, first.took);
    let cost = per_row(last.postgres, last) / per_row(first.postgres, first);
    table::goal("rows a second: at least 0.8 of one gateway's", &table::ratio(speed), speed >= 0.8);
    table::goal("processor time a row: at most 1.6 of one gateway's", &table::ratio(cost), cost <= 1.6);
}

/// Microseconds a row.
fn per_row(time: Duration, seen: &Seen) -> f64 {
    time.as_secs_f64() * 1e6 / seen.rows as f64
}

fn show(fleets: &[usize], all: &[Seen]) {
    let mut shown = table::Table::new([
        "gateways",
        "rows/s",
        "of one gateway",
        "Postgres us a row",
        "of one gateway",
        "Postgres cores",
        "gateways us a row",
        "rows a transaction",
    ]);
    for (gateways, seen) in fleets.iter().zip(all) {
        let (cost, first) = (per_row(seen.postgres, seen), per_row(all[0].postgres, &all[0]));
        let speed = rate(seen.rows, seen.took);
        shown.row([
            table::whole(*gateways),
            table::count(speed),
            table::ratio(speed / rate(all[0].rows, all[0].took)),
            format!("{cost:.1}"),
            table::ratio(cost / first),
            table::ratio(seen.postgres.as_secs_f64() / seen.took.as_secs_f64()),
            format!("{:.1}", per_row(seen.gateways, seen)),
            format!("{:.1}", seen.rows as f64 / seen.transactions as f64),
        ]);
    }
    shown.print();
}

fn options(database: &Database) -> Options {
    Options {
        url: database.url.clone(),
        password_file: None,
        statement_timeout: Duration::from_secs(30),
        migrate: false,
    }
}

/// A database with the schema, after a CHECKPOINT.
async fn migrated(cluster: &Cluster) -> Database {
    let database = cluster.create_database().await;
    let mut connection = postgres::connect(&options(&database)).await.unwrap();
    postgres::migrate(&mut connection).await.unwrap();
    sqlx::raw_sql("CHECKPOINT").execute(&mut *connection).await.unwrap();
    connection.close().await.unwrap();
    database
}

fn start(database: &Database, config: &Config) -> Pipeline {
    Pipeline::start(config, Arc::new(DiskFs), Some(PostgresSink::new(&options(database)).unwrap())).unwrap()
}

/// Delivers what the outboxes hold.
async fn drain(cluster: &Cluster, database: &Database, outboxes: &[PathBuf], each: usize) -> Seen {
    let watch = Watch::begin(cluster, &[]);
    let fleet: Vec<_> = outboxes.iter().map(|outbox| start(database, &scribing::config(outbox))).collect();
    // The records, and the ones that opened and closed each epoch, and opened the next one.
    let rows = outboxes.len() * (each + 3);
    until_delivered(&fleet, rows).await;
    watch.end(fleet, database, rows).await
}

/// Calls at `rate` a second for as long, until all are delivered.
async fn call(
    cluster: &Cluster,
    database: &Database,
    outboxes: &[PathBuf],
    rate: usize,
    during: Duration,
    maker: &Arc<Maker>,
) -> Seen {
    let mode = Mode::Queued { spill_after: SPILL_AFTER };
    let config = |outbox: &PathBuf| Config { mode, ..scribing::config(outbox) };
    let fleet: Vec<_> = outboxes.iter().map(|outbox| start(database, &config(outbox))).collect();
    until_delivered(&fleet, fleet.len()).await;
    let watch = Watch::begin(cluster, &fleet);
    let (begun, mut count, mut tasks) = (Instant::now(), 0, JoinSet::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while begun.elapsed() < during {
        ticks.tick().await;
        let due = usize::try_from(begun.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while count < due {
            let (audit, maker, number) = (fleet[count % fleet.len()].audit(), Arc::clone(maker), count);
            tasks.spawn(async move {
                let receipt = audit.begin(maker.call(number)).await.unwrap();
                receipt.finish(maker.outcome(), ()).await.unwrap().into_inner();
            });
            count += 1;
        }
    }
    tasks.join_all().await;
    until_delivered(&fleet, fleet.len() + count).await;
    watch.end(fleet, database, count).await
}

/// Waits until the gateways have delivered so many records.
async fn until_delivered(fleet: &[Pipeline], rows: usize) {
    let begun = Instant::now();
    while fleet.iter().map(|pipeline| pipeline.probe().meter().delivered.get()).sum::<u64>() < rows as u64 {
        assert!(begun.elapsed() < scribing::PATIENCE, "not delivered");
        tokio::time::sleep(LOOK).await;
    }
}

fn transactions(fleet: &[Pipeline]) -> u64 {
    fleet.iter().map(|pipeline| pipeline.probe().meter().delivery_records.snapshot().count).sum()
}

/// The use of processors and the transactions from a moment on.
struct Watch<'a> {
    cluster: &'a Cluster,
    begun: Instant,
    postgres: Duration,
    gateways: Duration,
    transactions: u64,
}

impl<'a> Watch<'a> {
    fn begin(cluster: &'a Cluster, fleet: &[Pipeline]) -> Self {
        let (postgres, gateways) = (processor_time(cluster), machine::processor_time());
        Self { cluster, begun: Instant::now(), postgres, gateways, transactions: transactions(fleet) }
    }

    /// Stops the gateways, and checks that each record is in Postgres once.
    async fn end(self, fleet: Vec<Pipeline>, database: &Database, rows: usize) -> Seen {
        let took = self.begun.elapsed();
        let postgres = processor_time(self.cluster).checked_sub(self.postgres).unwrap();
        let gateways = machine::processor_time().checked_sub(self.gateways).unwrap();
        let transactions = transactions(&fleet) - self.transactions;
        for pipeline in fleet {
            pipeline.stop(scribing::PATIENCE, scribing::PATIENCE).await;
        }
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let sql = "SELECT (SELECT count(*) FROM audit_log), (SELECT sum(delivered_seq)::bigint FROM audit_stream)";
        let (found, delivered): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(found, delivered, "each record once");
        connection.close().await.unwrap();
        Seen { rows, took, postgres, gateways, transactions }
    }
}

/// Processor time of the server and all its processes, also of those that ended.
fn processor_time(cluster: &Cluster) -> Duration {
    let server = cluster.pid();
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    // Fields 14 to 17 of proc(5): its own time, and that of children that it has waited for.
    let ticks = |pid: &str, last: usize| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        fields.take(last).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
    };
    let all = children.split_whitespace().map(|pid| ticks(pid, 2)).sum::<u64>() + ticks(&server.to_string(), 4);
    // Hundredths of a second on every Linux there is.
    Duration::from_millis(all * 10)
}
