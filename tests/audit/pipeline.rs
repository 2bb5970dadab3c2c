//! The whole pipeline, from a call to a row in a real Postgres, which stops, freezes and refuses.

use std::sync::Arc;
use std::time::Duration;

use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::{freeze, name, stop_server, thaw};
use crate::common::stored_records::stored_records;
use crate::common::trail::{self, Entry};
use crate::common::wait::{SOON, until_async};
use crate::fault_disk::copy_of;
use crate::rig::{Rig, call_with, delivered, many, ok, one, postgres_sink, stop, stop_now, times_recorded};
use gatepost::audit::chain::Head;
use gatepost::audit::record::{AuditRecord, Seq};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::postgres;
use gatepost::audit::sink::{CursorUpdate, ErrorClass, Sink};
use sqlx::{Connection, PgConnection};

async fn trail(database: &Database) -> Vec<Entry> {
    trail::verify_postgres(&database.pool().await).await
}

/// Applies the migrations, as `gatepost migrate` does before an operator adds something of his own.
async fn migrated(database: &Database) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    assert!(postgres::migrate(&mut connection).await.unwrap() > 0);
    connection
}

#[tokio::test]
async fn every_call_is_one_row_in_postgres() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let pipeline = rig.start_on(&database);
        ids.extend(many(&pipeline.audit(), 50).await);
        let ended = stop(pipeline).await;
        assert_eq!((ended.lost, ended.delivered), (0, Seq(52)));
    }
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 2 * 52);
    for id in ids {
        let entry = entries.iter().find(|entry| entry.request_id == id.0).unwrap();
        assert_eq!((entry.response_status.as_str(), tool(entry)), ("ok", Some("echo")));
        assert_eq!(entry.args(), Some(r#"{"text":"hello"}"#));
        assert!(entry.latency_ms > 0.0);
    }
    assert!(rig.stored_records().is_empty());
}

#[tokio::test]
async fn i5_a_batch_that_is_delivered_twice_takes_effect_once() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let (gateway_id, epoch) = pipeline.probe().stream();
    many(&pipeline.audit(), 9).await;
    stop(pipeline).await;
    let records: Vec<Arc<AuditRecord>> = rig.stored_records().into_iter().map(Arc::new).collect();
    let mut sink = postgres_sink(&database);
    sink.prepare(gateway_id).await.unwrap();
    assert_eq!(sink.cursor(gateway_id, epoch).await.unwrap().seq, Seq(0));
    assert_eq!(sink.deliver(&records[3..]).await.unwrap(), CursorUpdate::Unchanged, "not where the cursor stands");
    assert_eq!(sink.deliver(&records[..5]).await.unwrap(), CursorUpdate::Moved);
    assert_eq!(sink.deliver(&records[..5]).await.unwrap(), CursorUpdate::Unchanged);
    // Overlapping what is there already.
    assert_eq!(sink.deliver(&records[2..]).await.unwrap(), CursorUpdate::Unchanged);
    let mut forged = records[5].as_ref().clone();
    forged.position.prev_hash.0[0] ^= 1;
    assert_eq!(sink.deliver(&[Arc::new(forged)]).await.unwrap(), CursorUpdate::Unchanged, "its predecessor is another");
    let error = gatepost::audit::sink::SinkError {
        operation: "deliver",
        class: ErrorClass::Row,
        sqlstate: Some("22021".to_owned()),
        message: "a test's".to_owned(),
    };
    assert_eq!(sink.quarantine(&records[5], &error).await.unwrap(), CursorUpdate::Moved);
    assert_eq!(sink.quarantine(&records[5], &error).await.unwrap(), CursorUpdate::Unchanged);
    let cursor = sink.cursor(gateway_id, epoch).await.unwrap();
    assert_eq!((cursor.seq, cursor.hash), (Seq(6), records[5].position.hash));
    // A restart finds the cursor and delivers the rest of that epoch, and its own.
    stop(rig.start_on(&database)).await;
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 11 + 2);
    assert_eq!(entries.iter().filter(|entry| entry.quarantined).map(|entry| entry.seq).collect::<Vec<_>>(), [6]);
}

