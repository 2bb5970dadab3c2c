//! `gatepost audit retire` and `hold`: a drill over three months, beside a gateway that delivers.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use gatepost::audit::record::GatewayId;
use gatepost::audit::retired::{Retired, RetiredRun};
use gatepost::audit::sink::postgres;
use gatepost::audit::sink::postgres::registrar::{Decision, LockedRegistrar, entry};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::common::gatepost::{BINARY, Gatepost, Setup};
use crate::common::made_stream::{MadeStream, month, month_name};
use crate::common::mcp::Era;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::run::run;

const DAY: Duration = Duration::from_hours(24);

/// The trail of the last three months and this one, and the setup of a gateway that delivers to it.
pub struct Drill {
    pub database: Database,
    pub setup: Setup,
    /// Retired in part: its first epoch ends in the second month, its third one continues.
    a: [MadeStream; 3],
    /// All of it is of the first month.
    pub b: MadeStream,
    /// Its clock was ahead: the first epoch has records of the second month, the second one begins in the first month.
    c: [MadeStream; 2],
}

impl Drill {
    pub async fn new() -> Self {
        let database = Cluster::shared().create_database().await;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        postgres::migrate(&mut owner).await.unwrap();
        sqlx::query("SELECT gatepost_partitions($1, 3)").bind(month(3)).execute(&mut owner).await.unwrap();
        let (a, b, c) = (streams_of_a(), stream_of_b(), streams_of_c());
        for stream in a.iter().chain([&b]).chain(&c) {
            stream.deliver(&database.url).await;
        }
        let mut setup = Setup::new();
        setup.set("postgres.url", &database.url);
        let drill = Self { database, setup, a, b, c };
        drill.quarantine(&mut owner).await;
        drill
    }

    /// A record of the first month is in quarantine.
    async fn quarantine(&self, owner: &mut PgConnection) {
        let record = &self.b.records[2];
        let mut frame = Vec::new();
        gatepost::audit::codec::encode_record(record, &mut frame).unwrap();
        let sql = "WITH moved AS (DELETE FROM audit_log WHERE hash = $1 RETURNING *)
            INSERT INTO audit_quarantine (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate, error)
            SELECT gateway_id, epoch, seq, prev_hash, hash, request_id, $2, '23514', 'no' FROM moved";
        let query = sqlx::query(sql).bind(&record.position.hash.0[..]).bind(frame);
        assert_eq!(query.execute(owner).await.unwrap().rows_affected(), 1);
    }

    fn succeeds(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = run(&self.setup, &[&["audit"], args].concat());
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        stdout
    }

