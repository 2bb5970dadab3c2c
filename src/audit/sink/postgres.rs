//! The Postgres sink: one statement a batch, which moves the stream's cursor and inserts the rows, or does neither.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgQueryResult, PgRow};
use sqlx::{ConnectOptions, Postgres, Row, SqlSafeStr};
use uuid::Uuid;

use super::{CursorUpdate, ErrorClass, Sink, SinkError, classify};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq, StreamPosition};

/// How long a connection attempt may take. *Chosen*: longer than any healthy server needs, shorter than TCP's own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client waits beyond the server's own `statement_timeout` before it takes the connection for dead. *Chosen*.
const REPLY_GRACE: Duration = Duration::from_secs(5);

/// Months of partitions made ahead, this one included. *Chosen*: a gateway that is not restarted makes them every day.
const PARTITION_MONTHS: i32 = 4;

/// Inserts rows: `$1` to `$24`, which [`insert`] binds.
macro_rules! insert_rows {
    () => {
        r#"
INSERT INTO audit_log (
    gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method, client_subject, client_role,
    client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args, args_digest,
    response_status, error_message, response_digest, response_bytes, latency_ms)
SELECT $1, $2, u.seq, u.prev_hash, u.hash, u.request_id, u.at, u.method, u.client_subject, u.client_role,
    u.client_issuer, u.token_id, u.client_addr, u.session_id, u.rpc_id, u.tool_name, u.backend_name,
    u.request_args::json, u.args_digest, u.response_status, u.error_message, u.response_digest, u.response_bytes,
    u.latency_ms
FROM UNNEST(
    $3::bigint[], $4::bytea[], $5::bytea[], $6::uuid[], $7::timestamptz[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[],
    $19::bytea[], $20::text[], $21::text[], $22::bytea[], $23::bigint[], $24::double precision[])
AS u(seq, prev_hash, hash, request_id, at, method, client_subject, client_role,
    client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args,
    args_digest, response_status, error_message, response_digest, response_bytes, latency_ms)
"#
    };
}

// Behind the macro, which it uses.
pub mod requeue;

/// Moves the cursor and inserts the rows; tells whether it did. The cursor moves only from the place and hash that the
/// batch begins at, and the rows are inserted only if it moved: a repeated, late or foreign batch takes no effect.
///
/// Where a trigger of the operator's keeps rows out, without an error, the last part fails with 22P02 and the counts, and
/// nothing takes effect: the rows are found and quarantined like refused ones, and never taken for delivered.
const DELIVER: &str = concat!(
    "
WITH moved AS (
    UPDATE audit_stream SET delivered_seq = $26, head_hash = $28, delivered_at = now()
    WHERE gateway_id = $1 AND epoch = $2 AND delivered_seq = $25 AND head_hash = $27
    RETURNING 1
), inserted AS (",
    insert_rows!(),
    "WHERE EXISTS (SELECT 1 FROM moved) RETURNING 1
)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM moved) THEN false
    WHEN count(*) = cardinality($3) THEN true
    ELSE ('audit_log took ' || count(*) || ' of ' || cardinality($3) || ' rows; a trigger keeps rows out')::boolean
END FROM inserted"
);

/// Inserts rows, in a transaction that is rolled back; tells how many.
const PROBE: &str = insert_rows!();

/// Like [`DELIVER`], for one record that goes to quarantine.
const QUARANTINE: &str = r"
WITH moved AS (
    UPDATE audit_stream SET delivered_seq = $4, head_hash = $6, delivered_at = now()
    WHERE gateway_id = $1 AND epoch = $2 AND delivered_seq = $3 AND head_hash = $5
    RETURNING 1
), inserted AS (
    INSERT INTO audit_quarantine (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate, error)
    SELECT $1, $2, $4, $5, $6, $7, $8, $9, $10 FROM moved RETURNING 1
)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM moved) THEN false
    WHEN count(*) = 1 THEN true
    ELSE ('audit_quarantine took ' || count(*) || ' of 1 rows; a trigger keeps rows out')::boolean
END FROM inserted
";

/// A connection.
pub type Connection = PgConnection;

/// How to reach Postgres.
#[derive(Clone)]
pub struct Options {
    /// `postgres://...`; may hold a password.
    pub url: String,
    /// The server ends a statement after this.
    pub statement_timeout: Duration,
    /// Whether [`Sink::prepare`] applies the migrations.
    pub migrate: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // I8: the URL may hold a password.
        f.debug_struct("Options").field("statement_timeout", &self.statement_timeout).finish_non_exhaustive()
    }
}