#[tokio::test]
async fn i5_a_copied_outbox_is_a_fork_in_postgres_too() {
    let database = Cluster::shared().create_database().await;
    let first = Rig::stored();
    stop(first.start_on(&database)).await;
    let second = Rig::on(copy_of(first.dir.path()));
    let pipeline = first.start_on(&database);
    many(&pipeline.audit(), 10).await;
    delivered(&pipeline.probe()).await;
    let before = trail(&database).await;
    let forked = second.start_on(&database);
    many(&forked.audit(), 10).await;
    let probe = forked.probe();
    until_async("it is forked", SOON, || async { matches!(probe.shipper(), ShipperState::Forked { .. }) }).await;
    stop(forked).await;
    assert_eq!(second.stored_records().len(), 12, "I4");
    stop(pipeline).await;
    let after = trail(&database).await;
    assert_eq!(after.len(), before.len() + 1);
    let hashes = |entries: &[Entry]| entries.iter().map(|entry| entry.hash.clone()).collect::<Vec<_>>();
    assert_eq!(hashes(&after)[..before.len()], hashes(&before));
}

#[tokio::test]
async fn i9_rows_refused_by_a_check_are_quarantined_in_position() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    sqlx::raw_sql("ALTER TABLE audit_log ADD CONSTRAINT no_poison CHECK (tool_name <> 'poison')")
        .execute(&mut connection)
        .await
        .unwrap();
    let rig = Rig::stored();
    // One large batch, in which the refused ones have to be found.
    let pipeline = rig.start_store_only();
    let mut want = Vec::new();
    for round in 0..60 {
        let poison = round % 7 == 3;
        want.push((one(&pipeline.audit(), if poison { "poison" } else { "echo" }).await, poison));
    }
    stop(pipeline).await;
    let pipeline = rig.start_on(&database);
    want.push((one(&pipeline.audit(), "poison").await, true));
    want.push((one(&pipeline.audit(), "echo").await, false));
    delivered(&pipeline.probe()).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 62 + 4);
    for (id, poison) in want {
        let entry = entries.iter().find(|entry| entry.request_id == id.0).unwrap();
        assert_eq!(entry.quarantined, poison);
    }
    let reasons: Vec<(Option<String>, String)> =
        sqlx::query_as("SELECT sqlstate, error FROM audit_quarantine").fetch_all(&mut connection).await.unwrap();
    assert!(reasons.iter().all(|(code, error)| code.as_deref() == Some("23514") && error.contains("no_poison")));
}

#[tokio::test]
async fn an_older_gateway_delivers_to_the_schema_of_a_newer_one() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    sqlx::raw_sql(
        "ALTER TABLE audit_log ADD COLUMN added_later text;
         CREATE OR REPLACE FUNCTION gatepost_schema_version() RETURNS integer
         LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT 9999'",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let probe = pipeline.probe();
    many(&pipeline.audit(), 3).await;
    until_async("it is delivered, or held", SOON, || async {
        probe.gauge().delivered == probe.gauge().stamped || matches!(probe.shipper(), ShipperState::Held { .. })
    })
    .await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    assert_eq!(trail(&database).await.len(), 5);
}

#[tokio::test]
async fn i9_a_batch_too_large_for_postgres_is_delivered_in_parts() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    // A server that runs out of memory at more than ten rows.
    sqlx::raw_sql(
        "CREATE FUNCTION small() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM added) > 10 THEN
                 RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER small AFTER INSERT ON audit_log REFERENCING NEW TABLE AS added
             FOR EACH STATEMENT EXECUTE FUNCTION small()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 60).await;
    stop(pipeline).await;
    let pipeline = rig.start_on(&database);
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 62 + 2);
    assert!(entries.iter().all(|entry| !entry.quarantined));
}

