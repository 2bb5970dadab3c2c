//! The INSERT of a batch of records, and its parameters.

use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::audit::record::{AuditRecord, Digest, StreamPosition};

/// The statement that inserts a batch. [`insert`] binds its parameters `$1` to `$24`.
macro_rules! insert_rows {
    () => {
        r#"
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
"#
    };
}

pub(super) use insert_rows;

/// Binds `batch` to the first parameters of `statement`, which are those of `insert_rows`. `position` names the stream.
pub(super) fn insert<'a, R: AsRef<AuditRecord>>(
    statement: &'static str,
    position: StreamPosition,
    batch: &'a [R],
) -> sqlx::query::Query<'a, Postgres, PgArguments> {
    let columns = Columns::of(batch);
    sqlx::query(statement)
        .bind(position.gateway_id.0)
        .bind(bigint(position.epoch.0))
        .bind(columns.seq)
        .bind(columns.prev_hash)
        .bind(columns.hash)
        .bind(columns.request_id)
        .bind(columns.timestamp)
        .bind(columns.method)
        .bind(columns.client_subject)
        .bind(columns.client_role)
        .bind(columns.client_issuer)
        .bind(columns.token_id)
        .bind(columns.client_addr)
        .bind(columns.session_id)
        .bind(columns.rpc_id)
        .bind(columns.tool_name)
        .bind(columns.backend_name)
        .bind(columns.request_args)
        .bind(columns.args_digest)
        .bind(columns.response_status)
        .bind(columns.error_message)
        .bind(columns.response_digest)
        .bind(columns.response_bytes)
        .bind(columns.latency_ms)
}

/// A batch by column, for `UNNEST`.
struct Columns<'a> {
    seq: Vec<i64>,
    prev_hash: Vec<&'a [u8]>,
    hash: Vec<&'a [u8]>,
    request_id: Vec<Uuid>,
    timestamp: Vec<DateTime<Utc>>,
    method: Vec<&'a str>,
    client_subject: Vec<&'a str>,
    client_role: Vec<Option<&'a str>>,
    client_issuer: Vec<Option<&'a str>>,
    token_id: Vec<Option<&'a str>>,
    client_addr: Vec<Option<&'a str>>,
    session_id: Vec<Option<&'a str>>,
    rpc_id: Vec<Option<&'a str>>,
    tool_name: Vec<Option<&'a str>>,
    backend_name: Vec<Option<&'a str>>,
    request_args: Vec<Option<&'a str>>,
    args_digest: Vec<Option<&'a [u8]>>,
    response_status: Vec<&'a str>,
    error_message: Vec<Option<&'a str>>,
    response_digest: Vec<Option<&'a [u8]>>,
    response_bytes: Vec<Option<i64>>,
    latency_ms: Vec<f64>,
}

impl<'a> Columns<'a> {
    fn of<R: AsRef<AuditRecord>>(batch: &'a [R]) -> Self {
        fn column<'a, R: AsRef<AuditRecord>, T>(batch: &'a [R], value: impl Fn(&'a AuditRecord) -> T) -> Vec<T> {
            batch.iter().map(|record| value(record.as_ref())).collect()
        }
        fn digest(digest: Option<&Digest>) -> Option<&[u8]> {
            digest.map(|digest| digest.0.as_slice())
        }
        Self {
            seq: column(batch, |record| bigint(record.position.seq.0)),
            prev_hash: column(batch, |record| record.position.prev_hash.0.as_slice()),
            hash: column(batch, |record| record.position.hash.0.as_slice()),
            request_id: column(batch, |record| record.entry.call.request_id.0),
            timestamp: column(batch, |record| record.entry.call.timestamp.to_datetime()),
            method: column(batch, |record| record.entry.call.method.as_str()),
            client_subject: column(batch, |record| record.entry.call.client_subject.as_str()),
            client_role: column(batch, |record| record.entry.call.client_role.as_deref()),
            client_issuer: column(batch, |record| record.entry.call.client_issuer.as_deref()),
            token_id: column(batch, |record| record.entry.call.token_id.as_deref()),
            client_addr: column(batch, |record| record.entry.call.client_addr.as_deref()),
            session_id: column(batch, |record| record.entry.call.session_id.as_deref()),
            rpc_id: column(batch, |record| record.entry.call.rpc_id.as_deref()),
            tool_name: column(batch, |record| record.entry.call.tool_name.as_deref()),
            backend_name: column(batch, |record| record.entry.call.backend_name.as_deref()),
            request_args: column(batch, |record| record.entry.call.request_args.as_deref()),
            args_digest: column(batch, |record| digest(record.entry.call.args_digest.as_ref())),
            response_status: column(batch, |record| record.entry.response_status.as_str()),
            error_message: column(batch, |record| record.entry.error_message.as_deref()),
            response_digest: column(batch, |record| digest(record.entry.response_digest.as_ref())),
            response_bytes: column(batch, |record| record.entry.response_bytes.map(bigint)),
            latency_ms: column(batch, |record| record.entry.latency_ms),
        }
    }
}

/// A count as a `bigint`. No count reaches its limit: that takes 292,000 years at a million records per second.
pub(super) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
