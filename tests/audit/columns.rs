//! Every column of a record, from the call to its reader.

use std::sync::Arc;

use gatepost::audit::query::{Filter, TrailSnapshot, query};
use gatepost::audit::record::column::Value;
use gatepost::audit::record::{
    Authentication, COLUMNS, Caller, Context, Correlation, Identity, Outcome, RecordKey, RequestId, Status,
};

use gatepost::audit::sink::postgres::Connection;
use gatepost::audit::verify::{Expect, Fault, Heads, Options, Selection};

use crate::common::postgres::Cluster;
use crate::common::trail;
use crate::rig::{Rig, reader, stop};

/// The key of the records' digests.
static KEY: std::sync::LazyLock<RecordKey> = std::sync::LazyLock::new(|| RecordKey::from_bytes([0; 32]));

const ARGUMENTS: &str = "{\"b\": 1.50, \"a\": \"\u{e9}\\u0000\"}";

/// A call in which no column is NULL.
fn call() -> gatepost::audit::record::Call {
    let identity = Identity {
        authentication: Authentication::Jwt,
        name: Some("Ann".to_owned()),
        client_id: Some("app".to_owned()),
        actors: vec!["agent".to_owned()],
        acr: Some("2".to_owned()),
        amr: vec!["pwd".to_owned()],
    };
    let caller = Caller {
        subject: "5f2c".to_owned(),
        role: Some("reader".to_owned()),
        issuer: Some("https://login.example".to_owned()),
        token_id: Some("jti".to_owned()),
        identity: Arc::new(identity),
    };
    let addr = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 4000)).into());
    let correlation = Correlation { addr, session_id: Some("s".to_owned()), rpc_id: Some("7".to_owned()) };
    let context = Context { identity: Some(&caller.identity), user_agent: Some("x/\u{1f600}"), ..Context::default() };
    gatepost::audit::record::Call::new(RequestId::new(), "tools/call")
        .with_caller(&caller)
        .with_correlation(&correlation)
        .with_context(&context)
        .with_parent(Some(RequestId::new()))
        .with_target(Some("example"), Some("echo"))
        .with_resource(Some("file:///a"))
        .with_definitions(Some(KEY.digest(b"policy")), Some(KEY.digest(b"tool")))
        .with_decision(Some("roles.reader.allow[0]"))
        .with_arguments(Some(ARGUMENTS.to_owned()), Some(KEY.digest(ARGUMENTS.as_bytes())))
        .with_extra(Some(r#"{"x": 1.50}"#.to_owned()), Some(KEY.digest(b"{}")))
        .with_response_room(1024)
}

#[tokio::test]
async fn a_record_with_every_column_set_survives_a_crash_delivery_and_reading() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let receipt = pipeline.audit().begin(call()).await.unwrap();
    let id = receipt.request_id();
    let outcome = Outcome::answered(Status::Error, Some("it failed".to_owned()), b"{}", &KEY);
    let outcome = outcome.with_response(Some("{ }".to_owned()));
    receipt.finish(outcome, ()).await.unwrap().into_inner();
    let is_it = |record: &gatepost::audit::record::AuditRecord| record.entry.call.request_id == id;
    let stored = rig.stored_records().into_iter().find(is_it).unwrap();
    let unset: Vec<_> = COLUMNS.iter().filter(|column| column.of(&stored) == Value::Null).map(|it| it.name).collect();
    assert!(unset.is_empty(), "set in this test, so that it covers every column: {unset:?}");

    let rig = rig.after_crash();
    drop(pipeline);
    let database = Cluster::shared().create_database().await;
    let pipeline = rig.start_on(&database);
    let report = stop(pipeline).await;
    assert_eq!((report.lost, report.delivered), (0, report.last));
    let pool = database.pool().await;
    let filter = Filter { request_id: Some(id.0), limit: 10, ..Filter::default() };
    let read = query(&mut reader(&database).await, &filter).await.unwrap();
    assert_eq!(read, std::slice::from_ref(&stored));
    let json = serde_json::to_string(&stored).unwrap();
    assert_eq!(serde_json::from_str::<gatepost::audit::record::AuditRecord>(&json).unwrap(), stored);
    trail::verify_postgres(&pool).await;
}

#[tokio::test]
async fn a_changed_value_of_any_column_is_found() {
    let rig = Rig::stored();
    let database = Cluster::shared().create_database().await;
    let pipeline = rig.start_on(&database);
    let receipt = pipeline.audit().begin(call()).await.unwrap();
    let id = receipt.request_id();
    receipt
        .finish(
            Outcome::answered(Status::Error, Some("no".to_owned()), b"{}", &KEY).with_response(Some("{ }".to_owned())),
            (),
        )
        .await
        .unwrap()
        .into_inner();
    stop(pipeline).await;
    let pool = database.pool().await;
    let faults = async || faults_of(&mut reader(&database).await).await.len();
    assert_eq!(faults().await, 0);
    let keys = ["gateway_id", "epoch", "seq", "prev_hash", "hash"];
    for column in COLUMNS.iter().filter(|column| !keys.contains(&column.name)) {
        use gatepost::audit::record::column::ColumnType;
        let name = column.name;
        let changed = match column.column_type {
            ColumnType::Uuid => "gen_random_uuid()".to_owned(),
            ColumnType::Bigint | ColumnType::Double => format!("{name} + 1"),
            ColumnType::Bytes32 => format!("set_byte({name}, 31, (get_byte({name}, 31) + 1) % 256)"),
            ColumnType::Timestamptz => format!("\"{name}\" + interval '1 microsecond'"),
            ColumnType::Json => format!("({name}::text || ' ')::json"),
            ColumnType::Text if name == "response_status" => "'ok'".to_owned(),
            ColumnType::Text => format!("{name} || ' '"),
        };
        let mut values = vec![changed];
        values.extend(column.is_nullable.then(|| "NULL".to_owned()));
        for value in values {
            let keep = "CREATE TABLE kept AS SELECT * FROM audit_log";
            let change = format!("UPDATE audit_log SET \"{name}\" = {value} WHERE request_id = '{}'", id.0);
            let back = "TRUNCATE audit_log; INSERT INTO audit_log TABLE kept; DROP TABLE kept";
            sqlx::raw_sql(keep).execute(&pool).await.unwrap();
            let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&pool).await.unwrap().rows_affected();
            assert_eq!((rows, faults().await > 0), (1, true), "{name} = {value}");
            sqlx::raw_sql(back).execute(&pool).await.unwrap();
        }
    }
    assert_eq!(faults().await, 0);
}

/// The faults that a check of the trail finds.
async fn faults_of(connection: &mut Connection) -> Vec<Fault> {
    let snapshot = TrailSnapshot::begin(connection, Selection::default()).await.unwrap();
    let (now, settle) = (snapshot.time(), std::time::Duration::ZERO);
    let (expect, vouched, replica, live) = (Expect::Nothing, false, false, Vec::new());
    let options = Options { findings_max: 100, now, settle, expect, vouched, replica, live };
    snapshot.check(Heads::default(), options, |_| ()).await.unwrap().faults
}