#[tokio::test]
async fn i9_a_dry_run_reports_refusals_and_changes_nothing() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    // One is checked at the end of the statement, the other only at a commit.
    sqlx::raw_sql(
        "ALTER TABLE audit_log ADD CONSTRAINT no_poison CHECK (tool_name <> 'poison');
         CREATE FUNCTION no_venom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'venom' USING ERRCODE = '23514';
         END $$;
         CREATE CONSTRAINT TRIGGER no_venom AFTER INSERT ON audit_log_default DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.tool_name = 'venom') EXECUTE FUNCTION no_venom()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let (gateway_id, epoch) = pipeline.probe().stream();
    for tool in ["poison", "venom", "echo"] {
        one(&pipeline.audit(), tool).await;
    }
    stop(pipeline).await;
    let mut records = rig.stored_records();
    // To where no month's partition is.
    records[2].entry.call.timestamp = gatepost::audit::record::Timestamp::from_micros(0);
    let mut sink = postgres_sink(&database);
    sink.prepare(gateway_id).await.unwrap();
    sink.cursor(gateway_id, epoch).await.unwrap();
    for refused in [1, 2] {
        let error = sink.dry_run(&records[refused]).await.unwrap_err();
        assert_eq!((error.class, error.sqlstate.as_deref()), (ErrorClass::Row, Some("23514")), "{error}");
        sink.dry_run(&records[0]).await.unwrap();
        sink.dry_run(&records[3]).await.unwrap();
    }
    assert_eq!(sink.cursor(gateway_id, epoch).await.unwrap(), Head::START);
    // What is delivered on the same connection is committed.
    let records: Vec<_> = records.into_iter().map(Arc::new).collect();
    assert_eq!(sink.deliver(&records[..1]).await.unwrap(), CursorUpdate::Moved);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn i9_many_refused_rows_do_not_block_the_others() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    sqlx::raw_sql("ALTER TABLE audit_log ADD CONSTRAINT no_poison CHECK (tool_name <> 'poison')")
        .execute(&mut connection)
        .await
        .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    for _ in 0..30 {
        one(&pipeline.audit(), "poison").await;
    }
    many(&pipeline.audit(), 5).await;
    stop(pipeline).await;
    let pipeline = rig.start_on(&database);
    delivered(&pipeline.probe()).await;
    assert_eq!(pipeline.probe().shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert_eq!((entries.len(), entries.iter().filter(|entry| entry.quarantined).count()), (37 + 2, 30));
}

