//! Migrations of the schema.

use std::sync::LazyLock;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;

use super::error::driver_error;
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;

/// The migrations in `migrations/`, with the version and description from their file names. They are not embedded by
/// `sqlx::migrate!`: sqlx's macros need the Postgres driver and a TLS library a second time, for use by the compiler,
/// which took a seventh of the build time.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "audit", include_str!("../../../../migrations/0001_audit.sql"))];

/// Runs [`MIGRATIONS`]. Migrations that only a newer gateway knows are ignored, so that an older gateway can run beside
/// it; if the older one cannot use the schema, its deliveries fail with an error.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    migrator.set_ignore_missing(true);
    migrator
});

/// Applies the missing migrations and returns the number of all. Several gateways may do so at the same time.
///
/// # Errors
/// See [`SinkError`].
pub async fn migrate(connection: &mut PgConnection) -> Result<usize, SinkError> {
    MIGRATOR.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => driver_error("migrate", &error),
        other => {
            SinkError { operation: "migrate", class: ErrorClass::Operator, sqlstate: None, message: other.to_string() }
        }
    })?;
    Ok(MIGRATIONS.len())
}

/// Returns the error for an operator if the schema is missing, or older than [`MIGRATIONS`]. A newer one is used.
///
/// # Errors
/// See [`SinkError`]. The connection may then be of no use.
pub(super) async fn check_version(connection: &mut PgConnection) -> Result<Result<(), SinkError>, SinkError> {
    let operation = "read the schema's version";
    let incomplete = |found: &str| {
        let message = format!(
            "{found}; this gateway needs version {}: run gatepost migrate, or use the right database and schema",
            MIGRATIONS.len()
        );
        Err(SinkError { operation, class: ErrorClass::Operator, sqlstate: None, message })
    };
    let fault = |error: sqlx::Error| driver_error(operation, &error);
    let exists = "SELECT to_regproc('gatepost_schema_version') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut *connection).await.map_err(fault)? {
        return Ok(incomplete("no Gatepost schema is in the search_path of this login"));
    }
    let version = sqlx::query_scalar::<_, i32>("SELECT gatepost_schema_version()");
    let version = version.fetch_one(connection).await.map_err(fault)?;
    let is_complete = usize::try_from(version).is_ok_and(|version| version >= MIGRATIONS.len());
    Ok(if is_complete { Ok(()) } else { incomplete(&format!("the schema has version {version}")) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::MIGRATIONS;

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
