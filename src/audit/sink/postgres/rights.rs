//! The rights of a login beside executing the functions.

use sqlx::postgres::PgConnection;

use super::error::driver_error;
use crate::audit::sink::interface::SinkError;

/// Returns true if the session's login owns a table of the trail, or may change its rows or the triggers on them.
///
/// # Errors
/// See [`SinkError`].
pub(super) async fn may_change_rows(connection: &mut PgConnection) -> Result<bool, SinkError> {
    let sql = "SELECT coalesce(bool_or(pg_has_role(session_user, c.relowner, 'MEMBER')
            OR has_table_privilege(session_user, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
            OR has_any_column_privilege(session_user, c.oid, 'INSERT, UPDATE')), false)
        FROM unnest(ARRAY['audit_log', 'audit_stream', 'audit_quarantine', 'audit_gateway', 'audit_registrar',
            'audit_foreign', 'audit_policy']) AS t(name)
        CROSS JOIN LATERAL (SELECT to_regclass(t.name)::oid UNION ALL
            SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = to_regclass(t.name)) AS named(oid)
        JOIN pg_class c ON c.oid = named.oid";
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(|error| driver_error("read the login's rights", &error))
}