#[tokio::test]
async fn i4_rows_suppressed_by_a_trigger_are_quarantined() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    sqlx::raw_sql(
        "CREATE FUNCTION drop_noise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER drop_noise BEFORE INSERT ON audit_log FOR EACH ROW WHEN (NEW.tool_name = 'noise')
             EXECUTE FUNCTION drop_noise()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let mut want = Vec::new();
    // More of them in a row than are quarantined before the schema is asked about.
    for tool in [["echo"; 3].as_slice(), &["noise"; 20], &["echo", "noise", "echo"]].concat() {
        want.push((one(&pipeline.audit(), tool).await, tool == "noise"));
    }
    stop(pipeline).await;
    let pipeline = rig.start_on(&database);
    delivered(&pipeline.probe()).await;
    assert_eq!(pipeline.probe().shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert_eq!(entries.len(), want.len() + 2 + 2);
    for (id, noise) in want {
        assert_eq!(entries.iter().find(|entry| entry.request_id == id.0).unwrap().quarantined, noise);
    }
    let reasons: Vec<(Option<String>, String)> =
        sqlx::query_as("SELECT sqlstate, error FROM audit_quarantine").fetch_all(&mut connection).await.unwrap();
    let told = |(code, error): &(Option<String>, String)| {
        code.as_deref() == Some("23000") && error.contains("audit_log took 0 of 1 rows; a trigger keeps rows out")
    };
    assert!(reasons.iter().all(told), "{reasons:?}");
}

#[tokio::test]
async fn i4_a_trigger_that_suppresses_all_rows_holds_delivery() {
    let database = Cluster::shared().create_database().await;
    let mut connection = migrated(&database).await;
    sqlx::raw_sql(
        "CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER elsewhere BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION elsewhere();
         CREATE TRIGGER elsewhere BEFORE INSERT ON audit_quarantine FOR EACH ROW EXECUTE FUNCTION elsewhere()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let probe = pipeline.probe();
    many(&pipeline.audit(), 3).await;
    until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
    let ShipperState::Held { error } = probe.shipper() else { panic!("delivered though nothing is there") };
    assert!(error.contains("audit_quarantine took 0 of 1 rows"), "{error}");
    assert_eq!((probe.gauge().delivered, stored_records(probe.reader()).len()), (Seq(0), 4));
    sqlx::raw_sql("DROP TRIGGER elsewhere ON audit_log; DROP TRIGGER elsewhere ON audit_quarantine")
        .execute(&mut connection)
        .await
        .unwrap();
    delivered(&probe).await;
    stop(pipeline).await;
    assert_eq!(trail(&database).await.len(), 5);
}

#[tokio::test]
async fn i9_arguments_that_postgres_could_refuse_arrive_in_the_log() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let audit = pipeline.audit();
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_allowed = format!("{}{}", "[".repeat(512), "]".repeat(512));
    let long = format!("{:?}", "x".repeat(1_100_000));
    let cases = [
        (r#"{"a":"\u0000"}"#, Some(r#"{"a":"\u0000"}"#)),
        (r#"{"a":"\ud800"}"#, Some(r#"{"a":"\ud800"}"#)),
        (r#"{"b":  1e200000, "b":1.0}"#, Some(r#"{"b":  1e200000, "b":1.0}"#)),
        (deep.as_str(), None),
        (deep_allowed.as_str(), Some(deep_allowed.as_str())),
        (long.as_str(), Some(long.as_str())),
    ];
    let mut want = Vec::new();
    for (sent, kept) in cases {
        let receipt = audit.begin(call_with("echo", sent)).await.unwrap();
        want.push((receipt.request_id(), kept));
        receipt.finish(ok(), ()).await.unwrap().into_inner();
    }
    // Names beyond what an index takes, with NUL, and an error message of the same kind.
    let name = format!("to\0ol{}", "é".repeat(10_000));
    let receipt = audit.begin(call_with(&name, "{}")).await.unwrap();
    let named = receipt.request_id();
    let failed = gatepost::audit::record::Outcome::failed(gatepost::audit::record::Status::Error, name.repeat(3));
    receipt.finish(failed, ()).await.unwrap().into_inner();
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert!(entries.iter().all(|entry| !entry.quarantined));
    let entry = |id: gatepost::audit::record::RequestId| entries.iter().find(|e| e.request_id == id.0).unwrap();
    for (id, kept) in want {
        assert_eq!(entry(id).args(), kept);
    }
    assert!(tool(entry(named)).unwrap().starts_with("to\u{fffd}ol"));
    assert!(entry(named).error_message.as_ref().unwrap().ends_with("(normalised: tool_name, error_message)"));
}

#[tokio::test]
async fn i9_arguments_that_are_not_json_are_quarantined() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let audit = pipeline.audit();
    let receipt = audit.begin(call_with("broken", "{no json")).await.unwrap();
    let id = receipt.request_id();
    receipt.finish(ok(), ()).await.unwrap().into_inner();
    one(&audit, "echo").await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 4);
    assert!(entries.iter().all(|entry| entry.quarantined == (entry.request_id == id.0)));
}

/// Calls at once, each in a task of its own.
async fn at_once(audit: &gatepost::audit::Audit, count: usize) {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move { one(&audit, "echo").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_more_calls_than_the_ring_holds_survive_a_postgres_outage() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut rig = Rig::stored();
    rig.config.ring.records = 1_024;
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    one(&audit, "echo").await;
    delivered(&probe).await;
    stop_server(&mut cluster);
    at_once(&audit, 5_000).await;
    assert_eq!(probe.gauge().stored.0, 5_002);
    cluster.restart();
    until_async("all is delivered", SOON, || async { probe.gauge().delivered.0 == 5_002 }).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    assert_eq!(trail(&database).await.len(), 5_003);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_calls_spill_while_postgres_hangs_and_drain_after() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let rig = Rig::queued(Duration::from_millis(50));
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    one(&audit, "echo").await;
    until_async("the disk rests", SOON, || async {
        probe.gauge().delivered.0 == 2 && stored_records(probe.reader()).is_empty()
    })
    .await;
    freeze(&cluster);
    at_once(&audit, 500).await;
    until_async("all is spilled", SOON, || async { probe.gauge().stored.0 == 502 }).await;
    thaw(&cluster);
    until_async("all is delivered and forgotten", SOON, || async {
        probe.gauge().delivered.0 == 502 && stored_records(probe.reader()).is_empty()
    })
    .await;
    assert_eq!(stop(pipeline).await.lost, 0);
    let entries = trail(&database).await;
    assert_eq!(entries.len(), 503);
}

#[tokio::test]
async fn i5_a_killed_postgres_has_every_record_once_after_restart() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut rig = Rig::stored();
    rig.config.batch.records = 10;
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let mut ids = Vec::new();
    for round in 1..=3 {
        ids.extend(many(&audit, 60).await);
        cluster.kill();
        ids.extend(many(&audit, 20).await);
        cluster.restart();
        until_async("all is delivered", SOON, || async { probe.gauge().delivered.0 == 1 + round * 80 }).await;
    }
    stop(pipeline).await;
    let entries = trail(&database).await;
    assert_eq!(entries.len(), ids.len() + 2);
    let recorded: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.request_id).collect();
    assert!(ids.iter().all(|id| recorded.contains(&id.0)));
}

#[tokio::test]
async fn a_gateway_started_without_postgres_delivers_later() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    stop_server(&mut cluster);
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let ids = many(&pipeline.audit(), 10).await;
    let probe = pipeline.probe();
    until_async("it is tried", SOON, || async { matches!(probe.shipper(), ShipperState::Retrying { .. }) }).await;
    let times = times_recorded(&stored_records(probe.reader()));
    assert!(ids.iter().all(|id| times[id] == 1), "I4");
    cluster.restart();
    until_async("all is delivered", SOON, || async { probe.gauge().delivered.0 == 11 }).await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop_now(pipeline).await;
    assert_eq!(trail(&database).await.iter().filter(|entry| entry.method == "tools/call").count(), 10);
}

