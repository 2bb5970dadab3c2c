//! Statements that run behind any pooler, and with any settings of server, database and role.
//!
//! A pooler may run each transaction over another of its connections. So every statement of the program is unnamed and
//! in a transaction, and every setting is local to that transaction: what one client leaves on a connection would be
//! there for the next one.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{Connection as _, FromRow, Postgres, SqlSafeStr};

/// The longest statement of a command of the owner's. *Chosen*: moves millions of rows, and ends.
pub(crate) const OWNER_TIMEOUT: Duration = Duration::from_mins(10);

/// The longest pause between two statements of a transaction. *Chosen*: a process that was frozen in between keeps its
/// locks no longer, and a reader that writes what it read to a slow terminal is not cut off.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// Begins a transaction that writes, whatever `default_transaction_read_only`, `default_transaction_isolation` and
/// `default_transaction_deferrable` are.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE";

/// Begins a transaction that only reads.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE";

/// A `synchronous_commit` at which a commit returns before the record is on the server's disk is raised, never lowered:
/// *delivered* means that it is on disk.
const DURABLE: &str = "pg_catalog.set_config('synchronous_commit', CASE WHEN \
    pg_catalog.current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on' \
    ELSE pg_catalog.current_setting('synchronous_commit') END, true)";

/// Two columns that show the settings on which the durability of a commit depends, see [`is_durable`].
pub(crate) const DURABILITY: &str =
    "pg_catalog.current_setting('synchronous_commit'), pg_catalog.current_setting('fsync')";

/// The schemas that are searched: those of the session without Postgres's own, or `public` if there are none, as in a
/// role whose `search_path` is empty.
const SEARCH_PATH: &str = "pg_catalog.set_config('search_path', coalesce((SELECT pg_catalog.string_agg(\
    pg_catalog.quote_ident(u.name::text), ', ' ORDER BY u.place) \
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS u(name, place) \
    WHERE pg_catalog.left(u.name::text, 3) <> 'pg_'), 'public'), true)";

/// Settings with which statements, values and texts mean what they mean by default. `transaction_timeout` is one of
/// Postgres 17.
const DEFAULTS: &str = "pg_catalog.set_config('client_encoding', 'UTF8', true), \
    pg_catalog.set_config('standard_conforming_strings', 'on', true), \
    pg_catalog.set_config('DateStyle', 'ISO, MDY', true), pg_catalog.set_config('IntervalStyle', 'postgres', true), \
    pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('bytea_output', 'hex', true), \
    pg_catalog.set_config('extra_float_digits', '1', true), \
    pg_catalog.set_config('default_table_access_method', 'heap', true), \
    CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 170000 \
    THEN pg_catalog.set_config('transaction_timeout', '0', true) END";

/// A connection to Postgres.
#[derive(Debug)]
pub struct Connection {
    driver: PgConnection,
    read_timeout: Duration,
}

impl Connection {
    /// A connection on which a statement that only reads is cancelled after `read_timeout`. `audit verify` and
    /// `audit export` have no such limit.
    #[must_use]
    pub fn new(driver: PgConnection, read_timeout: Duration) -> Self {
        Self { driver, read_timeout }
    }

    /// The time after which a statement that only reads is cancelled.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// Closes it.
    ///
    /// # Errors
    /// The server could not be told.
    pub async fn close(self) -> Result<(), sqlx::Error> {
        self.driver.close().await
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.driver
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.driver
    }
}

/// An unnamed statement.
pub(crate) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// An unnamed statement whose rows are tuples.
pub(crate) fn query_as<'q, O>(sql: impl SqlSafeStr) -> QueryAs<'q, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql).persistent(false)
}

/// An unnamed statement whose rows have one column.
pub(crate) fn query_scalar<'q, O>(sql: impl SqlSafeStr) -> QueryScalar<'q, Postgres, O, PgArguments>
where
    (O,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}

/// Begins a transaction whose commit is durable, and whose statements end after `timeout`. One message: a pooler cannot
/// run its parts over several connections.
pub(crate) fn begin_write(timeout: Duration) -> String {
    format!("{BEGIN_WRITE}; {}, {DURABLE}", settings(timeout))
}

/// Begins a transaction that only reads, whose statements end after `timeout`.
pub(crate) fn begin_read(timeout: Duration) -> String {
    format!("{BEGIN_READ}; {}", settings(timeout))
}

/// The statement that makes a transaction independent of the settings of server, database and role.
pub(crate) fn settings(timeout: Duration) -> String {
    let (timeout, idle) = (timeout.as_millis(), IDLE_TIMEOUT.as_millis());
    format!(
        "SELECT pg_catalog.set_config('statement_timeout', '{timeout}', true), \
        pg_catalog.set_config('lock_timeout', '{timeout}', true), \
        pg_catalog.set_config('idle_in_transaction_session_timeout', '{idle}', true), {DEFAULTS}, {SEARCH_PATH}"
    )
}

/// True if a commit with this `synchronous_commit` returns when the record is on the server's disk.
pub(crate) fn is_durable(synchronous_commit: &str) -> bool {
    matches!(synchronous_commit, "on" | "remote_apply")
}
