//! The limit of delivery: the same rows into the same table without a cursor, in batches and one by one.

use chrono::{DateTime, Utc};
use gatepost::audit::record::{AuditRecord, Digest};
use sqlx::PgConnection;
use uuid::Uuid;

const BATCH: &str = r#"
INSERT INTO audit_log (
    gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method, client_subject, client_role,
    client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args, args_digest,
    response_status, error_message, response_digest, response_bytes, latency_ms)
SELECT $1, $2, u.seq, u.prev_hash, u.hash, u.request_id, u.at, u.method, u.client_subject, u.client_role,
    u.client_issuer, u.token_id, u.client_addr, u.session_id, u.rpc_id, u.tool_name, u.backend_name,
    u.request_args::json, u.args_digest, u.response_status, u.error_message, u.response_digest, u.response_bytes,
    u.latency_ms
FROM UNNEST(
    $3::bigint[], $4::bytea[], $5::bytea[], $6::uuid[], $7::timestamptz[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[],
    $19::bytea[], $20::text[], $21::text[], $22::bytea[], $23::bigint[], $24::double precision[])
AS u(seq, prev_hash, hash, request_id, at, method, client_subject, client_role,
    client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args,
    args_digest, response_status, error_message, response_digest, response_bytes, latency_ms)
"#;

const ONE: &str = r#"
INSERT INTO audit_log (
    gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method, client_subject, client_role,
    client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args, args_digest,
    response_status, error_message, response_digest, response_bytes, latency_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18::json, $19, $20, $21, $22, $23,
    $24)
"#;

/// One statement for all of `records`, which are of one stream.
pub async fn insert(connection: &mut PgConnection, records: &[AuditRecord]) {
    fn column<'a, T>(records: &'a [AuditRecord], value: impl Fn(&'a AuditRecord) -> T) -> Vec<T> {
        records.iter().map(value).collect()
    }
    let position = records[0].position;
    let done = sqlx::query(BATCH)
        .bind(position.gateway_id.0)
        .bind(bigint(position.epoch.0))
        .bind(column(records, |record| bigint(record.position.seq.0)))
        .bind(column(records, |record| record.position.prev_hash.0.as_slice()))
        .bind(column(records, |record| record.position.hash.0.as_slice()))
        .bind(column(records, |record| record.entry.call.request_id.0))
        .bind(column(records, time))
        .bind(column(records, |record| record.entry.call.method.as_str()))
        .bind(column(records, |record| record.entry.call.client_subject.as_str()))
        .bind(column(records, |record| record.entry.call.client_role.as_deref()))
        .bind(column(records, |record| record.entry.call.client_issuer.as_deref()))
        .bind(column(records, |record| record.entry.call.token_id.as_deref()))
        .bind(column(records, |record| record.entry.call.client_addr.as_deref()))
        .bind(column(records, |record| record.entry.call.session_id.as_deref()))
        .bind(column(records, |record| record.entry.call.rpc_id.as_deref()))
        .bind(column(records, |record| record.entry.call.tool_name.as_deref()))
        .bind(column(records, |record| record.entry.call.backend_name.as_deref()))
        .bind(column(records, |record| record.entry.call.request_args.as_deref()))
        .bind(column(records, |record| bytes(record.entry.call.args_digest.as_ref())))
        .bind(column(records, |record| record.entry.response_status.as_str()))
        .bind(column(records, |record| record.entry.error_message.as_deref()))
        .bind(column(records, |record| bytes(record.entry.response_digest.as_ref())))
        .bind(column(records, |record| record.entry.response_bytes.map(bigint)))
        .bind(column(records, |record| record.entry.latency_ms))
        .execute(connection)
        .await
        .unwrap();
    assert_eq!(done.rows_affected(), records.len() as u64);
}

/// One statement for one record.
pub async fn insert_one(connection: &mut PgConnection, record: &AuditRecord) {
    let (position, entry, call) = (&record.position, &record.entry, &record.entry.call);
    sqlx::query(ONE)
        .bind(position.gateway_id.0)
        .bind(bigint(position.epoch.0))
        .bind(bigint(position.seq.0))
        .bind(position.prev_hash.0.as_slice())
        .bind(position.hash.0.as_slice())
        .bind(call.request_id.0)
        .bind(time(record))
        .bind(call.method.as_str())
        .bind(call.client_subject.as_str())
        .bind(call.client_role.as_deref())
        .bind(call.client_issuer.as_deref())
        .bind(call.token_id.as_deref())
        .bind(call.client_addr.as_deref())
        .bind(call.session_id.as_deref())
        .bind(call.rpc_id.as_deref())
        .bind(call.tool_name.as_deref())
        .bind(call.backend_name.as_deref())
        .bind(call.request_args.as_deref())
        .bind(bytes(call.args_digest.as_ref()))
        .bind(entry.response_status.as_str())
        .bind(entry.error_message.as_deref())
        .bind(bytes(entry.response_digest.as_ref()))
        .bind(entry.response_bytes.map(bigint))
        .bind(entry.latency_ms)
        .execute(connection)
        .await
        .unwrap();
}

fn time(record: &AuditRecord) -> DateTime<Utc> {
    record.entry.call.timestamp.to_datetime()
}

fn bytes(digest: Option<&Digest>) -> Option<&[u8]> {
    digest.map(|digest| digest.0.as_slice())
}

/// The id of rows that no gateway writes.
pub fn nobody() -> gatepost::audit::record::GatewayId {
    gatepost::audit::record::GatewayId(Uuid::from_u128(0xBE7C))
}

fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap()
}
