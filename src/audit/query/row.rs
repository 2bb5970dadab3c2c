//! A row of `audit_log` as a record. Values are not normalised again, so that a changed row is not repaired by reading
//! it.

use std::sync::LazyLock;

use sqlx::postgres::PgRow;
use sqlx::{ColumnIndex, Row};

use crate::audit::record::column::{COLUMNS, Column, ColumnType, OwnedValue, Part};
use crate::audit::record::{AuditRecord, Digest, Entry, StreamPosition, Timestamp};

/// Microseconds from 1970 to 2000, the epoch of Postgres. *Spec*: `timestamptz` in Postgres's binary format.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The columns that [`record`] reads, as the beginning of a list for `SELECT`: they are read by their place in it. A
/// `json` is read as its text, which keeps every byte.
pub(super) static COLUMN_LIST: LazyLock<String> = LazyLock::new(|| {
    let text = |column: &Column| match column.column_type {
        ColumnType::Json => format!(r#""{0}"::text AS "{0}""#, column.name),
        _ => format!(r#""{}""#, column.name),
    };
    COLUMNS.iter().map(text).collect::<Vec<_>>().join(", ")
});

pub(super) fn position(row: &PgRow) -> Result<StreamPosition, sqlx::Error> {
    read(row, |part| part == Part::Position).map(|record| record.position)
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(bytes32(bytes))
}

pub(super) fn record(row: &PgRow) -> Result<AuditRecord, sqlx::Error> {
    read(row, |_| true)
}

pub(super) fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    read(row, |part| part != Part::Position).map(|record| record.entry)
}

/// A record of which the columns of the chosen parts are those of `row`.
fn read(row: &PgRow, is_read: impl Fn(Part) -> bool) -> Result<AuditRecord, sqlx::Error> {
    let mut record = AuditRecord::blank();
    for (idx, column) in COLUMNS.iter().enumerate().filter(|(_, column)| is_read(column.part())) {
        let value = value(row, idx, column.column_type)?;
        column.set(&mut record, value).ok_or_else(|| {
            let message = format!("the value of {} is unknown; a newer Gatepost wrote it", column.name);
            sqlx::Error::Decode(message.into())
        })?;
    }
    Ok(record)
}

/// The value of the column at `idx`.
fn value(row: &PgRow, idx: usize, column_type: ColumnType) -> Result<OwnedValue, sqlx::Error> {
    let value = match column_type {
        ColumnType::Uuid => row.try_get::<Option<_>, _>(idx)?.map(OwnedValue::Uuid),
        ColumnType::Bigint => row.try_get::<Option<_>, _>(idx)?.map(OwnedValue::Bigint),
        ColumnType::Bytes32 => row.try_get::<Option<&[u8]>, _>(idx)?.map(|bytes| OwnedValue::Bytes32(bytes32(bytes))),
        ColumnType::Timestamptz => Some(OwnedValue::Timestamptz(timestamp(row, idx)?)),
        ColumnType::Text | ColumnType::Json => row.try_get::<Option<_>, _>(idx)?.map(OwnedValue::Text),
        ColumnType::Double => row.try_get::<Option<_>, _>(idx)?.map(OwnedValue::Double),
    };
    Ok(value.unwrap_or(OwnedValue::Null))
}

/// Zero bytes if the length is wrong: the record's hash then does not match.
fn bytes32(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().unwrap_or([0; 32])
}

/// Decodes the binary format itself, because chrono panics at some values of Postgres, for example `infinity`.
pub(super) fn timestamp(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Result<Timestamp, sqlx::Error> {
    let bytes = row.try_get_raw(column)?.as_bytes().map_err(sqlx::Error::Decode)?;
    let micros = bytes.try_into().map(i64::from_be_bytes);
    let micros = micros.map_err(|_| sqlx::Error::Decode("timestamp is not 8 bytes long".into()))?;
    Ok(Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS)))
}
