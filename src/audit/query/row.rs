//! A row of `audit_log` as a record. Values are not normalised again, so that a changed row is not repaired by reading
//! it.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Seq, Status, StreamPosition, Text,
    Timestamp,
};

/// Microseconds from 1970 to 2000, the epoch of Postgres. *Spec*: `timestamptz` in Postgres's binary format.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The columns that [`record`] reads.
macro_rules! columns {
    () => {
        r#"gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method, client_subject, client_role,
        client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args::text AS
        request_args, args_digest, response_status, error_message, response_digest, response_bytes, latency_ms"#
    };
}
pub(super) use columns;

pub(super) fn position(row: &PgRow) -> Result<StreamPosition, sqlx::Error> {
    let count = |column: &str| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    Ok(StreamPosition {
        gateway_id: GatewayId(row.try_get("gateway_id")?),
        epoch: Epoch(count("epoch")?),
        seq: Seq(count("seq")?),
        prev_hash: digest(row.try_get("prev_hash")?),
        hash: digest(row.try_get("hash")?),
    })
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    bytes.try_into().map_or(Digest::ZERO, Digest)
}

pub(super) fn record(row: &PgRow) -> Result<AuditRecord, sqlx::Error> {
    Ok(AuditRecord { position: position(row)?, entry: entry(row)? })
}

pub(super) fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    let some = |column: &str| row.try_get::<Option<&[u8]>, _>(column).map(|bytes| bytes.map(digest));
    let text = |column: &str| row.try_get::<&str, _>(column).map(Text::from);
    let optional = |column: &str| row.try_get::<Option<&str>, _>(column).map(|text| text.map(Text::from));
    let mut call = Call::new(RequestId(row.try_get("request_id")?), "");
    call.method = text("method")?;
    call.timestamp = timestamp(row)?;
    call.client_subject = text("client_subject")?;
    call.client_role = optional("client_role")?;
    call.client_issuer = optional("client_issuer")?;
    call.token_id = optional("token_id")?;
    call.client_addr = optional("client_addr")?;
    call.session_id = optional("session_id")?;
    call.rpc_id = optional("rpc_id")?;
    call.tool_name = optional("tool_name")?;
    call.backend_name = optional("backend_name")?;
    call.request_args = row.try_get("request_args")?;
    call.args_digest = some("args_digest")?;
    let word: &str = row.try_get("response_status")?;
    let status = Status::from_word(word).ok_or_else(|| {
        sqlx::Error::Decode(format!("response_status {word:?} is unknown; a newer Gatepost wrote it").into())
    })?;
    let outcome =
        Outcome { status, error_message: None, response_digest: some("response_digest")?, response_bytes: None };
    let mut entry = Entry::new(call, outcome, Duration::ZERO);
    entry.error_message = row.try_get("error_message")?;
    // No `abs`: a changed sign must show as a change.
    entry.response_bytes = row.try_get::<Option<i64>, _>("response_bytes")?.map(i64::cast_unsigned);
    entry.latency_ms = row.try_get("latency_ms")?;
    Ok(entry)
}

/// Decodes the binary format itself, because chrono panics at some values of Postgres, for example `infinity`.
fn timestamp(row: &PgRow) -> Result<Timestamp, sqlx::Error> {
    let bytes = row.try_get_raw("timestamp")?.as_bytes().map_err(sqlx::Error::Decode)?;
    let micros = bytes.try_into().map(i64::from_be_bytes);
    let micros = micros.map_err(|_| sqlx::Error::Decode("timestamp is not 8 bytes long".into()))?;
    Ok(Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS)))
}
