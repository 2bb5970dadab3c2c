//! `gatepost outbox requeue`: what Postgres refused is offered again, and lands in its own place, once.

use std::process::Command;

use crate::BINARY;
use crate::common::postgres::{Cluster, Database};
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, call, delivered, many, one, reader, stop};
use gatepost::audit::codec;
use gatepost::audit::query::{Filter, lost_runs, query};
use gatepost::audit::record::{AuditRecord, Outcome, Status};
use gatepost::audit::sink::postgres::registrar::{LockedRegistrar, entry};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};

/// What keeps tools of this name out of `audit_log`.
const KEEP_OUT: &str = "ALTER TABLE audit_log ADD CONSTRAINT no_tool CHECK (tool_name NOT LIKE 'odd%')";

fn requeue(database: &Database, more: &[&str]) -> (Option<i32>, String, String) {
    let args = [&["outbox", "requeue"], more].concat();
    let output = Command::new(BINARY).args(args).env("GATEPOST_POSTGRES_URL", &database.url).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn verified(database: &Database) -> bool {
    let args = ["audit", "verify"];
    let output = Command::new(BINARY).args(args).env("GATEPOST_POSTGRES_URL", &database.url).output().unwrap();
    // No fault; the end of the stream is not confirmed.
    output.status.code() == Some(4)
}

async fn count(pool: &PgPool, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap()
}

/// A trail in which the tools named are quarantined, with one good record around each.
async fn quarantined(database: &Database, tools: &[&str]) -> PgPool {
    let rig = Rig::stored();
    let pipeline = rig.start_on(database);
    let pool = database.pool().await;
    let audit = pipeline.audit();
    one(&audit, "first").await;
    until_async("the schema is there", SOON, async || {
        sqlx::query("SELECT 1 FROM audit_log").execute(&pool).await.is_ok_and(|rows| rows.rows_affected() > 0)
    })
    .await;
    sqlx::query(KEEP_OUT).execute(&pool).await.unwrap();
    for tool in tools {
        let mut spoilt = call("odd");
        spoilt.tool_name = Some((*tool).into());
        audit.record_once(spoilt, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
        one(&audit, "behind").await;
    }
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    assert_eq!(count(&pool, "audit_quarantine").await, i64::try_from(tools.len()).unwrap());
    pool
}

#[tokio::test]
async fn a_requeue_goes_on_if_nobody_reads_what_it_prints() {
    let database = Cluster::shared().create_database().await;
    let pool = quarantined(&database, &["odd one", "odd two"]).await;
    sqlx::query("ALTER TABLE audit_log DROP CONSTRAINT no_tool").execute(&pool).await.unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(BINARY);
    command.args(["outbox", "requeue"]).env("GATEPOST_POSTGRES_URL", &database.url).stdout(writer);
    assert!(command.status().unwrap().success());
    assert_eq!(count(&pool, "audit_quarantine").await, 0);
}

#[tokio::test]
async fn i5_requeued_records_return_to_their_positions_once() {
    let database = Cluster::shared().create_database().await;
    let pool = quarantined(&database, &["odd one", "odd two"]).await;
    let before = trail::verify_postgres(&pool).await;
    // Nothing has changed yet: each is refused again, stays, and is told with the reason.
    let (code, stdout, stderr) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("no_tool") && stdout.contains("23514"), "{stdout}");
    assert!(stdout.contains("0 delivered, 2 refused again, 0 skipped"), "{stdout}");
    assert!(stderr.contains("2 records left in audit_quarantine"), "{stderr}");
    assert_eq!(count(&pool, "audit_quarantine").await, 2);

    sqlx::query("ALTER TABLE audit_log DROP CONSTRAINT no_tool").execute(&pool).await.unwrap();
    let (code, stdout, stderr) = requeue(&database, &["--dry-run", "--json"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["outcome"] == "deliverable" && line["error"].is_null()), "{stdout}");
    assert_eq!(count(&pool, "audit_quarantine").await, 2, "a dry run changes nothing");

    // Two at once: each record moves once, whoever is first.
    let other = database.clone();
    let other = tokio::task::spawn_blocking(move || requeue(&other, &[]));
    let (_, stdout, _) = requeue(&database, &[]);
    let (_, others, _) = other.await.unwrap();
    let delivered = [stdout, others].concat().matches(" delivered: ").count();
    assert_eq!(delivered, 2);
    assert_eq!(count(&pool, "audit_quarantine").await, 0);
    let after = trail::verify_postgres(&pool).await;
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|entry| !entry.quarantined));
    assert!(verified(&database));
    let (code, stdout, _) = requeue(&database, &[]);
    assert_eq!((code, stdout.as_str()), (Some(0), "0 delivered, 0 refused again, 0 skipped\n"));
}

#[tokio::test]
async fn requeue_skips_refused_records_and_taken_positions() {
    let database = Cluster::shared().create_database().await;
    let pool = quarantined(&database, &["odd bad", "odd good", "odd twin"]).await;
    let swap = "ALTER TABLE audit_log DROP CONSTRAINT no_tool, ADD CHECK (tool_name NOT LIKE '%bad')";
    sqlx::query(swap).execute(&pool).await.unwrap();
    // A row in the place of the last one, with another time: the key alone would let a second one in.
    let twin = r#"INSERT INTO audit_log (gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method,
        client_subject, response_status, latency_ms, salt_who, salt_circumstances, salt_content)
        SELECT gateway_id, epoch, seq, prev_hash, hash, request_id, now(), 'tools/call', 'twin', 'ok', 0, hash, hash, hash
        FROM audit_quarantine ORDER BY seq DESC LIMIT 1"#;
    sqlx::query(twin).execute(&pool).await.unwrap();
    let rows = count(&pool, "audit_log").await;
    let (code, stdout, stderr) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("1 delivered, 1 refused again, 1 skipped"), "{stdout}");
    assert_eq!((count(&pool, "audit_log").await, count(&pool, "audit_quarantine").await), (rows + 1, 2));
}