/// Delivers to Postgres over one connection, made when first used.
#[derive(Debug)]
pub struct PostgresSink {
    connect: PgConnectOptions,
    /// Taken out while a statement is under way, and put back only where it ended well: a connection on which anything
    /// went wrong but the rows themselves, or whose future was dropped, is closed. Its reply may still come.
    connection: Option<PgConnection>,
    migrate: bool,
    reply_timeout: Duration,
}

/// The migrations in `migrations/`, by version and description as their files are named. They are not embedded by
/// `sqlx::migrate!`: sqlx's macros need a TLS library and the Postgres driver a second time, for the compiler's own use,
/// which was a seventh of the time that a build takes.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "audit", include_str!("../../../migrations/0001_audit.sql"))];

/// Those of a newer gateway that are applied already are its own affair: an older one goes on beside it, and what it cannot
/// do with the schema it says when it delivers.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    migrator.set_ignore_missing(true);
    migrator
});

/// Reads `options`.
///
/// # Errors
/// The URL is no Postgres URL. The message does not repeat it, since it may hold a password.
pub fn connect_options(options: &Options) -> Result<PgConnectOptions, SinkError> {
    let milliseconds = options.statement_timeout.as_millis().to_string();
    let connect =
        PgConnectOptions::from_str(&options.url).map_err(|error| driver_error("read postgres.url", &error))?;
    Ok(connect.application_name("gatepost").options([
        // Delivered means that Postgres has it on disk, whatever the server's default is.
        ("synchronous_commit", "on"),
        ("statement_timeout", &milliseconds),
        ("lock_timeout", &milliseconds),
        ("tcp_keepalives_idle", "30"),
    ]))
}

/// Connects.
///
/// # Errors
/// See [`SinkError`].
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, SinkError> {
    let operation = "connect";
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(result) => result.map_err(|error| driver_error(operation, &error)),
        Err(_) => Err(timed_out(operation, CONNECT_TIMEOUT, ErrorClass::Transient)),
    }
}

/// Applies the migrations that are missing; returns how many there are. Gateways may do so at the same time.
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

