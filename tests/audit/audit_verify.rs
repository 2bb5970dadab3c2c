//! `gatepost audit verify`: a healthy trail passes, and each way of spoiling one is found.

use std::path::Path;
use std::process::{Command, Output};

use crate::BINARY;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, call, delivered, many, ok, one, stop};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{Call, Outcome, Status};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

fn audit(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("audit").args(args).env("GATEPOST_POSTGRES_URL", url);
    command.output().unwrap()
}

fn verify(url: &str) -> (Option<i32>, Value) {
    let output = audit(url, &["verify", "--json"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report =
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn kinds(report: &Value) -> Vec<&str> {
    report["faults"].as_array().unwrap().iter().map(|fault| fault["kind"].as_str().unwrap()).collect()
}

/// Three epochs of one gateway: one closed, with a quarantined record at seq 5 and a gap record; one that crashed with
/// an open call; one that is still open.
async fn lives(database: &Database) -> (Rig, Pipeline) {
    let rig = Rig::stored();
    let pipeline = rig.start_on(database);
    let audit = pipeline.audit();
    many(&audit, 3).await;
    let mut spoilt = call("spoilt");
    spoilt.client_subject = "a\0b".into();
    audit.record_once(spoilt, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
    let details = json!({ "refused": 2, "unaudited": 0 });
    audit.record_event(Call::gateway_event("gap", &details)).await.unwrap();
    one(&audit, "add").await;
    stop(pipeline).await;
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 2).await;
    let receipt = pipeline.audit().begin(call("echo")).await.unwrap();
    let crashed = rig.after_crash();
    receipt.finish(ok(), ()).await.unwrap().into_inner();
    stop(pipeline).await;
    let pipeline = crashed.start_on(database);
    many(&pipeline.audit(), 3).await;
    delivered(&pipeline.probe()).await;
    // The epochs before this one are delivered first.
    (crashed, pipeline)
}

const COPY: &str = "
CREATE TABLE kept_log AS TABLE audit_log; CREATE TABLE kept_stream AS TABLE audit_stream;
CREATE TABLE kept_quarantine AS TABLE audit_quarantine";
const RESTORE: &str = "
TRUNCATE audit_log, audit_stream, audit_quarantine; INSERT INTO audit_log TABLE kept_log;
INSERT INTO audit_stream TABLE kept_stream; INSERT INTO audit_quarantine TABLE kept_quarantine";

/// What is done, and the kind of fault that it is found as.
const SPOILT: [(&str, &str); 17] = [
    ("gap", "DELETE FROM audit_log WHERE epoch = 1 AND seq = 3"),
    ("gap", "DELETE FROM audit_log WHERE epoch = 1 AND seq = 1"),
    ("gap", "DELETE FROM audit_quarantine"),
    ("changed", r#"UPDATE audit_log SET request_args = '{"text":"hellp"}' WHERE epoch = 1 AND seq = 3"#),
    ("changed", r#"UPDATE audit_log SET request_args = '{"text": "hello"}' WHERE epoch = 1 AND seq = 3"#),
    ("changed", "UPDATE audit_log SET response_bytes = -response_bytes WHERE epoch = 1 AND seq = 3"),
    ("changed", "UPDATE audit_log SET timestamp = 'infinity' WHERE epoch = 1 AND seq = 3"),
    ("changed", "UPDATE audit_log SET token_id = NULL WHERE epoch = 3 AND seq = 3"),
    ("link", "UPDATE audit_log SET seq = 5 - seq WHERE epoch = 1 AND seq IN (2, 3)"),
    ("duplicate", DUPLICATE),
    ("quarantine", "UPDATE audit_quarantine SET frame = set_byte(frame, 40, 255 - get_byte(frame, 40))"),
    ("quarantine", "UPDATE audit_quarantine SET request_id = gateway_id"),
    ("tail", "DELETE FROM audit_log WHERE epoch = 3 AND seq = (SELECT max(seq) FROM audit_log WHERE epoch = 3)"),
    (
        "end",
        "
        DELETE FROM audit_log WHERE epoch = 2 AND seq = 3;
        UPDATE audit_stream SET delivered_seq = 2, head_hash = (SELECT hash FROM audit_log WHERE epoch = 2 AND seq = 2)
        WHERE epoch = 2",
    ),
    ("epoch", "DELETE FROM audit_log WHERE epoch = 2; DELETE FROM audit_stream WHERE epoch = 2"),
    ("cursor", "DELETE FROM audit_stream WHERE epoch = 1"),
    ("cursor", "UPDATE audit_stream SET head_hash = sha256('x') WHERE epoch = 3"),
];

/// A row again, an hour later: the primary key takes it.
const DUPLICATE: &str = "
CREATE TEMP TABLE again AS SELECT * FROM audit_log WHERE epoch = 1 AND seq = 3;
UPDATE again SET timestamp = timestamp + interval '1 hour'; INSERT INTO audit_log TABLE again; DROP TABLE again";

async fn execute(pool: &PgPool, sql: &str) {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *connection).await.unwrap();
}

#[tokio::test]
async fn verify_passes_a_whole_trail_and_finds_each_corruption() {
    let database = Cluster::shared().create_database().await;
    let (_rig, pipeline) = lives(&database).await;
    let (code, report) = verify(&database.url);
    // The quarantined record, and the end of the trail, which nothing outside confirms.
    assert_eq!((code, &report["verdict"], &report["unproven_count"]), (Some(4), &json!("not_proven"), &json!(2)));
    assert_eq!(report["faults_count"], 0, "{report:#}");
    assert_eq!((&report["streams_count"], &report["quarantined"], &report["gaps"]), (&json!(3), &json!(1), &json!(1)));
    let ended: Vec<_> = report["streams"].as_array().unwrap().iter().map(|stream| &stream["ended"]).collect();
    assert_eq!(ended, ["closed", "crashed", "open"]);
    let human = audit(&database.url, &["verify"]);
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.ends_with("2 parts are not proven\n") && human.contains("not proven: the trail: "), "{human}");
    let pool = database.pool().await;
    execute(&pool, COPY).await;
    for (kind, sql) in SPOILT {
        execute(&pool, sql).await;
        let (code, report) = verify(&database.url);
        assert!(code == Some(1) && kinds(&report).contains(&kind), "{sql}: {report:#}");
        let human = String::from_utf8(audit(&database.url, &["verify"]).stdout).unwrap();
        assert!(human.contains(&format!("\n{kind}: gateway ")), "{human}");
        execute(&pool, RESTORE).await;
    }
    execute(&pool, "DELETE FROM audit_log WHERE seq = 2").await;
    let output = String::from_utf8(audit(&database.url, &["verify", "--faults", "1"]).stdout).unwrap();
    assert!(output.contains("faults more; --faults lists up to 10000"), "{output}");
    execute(&pool, RESTORE).await;
    assert_eq!(verify(&database.url).0, Some(4), "only what was done was found");
    stop(pipeline).await;
}

#[tokio::test]
async fn verify_needs_only_the_reader_role() {
    let database = Cluster::shared().create_database().await;
    let url = |user: &str| database.url.replace("//gatepost@", &format!("//{user}@"));
    let empty = audit(&database.url, &["verify"]);
    let stderr = String::from_utf8(empty.stderr).unwrap();
    assert_eq!(empty.status.code(), Some(1));
    assert!(stderr.contains("no Gatepost schema: run gatepost migrate"), "{stderr}");
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    let pool = database.pool().await;
    execute(&pool, "CREATE ROLE auditor LOGIN IN ROLE gatepost_reader; CREATE ROLE stranger LOGIN").await;
    let heads = rig.dir.path().join("heads");
    std::fs::write(&heads, audit(&url("auditor"), &["heads"]).stdout).unwrap();
    let confirmed = audit(&url("auditor"), &["verify", "--strict", "--expect", heads.to_str().unwrap()]);
    let text = String::from_utf8(confirmed.stdout).unwrap();
    assert_eq!(confirmed.status.code(), Some(0), "{text}");
    assert!(
        text.contains("; the heads of --expect are of 20") && text.contains(", and 0 later records rest"),
        "{text}"
    );
    let strange = audit(&url("stranger"), &["verify"]);
    let stderr = String::from_utf8(strange.stderr).unwrap();
    assert_eq!(strange.status.code(), Some(1));
    assert!(stderr.contains("member of gatepost_reader"), "{stderr}");
}

#[tokio::test]
async fn a_table_without_a_column_is_an_error_that_names_it() {
    let database = Cluster::shared().create_database().await;
    let pipeline = Rig::stored().start_on(&database);
    stop(pipeline).await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    execute(&pool, "ALTER TABLE audit_log DROP COLUMN tool_digest").await;
    let output = audit(&database.url, &["verify"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("audit_log has no column tool_digest: nothing can be checked"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

fn verify_dir(dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(BINARY).args(["audit", "verify", "--dir"]).arg(dir).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn verify_reads_a_store_only_outbox_after_its_gateway_ended() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 20).await;
    let crashed = rig.after_crash();
    stop(pipeline).await;
    let (code, said) = verify_dir(rig.dir.path());
    assert!(code == Some(4) && said.contains("22 records in 1 stream"), "{said}");
    assert!(said.contains("the end of 1 stream rests on the word of this directory alone"), "{said}");
    let pipeline = crashed.start_store_only();
    stop(pipeline).await;
    let (code, said) = verify_dir(crashed.dir.path());
    assert!(code == Some(4) && said.contains("crashed") && said.contains("in 2 streams"), "{said}");
}

/// Checks a part of the trail: the exit code, the kinds of faults, and the number of records that were read.
fn verify_part(url: &str, args: &[&str]) -> (Option<i32>, Vec<String>, u64) {
    let output = audit(url, &[&["verify", "--json"], args].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let kinds = kinds(&report).into_iter().map(str::to_owned).collect();
    (output.status.code(), kinds, report["records"].as_u64().unwrap())
}

#[tokio::test]
async fn a_part_is_checked_against_its_neighbours() {
    let database = Cluster::shared().create_database().await;
    let (_rig, pipeline) = lives(&database).await;
    let pool = database.pool().await;
    execute(&pool, COPY).await;
    let time = async |seq: i64| -> String {
        let sql = r#"SELECT to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM audit_log
            WHERE epoch = 1 AND seq = $1"#;
        sqlx::query_scalar(sql).bind(seq).fetch_one(&pool).await.unwrap()
    };
    let times = [time(3).await, time(4).await];
    // Record 3 of epoch 1, with 2 and 4.
    let by_time = ["--since", &times[0], "--until", &times[1], "--epoch", "1"];
    // Epoch 2 (three records), with the last record of epoch 1 and the first of epoch 3.
    let by_epoch = ["--epoch", "2"];
    for (part, records) in [(&by_time[..], 3), (&by_epoch[..], 5)] {
        assert_eq!(verify_part(&database.url, part), (Some(4), vec![], records), "{part:?}");
    }
    let change = |place: &str| format!("UPDATE audit_log SET client_subject = 'eve' WHERE {place}");
    for (place, seen_by_time, seen_by_epoch) in [
        ("epoch = 1 AND seq = 1", false, false),
        ("epoch = 1 AND seq = 2", true, false),
        ("epoch = 1 AND seq = 3", true, false),
        ("epoch = 1 AND seq = 4", true, false),
        ("epoch = 1 AND method = 'gateway/closed'", false, true),
        ("epoch = 2 AND seq = 2", false, true),
        ("epoch = 3 AND seq = 1", false, true),
        ("epoch = 3 AND seq = 2", false, false),
    ] {
        execute(&pool, &change(place)).await;
        for (part, seen) in [(&by_time[..], seen_by_time), (&by_epoch[..], seen_by_epoch)] {
            let (code, kinds, _) = verify_part(&database.url, part);
            assert_eq!(
                (code, kinds.is_empty()),
                (Some(if seen { 1 } else { 4 }), !seen),
                "{place}: {part:?}: {kinds:?}"
            );
        }
        assert_eq!(verify_part(&database.url, &[]).0, Some(1), "{place}");
        execute(&pool, RESTORE).await;
    }
    for (sql, part, kind) in [
        ("DELETE FROM audit_log WHERE epoch = 1 AND seq = 3", &["--epoch", "1"][..], "gap"),
        ("DELETE FROM audit_log WHERE epoch = 1 AND seq = 4", &by_time[..], "gap"),
        ("DELETE FROM audit_log WHERE epoch = 2 AND seq = 3", &by_epoch[..], "tail"),
        (
            "DELETE FROM audit_log WHERE epoch = 2; DELETE FROM audit_stream WHERE epoch = 2",
            &["--epoch", "3"][..],
            "epoch",
        ),
    ] {
        execute(&pool, sql).await;
        let (code, kinds, _) = verify_part(&database.url, part);
        assert!(code == Some(1) && kinds.iter().any(|found| found == kind), "{sql}: {kinds:?}");
        execute(&pool, RESTORE).await;
    }
    stop(pipeline).await;
}

/// The server reads the rows by an index. It would otherwise sort those of a whole gateway, in temporary files of their
/// size.
#[tokio::test]
async fn verify_has_the_server_sort_nothing() {
    let database = Cluster::shared().create_database().await;
    let pool = database.pool().await;
    let settings =
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''64kB''', current_database()); END $$";
    execute(&pool, settings).await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    many(&pipeline.audit(), 600).await;
    stop(pipeline).await;
    let sorted = async || {
        until_async("its sessions have ended", SOON, async || {
            let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                          AND application_name LIKE 'gatepost%' AND pid <> pg_backend_pid()";
            sqlx::query_scalar::<_, i64>(others).fetch_one(&pool).await.unwrap() == 0
        })
        .await;
        let files = "SELECT temp_files FROM pg_stat_database WHERE datname = current_database()";
        sqlx::query_scalar::<_, i64>(files).fetch_one(&pool).await.unwrap()
    };
    let before = sorted().await;
    for part in [&[][..], &["--epoch", "1"]] {
        let output = audit(&database.url, &[&["verify"], part].concat());
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sorted().await, before, "{part:?}");
    }
}