#[tokio::test]
async fn requeue_keeps_suppressed_and_damaged_records_in_quarantine() {
    let database = Cluster::shared().create_database().await;
    let pool = quarantined(&database, &["odd one", "odd two"]).await;
    for sql in [
        "ALTER TABLE audit_log DROP CONSTRAINT no_tool",
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER skip BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION skip()",
        "UPDATE audit_quarantine SET frame = set_byte(frame, 60, get_byte(frame, 60) # 1)
         WHERE seq = (SELECT max(seq) FROM audit_quarantine)",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    let (code, stdout, stderr) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("a trigger keeps rows out") && stdout.contains("its bytes are damaged"), "{stdout}");
    assert_eq!(count(&pool, "audit_quarantine").await, 2);
}

#[tokio::test]
async fn requeue_needs_a_url_and_another_role_than_the_gateway() {
    let database = Cluster::shared().create_database().await;
    let pool = quarantined(&database, &["odd one"]).await;
    sqlx::query("CREATE ROLE requeue_writer LOGIN IN ROLE gatepost_writer, gatepost_reader")
        .execute(&pool)
        .await
        .unwrap();
    let writer = Database { url: database.url.replace("//gatepost@", "//requeue_writer@") };
    let (code, stdout, stderr) = requeue(&writer, &[]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("DELETE there"), "{stderr}");
    assert_eq!(count(&pool, "audit_quarantine").await, 1);
    let output = Command::new(BINARY).args(["outbox", "requeue"]).env_remove("GATEPOST_POSTGRES_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("postgres.url is not set"));
}

#[tokio::test]
async fn requeue_accepts_a_stand_in_only_if_a_damage_record_names_its_place() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    // The third record rots; Postgres refuses the stand-in for a while.
    let lost = rig.stored_records()[2].entry.call.request_id.0.into_bytes();
    let file = rig.dir.path().join(&rig.generations()[0]);
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<_> = bytes.windows(16).enumerate().filter(|(_, id)| *id == lost).map(|(at, _)| at).collect();
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    let pipeline = rig.start_on(&database);
    let pool = database.pool().await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    let trail = trail::verify_postgres(&pool).await;
    let stand_in = trail.iter().find(|entry| entry.method == "gateway/gap").unwrap();
    assert_eq!((stand_in.epoch, stand_in.seq), (1, 3));
    let quarantined = async |record: &AuditRecord| {
        let mut frame = Vec::new();
        codec::encode_record(record, &mut frame).unwrap();
        for sql in ["DELETE FROM audit_quarantine", "DELETE FROM audit_log WHERE epoch = 1 AND seq = 3"] {
            sqlx::query(sql).execute(&pool).await.unwrap();
        }
        let position = record.position;
        let insert =
            "INSERT INTO audit_quarantine (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate,
            error) VALUES ($1, 1, 3, $2, $3, $4, $5, '23514', 'a test')";
        let insert = sqlx::query(insert).bind(position.gateway_id.0).bind(position.prev_hash.0.as_slice());
        let insert = insert.bind(position.hash.0.as_slice()).bind(record.entry.call.request_id.0).bind(frame);
        insert.execute(&pool).await.unwrap();
    };
    let runs = lost_runs(&mut reader(&database).await, None).await.unwrap();
    let filter = Filter { epoch: Some(1), seq: Some(3), limit: 1, ..Filter::default() };
    let record = query(&mut reader(&database).await, &filter).await.unwrap().remove(0);
    assert!(runs.explains(&record));
    quarantined(&record).await;
    let (code, stdout, stderr) = requeue(&database, &[]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    trail::verify_postgres(&pool).await;
    let mut planted = record.clone();
    planted.entry.call.tool_name = Some("planted".into());
    quarantined(&planted).await;
    let (code, stdout, _) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("no gateway/damage record in the trail names its place"), "{stdout}");
    // Without its damage record, it is not accepted either.
    quarantined(&record).await;
    let filter = Filter { method: Some("gateway/damage".to_owned()), limit: 1, ..Filter::default() };
    let damage = query(&mut reader(&database).await, &filter).await.unwrap().remove(0);
    sqlx::query("DELETE FROM audit_log WHERE method = 'gateway/damage'").execute(&pool).await.unwrap();
    let (code, stdout, _) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}");
    // A decision to retire the damage record has a copy of it, and counts in the registrar's stream only.
    let details = json!({
        "kind": "retired", "gateway": damage.position.gateway_id, "epoch": damage.position.epoch, "reason": "old",
        "by": "owner", "uid": 0, "before": "2026-08", "records": 0, "runs": [], "copies": [damage],
        "heads": damage.position.hash,
    });
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let mut registrar = LockedRegistrar::lock(&mut owner).await.unwrap();
    registrar.append(entry("trail/retired", "owner", &details).unwrap()).await.unwrap();
    registrar.commit().await.unwrap();
    let id: uuid::Uuid = sqlx::query_scalar("SELECT gateway_id FROM audit_registrar").fetch_one(&pool).await.unwrap();
    let rename = "UPDATE audit_registrar SET gateway_id = $1";
    sqlx::query(rename).bind(uuid::Uuid::from_u128(7)).execute(&pool).await.unwrap();
    let (code, stdout, _) = requeue(&database, &[]);
    assert_eq!(code, Some(1), "{stdout}");
    sqlx::query(rename).bind(id).execute(&pool).await.unwrap();
    let (code, stdout, stderr) = requeue(&database, &[]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}