impl PostgresSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// The URL is no Postgres URL.
    pub fn new(options: &Options) -> Result<Self, SinkError> {
        let connect = connect_options(options)?;
        let reply_timeout = options.statement_timeout + REPLY_GRACE;
        Ok(Self { connect, connection: None, migrate: options.migrate, reply_timeout })
    }

    async fn take_connection(&mut self) -> Result<PgConnection, SinkError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.connect).await,
        }
    }

    async fn execute(
        &mut self,
        operation: &'static str,
        statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<PgQueryResult, SinkError> {
        let mut connection = self.take_connection().await?;
        let result = self.in_time(operation, statement.execute(&mut connection)).await;
        self.put_back(connection, result)
    }

    async fn fetch(
        &mut self,
        operation: &'static str,
        statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<PgRow, SinkError> {
        let mut connection = self.take_connection().await?;
        let result = self.in_time(operation, statement.fetch_one(&mut connection)).await;
        self.put_back(connection, result)
    }

    async fn in_time<T>(
        &self,
        operation: &'static str,
        reply: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(self.reply_timeout, reply).await {
            Ok(result) => result.map_err(|error| driver_error(operation, &error)),
            Err(_) => Err(timed_out(operation, self.reply_timeout, ErrorClass::TooMuch)),
        }
    }

    fn put_back<T>(&mut self, connection: PgConnection, result: Result<T, SinkError>) -> Result<T, SinkError> {
        if result.as_ref().map_or_else(|error| error.class == ErrorClass::Row, |_| true) {
            self.connection = Some(connection);
        }
        result
    }
}

impl Sink for PostgresSink {
    async fn prepare(&mut self) -> Result<(), SinkError> {
        if self.migrate {
            let mut connection = self.take_connection().await?;
            // A connection on which this fails still holds the migrations' lock, so it is closed.
            match tokio::time::timeout(self.reply_timeout, migrate(&mut connection)).await {
                Ok(result) => result?,
                Err(_) => return Err(timed_out("migrate", self.reply_timeout, ErrorClass::Transient)),
            };
            self.connection = Some(connection);
        }
        let partitions = sqlx::query("SELECT gatepost_make_partitions(now(), $1)").bind(PARTITION_MONTHS);
        match self.execute("make partitions", partitions).await {
            // The default partition takes what no month's does, so a month that cannot be made refuses no record. The
            // last two: the server's own limits of time, on a large default partition.
            Err(error)
                if !matches!(error.class, ErrorClass::Transient | ErrorClass::TooMuch)
                    || matches!(error.sqlstate.as_deref(), Some("57014" | "55P03")) =>
            {
                tracing::error!(%error, "partitions were not made ahead");
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    async fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> Result<Head, SinkError> {
        let operation = "read the cursor";
        let begin = sqlx::query("INSERT INTO audit_stream (gateway_id, epoch) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        self.execute(operation, begin.bind(gateway_id.0).bind(bigint(epoch.0))).await?;
        let read =
            sqlx::query("SELECT delivered_seq, head_hash FROM audit_stream WHERE gateway_id = $1 AND epoch = $2");
        let row = self.fetch(operation, read.bind(gateway_id.0).bind(bigint(epoch.0))).await?;
        let seq: i64 = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
        let hash: Vec<u8> = row.try_get(1).map_err(|error| driver_error(operation, &error))?;
        let hash = hash.try_into().map_or(Digest::ZERO, Digest);
        Ok(Head { seq: Seq(seq.unsigned_abs()), hash })
    }

    async fn deliver<R: AsRef<AuditRecord> + Sync>(&mut self, batch: &[R]) -> Result<CursorUpdate, SinkError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(CursorUpdate::Moved) };
        let (first, last) = (first.as_ref().position, last.as_ref().position);
        // I5: cursor and rows in one statement.
        let statement = insert(DELIVER, first, batch)
            .bind(bigint(first.seq.0 - 1))
            .bind(bigint(last.seq.0))
            .bind(first.prev_hash.0.to_vec())
            .bind(last.hash.0.to_vec());
        self.fetch("deliver", statement).await.and_then(|row| moved("deliver", &row))
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        let mut connection = self.take_connection().await?;
        let batch = [record];
        let insert = insert(PROBE, record.position, &batch);
        let rolled_back = async {
            sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
            let tried = async {
                let inserted = insert.execute(&mut connection).await?;
                // What a commit would check.
                sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut connection).await?;
                Ok(inserted.rows_affected())
            };
            let tried = tried.await;
            sqlx::raw_sql("ROLLBACK").execute(&mut connection).await?;
            Ok(tried)
        };
        // A connection whose transaction may be open is closed: what is delivered on it would not be committed.
        let tried = self.in_time("probe", rolled_back).await?;
        match self.put_back(connection, tried.map_err(|error| driver_error("probe", &error)))? {
            1 => Ok(()),
            count => {
                let message = format!("audit_log took {count} of 1 rows; a trigger keeps rows out");
                Err(SinkError { operation: "probe", class: ErrorClass::Row, sqlstate: None, message })
            }
        }
    }

    async fn quarantine(&mut self, record: &AuditRecord, reason: &SinkError) -> Result<CursorUpdate, SinkError> {
        let position = record.position;
        let mut frame = Vec::new();
        codec::encode_record(record, &mut frame).map_err(|error| SinkError {
            operation: "quarantine",
            class: ErrorClass::Operator,
            sqlstate: None,
            message: error.to_string(),
        })?;
        let statement = sqlx::query(QUARANTINE)
            .bind(position.gateway_id.0)
            .bind(bigint(position.epoch.0))
            .bind(bigint(position.seq.0 - 1))
            .bind(bigint(position.seq.0))
            .bind(position.prev_hash.0.to_vec())
            .bind(position.hash.0.to_vec())
            .bind(record.entry.call.request_id.0)
            .bind(frame)
            .bind(reason.sqlstate.clone())
            .bind(reason.message.replace('\0', "\u{fffd}"));
        self.fetch("quarantine", statement).await.and_then(|row| moved("quarantine", &row))
    }
}

/// What [`DELIVER`] and [`QUARANTINE`] tell.
fn moved(operation: &'static str, row: &PgRow) -> Result<CursorUpdate, SinkError> {
    let moved: bool = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
    Ok(if moved { CursorUpdate::Moved } else { CursorUpdate::Unchanged })
}

/// `statement`, whose first parameters are those of `insert_rows`, for a batch of the stream in which `place` is.
fn insert<'a, R: AsRef<AuditRecord>>(
    statement: &'static str,
    position: StreamPosition,
    batch: &'a [R],
) -> sqlx::query::Query<'a, Postgres, PgArguments> {
    let columns = Columns::of(batch);
    sqlx::query(statement)
        .bind(position.gateway_id.0)
        .bind(bigint(position.epoch.0))
        .bind(columns.seq)
        .bind(columns.prev_hash)
        .bind(columns.hash)
        .bind(columns.request_id)
        .bind(columns.timestamp)
        .bind(columns.method)
        .bind(columns.client_subject)
        .bind(columns.client_role)
        .bind(columns.client_issuer)
        .bind(columns.token_id)
        .bind(columns.client_addr)
        .bind(columns.session_id)
        .bind(columns.rpc_id)
        .bind(columns.tool_name)
        .bind(columns.backend_name)
        .bind(columns.request_args)
        .bind(columns.args_digest)
        .bind(columns.response_status)
        .bind(columns.error_message)
        .bind(columns.response_digest)
        .bind(columns.response_bytes)
        .bind(columns.latency_ms)
}

