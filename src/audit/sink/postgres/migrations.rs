//! Migrations of the schema.
//!
//! Each runs in one transaction together with its lock and the change of the version, so that no pooler can separate
//! them, and nothing is left of one that fails.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::error::{driver_error, for_operator};
use super::transaction::transaction;
use crate::audit::sink::interface::SinkError;
use crate::audit::sql;

/// The migrations in `migrations/`, with the version and description from their file names. The last statement of each
/// makes `gatepost_schema_version` return its version.
const MIGRATIONS: [(i32, &str, &str); 1] = [(1, "audit", include_str!("../../../../migrations/0001_audit.sql"))];

/// The key of the lock that one migration at a time has in a database. *Chosen*: the bytes of "gatepost".
const LOCK: i64 = i64::from_be_bytes(*b"gatepost");

/// Longest statement of a migration. *Chosen*: as long as the longest `postgres.statement_timeout`.
const TIMEOUT: Duration = sql::OWNER_TIMEOUT;

/// The engines that speak the protocol of Postgres and cannot have the trail, by what is in their version, and why.
const REFUSED_ENGINES: [(&str, &str); 3] = [
    ("CockroachDB", "its type json is jsonb, which does not keep the bytes that the hashes cover"),
    ("Redshift", "it has neither json nor the functions that deliver"),
    ("Materialize", "it has neither partitions nor the functions that deliver"),
];

/// The oldest version that is supported, as Postgres counts. *Spec*: docs/operations.md,
/// "Connections to Postgres".
const OLDEST_VERSION: i32 = 130_000;

/// Applies the missing migrations and returns the number of all. Several gateways may do so at the same time.
/// Migrations that only a newer gateway knows are ignored, so that an older gateway can run beside it; if the older one
/// cannot use the schema, its deliveries fail with an error.
///
/// # Errors
/// See [`SinkError`]. Nothing is left of the migration that failed.
pub async fn migrate(connection: &mut PgConnection) -> Result<usize, SinkError> {
    let fault = |error: sqlx::Error| driver_error("migrate", &error);
    check_engine(connection).await?;
    for (version, _, statements) in MIGRATIONS {
        let mut transaction = transaction(connection, TIMEOUT).await?;
        let lock = sql::query("SELECT pg_catalog.pg_advisory_xact_lock($1)").bind(LOCK);
        lock.execute(&mut *transaction).await.map_err(fault)?;
        if schema_version(&mut transaction).await?.is_none_or(|found| found < version) {
            sqlx::raw_sql(statements).execute(&mut *transaction).await.map_err(fault)?;
        }
        transaction.commit().await.map_err(fault)?;
    }
    Ok(MIGRATIONS.len())
}

/// Returns the error for an operator if the server cannot have the trail, or if the schema is missing or older than
/// [`MIGRATIONS`]. A newer one is used.
///
/// # Errors
/// See [`SinkError`]. The connection may then be of no use.
pub(super) async fn check_version(connection: &mut PgConnection) -> Result<Result<(), SinkError>, SinkError> {
    let operation = "read the schema's version";
    check_engine(connection).await?;
    let mut transaction = transaction(connection, TIMEOUT).await?;
    let version = schema_version(&mut transaction).await?;
    transaction.rollback().await.map_err(|error| driver_error(operation, &error))?;
    let found = match version {
        Some(version) if usize::try_from(version).is_ok_and(|version| version >= MIGRATIONS.len()) => {
            return Ok(Ok(()));
        }
        Some(version) => format!("the schema has version {version}"),
        None => "no Gatepost schema is in the search_path of this login".to_owned(),
    };
    Ok(Err(for_operator(
        operation,
        format!(
            "{found}; this gateway needs version {}: run gatepost migrate, or use the right database and schema",
            MIGRATIONS.len()
        ),
    )))
}

