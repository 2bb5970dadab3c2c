//! The parameters of a batch of records, made from the table of columns, and the statements that take them.

use std::sync::LazyLock;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;

use crate::audit::record::column::{COLUMNS, Column, ColumnType, Value};
use crate::audit::record::{AuditRecord, StreamPosition};
use crate::audit::sql;

/// The number of columns that are the same in a whole batch: `gateway_id` and `epoch`, which come first.
const STREAM_COLUMNS: usize = 2;

/// The number of parameters that [`insert`] binds, one for each column: `$1` to this one. `$3` is the array of seqs.
pub(super) const INSERT_PARAMETERS: usize = COLUMNS.len();

/// The call of a function of the schema that takes a batch, for example `SELECT gatepost_deliver($1, ...)`. Postgres
/// makes the parameters of these functions from the same columns, in the same order.
pub(super) fn call_with_batch(function: &str) -> String {
    let parameters: Vec<_> = (1..=INSERT_PARAMETERS).map(|number| format!("${number}")).collect();
    format!("SELECT {function}({})", parameters.join(", "))
}

/// The statement that inserts a batch, for roles that may insert. A `WHERE` may follow.
pub(super) static INSERT_ROWS: LazyLock<String> = LazyLock::new(|| {
    let list = |text: fn(usize, &Column) -> String, from: usize| {
        let texts = COLUMNS.iter().enumerate().skip(from).map(|(idx, column)| text(idx + 1, column));
        texts.collect::<Vec<_>>().join(", ")
    };
    let quoted = |_: usize, column: &Column| format!("\"{}\"", column.name);
    format!(
        "INSERT INTO audit_log ({}) SELECT {} FROM UNNEST({}) AS u({}) ",
        list(quoted, 0),
        list(
            |number, column| match (number <= STREAM_COLUMNS, column.column_type) {
                (true, _) => format!("${number}"),
                (false, ColumnType::Json) => format!("u.\"{}\"::json", column.name),
                (false, _) => format!("u.\"{}\"", column.name),
            },
            0
        ),
        list(|number, column| format!("${number}::{}[]", parameter_type(column.column_type)), STREAM_COLUMNS),
        list(quoted, STREAM_COLUMNS),
    )
});

/// Binds `batch` to the first parameters of `statement`, which are those of [`INSERT_ROWS`]. `position` names the
/// stream.
pub(super) fn insert<'a, R: AsRef<AuditRecord>>(
    statement: &'static str,
    position: StreamPosition,
    batch: &'a [R],
) -> sqlx::query::Query<'a, Postgres, PgArguments> {
    let statement = sql::query(statement).bind(position.gateway_id.0).bind(bigint(position.epoch.0));
    COLUMNS.iter().skip(STREAM_COLUMNS).fold(statement, |statement, column| bind(statement, column, batch))
}

/// A count as a `bigint`. No count reaches its limit: that takes 292,000 years at a million records per second.
pub(super) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The type of a column's values in the arrays for `UNNEST`. *Spec*: there is no cast from `text[]` to `json[]` that
/// keeps what a `json` keeps, so the values are cast one by one.
fn parameter_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Uuid => "uuid",
        ColumnType::Bigint => "bigint",
        ColumnType::Bytes32 => "bytea",
        ColumnType::Timestamptz => "timestamptz",
        ColumnType::Text | ColumnType::Json => "text",
        ColumnType::Double => "double precision",
    }
}

/// Binds the values of one column in all records of the batch.
fn bind<'a, R: AsRef<AuditRecord>>(
    statement: sqlx::query::Query<'a, Postgres, PgArguments>,
    column: &Column,
    batch: &'a [R],
) -> sqlx::query::Query<'a, Postgres, PgArguments> {
    let values = batch.iter().map(|record| column.of(record.as_ref()));
    match column.column_type {
        ColumnType::Uuid => statement.bind(values.map(Value::as_uuid).collect::<Vec<_>>()),
        ColumnType::Bigint => statement.bind(values.map(Value::as_bigint).collect::<Vec<_>>()),
        ColumnType::Bytes32 => statement.bind(values.map(Value::as_bytes).collect::<Vec<_>>()),
        ColumnType::Timestamptz => {
            statement.bind(values.map(|value| Some(value.as_timestamp()?.to_datetime())).collect::<Vec<_>>())
        }
        ColumnType::Text | ColumnType::Json => statement.bind(values.map(Value::as_text).collect::<Vec<_>>()),
        ColumnType::Double => statement.bind(values.map(Value::as_double).collect::<Vec<_>>()),
    }
}