/// A batch, column by column, as `UNNEST` takes it.
struct Columns<'a> {
    seq: Vec<i64>,
    prev_hash: Vec<&'a [u8]>,
    hash: Vec<&'a [u8]>,
    request_id: Vec<Uuid>,
    timestamp: Vec<DateTime<Utc>>,
    method: Vec<&'a str>,
    client_subject: Vec<&'a str>,
    client_role: Vec<Option<&'a str>>,
    client_issuer: Vec<Option<&'a str>>,
    token_id: Vec<Option<&'a str>>,
    client_addr: Vec<Option<&'a str>>,
    session_id: Vec<Option<&'a str>>,
    rpc_id: Vec<Option<&'a str>>,
    tool_name: Vec<Option<&'a str>>,
    backend_name: Vec<Option<&'a str>>,
    request_args: Vec<Option<&'a str>>,
    args_digest: Vec<Option<&'a [u8]>>,
    response_status: Vec<&'a str>,
    error_message: Vec<Option<&'a str>>,
    response_digest: Vec<Option<&'a [u8]>>,
    response_bytes: Vec<Option<i64>>,
    latency_ms: Vec<f64>,
}

impl<'a> Columns<'a> {
    fn of<R: AsRef<AuditRecord>>(batch: &'a [R]) -> Self {
        fn column<'a, R: AsRef<AuditRecord>, T>(batch: &'a [R], value: impl Fn(&'a AuditRecord) -> T) -> Vec<T> {
            batch.iter().map(|record| value(record.as_ref())).collect()
        }
        fn digest(digest: Option<&Digest>) -> Option<&[u8]> {
            digest.map(|digest| digest.0.as_slice())
        }
        Self {
            seq: column(batch, |record| bigint(record.position.seq.0)),
            prev_hash: column(batch, |record| record.position.prev_hash.0.as_slice()),
            hash: column(batch, |record| record.position.hash.0.as_slice()),
            request_id: column(batch, |record| record.entry.call.request_id.0),
            timestamp: column(batch, |record| record.entry.call.timestamp.to_datetime()),
            method: column(batch, |record| record.entry.call.method.as_str()),
            client_subject: column(batch, |record| record.entry.call.client_subject.as_str()),
            client_role: column(batch, |record| record.entry.call.client_role.as_deref()),
            client_issuer: column(batch, |record| record.entry.call.client_issuer.as_deref()),
            token_id: column(batch, |record| record.entry.call.token_id.as_deref()),
            client_addr: column(batch, |record| record.entry.call.client_addr.as_deref()),
            session_id: column(batch, |record| record.entry.call.session_id.as_deref()),
            rpc_id: column(batch, |record| record.entry.call.rpc_id.as_deref()),
            tool_name: column(batch, |record| record.entry.call.tool_name.as_deref()),
            backend_name: column(batch, |record| record.entry.call.backend_name.as_deref()),
            request_args: column(batch, |record| record.entry.call.request_args.as_deref()),
            args_digest: column(batch, |record| digest(record.entry.call.args_digest.as_ref())),
            response_status: column(batch, |record| record.entry.response_status.as_str()),
            error_message: column(batch, |record| record.entry.error_message.as_deref()),
            response_digest: column(batch, |record| digest(record.entry.response_digest.as_ref())),
            response_bytes: column(batch, |record| record.entry.response_bytes.map(bigint)),
            latency_ms: column(batch, |record| record.entry.latency_ms),
        }
    }
}

/// A count as Postgres holds it. None of ours comes near the limit: a million records a second for 292,000 years.
fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn timed_out(operation: &'static str, limit: Duration, class: ErrorClass) -> SinkError {
    let message = format!("no reply within {limit:?}; the connection was closed");
    SinkError { operation, class, sqlstate: None, message }
}

/// An error of sqlx as the shipper needs it. I8: sqlx's messages name host and user, never the password.
fn driver_error(operation: &'static str, error: &sqlx::Error) -> SinkError {
    let (class, sqlstate, message) = match error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(std::borrow::Cow::into_owned);
            let class = code.as_deref().map_or(ErrorClass::Operator, classify);
            (class, code, database.message().to_owned())
        }
        // A row that the driver cannot encode would fail for ever.
        sqlx::Error::Encode(_) => (ErrorClass::Row, None, error.to_string()),
        sqlx::Error::Configuration(_) => (ErrorClass::Operator, None, error.to_string()),
        _ => (ErrorClass::Transient, None, error.to_string()),
    };
    SinkError { operation, class, sqlstate, message }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::MIGRATIONS;

    #[test]
    fn every_migration_is_embedded_under_its_own_name() {
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
