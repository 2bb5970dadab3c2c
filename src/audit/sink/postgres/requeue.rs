//! What stands in quarantine, offered to `audit_log` again.
//!
//! One statement a record takes it out of `audit_quarantine` and inserts it in its own place, or does neither: it is in
//! one of the two at every moment, and in both at none. The stream's cursor counted it when it was set aside and does not
//! move.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Connection as _, Postgres, Row};
use uuid::Uuid;

use super::{ErrorClass, REPLY_GRACE, SinkError, bigint, driver_error, insert, moved};
use crate::audit::chain;
use crate::audit::codec;
use crate::audit::record::AuditRecord;
use crate::audit::sink::Moved;

/// Its first parameters are those of `insert_rows`; then the bytes that were read.
///
/// A record that stands in `audit_log` already is not inserted again: its time is part of that table's key, so the key
/// alone would let it in. 22P02 as in `DELIVER`, where a trigger keeps the row out.
const REQUEUE: &str = concat!(
    "
WITH moved AS (
    DELETE FROM audit_quarantine WHERE gateway_id = $1 AND epoch = $2 AND seq = ($3::bigint[])[1] AND frame = $25
    AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.gateway_id = $1 AND l.epoch = $2 AND l.seq = ($3::bigint[])[1])
    RETURNING 1
), inserted AS (",
    insert_rows!(),
    "WHERE EXISTS (SELECT 1 FROM moved) RETURNING 1
)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM moved) THEN false
    WHEN count(*) = 1 THEN true
    ELSE ('audit_log took ' || count(*) || ' of 1 rows; a trigger keeps rows out')::boolean
END FROM inserted"
);

/// Whether a record is really moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequeueMode {
    /// All of it is rolled back.
    Dry,
    /// It is.
    Real,
}

/// A row of `audit_quarantine`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRecord {
    /// Whose record it is.
    pub gateway_id: Uuid,
    /// Its epoch.
    pub epoch: i64,
    /// Its seq.
    pub seq: i64,
    /// Its call.
    pub request_id: Uuid,
    /// Why it was refused: SQLSTATE and text.
    pub reason: String,
    /// The record as a frame.
    frame: Vec<u8>,
}

/// What became of a record that was offered again.
#[derive(Debug)]
pub enum RequeueOutcome {
    /// It is in `audit_log`, in its place, and no longer in quarantine.
    Delivered,
    /// It stays where it is, for this reason.
    Refused(String),
    /// Somebody else moved it meanwhile, or its place in `audit_log` is taken.
    Gone,
}

/// The first row of `audit_quarantine` behind the one with the key `after`.
///
/// # Errors
/// See [`SinkError`].
pub async fn next_quarantined(
    connection: &mut PgConnection,
    after: Option<&QuarantinedRecord>,
) -> Result<Option<QuarantinedRecord>, SinkError> {
    let sql = "SELECT gateway_id, epoch, seq, request_id, concat_ws(': ', sqlstate, error) AS reason, frame
        FROM audit_quarantine WHERE (gateway_id, epoch, seq) > ($1, $2, $3) ORDER BY gateway_id, epoch, seq LIMIT 1";
    // No gateway has the nil id.
    let (id, epoch, seq) = after.map_or((Uuid::nil(), 0, 0), |row| (row.gateway_id, row.epoch, row.seq));
    let operation = "read audit_quarantine";
    let fault = |error| driver_error(operation, &error);
    let row = sqlx::query(sql).bind(id).bind(epoch).bind(seq).fetch_optional(connection).await.map_err(fault)?;
    row.map(|row| {
        Ok(QuarantinedRecord {
            gateway_id: row.try_get(0)?,
            epoch: row.try_get(1)?,
            seq: row.try_get(2)?,
            request_id: row.try_get(3)?,
            reason: row.try_get(4)?,
            frame: row.try_get(5)?,
        })
    })
    .transpose()
    .map_err(fault)
}

/// Offers `row` to `audit_log` again. `timeout` is the server's for a statement.
///
/// # Errors
/// See [`SinkError`], but for errors of the row itself: those are [`RequeueOutcome::Refused`]. Where the connection broke it may
/// have been moved all the same; offering all again tells.
///
/// # Durability
/// *Delivered* on [`RequeueOutcome::Delivered`] of a [`RequeueMode::Commit`].
pub async fn requeue(
    connection: &mut PgConnection,
    row: &QuarantinedRecord,
    really: RequeueMode,
    timeout: Duration,
) -> Result<RequeueOutcome, SinkError> {
    let record = match thaw(row) {
        Ok(record) => record,
        Err(why) => return Ok(RequeueOutcome::Refused(why)),
    };
    let batch = [&record];
    let statement = insert(REQUEUE, record.position, &batch).bind(&row.frame);
    match tokio::time::timeout(timeout + REPLY_GRACE, offer(connection, statement, really)).await {
        Ok(Ok(CursorUpdate::Moved)) => Ok(RequeueOutcome::Delivered),
        Ok(Ok(CursorUpdate::Unchanged)) => Ok(RequeueOutcome::Gone),
        // I9: what is refused again stays where it is, and the next one is tried.
        Ok(Err(error)) if error.class == ErrorClass::Row => Ok(RequeueOutcome::Refused(error.to_string())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(super::timed_out("requeue", timeout + REPLY_GRACE, ErrorClass::TooMuch)),
    }
}

async fn offer(
    connection: &mut PgConnection,
    statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    really: RequeueMode,
) -> Result<CursorUpdate, SinkError> {
    let operation = "requeue";
    let fault = |error| driver_error(operation, &error);
    let mut transaction = connection.begin().await.map_err(fault)?;
    let row = statement.fetch_one(&mut *transaction).await.map_err(fault)?;
    let moved = moved(operation, &row)?;
    // What a commit would check.
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await.map_err(fault)?;
    match really {
        RequeueMode::Commit => transaction.commit().await.map_err(fault)?,
        RequeueMode::DryRun => transaction.rollback().await.map_err(fault)?,
    }
    Ok(moved)
}

/// The record, where its bytes are whole and stand where they belong.
fn thaw(row: &QuarantinedRecord) -> Result<AuditRecord, String> {
    let (record, _) = codec::decode_record(&row.frame).map_err(|error| format!("its bytes are damaged: {error}"))?;
    let position = record.position;
    if (position.gateway_id.0, bigint(position.epoch.0), bigint(position.seq.0)) != (row.gateway_id, row.epoch, row.seq)
    {
        return Err(format!("its bytes are those of record {}/{}", position.epoch, position.seq));
    }
    // A gap record in the place of a lost one bears that one's hash.
    if record.entry.call.method != "gateway/gap" && !chain::holds(&position, &record.entry) {
        return Err("its contents do not have its hash: they were changed".to_owned());
    }
    Ok(record)
}
