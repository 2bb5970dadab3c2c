//! Upkeep of the monthly partitions, whatever operators do to them.

use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, call, delivered, many, ok, one, postgres_sink, stop};
use gatepost::audit::record::{GatewayId, Timestamp};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::Sink;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The months that are made ahead.
const MONTHS: usize = 4;

/// A database with a schema, and the names of the partitions of this month and the next three.
async fn prepared() -> (Database, PgConnection, Vec<String>) {
    let database = Cluster::shared().create_database().await;
    prepare(&database).await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let names = partitions(&mut admin).await.into_iter().map(|(name, _)| name).collect();
    (database, admin, names)
}

async fn prepare(database: &Database) {
    postgres_sink(database).prepare(GatewayId(uuid::Uuid::new_v4())).await.unwrap();
}

/// The attached monthly partitions, in the order of their bounds, and whether they have rows.
async fn partitions(admin: &mut PgConnection) -> Vec<(String, bool)> {
    let sql =
        "SELECT c.relname::text, pg_relation_size(c.oid) > 0 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'audit_log'::regclass AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
        ORDER BY pg_get_expr(c.relpartbound, c.oid)";
    sqlx::query_as(sql).fetch_all(admin).await.unwrap()
}

async fn run(admin: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.unwrap();
}

/// Delivers three calls of now; returns the number of rows in the default partition.
async fn rows_in_default(database: &Database, admin: &mut PgConnection) -> i64 {
    let rig = Rig::stored();
    let pipeline = rig.start_on(database);
    many(&pipeline.audit(), 3).await;
    delivered(&pipeline.probe()).await;
    assert_eq!(pipeline.probe().meter().last_error().map(|error| error.error), None);
    stop(pipeline).await;
    sqlx::query_scalar("SELECT count(*) FROM audit_log_default").fetch_one(admin).await.unwrap()
}

#[tokio::test]
async fn detached_or_dropped_month_is_made_again() {
    let (database, mut admin, names) = prepared().await;
    assert_eq!(names.len(), MONTHS);
    run(&mut admin, format!("ALTER TABLE audit_log DETACH PARTITION {}", names[0])).await;
    run(&mut admin, format!("DROP TABLE {}", names[1])).await;
    prepare(&database).await;
    let made = partitions(&mut admin).await;
    assert_eq!(made.len(), MONTHS);
    assert_eq!(made[0].0, format!("{}_2", names[0]), "the detached table keeps its name");
    assert_eq!(made[1].0, names[1]);
    assert_eq!(rows_in_default(&database, &mut admin).await, 0);
}

#[tokio::test]
async fn partitions_of_other_names_and_lengths_count_by_their_bounds() {
    let (database, mut admin, names) = prepared().await;
    run(&mut admin, format!("ALTER TABLE {} RENAME TO p1", names[0])).await;
    // Three months as one, in a schema of its own, and a week.
    run(
        &mut admin,
        format!(
            "DROP TABLE {}, {}, {}; CREATE SCHEMA parts;
             CREATE TABLE parts.quarter PARTITION OF audit_log
                 FOR VALUES FROM (date_trunc('month', now(), 'UTC') + interval '1 month')
                 TO (date_trunc('month', now(), 'UTC') + interval '2 months 7 days')",
            names[1], names[2], names[3]
        ),
    )
    .await;
    prepare(&database).await;
    let made: Vec<_> = partitions(&mut admin).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(made, ["p1", "quarter", names[3].as_str()], "what a partition has a part of is not made");
    // No upper end, and a name that another table has.
    run(
        &mut admin,
        format!(
            "DROP TABLE parts.quarter, {}; CREATE VIEW {} AS SELECT 1;
             CREATE TABLE later PARTITION OF audit_log
                 FOR VALUES FROM (date_trunc('month', now(), 'UTC') + interval '3 months') TO (MAXVALUE)",
            names[3], names[1]
        ),
    )
    .await;
    prepare(&database).await;
    let made: Vec<_> = partitions(&mut admin).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(made, ["p1".to_owned(), format!("{}_2", names[1]), names[2].clone(), "later".to_owned()]);
    assert_eq!(rows_in_default(&database, &mut admin).await, 0);
}

#[tokio::test]
async fn rows_in_the_default_partition_do_not_hinder_other_months() {
    let (database, mut admin, names) = prepared().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    delivered(&pipeline.probe()).await;
    run(&mut admin, format!("DROP TABLE {}, {}", names[0], names[2])).await;
    one(&pipeline.audit(), "echo").await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    let in_default: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_log_default").fetch_one(&mut admin).await.unwrap();
    assert!(in_default > 0);
    prepare(&database).await;
    let made: Vec<_> = partitions(&mut admin).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(made, names[1..], "the month whose rows are in the default partition stays there");
}

#[tokio::test]
async fn record_without_a_partition_gets_one_or_is_held_and_never_quarantined() {
    let (database, mut admin, names) = prepared().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    delivered(&probe).await;
    // While the gateway runs.
    run(&mut admin, format!("DROP TABLE audit_log_default, {}", names[0])).await;
    one(&audit, "echo").await;
    delivered(&probe).await;
    assert_eq!(partitions(&mut admin).await[0], (names[0].clone(), true));
    // A clock that is ten years behind.
    let mut late = call("echo");
    late.timestamp = Timestamp::from_micros(Timestamp::now().micros() - 10 * 365 * 86_400 * 1_000_000);
    let receipt = audit.begin(late).await.unwrap();
    receipt.finish(ok(), ()).await.unwrap();
    let held = || async {
        matches!(probe.shipper(), ShipperState::Held { error }
            if error.contains("CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT"))
    };
    until_async("it is held", SOON, held).await;
    run(&mut admin, "CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT".to_owned()).await;
    delivered(&probe).await;
    stop(pipeline).await;
    let counts = "SELECT (SELECT count(*) FROM audit_quarantine), (SELECT count(*) FROM audit_log_default)";
    let counts: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut admin).await.unwrap();
    assert_eq!(counts, (0, 1));
}
