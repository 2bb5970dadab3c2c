//! Reads the whole trail in Postgres, in the order of the streams, through a [`Checker`].
//!
//! One statement reads `audit_log` and `audit_quarantine`, merged by their keys. Rows are read as they arrive and
//! hashed on another thread, with a bounded number of batches in between.

use std::sync::LazyLock;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use tokio::sync::mpsc;

use super::lost::lost_runs;
use super::row;
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::column::{COLUMNS, Column, Part};
use crate::audit::record::{Entry, Epoch, GatewayId, Seq, StreamPosition};
use crate::audit::verify::{Checker, Origin, Report, StreamId, TrailRecord};

/// Most records in a batch for the hashing thread. *Chosen*: hashing so many costs far more than passing a batch on.
const BATCH_RECORDS: usize = 512;
/// Bytes of records after which a batch is passed on. *Chosen*: with [`BATCHES_MAX`], a few megabytes wait at most.
const BATCH_BYTES: usize = 1024 * 1024;

/// Batches that may wait for the hashing thread. *Chosen*: enough that neither side waits for the other at every batch.
const BATCHES_MAX: usize = 4;

/// `repeatable read`: cursors and rows are from one moment, whatever is delivered during the scan.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Without sorts the server returns the rows in the order of the keys, and buffers none of them.
const SETTINGS: &str = "
SET LOCAL statement_timeout = 0; SET LOCAL enable_sort = off; SET LOCAL enable_hashjoin = off; SET LOCAL jit = off";

const CURSORS: &str = "SELECT gateway_id, epoch, delivered_seq, head_hash FROM audit_stream ORDER BY gateway_id, epoch";

static RECORDS: LazyLock<String> = LazyLock::new(|| {
    let quarantined = |column: &Column| match (column.part(), column.name) {
        (Part::Position, name) | (_, name @ "request_id") => name,
        _ => "NULL",
    };
    format!(
        "SELECT {}, NULL::bytea AS frame FROM audit_log UNION ALL SELECT {}, frame FROM audit_quarantine
        ORDER BY gateway_id, epoch, seq",
        row::COLUMN_LIST.as_str(),
        COLUMNS.iter().map(quarantined).collect::<Vec<_>>().join(", ")
    )
});

/// Checks all streams. Calls `progress` at intervals with the number of records read.
///
/// # Errors
/// Any error of Postgres; see [`super::remedy`].
pub async fn verify(
    connection: &mut PgConnection,
    faults_max: usize,
    mut progress: impl FnMut(u64),
) -> Result<Report, sqlx::Error> {
    let mut snapshot = connection.begin_with(BEGIN).await?;
    sqlx::raw_sql(SETTINGS).execute(&mut *snapshot).await?;
    let mut checker = Checker::new(Origin::Postgres, faults_max);
    let mut cursors = sqlx::query(CURSORS).fetch(&mut *snapshot);
    while let Some(row) = cursors.try_next().await? {
        let (stream, head) = cursor(&row)?;
        checker.add_cursor(stream, head);
    }
    drop(cursors);
    checker.add_losses(lost_runs(&mut snapshot, None).await?);
    let (sender, mut batches) = mpsc::channel::<Vec<TrailRecord>>(BATCHES_MAX);
    let hashing = tokio::task::spawn_blocking(move || {
        while let Some(batch) = batches.blocking_recv() {
            for record in &batch {
                checker.check(record);
            }
        }
        checker.finish()
    });
    let mut rows = sqlx::query(RECORDS.as_str()).fetch(&mut *snapshot);
    let (mut batch, mut bytes, mut count) = (Vec::with_capacity(BATCH_RECORDS), 0, 0_u64);
    while let Some(row) = rows.try_next().await? {
        let record = trail_record(&row)?;
        bytes += record.content.as_ref().map_or(0, Entry::size_bytes);
        batch.push(record);
        count += 1;
        // I6: bounded by count and by bytes.
        if batch.len() == BATCH_RECORDS || bytes > BATCH_BYTES {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_RECORDS));
            bytes = 0;
            progress(count);
            if sender.send(full).await.is_err() {
                break;
            }
        }
    }
    drop(rows);
    sender.send(batch).await.ok();
    drop(sender);
    snapshot.rollback().await?;
    hashing.await.map_err(|_| sqlx::Error::WorkerCrashed)
}

fn cursor(row: &PgRow) -> Result<(StreamId, Head), sqlx::Error> {
    let count = |column: &str| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    let stream = (GatewayId(row.try_get("gateway_id")?), Epoch(count("epoch")?));
    Ok((stream, Head { seq: Seq(count("delivered_seq")?), hash: row::digest(row.try_get("head_hash")?) }))
}

fn trail_record(row: &PgRow) -> Result<TrailRecord, sqlx::Error> {
    let position = row::position(row)?;
    let frame: Option<&[u8]> = row.try_get("frame")?;
    let content = match frame {
        Some(frame) => quarantined_entry(row, &position, frame),
        None => row::entry(row).map_err(|error| error.to_string()),
    };
    Ok(TrailRecord { position, content, quarantined: frame.is_some() })
}

/// Decodes a quarantined frame and checks that the row's columns match it.
fn quarantined_entry(row: &PgRow, position: &StreamPosition, frame: &[u8]) -> Result<Entry, String> {
    let (record, length) = codec::decode_record(frame).map_err(|error| format!("the quarantined bytes: {error}"))?;
    if length != frame.len() {
        return Err("the quarantined bytes continue after the record".to_owned());
    }
    let request_id: uuid::Uuid = row.try_get("request_id").map_err(|error| error.to_string())?;
    if record.position != *position || record.entry.call.request_id.0 != request_id {
        return Err("the columns in audit_quarantine do not match the record in the bytes".to_owned());
    }
    Ok(record.entry)
}
