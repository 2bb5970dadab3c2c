//! A row of `audit_log` as a record. Values are not normalised again, so that a changed row is not repaired by reading
//! it.

use std::sync::LazyLock;

use sqlx::postgres::{PgRow, PgValueRef};
use sqlx::{ColumnIndex, Row, ValueRef};
use uuid::Uuid;

use crate::audit::record::column::{COLUMNS, Column, ColumnType, Part, Value};
use crate::audit::record::{AuditRecord, Digest, Timestamp};

/// Microseconds from 1970 to 2000, the epoch of Postgres. *Spec*: `timestamptz` in Postgres's binary format.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The columns of a record, as the beginning of a list for `SELECT`: they are read by their place in it. Each is cast
/// to its type, which changes nothing unless the owner has changed the table.
pub(super) static COLUMN_LIST: LazyLock<String> = LazyLock::new(|| {
    let column = |column: &Column| format!(r#""{0}"::{1} AS "{0}""#, column.name, type_name(column.column_type));
    COLUMNS.iter().map(column).collect::<Vec<_>>().join(", ")
});

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(bytes32(bytes))
}

/// The record of a row that begins with [`COLUMN_LIST`].
pub(super) fn record(row: &PgRow) -> Result<AuditRecord, sqlx::Error> {
    let mut record = AuditRecord::blank();
    for (idx, column) in COLUMNS.iter().enumerate() {
        set(&mut record, column, bytes(&row.try_get_raw(idx)?)?)?;
    }
    Ok(record)
}

/// Sets the columns of the chosen parts in `record`. `fields` are the values of [`COLUMN_LIST`] in Postgres's binary
/// format.
pub(super) fn set_parts(
    record: &mut AuditRecord,
    fields: &[Option<&[u8]>],
    is_chosen: impl Fn(Part) -> bool,
) -> Result<(), sqlx::Error> {
    let chosen = COLUMNS.iter().zip(fields).filter(|(column, _)| is_chosen(column.part()));
    chosen.into_iter().try_for_each(|(column, field)| set(record, column, *field))
}

fn set(record: &mut AuditRecord, column: &Column, field: Option<&[u8]>) -> Result<(), sqlx::Error> {
    let bytes32;
    let value = match (field, column.column_type) {
        (None, _) => Value::Null,
        (Some(bytes), ColumnType::Uuid) => Value::Uuid(Uuid::from_bytes(sized(bytes, column)?)),
        (Some(bytes), ColumnType::Bigint) => Value::Bigint(i64::from_be_bytes(sized(bytes, column)?)),
        (Some(bytes), ColumnType::Bytes32) => {
            bytes32 = self::bytes32(bytes);
            Value::Bytes32(&bytes32)
        }
        (Some(bytes), ColumnType::Timestamptz) => Value::Timestamptz(timestamp_of(sized(bytes, column)?)),
        (Some(bytes), ColumnType::Text | ColumnType::Json) => {
            Value::Text(std::str::from_utf8(bytes).map_err(|_| unreadable(column, "is not UTF-8"))?)
        }
        (Some(bytes), ColumnType::Double) => Value::Double(f64::from_be_bytes(sized(bytes, column)?)),
    };
    column.set(record, value).ok_or_else(|| unreadable(column, "is unknown; a newer Gatepost wrote it"))
}

fn bytes<'r>(value: &PgValueRef<'r>) -> Result<Option<&'r [u8]>, sqlx::Error> {
    if value.is_null() { Ok(None) } else { value.as_bytes().map(Some).map_err(sqlx::Error::Decode) }
}

fn sized<const N: usize>(bytes: &[u8], column: &Column) -> Result<[u8; N], sqlx::Error> {
    bytes.try_into().map_err(|_| unreadable(column, "has another length than its type"))
}

fn unreadable(column: &Column, why: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the value of {} {why}", column.name).into())
}

/// Zero bytes if the length is wrong: the record's hash then does not match.
fn bytes32(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().unwrap_or([0; 32])
}

/// Decodes the binary format itself, because chrono panics at some values of Postgres, for example `infinity`.
pub(super) fn timestamp(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Result<Timestamp, sqlx::Error> {
    let bytes = row.try_get_raw(column)?.as_bytes().map_err(sqlx::Error::Decode)?;
    let bytes = bytes.try_into().map_err(|_| sqlx::Error::Decode("timestamp is not 8 bytes long".into()))?;
    Ok(timestamp_of(bytes))
}

fn timestamp_of(bytes: [u8; 8]) -> Timestamp {
    Timestamp::from_micros(i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_MICROS))
}

/// The name of a type, as Postgres itself writes it.
pub(super) fn type_name(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Uuid => "uuid",
        ColumnType::Bigint => "bigint",
        ColumnType::Bytes32 => "bytea",
        ColumnType::Timestamptz => "timestamp with time zone",
        ColumnType::Text => "text",
        ColumnType::Json => "json",
        ColumnType::Double => "double precision",
    }
}