/// The version of the schema that the transaction finds; `None` if there is none.
async fn schema_version(connection: &mut PgConnection) -> Result<Option<i32>, SinkError> {
    let fault = |error: sqlx::Error| driver_error("read the schema's version", &error);
    let exists = sql::query_scalar("SELECT pg_catalog.to_regproc('gatepost_schema_version') IS NOT NULL");
    if !exists.fetch_one(&mut *connection).await.map_err(fault)? {
        return Ok(None);
    }
    let version = sql::query_scalar("SELECT gatepost_schema_version()");
    version.fetch_one(connection).await.map(Some).map_err(fault)
}

/// Fails if the server is another engine than Postgres, or too old. Asked before anything else, since others fail at
/// the first statement with a message that does not say so.
async fn check_engine(connection: &mut PgConnection) -> Result<(), SinkError> {
    let operation = "read the server's version";
    let fault = |error: sqlx::Error| driver_error(operation, &error);
    let mut transaction = connection.begin().await.map_err(fault)?;
    let version: String = sql::query_scalar("SELECT version()").fetch_one(&mut *transaction).await.map_err(fault)?;
    let number = sql::query_scalar("SELECT current_setting('server_version_num')");
    let number: String = number.fetch_one(&mut *transaction).await.map_err(fault)?;
    transaction.rollback().await.map_err(fault)?;
    supported_engine(&version, number.parse().unwrap_or(0)).map_err(|reason| for_operator(operation, reason))
}

/// # Errors
/// Why a server with this version is refused.
fn supported_engine(version: &str, number: i32) -> Result<(), String> {
    if let Some((engine, reason)) = REFUSED_ENGINES.into_iter().find(|(engine, _)| version.contains(engine)) {
        return Err(format!("{engine} is not supported ({reason}): use Postgres 13 or later"));
    }
    if number < OLDEST_VERSION {
        return Err(format!("the server is {version}, which is too old: use Postgres 13 or later"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{MIGRATIONS, supported_engine};

    #[test]
    fn other_engines_and_old_versions_are_refused_by_name() {
        let refused = |version: &str, number| supported_engine(version, number).unwrap_err();
        let cockroach = "CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)";
        assert!(refused(cockroach, 130_000).starts_with("CockroachDB is not supported (its type json is jsonb"));
        assert!(refused("PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0", 80_002).contains("Redshift"));
        assert!(refused("PostgreSQL 12.20", 120_020).contains("too old"));
        supported_engine("PostgreSQL 15.12-YB-2025.1", 150_012).unwrap();
    }

    /// On a divided database (Citus) a statement that names a table may run on another server. The session there is one
    /// of the tables' owner, so that whoever asks there who is logged in lets everybody in. Citus also refuses
    /// `now()` in the `CASE` of an `UPDATE`.
    #[test]
    fn statements_on_tables_do_not_ask_for_what_only_this_server_knows() {
        let (_, functions) = MIGRATIONS[0].2.split_once("$functions$").unwrap();
        let (functions, _) = functions.split_once("$functions$").unwrap();
        let lines = functions.lines().filter(|line| !line.trim_start().starts_with("--"));
        let functions = lines.collect::<Vec<_>>().join("\n");
        let on_tables: Vec<&str> = functions.split(';').filter(|it| it.contains("@schema@.audit_")).collect();
        assert!(on_tables.len() > 10);
        for statement in on_tables {
            for local in ["session_user", "current_user", "pg_has_role", "set_config", "current_setting"] {
                assert!(!statement.contains(local), "{local} in {statement}");
            }
            let is_update = statement.contains("UPDATE @schema@") && statement.contains("CASE");
            assert!(!(is_update && statement.contains("now()")), "{statement}");
        }
    }

    #[test]
    fn every_migration_file_is_embedded_under_its_own_name() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|found| found == "sql")).collect();
        files.sort();
        assert_eq!(files.len(), MIGRATIONS.len());
        for (file, (version, description, sql)) in files.iter().zip(MIGRATIONS) {
            assert_eq!(file.file_name().unwrap().to_str().unwrap(), format!("{version:04}_{description}.sql"));
            assert_eq!(fs::read_to_string(file).unwrap(), sql);
        }
    }
}
