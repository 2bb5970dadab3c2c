//! Requeueing: retries the delivery of quarantined records to `audit_log`.
//!
//! One statement per record deletes it from `audit_quarantine` and inserts it at its own position, or does neither. So
//! the record is always in exactly one of the two tables. The stream's cursor passed it when it was quarantined, and
//! does not move.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Postgres, Row};
use uuid::Uuid;

use super::connection::REPLY_GRACE;
use super::delivery::cursor_update;
use super::error::{driver_error, timed_out};
use super::rows::{INSERT_PARAMETERS, INSERT_ROWS, bigint, insert};
use super::transaction::transaction;
use crate::audit::chain;
use crate::audit::codec;
use crate::audit::lost::{LostRuns, is_stand_in};
use crate::audit::query;
use crate::audit::record::AuditRecord;
use crate::audit::sink::interface::{CursorUpdate, SinkError};
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};

/// Moves one row. The first parameters are those of [`INSERT_ROWS`]; the last is the frame that was read.
///
/// A record that is already in `audit_log` is not inserted again. The key of that table includes the timestamp, so the
/// key alone would allow it. Fails with 22P02 if a trigger keeps the row out, like `DELIVER`.
static REQUEUE: LazyLock<String> = LazyLock::new(|| {
    let frame = INSERT_PARAMETERS + 1;
    let insert_rows = INSERT_ROWS.as_str();
    format!(
        "
WITH moved AS (
    DELETE FROM audit_quarantine WHERE gateway_id = $1 AND epoch = $2 AND seq = ($3::bigint[])[1] AND frame = ${frame}
    AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.gateway_id = $1 AND l.epoch = $2 AND l.seq = ($3::bigint[])[1])
    RETURNING 1
), inserted AS ({insert_rows} WHERE EXISTS (SELECT 1 FROM moved) RETURNING 1)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM moved) THEN false
    WHEN count(*) = 1 THEN true
    ELSE ('audit_log took ' || count(*) || ' of 1 rows; a trigger keeps rows out')::boolean
END FROM inserted"
    )
});

/// Selects between a real requeue and a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequeueMode {
    /// The transaction is rolled back.
    DryRun,
    /// The transaction is committed.
    Commit,
}

/// A row of `audit_quarantine`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRecord {
    /// The record's gateway.
    pub gateway_id: Uuid,
    /// The record's epoch.
    pub epoch: i64,
    /// The record's seq.
    pub seq: i64,
    /// The id of the record's call.
    pub request_id: Uuid,
    /// The reason for the quarantine: SQLSTATE and text.
    pub reason: String,
    /// The record as a frame.
    frame: Vec<u8>,
}

/// The outcome of requeueing one record.
#[derive(Debug)]
pub enum RequeueOutcome {
    /// The record is in `audit_log`, at its position, and no longer in quarantine.
    Delivered,
    /// Postgres refused the record again, for this reason; it stays in quarantine.
    Refused(String),
    /// Another process moved the record meanwhile, or `audit_log` already has a record at its position.
    Gone,
}

/// The losses that damage records name, by gateway, as far as they were read.
#[derive(Debug, Default)]
pub struct KnownLosses(BTreeMap<Uuid, LostRuns>);

impl KnownLosses {
    /// Returns true if a damage record in the trail explains the stand-in `record`.
    async fn explain(&mut self, connection: &mut Connection, record: &AuditRecord) -> Result<bool, SinkError> {
        let gateway_id = record.position.gateway_id.0;
        if let Some(lost) = self.0.get(&gateway_id) {
            return Ok(lost.explains(record));
        }
        let read = query::lost_runs(connection, Some(gateway_id)).await;
        let lost = read.map_err(|error| driver_error("read the damage records", &error))?;
        Ok(self.0.entry(gateway_id).or_insert(lost).explains(record))
    }
}

/// The first row of `audit_quarantine` whose key is after that of `after`.
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
    let mut transaction = transaction(connection, sql::OWNER_TIMEOUT).await?;
    let query = sql::query(sql).bind(id).bind(epoch).bind(seq);
    let row = query.fetch_optional(&mut *transaction).await.map_err(fault)?;
    transaction.rollback().await.map_err(fault)?;
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

/// Tries to move `row` to `audit_log`. `timeout` is the server's `statement_timeout`. `losses` is kept from one row to
/// the next.
///
/// # Errors
/// See [`SinkError`]. An error of the row itself is [`RequeueOutcome::Refused`]. If the connection broke, the row may
/// have been moved; running the requeue again shows whether it was.
///
/// # Durability
/// *Delivered* on [`RequeueOutcome::Delivered`] in [`RequeueMode::Commit`].
pub async fn requeue(
    connection: &mut Connection,
    row: &QuarantinedRecord,
    mode: RequeueMode,
    timeout: Duration,
    losses: &mut KnownLosses,
) -> Result<RequeueOutcome, SinkError> {
    let record = match decode(row) {
        Ok(record) => record,
        Err(reason) => return Ok(RequeueOutcome::Refused(reason)),
    };
    if is_stand_in(&record) {
        if !losses.explain(connection, &record).await? {
            let reason = "it claims that a record was lost, and no gateway/damage record in the trail names its place";
            return Ok(RequeueOutcome::Refused(reason.to_owned()));
        }
    } else if !chain::hash_matches(&record.position, &record.entry) {
        return Ok(RequeueOutcome::Refused("its contents do not match its hash: they were changed".to_owned()));
    }
    let batch = [&record];
    let statement = insert(&REQUEUE, record.position, &batch).bind(&row.frame);
    match tokio::time::timeout(timeout + REPLY_GRACE, execute(connection, statement, mode, timeout)).await {
        Ok(Ok(CursorUpdate::Moved)) => Ok(RequeueOutcome::Delivered),
        Ok(Ok(CursorUpdate::Unchanged)) => Ok(RequeueOutcome::Gone),
        // I9: a record that is refused again stays in quarantine, and the next one is tried.
        Ok(Err(error)) if error.class == ErrorClass::Row => Ok(RequeueOutcome::Refused(error.to_string())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(timed_out("requeue", timeout + REPLY_GRACE, ErrorClass::TooMuch)),
    }
}

async fn execute(
    connection: &mut PgConnection,
    statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    mode: RequeueMode,
    timeout: Duration,
) -> Result<CursorUpdate, SinkError> {
    let operation = "requeue";
    let fault = |error| driver_error(operation, &error);
    let mut transaction = transaction(connection, timeout).await?;
    let row = statement.fetch_one(&mut *transaction).await.map_err(fault)?;
    let update = cursor_update(operation, &row)?;
    // Deferred constraints, which a commit would check.
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await.map_err(fault)?;
    match mode {
        RequeueMode::Commit => transaction.commit().await.map_err(fault)?,
        RequeueMode::DryRun => transaction.rollback().await.map_err(fault)?,
    }
    Ok(update)
}

/// Decodes the row's frame and checks that it is readable and belongs to the row's position.
fn decode(row: &QuarantinedRecord) -> Result<AuditRecord, String> {
    let (record, _) = codec::decode_record(&row.frame).map_err(|error| format!("its bytes are damaged: {error}"))?;
    let position = record.position;
    if (position.gateway_id.0, bigint(position.epoch.0), bigint(position.seq.0)) != (row.gateway_id, row.epoch, row.seq)
    {
        return Err(format!("its bytes belong to record {}/{}", position.epoch, position.seq));
    }
    Ok(record)
}