    fn fails(&self, args: &[&str], text: &str) {
        let (code, stdout, stderr) = run(&self.setup, &[&["audit"], args].concat());
        assert!(code == Some(1) && stderr.contains(text), "{args:?}: {code:?} {stdout}{stderr}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.dir().join(name)
    }

    /// Keeps the heads of all streams in a file.
    pub fn heads(&self, name: &str) -> String {
        let path = self.path(name);
        fs::write(&path, self.succeeds(&["heads"])).unwrap();
        path.display().to_string()
    }

    pub fn journal(&self) -> String {
        self.path("journal").display().to_string()
    }

    /// The arguments of `retire`.
    pub fn retire(&self, before: u32, heads: &str, more: &[&str]) -> Vec<String> {
        let (month, journal) = (month_name(before), self.journal());
        let args = ["retire", "--before", &month, "--heads", heads, "--journal", &journal, "--reason", "policy 7"];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    async fn scalar<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        let mut connection = PgConnection::connect(&self.database.url).await.unwrap();
        let value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        value
    }

    pub async fn has_partition(&self, before: u32) -> bool {
        let name = month(before).format("audit_log_%Y_%m");
        self.scalar(&format!("SELECT to_regclass('{name}') IS NOT NULL")).await
    }

    /// A copy of the database, to which nobody is connected.
    async fn copy(&self) -> Database {
        let name = self.database.url.rsplit('/').next().unwrap();
        Cluster::shared().create_database_with(&format!("TEMPLATE {name}")).await
    }
}

fn streams_of_a() -> [MadeStream; 3] {
    let id = GatewayId(Uuid::from_u128(1));
    let mut first = MadeStream::open(id, None, month(3) + DAY);
    first.calls(5, month(3) + 2 * DAY);
    // Calls that arrived before the end of the month, and ended after others of the next one.
    for late in [1, 2] {
        first.call(month(2) + Duration::from_secs(late));
        first.call(month(2) - Duration::from_secs(late));
    }
    first.calls(3, month(2) + DAY);
    first.close(month(2) + 2 * DAY);
    let mut second = MadeStream::open(id, Some(&first), month(2) + 3 * DAY);
    second.calls(4, month(2) + 4 * DAY);
    let mut third = MadeStream::open(id, Some(&second), month(1) + DAY);
    third.calls(4, month(1) + 2 * DAY);
    third.calls(4, month(0));
    [first, second, third]
}

fn stream_of_b() -> MadeStream {
    let mut stream = MadeStream::open(GatewayId(Uuid::from_u128(2)), None, month(3) + DAY);
    stream.calls(4, month(3) + DAY);
    stream.close(month(3) + 2 * DAY);
    stream
}

fn streams_of_c() -> [MadeStream; 2] {
    let mut first = MadeStream::open(GatewayId(Uuid::from_u128(3)), None, month(3) + DAY);
    first.calls(2, month(2) + DAY);
    let mut second = MadeStream::open(first.gateway_id, Some(&first), month(3) + 2 * DAY);
    second.calls(2, month(3) + 3 * DAY);
    second.calls(2, month(2) + 3 * DAY);
    [first, second]
}

pub fn args(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

pub async fn call(gatepost: &Gatepost, count: usize) {
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    for number in 0..count {
        client.call("echo", json!({ "text": number.to_string() })).await.unwrap();
    }
}

pub async fn is_delivered(drill: &Drill, calls: i64) {
    until_async("all calls are delivered", 2 * SOON, async || {
        let sql = "SELECT count(*) FROM audit_log WHERE tool_name = 'echo' AND client_subject <> 'anonymous'";
        drill.scalar::<i64>(sql).await == calls
    })
    .await;
}

/// The report on a database.
fn verify(url: &str, heads: Option<&str>) -> (Option<i32>, Value) {
    verify_part(url, heads, &[])
}

fn verify_part(url: &str, heads: Option<&str>, part: &[&str]) -> (Option<i32>, Value) {
    let mut command = std::process::Command::new(BINARY);
    command.args(["audit", "verify", "--json", "--dir", "/nowhere"]).env_clear().env("GATEPOST_POSTGRES_URL", url);
    command.args(part).args(heads.map(|heads| ["--expect", heads]).into_iter().flatten());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

fn kinds(report: &Value) -> Vec<&str> {
    report["faults"].as_array().unwrap().iter().map(|fault| fault["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn months_are_retired_under_load_and_the_rest_is_still_verified() {
    let mut drill = Drill::new().await;
    let gatepost = drill.setup.start();
    call(&gatepost, 5).await;
    is_delivered(&drill, 5).await;
    let heads = drill.heads("heads-1");
    let (code, report) = verify(&drill.database.url, Some(&heads));
    assert!(code == Some(4) && kinds(&report).is_empty(), "one record is in quarantine: {report}");
    refused(&drill, &heads).await;
    busy(&drill, &gatepost, &heads).await;

    // Rows that resolve-fork took out of a stream: one of the first month, and one without a time of its own.
    let foreign = "INSERT INTO audit_foreign (gateway_id, epoch, seq, hash, source_table, source_row)
        SELECT gateway_id, epoch, seq, hash, 'audit_log', row_to_json(l) FROM audit_log l WHERE hash = $1
        UNION ALL SELECT gateway_id, epoch, seq, hash, 'audit_quarantine', '{}' FROM audit_quarantine";
    let mut owner = PgConnection::connect(&drill.database.url).await.unwrap();
    let query = sqlx::query(foreign).bind(&drill.b.records[1].position.hash.0[..]);
    assert_eq!(query.execute(&mut owner).await.unwrap().rows_affected(), 2);
    owner.close().await.unwrap();

    // The first month, under load.
    let export = drill.path("export-1").display().to_string();
    let retire = drill.retire(2, &heads, &["--export", &export]);
    let load = async {
        call(&gatepost, 40).await;
        is_delivered(&drill, 55).await;
    };
    let retired = async { tokio::task::block_in_place(|| drill.succeeds(&args(&retire))) };
    let (said, ()) = tokio::join!(retired, load);
    assert!(said.contains("18 records of 4 streams before") && said.contains(" were retired"), "{said}");
    assert!(said.contains("audit_foreign keeps 1 row of these months"), "{said}");
    assert!(!drill.has_partition(3).await && drill.has_partition(2).await);
    let kept = "SELECT count(*) FROM audit_log WHERE timestamp < date_trunc('month', now()) - interval '2 months'";
    assert_eq!(drill.scalar::<i64>(kept).await, 0);
    assert_eq!(drill.scalar::<i64>("SELECT count(*) FROM audit_quarantine").await, 0);
    exported(&drill, &export);
    policies(&drill);

    // The decisions excuse nothing until a head confirms them.
    for heads in [None, Some(heads.as_str())] {
        let (code, report) = verify(&drill.database.url, heads);
        assert!(code == Some(1) && kinds(&report) == ["retired"], "{report}");
    }
    let heads = drill.heads("heads-2");
    let (code, report) = verify(&drill.database.url, Some(&heads));
    assert_eq!((code, report["retired"].as_u64()), (Some(0), Some(18)), "{report}");
    // A part that begins after a retired run in the middle of a stream.
    let since = (month(2) + DAY).to_rfc3339();
    let (code, report) = verify_part(
        &drill.database.url,
        Some(&heads),
        &["--since", &since, "--gateway", &drill.a[0].gateway_id.to_string()],
    );
    assert!(code != Some(1) && kinds(&report).is_empty(), "{report}");
    assert!(report["unproven"].to_string().contains(&format!("this trail begins at {}", month_name(2))), "{report}");
    let (code, report) = verify(&drill.database.url, None);
    assert!(code == Some(1) && kinds(&report) == ["retired"], "{report}");

    assert_eq!(gatepost.terminate(), Some(0));
    drill.setup.set("audit.dir", "/nowhere");
    second_month(&drill, &heads).await;
}

/// A retirement that is not allowed changes nothing.
async fn refused(drill: &Drill, heads: &str) {
    let journal = drill.journal();
    let decision = ["--journal", &journal, "--reason", "case 12", "--by", "ann"];
    let until = month(2).to_rfc3339();
    drill.succeeds(&[&["hold", "add", "--until", &until][..], &decision].concat());
    let retire = drill.retire(2, heads, &["--without-export"]);
    drill.fails(&args(&retire), "hold 1 keeps records from the beginning");
    assert!(drill.succeeds(&["hold", "list"]).contains("case 12"));
    drill.fails(&[&["hold", "lift", "7"][..], &decision].concat(), "there is no hold 7");
    drill.succeeds(&[&["hold", "lift", "1"][..], &decision].concat());
    assert!(!drill.succeeds(&["hold", "list"]).contains("case 12"));
    // A later hold keeps later records only.
    drill.succeeds(&[&["hold", "add", "--since", &month(1).to_rfc3339()][..], &decision].concat());
    drill.fails(&args(&drill.retire(0, heads, &["--without-export"])), "hold 3 keeps records from");
    let listed = drill.succeeds(&["decisions", "list"]);
    for part in ["trail/hold", "trail/lifted", "case 12", "ann"] {
        assert!(listed.contains(part), "{part} is missing in {listed}");
    }

    let next = (month(0) + 40 * DAY).format("%Y-%m").to_string();
    let future: Vec<&str> = vec!["retire", "--before", &next, "--heads", heads, "--journal", &journal];
    drill.fails(&[&future[..], &["--reason", "x", "--without-export"]].concat(), "only months that are over");
    let text = fs::read_to_string(heads).unwrap();
    let without_b: Vec<&str> = text.lines().filter(|line| !line.contains(&drill.b.gateway_id.to_string())).collect();
    let other = drill.path("heads-other");
    fs::write(&other, without_b.join("\n")).unwrap();
    let retire = |heads: &str| drill.retire(2, heads, &["--without-export"]);
    drill.fails(&args(&retire(other.to_str().unwrap())), "has no head of gateway");
    fs::write(&other, text.replace(&drill.a[2].records.last().unwrap().position.hash.to_string(), &"0".repeat(64)))
        .unwrap();
    drill.fails(&args(&retire(other.to_str().unwrap())), "is not in the trail");
    let early = drill.a.iter().flat_map(|stream| &stream.records).next().unwrap().position;
    let line = json!({
        "gateway": early.gateway_id, "epoch": 1, "seq": 1, "hash": early.hash, "time": "2026-01-01T00:00:00Z",
    })
    .to_string();
    let of_others = text.lines().filter(|line| !line.contains(&early.gateway_id.to_string()));
    fs::write(&other, of_others.chain([line.as_str()]).collect::<Vec<_>>().join("\n")).unwrap();
    drill.fails(&args(&retire(other.to_str().unwrap())), "before its record 1/");

    // Evidence of a fault is not retired.
    let change = "UPDATE audit_log SET client_subject = $1 WHERE gateway_id = $2 AND epoch = 1 AND seq = 3";
    let mut owner = PgConnection::connect(&drill.database.url).await.unwrap();
    let subject = drill.a[0].records[2].entry.call.client_subject.to_string();
    for (name, is_refused) in [("mallory", true), (subject.as_str(), false)] {
        sqlx::query(change).bind(name).bind(drill.a[0].gateway_id.0).execute(&mut owner).await.unwrap();
        if is_refused {
            drill.fails(&args(&retire(heads)), "changed at");
        }
    }
    let said = drill.succeeds(&args(&drill.retire(2, heads, &["--without-export", "--dry-run"])));
    assert!(said.contains("18 records of 4 streams") && said.contains("would be retired"), "{said}");
    assert!(drill.has_partition(3).await);
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 3);
}

/// Behind a long report, the command gives up, and deliveries wait for a moment only.
async fn busy(drill: &Drill, gatepost: &Gatepost, heads: &str) {
    let mut report = PgConnection::connect(&drill.database.url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM audit_log LIMIT 1").execute(&mut report).await.unwrap();
    let retire = drill.retire(2, heads, &["--without-export", "--lock-timeout", "100ms", "--wait", "3s"]);
    let attempts = async {
        tokio::task::block_in_place(|| drill.fails(&args(&retire), "other sessions kept the tables locked"));
    };
    let load = async {
        call(gatepost, 10).await;
        is_delivered(drill, 15).await;
    };
    tokio::join!(attempts, load);
    sqlx::raw_sql("ROLLBACK").execute(&mut report).await.unwrap();
    assert!(drill.has_partition(3).await);
    assert_eq!(fs::read_to_string(drill.journal()).unwrap().lines().count(), 3, "nothing is in the journal");
}

/// The export of a retirement is complete and verifies by itself.
fn exported(drill: &Drill, export: &str) {
    let checked: Value = serde_json::from_str(&drill.succeeds(&["verify-export", export, "--json"])).unwrap();
    assert_eq!((checked["records"].as_u64(), checked["runs"].as_u64()), (Some(18), Some(6)), "{checked}");
    let journal = fs::read_to_string(drill.journal()).unwrap();
    let decision: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    let details: Value = serde_json::from_str(decision["request_args"].as_str().unwrap()).unwrap();
    assert_eq!(details["export"], checked["manifest_sha256"]);
}

/// The rule that decided about a kept record is found, although the record that stated its policy is retired.
fn policies(drill: &Drill) {
    let journal = fs::read_to_string(drill.journal()).unwrap();
    let copied = [&drill.a[0], &drill.c[0], &drill.c[1]].map(|stream| stream.records[0].position.hash.to_string());
    for hash in copied {
        let copied = format!(r#"\"hash\":\"{hash}\""#);
        assert!(journal.contains(&copied), "an opening record is copied");
    }
    let kept = drill.a[0].records.iter().rev().find(|record| record.entry.call.method == "tools/call").unwrap();
    let id = kept.entry.call.request_id.0.to_string();
    let shown: Value = serde_json::from_str(&drill.succeeds(&["show", &id, "--json"])).unwrap();
    assert_eq!(shown["rule"], "1", "{shown}");
}

/// The second month, after the gateway has stopped: retired, dropped without a record, or with a forged one.
async fn second_month(drill: &Drill, heads: &str) {
    let before = drill.copy().await;
    let export = drill.path("export-2").display().to_string();
    drill.succeeds(&args(&drill.retire(1, heads, &["--export", &export])));
    let heads_3 = drill.heads("heads-3");
    let (code, report) = verify(&drill.database.url, Some(&heads_3));
    assert_eq!((code, report["retired"].as_u64()), (Some(0), Some(18 + 15)), "{report}");
    let (code, report) = verify(&drill.database.url, Some(heads));
    assert!(code == Some(1) && kinds(&report) == ["retired"], "not confirmed yet: {report}");
    // A month that was dropped without a record.
    let dropped = drill.copy().await;
    let mut owner = PgConnection::connect(&dropped.url).await.unwrap();
    let sql = format!("DROP TABLE {}", month(1).format("audit_log_%Y_%m"));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
    let (code, report) = verify(&dropped.url, Some(&heads_3));
    assert!(code == Some(1) && kinds(&report).contains(&"gap"), "{report}");
    forged(drill, &mut owner).await;
    for heads in [None, Some(heads_3.as_str())] {
        let (code, report) = verify(&dropped.url, heads);
        assert!(code == Some(1) && kinds(&report) == ["retired"], "{report}");
    }

    // A restored database: the decisions are recorded again, the rows are there again, and can be retired again.
    let restored = |args: &[&str]| {
        let mut command = drill.setup.command(&[&["audit"], args].concat());
        let output = command.env("GATEPOST_POSTGRES_URL", &before.url).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    restored(&["decisions", "replay", &drill.journal()]);
    let (code, report) = verify(&before.url, Some(&heads_3));
    assert!(code == Some(0) && report["retired"] == 18, "{report}");
    restored(&args(&drill.retire(1, heads, &["--without-export"])));
    let (code, report) = verify(&before.url, Some(&heads_3));
    assert!(code == Some(0) && report["retired"] == 33, "the first decision still says it: {report}");
}

/// Somebody who owns the database records a retirement of what was dropped.
async fn forged(drill: &Drill, owner: &mut PgConnection) {
    let stream = &drill.a[2];
    // The epoch begins in the month that was dropped.
    let of_month: Vec<_> =
        stream.records.iter().filter(|it| it.entry.call.timestamp.to_datetime() < month(0)).collect();
    let (first, last) = (of_month[0].position, of_month[of_month.len() - 1].position);
    let run = RetiredRun {
        first: first.seq,
        last: last.seq,
        before: first.prev_hash,
        first_hash: first.hash,
        last_hash: last.hash,
    };
    let retired = Retired {
        before: month_name(0),
        records: of_month.len() as u64,
        runs: vec![run],
        copies: vec![of_month[0].clone()],
        export: None,
        heads: first.hash,
    };
    let decision = Decision {
        kind: "retired".to_owned(),
        gateway: stream.gateway_id,
        epoch: Some(stream.epoch),
        first: Some(first.seq),
        last: Some(last.seq),
        reason: "nothing to see".to_owned(),
        by: "mallory".to_owned(),
        uid: 0,
    };
    let mut details = serde_json::to_value(&decision).unwrap();
    details.as_object_mut().unwrap().extend(serde_json::to_value(retired).unwrap().as_object().unwrap().clone());
    let mut registrar = LockedRegistrar::lock(owner).await.unwrap();
    registrar.append(entry("trail/retired", "mallory", &details).unwrap()).await.unwrap();
    registrar.commit().await.unwrap();
}
