//! Transactions that any pooler keeps together, and whose commit is durable.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row, Transaction};

use super::error::{driver_error, for_operator};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};

/// The SQLSTATE of `BEGIN READ WRITE` on a standby. *Measured*: Postgres 15 and 18.
const NOT_SUPPORTED: &str = "0A000";

/// The SQLSTATE of a write on a standby. *Spec*: PostgreSQL, "Error Codes", `read_only_sql_transaction`.
const READ_ONLY: &str = "25006";

/// Begins a transaction that writes, for a connection whose owner commits it with [`commit`] or closes the connection.
///
/// # Errors
/// See [`SinkError`]. The connection is then of no use.
pub(super) async fn begin(connection: &mut PgConnection, timeout: Duration) -> Result<(), SinkError> {
    let begun = sqlx::raw_sql(AssertSqlSafe(sql::begin_write(timeout))).execute(connection).await;
    begun.map(|_| ()).map_err(|error| begin_error(&error))
}

/// Commits what [`begin`] began.
///
/// # Errors
/// See [`SinkError`]. Whether it took effect is then unknown.
pub(super) async fn commit(connection: &mut PgConnection) -> Result<(), SinkError> {
    let done = sqlx::raw_sql("COMMIT").execute(connection).await;
    done.map(|_| ()).map_err(|error| driver_error("commit", &error))
}

/// Rolls back what [`begin`] began.
///
/// # Errors
/// See [`SinkError`]. The connection is then of no use.
pub(super) async fn roll_back(connection: &mut PgConnection) -> Result<(), SinkError> {
    let done = sqlx::raw_sql("ROLLBACK").execute(connection).await;
    done.map(|_| ()).map_err(|error| driver_error("roll back", &error))
}

/// Begins a transaction that writes; dropping it rolls back.
///
/// # Errors
/// See [`SinkError`].
pub(super) async fn transaction(
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<Transaction<'_, Postgres>, SinkError> {
    let begun = connection.begin_with(AssertSqlSafe(sql::begin_write(timeout))).await;
    begun.map_err(|error| begin_error(&error))
}

/// Begins a transaction that only reads, also on a standby; dropping it ends it.
///
/// # Errors
/// See [`SinkError`].
pub(super) async fn read_transaction(connection: &mut Connection) -> Result<Transaction<'_, Postgres>, SinkError> {
    let statement = sql::begin_read(connection.read_timeout());
    let begun = connection.begin_with(AssertSqlSafe(statement)).await;
    begun.map_err(|error| driver_error("begin a transaction", &error))
}

fn begin_error(error: &sqlx::Error) -> SinkError {
    let error = driver_error("begin a transaction", error);
    if error.sqlstate.as_deref() != Some(NOT_SUPPORTED) {
        return error;
    }
    // It is promoted, or the address is switched to the primary: no person has to do anything here.
    let message = "the server is a standby, which accepts no writes".to_owned();
    SinkError { class: ErrorClass::Transient, sqlstate: Some(READ_ONLY.to_owned()), message, ..error }
}

/// Checks the last two columns of `row`, which are those of [`sql::DURABILITY`], as the transaction itself has them.
///
/// # Errors
/// A commit would return before the record is on disk. The transaction must not be committed.
pub(super) fn check_durable(operation: &'static str, row: &PgRow) -> Result<(), SinkError> {
    let fault = |error| driver_error(operation, &error);
    let synchronous_commit: String = row.try_get(row.len().saturating_sub(2)).map_err(fault)?;
    if sql::is_durable(&synchronous_commit) {
        return Ok(());
    }
    // "Delivered" would be untrue, and the outbox would forget the records.
    Err(for_operator(
        operation,
        format!(
            "synchronous_commit is {synchronous_commit:?} although the transaction set it to \"on\": a commit would \
             return before the records are on disk, so nothing was committed; something between gateway and Postgres \
             changes settings: connect without it, or set synchronous_commit = on for the database"
        ),
    ))
}