#[tokio::test]
async fn the_writer_role_can_deliver_and_cannot_change_the_trail() {
    let database = Cluster::shared().create_database().await;
    let mut admin = migrated(&database).await;
    let user = format!("writer_{}", name(&database));
    // Nor does it have to be able to make partitions.
    let grants = format!(
        "CREATE ROLE {user} LOGIN IN ROLE gatepost_writer;
         REVOKE EXECUTE ON FUNCTION gatepost_make_partitions FROM gatepost_writer;
         UPDATE audit_registrar SET registration = 'first'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants)).execute(&mut admin).await.unwrap();
    let mut url: String = database.url.clone();
    let at = url.find('@').unwrap();
    url.replace_range("postgres://".len()..at, &user);
    let rig = Rig::stored();
    let options = postgres::Options {
        url: url.clone(),
        password_file: None,
        statement_timeout: Duration::from_secs(20),
        migrate: false,
    };
    let sink = postgres::PostgresSink::new(&options).unwrap();
    let pipeline =
        gatepost::audit::pipeline::Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    many(&pipeline.audit(), 5).await;
    stop(pipeline).await;
    assert_eq!(trail(&database).await.len(), 7);
    let mut writer = PgConnection::connect(&url).await.unwrap();
    for statement in ["UPDATE audit_log SET tool_name = ''", "DELETE FROM audit_log", "DELETE FROM audit_stream"] {
        let error = sqlx::raw_sql(statement).execute(&mut writer).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}");
    }
}

fn tool(entry: &Entry) -> Option<&str> {
    entry.text("tool_name")
}
