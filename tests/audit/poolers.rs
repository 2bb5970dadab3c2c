//! Postgres behind a pooler that runs each transaction over another connection, or drops settings.

use std::time::Duration;

use crate::common::pgbouncer::PgBouncer;
use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::{name, stop_server};
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, delivered, many, postgres_sink, stop};
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::query::{self, Filter};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::postgres::requeue::next_quarantined;
use gatepost::audit::sink::postgres::{self, Options};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Calls of each gateway between two disturbances.
const CALLS: usize = 100;

async fn admin(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url).await.unwrap()
}

fn options(url: &str) -> Options {
    Options { url: url.to_owned(), password_file: None, statement_timeout: Duration::from_secs(20), migrate: false }
}

async fn calls_of_all(pipelines: &[Pipeline]) {
    let audits: Vec<_> = pipelines.iter().map(Pipeline::audit).collect();
    futures_util::future::join_all(audits.iter().map(|audit| many(audit, CALLS))).await;
}

async fn all_delivered(probes: &[Probe]) {
    for probe in probes {
        delivered(probe).await;
        assert_eq!(probe.shipper(), ShipperState::Delivering);
    }
}

/// Three gateways over two server connections, through restarts of the pooler and of the server.
async fn three_gateways_deliver_through(mode: &str, settings: &str) {
    let mut cluster = Cluster::start();
    let mut pooler = PgBouncer::start(&cluster, mode, settings);
    let database = cluster.create_database().await;
    let through = Database { url: pooler.url(name(&database)) };
    let rigs: Vec<_> = (0..3).map(|_| Rig::stored()).collect();
    // Each makes the schema, at the same time.
    let pipelines: Vec<_> = rigs.iter().map(|rig| rig.start_on(&through)).collect();
    let probes: Vec<_> = pipelines.iter().map(Pipeline::probe).collect();
    calls_of_all(&pipelines).await;
    all_delivered(&probes).await;
    for probe in &probes {
        assert_eq!(probe.meter().last_error().map(|error| error.error), None, "nothing was out of order until now");
    }
    pooler.kill();
    calls_of_all(&pipelines).await;
    pooler.restart();
    all_delivered(&probes).await;
    stop_server(&mut cluster);
    calls_of_all(&pipelines).await;
    for probe in &probes {
        let waits = || async { matches!(probe.shipper(), ShipperState::Retrying { .. }) };
        until_async("it is retried, and no operator is called", SOON, waits).await;
    }
    cluster.restart();
    all_delivered(&probes).await;

    // What reads and moves records works through it too.
    let mut connection = postgres::connect(&options(&through.url)).await.unwrap();
    let filter = Filter { limit: 10_000, ..Filter::default() };
    let records = query::query(&mut connection, &filter).await.unwrap();
    let (gateways, calls) = (rigs.len(), rigs.len() * CALLS * 3);
    assert_eq!(records.len(), calls + gateways, "with a record of each beginning");
    assert!(next_quarantined(&mut connection, None).await.unwrap().is_none());
    for pipeline in pipelines {
        let ended = stop(pipeline).await;
        assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    }
    let entries = trail::verify_postgres(&database.pool().await).await;
    assert_eq!(entries.iter().filter(|entry| entry.method == "tools/call").count(), calls);
}

#[tokio::test]
async fn three_gateways_deliver_through_a_pooler_in_transaction_mode() {
    three_gateways_deliver_through("transaction", "").await;
}

#[tokio::test]
async fn three_gateways_deliver_through_a_pooler_in_session_mode() {
    // Each gateway keeps a connection, and one more is for reading.
    three_gateways_deliver_through("session", "reserve_pool_size = 2\nreserve_pool_timeout = 1").await;
}

#[tokio::test]
async fn pooler_in_statement_mode_is_a_case_for_an_operator_at_once() {
    let cluster = Cluster::start();
    let pooler = PgBouncer::start(&cluster, "statement", "");
    let database = cluster.create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&Database { url: pooler.url(name(&database)) });
    let probe = pipeline.probe();
    let held = || async { matches!(probe.shipper(), ShipperState::Held { error } if error.contains("statement")) };
    until_async("it is held", SOON, held).await;
    drop(pipeline);
}

#[tokio::test]
async fn startup_parameter_that_the_operator_named_is_for_the_operator_if_a_pooler_refuses_it() {
    let cluster = Cluster::start();
    let pooler = PgBouncer::start(&cluster, "transaction", "");
    let database = cluster.create_database().await;
    let url = format!("{}?options[search_path]=audit", pooler.url(name(&database)));
    let error = postgres::connect(&options(&url)).await.unwrap_err();
    assert_eq!(error.class, gatepost::audit::sink::ErrorClass::Operator, "{error}");
    assert!(error.message.contains("unsupported startup parameter: options"), "{error}");
    // Without a pooler it works.
    let url = format!("{}?options[search_path]=audit&options=-c%20work_mem=1MB", database.url);
    let mut connection = postgres::connect(&options(&url)).await.unwrap();
    let shown: (String, String) = sqlx::query_as("SELECT current_setting('search_path'), current_setting('work_mem')")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!((shown.0.as_str(), shown.1.as_str()), ("audit", "1MB"));
}

/// Delivers with this `synchronous_commit` of the database, through a pooler that drops what a session asks for;
/// returns the settings that the transactions had.
async fn settings_of_deliveries(pooler: &PgBouncer, cluster: &Cluster, setting: &str) -> Vec<String> {
    let database = cluster.create_database().await;
    let mut admin = admin(&database).await;
    postgres::migrate(&mut admin).await.unwrap();
    let witness = format!(
        "CREATE TABLE seen (setting text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END$$;
         CREATE TRIGGER note AFTER INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION note();
         ALTER DATABASE {} SET synchronous_commit = {setting}",
        name(&database)
    );
    sqlx::raw_sql(AssertSqlSafe(witness)).execute(&mut admin).await.unwrap();
    let rig = Rig::stored();
    let through = Database { url: pooler.url(name(&database)) };
    let sink = postgres_sink(&through);
    let pipeline = Pipeline::start(&rig.config, std::sync::Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    sqlx::query_scalar("SELECT DISTINCT setting FROM seen").fetch_all(&mut admin).await.unwrap()
}

#[tokio::test]
async fn commits_are_durable_whatever_the_server_asks_for() {
    let cluster = Cluster::start();
    let pooler = PgBouncer::start(&cluster, "session", "ignore_startup_parameters = options,extra_float_digits");
    for (setting, expected) in
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
    {
        assert_eq!(settings_of_deliveries(&pooler, &cluster, setting).await, [expected], "{setting}");
    }
}

#[tokio::test]
async fn commit_that_would_not_be_durable_is_held() {
    let cluster = Cluster::shared();
    let database = cluster.create_database().await;
    let mut admin = admin(&database).await;
    postgres::migrate(&mut admin).await.unwrap();
    // What something between gateway and Postgres could do, a trigger does here.
    let meddler = "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END$$;
         CREATE TRIGGER meddle AFTER INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION meddle()";
    sqlx::raw_sql(meddler).execute(&mut admin).await.unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let probe = pipeline.probe();
    let held = || async {
        matches!(probe.shipper(), ShipperState::Held { error } if error.contains("synchronous_commit is \"off\""))
    };
    until_async("it is held", SOON, held).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log").fetch_one(&mut admin).await.unwrap();
    assert_eq!(rows, 0, "nothing was committed");
    sqlx::raw_sql("DROP TRIGGER meddle ON audit_log").execute(&mut admin).await.unwrap();
    delivered(&probe).await;
    stop(pipeline).await;
}
