//! Claim: a backlog of 1 M records of 730 B drains into the real `audit_log` over one connection at 0.9 or more of a
//! bare UNNEST insert of the same rows into the same table.
//!
//! The backlog is written by the real scribe before the clock starts; then a whole pipeline starts on it, with the real
//! shipper and sink, until Postgres has the last record of the backlog's epoch: opening, reading, decoding, checking
//! the chain, the cursor, and the outbox forgetting what was delivered are all in it. The limit is a plain loop over
//! records in memory with the same INSERT of 2,000 rows, without cursor; only the statements are timed. The baseline is
//! one INSERT a record, as audit writers mostly do. Every side begins with an empty table after a CHECKPOINT, over TCP,
//! with `fsync` and `synchronous_commit` on. The sides are interleaved.
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
use std::time::{Duration, Instant};

use common::postgres::{Cluster, Database};
use common::records::Maker;
use common::sample::{median, rate};
use common::{disk, fill, runtime, scribing, size, table, unnest};
use gatepost::audit::chain::Head;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::sink::postgres::{self, Options, PostgresSink};
use sqlx::PgConnection;

/// Rows a statement of the limit. *Spec*: the default of `postgres.batch_rows_max`.
const BATCH: usize = 2000;

fn main() {
    table::title(
        "drain",
        "A backlog of 1 M records of 730 B drains at 0.9 or more of a bare UNNEST insert of the same rows.",
    );
    let records = size("DRAIN_RECORDS", 1_000_000, 20_000);
    let rounds = size("DRAIN_ROUNDS", 3, 1);
    let singles = size("DRAIN_SINGLES", 20_000, 500);
    let maker = Maker::new();
    let cluster = Cluster::start_with("fsync=on");
    let database = runtime().block_on(cluster.create_database());
    runtime().block_on(async {
        let mut connection = connect(&database).await;
        postgres::migrate(&mut connection).await.unwrap();
    });
    let (mut drained, mut bare, mut one) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_unnest(&database, &maker, records));
        drained.push(drain(&database, &maker, records));
        one.push(one_by_one(&database, &maker, singles));
    }
    let (drained, bare, one) = (median(drained), median(bare), median(one));
    let mut shown =
        table::Table::new(["writer, one connection", "records", "rows/s", "of bare UNNEST", "of one INSERT a record"]);
    for (what, records, rate) in [
        ("bare UNNEST of 2,000 rows, plain loop (limit)", records, bare),
        ("shipper, from the outbox", records, drained),
        ("one INSERT a record (baseline)", singles, one),
    ] {
        let (of_bare, of_one) = (table::ratio(rate / bare), table::ratio(rate / one));
        shown.row([what.into(), table::whole(records), table::count(rate), of_bare, of_one]);
    }
    shown.print();
    table::goal("at least 0.9 of a bare UNNEST", &table::ratio(drained / bare), drained >= 0.9 * bare);
}

fn options(database: &Database) -> Options {
    Options {
        url: database.url.clone(),
        password_file: None,
        statement_timeout: Duration::from_secs(30),
        migrate: false,
    }
}

async fn connect(database: &Database) -> postgres::Connection {
    postgres::connect(&options(database)).await.unwrap()
}

async fn empty_table(connection: &mut PgConnection) {
    sqlx::raw_sql("TRUNCATE audit_log").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("CHECKPOINT").execute(&mut *connection).await.unwrap();
}

fn bare_unnest(database: &Database, maker: &Maker, records: usize) -> f64 {
    runtime().block_on(async {
        let mut connection = connect(database).await;
        empty_table(&mut connection).await;
        let (mut head, mut done, mut elapsed) = (Head::START, 0, Duration::ZERO);
        while done < records {
            let rows = maker.records(unnest::nobody(), head, BATCH.min(records - done));
            head = Head::after(&rows.last().unwrap().position);
            let begun = Instant::now();
            unnest::insert(&mut connection, &rows).await;
            elapsed += begun.elapsed();
            done += rows.len();
        }
        connection.close().await.unwrap();
        rate(records, elapsed)
    })
}

fn one_by_one(database: &Database, maker: &Maker, records: usize) -> f64 {
    runtime().block_on(async {
        let mut connection = connect(database).await;
        empty_table(&mut connection).await;
        let rows = maker.records(unnest::nobody(), Head::START, records);
        let begun = Instant::now();
        for row in &rows {
            unnest::insert_one(&mut connection, row).await;
        }
        let elapsed = begun.elapsed();
        connection.close().await.unwrap();
        rate(records, elapsed)
    })
}

fn drain(database: &Database, maker: &Maker, records: usize) -> f64 {
    let dir = disk::directory("drain");
    let outbox = dir.path().join("outbox");
    fill::closed(&outbox, maker, records);
    runtime().block_on(async {
        let mut connection = connect(database).await;
        empty_table(&mut connection).await;
        let sink = PostgresSink::new(&options(database)).unwrap();
        let begun = Instant::now();
        let pipeline = Pipeline::start(&scribing::config(&outbox), Arc::new(DiskFs), Some(sink)).unwrap();
        // The records, and the ones that opened and closed their epoch.
        let last = records as u64 + 2;
        let (gateway_id, _) = pipeline.probe().stream();
        let delivered = "SELECT count(*) FROM audit_stream WHERE gateway_id = $1 AND epoch = 1 AND delivered_seq = $2";
        let elapsed = loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let query = sqlx::query_scalar::<_, i64>(delivered).bind(gateway_id.0);
            if query.bind(i64::try_from(last).unwrap()).fetch_one(&mut *connection).await.unwrap() == 1 {
                break begun.elapsed();
            }
            assert!(begun.elapsed() < scribing::PATIENCE, "not drained: {:?}", pipeline.probe().shipper());
        };
        let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_log WHERE epoch = 1");
        assert_eq!(rows.fetch_one(&mut *connection).await.unwrap().unsigned_abs(), last, "each record once");
        pipeline.stop(scribing::PATIENCE, scribing::PATIENCE).await;
        connection.close().await.unwrap();
        rate(records, elapsed)
    })
}
