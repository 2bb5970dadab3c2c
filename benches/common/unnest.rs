//! The limit of delivery: the same rows into the same table without a cursor, in batches and one by one.

use gatepost::audit::record::AuditRecord;
use gatepost::audit::record::column::{COLUMNS, Column, ColumnType, Value};
use sqlx::postgres::PgArguments;
use sqlx::{AssertSqlSafe, PgConnection, Postgres};
use uuid::Uuid;

type Query<'a> = sqlx::query::Query<'a, Postgres, PgArguments>;

/// One statement for all of `records`, which are of one stream.
pub async fn insert(connection: &mut PgConnection, records: &[AuditRecord]) {
    let arrays = list(|number, column| match column.column_type {
        ColumnType::Json => format!("${number}::text[]"),
        column_type => format!("${number}::{}[]", type_name(column_type)),
    });
    let values = list(|_, column| match column.column_type {
        ColumnType::Json => format!("u.\"{}\"::json", column.name),
        _ => format!("u.\"{}\"", column.name),
    });
    let names = names();
    let sql = format!("INSERT INTO audit_log ({names}) SELECT {values} FROM UNNEST({arrays}) AS u({names})");
    let query = COLUMNS.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, column| {
        let values = records.iter().map(|record| column.of(record));
        match column.column_type {
            ColumnType::Uuid => query.bind(values.map(Value::as_uuid).collect::<Vec<_>>()),
            ColumnType::Bigint => query.bind(values.map(Value::as_bigint).collect::<Vec<_>>()),
            ColumnType::Bytes32 => query.bind(values.map(Value::as_bytes).collect::<Vec<_>>()),
            ColumnType::Timestamptz => {
                query.bind(values.map(|value| Some(value.as_timestamp()?.to_datetime())).collect::<Vec<_>>())
            }
            ColumnType::Text | ColumnType::Json => query.bind(values.map(Value::as_text).collect::<Vec<_>>()),
            ColumnType::Double => query.bind(values.map(Value::as_double).collect::<Vec<_>>()),
        }
    });
    assert_eq!(query.execute(connection).await.unwrap().rows_affected(), records.len() as u64);
}

/// One statement for one record.
pub async fn insert_one(connection: &mut PgConnection, record: &AuditRecord) {
    let values = list(|number, column| match column.column_type {
        ColumnType::Json => format!("${number}::json"),
        _ => format!("${number}"),
    });
    let query = sqlx::query(AssertSqlSafe(format!("INSERT INTO audit_log ({}) VALUES ({values})", names())));
    let query = COLUMNS.iter().fold(query, |query: Query<'_>, column| {
        let value = column.of(record);
        match column.column_type {
            ColumnType::Uuid => query.bind(value.as_uuid()),
            ColumnType::Bigint => query.bind(value.as_bigint()),
            ColumnType::Bytes32 => query.bind(value.as_bytes()),
            ColumnType::Timestamptz => {
                query.bind(value.as_timestamp().map(gatepost::audit::record::Timestamp::to_datetime))
            }
            ColumnType::Text | ColumnType::Json => query.bind(value.as_text()),
            ColumnType::Double => query.bind(value.as_double()),
        }
    });
    query.execute(connection).await.unwrap();
}

fn list(text: impl Fn(usize, &Column) -> String) -> String {
    COLUMNS.iter().enumerate().map(|(idx, column)| text(idx + 1, column)).collect::<Vec<_>>().join(", ")
}

fn names() -> String {
    list(|_, column| format!("\"{}\"", column.name))
}

fn type_name(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Uuid => "uuid",
        ColumnType::Bigint => "bigint",
        ColumnType::Bytes32 => "bytea",
        ColumnType::Timestamptz => "timestamptz",
        ColumnType::Text => "text",
        ColumnType::Json => "json",
        ColumnType::Double => "double precision",
    }
}

/// The id of rows that no gateway writes.
pub fn nobody() -> gatepost::audit::record::GatewayId {
    gatepost::audit::record::GatewayId(Uuid::from_u128(0xBE7C))
}
