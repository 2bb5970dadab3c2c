//! The state of the database, as far as it weakens the trail: tables that lose rows in a crash, a login that may change
//! rows, a server that does not wait for its disk, an encoding that cannot have every character.

use sqlx::postgres::PgConnection;

use super::error::{driver_error, for_operator};
use crate::audit::sink::interface::SinkError;
use crate::audit::sql;

/// The tables of the trail, with their partitions.
const TABLES: &str = "FROM unnest(ARRAY['audit_log', 'audit_stream', 'audit_quarantine', 'audit_gateway',
        'audit_registrar', 'audit_foreign', 'audit_policy', 'audit_checkpoint', 'audit_anchor', 'audit_retired_hash']) AS t(name)
    CROSS JOIN LATERAL (SELECT to_regclass(t.name)::oid UNION ALL
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = to_regclass(t.name)) AS named(oid)
    JOIN pg_class c ON c.oid = named.oid";

/// The state of the database, as far as it concerns the trail.
#[derive(Debug)]
pub(super) struct DatabaseState {
    /// True if the session's login owns a table of the trail, or may change its rows or the triggers on them.
    may_change_rows: bool,
    /// The first table that is emptied after a crash of the server.
    unlogged: Option<String>,
    fsync: String,
    encoding: String,
}

impl DatabaseState {
    /// Reads it, in a transaction.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, SinkError> {
        let statement = format!(
            "SELECT coalesce(bool_or(pg_has_role(session_user, c.relowner, 'MEMBER')
                OR has_table_privilege(session_user, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
                OR has_any_column_privilege(session_user, c.oid, 'INSERT, UPDATE')), false) AS may_change_rows,
            min(c.oid::regclass::text) FILTER (WHERE c.relpersistence = 'u') AS unlogged,
            current_setting('fsync') AS fsync, current_setting('server_encoding') AS encoding {TABLES}"
        );
        let state = sql::query_as(sqlx::AssertSqlSafe(statement)).fetch_one(connection).await;
        let state: (bool, Option<String>, String, String) =
            state.map_err(|error| driver_error("look at the database", &error))?;
        let (may_change_rows, unlogged, fsync, encoding) = state;
        Ok(Self { may_change_rows, unlogged, fsync, encoding })
    }

    /// Fails if a table of the trail would be empty after a crash of the server.
    ///
    /// # Errors
    /// The table, and the statement that fixes it.
    pub(super) fn check_tables(&self) -> Result<(), SinkError> {
        let Some(table) = &self.unlogged else { return Ok(()) };
        let message = format!(
            "table {table} is UNLOGGED: it would be empty after a crash of the server, so nothing is delivered; run \
             ALTER TABLE {table} SET LOGGED"
        );
        Err(for_operator("look at the database", message))
    }

    /// Warns of what does not stop delivery.
    pub(super) fn warn(&self) {
        if self.may_change_rows {
            tracing::warn!(
                "the login of postgres.url owns tables of the trail or may change their rows, and so may anyone with \
                 its password; use a login that is only a member of gatepost_writer (docs/security.md)"
            );
        }
        if self.fsync == "off" {
            tracing::warn!(
                "the server runs with fsync = off: records that count as delivered are lost if its machine fails; set \
                 fsync = on"
            );
        }
        if !matches!(self.encoding.as_str(), "UTF8" | "SQL_ASCII") {
            tracing::warn!(
                encoding = self.encoding,
                "the database has another encoding than UTF8: records with characters that it does not have go to \
                 quarantine; use a database with ENCODING 'UTF8'"
            );
        }
    }
}
