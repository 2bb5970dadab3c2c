//! The Postgres implementation of [`Sink`].

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgQueryResult, PgRow};
use sqlx::{Postgres, Row};

use super::connection::{Options, REPLY_GRACE, connect, connect_options};
use super::error::{driver_error, timed_out};
use super::migrations::migrate;
use super::rows::{INSERT_PARAMETERS, INSERT_ROWS, bigint, insert};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq};
use crate::audit::sink::interface::{CursorUpdate, Sink, SinkError};
use crate::audit::sink::sqlstate::ErrorClass;

/// Months for which partitions are created ahead, including the current one. *Chosen*: they are created daily, so a few
/// months allow for a long outage of the database.
const PARTITION_MONTHS: i32 = 4;

/// Moves the cursor and inserts the rows. Returns whether it did.
///
/// The cursor moves only if it is at the position and hash where the batch begins, and the rows are inserted only if it
/// moved. So a repeated, late or foreign batch has no effect.
///
/// If a trigger of the operator silently keeps rows out, the last SELECT fails with 22P02 and the counts, and nothing
/// takes effect. The rows are then found and quarantined like refused ones; they never count as delivered.
static DELIVER: LazyLock<String> = LazyLock::new(|| {
    let [from_seq, to_seq, from_hash, to_hash] = std::array::from_fn(|idx| INSERT_PARAMETERS + 1 + idx);
    let insert_rows = INSERT_ROWS.as_str();
    format!(
        "
WITH moved AS (
    UPDATE audit_stream SET delivered_seq = ${to_seq}, head_hash = ${to_hash}, delivered_at = now()
    WHERE gateway_id = $1 AND epoch = $2 AND delivered_seq = ${from_seq} AND head_hash = ${from_hash}
    RETURNING 1
), inserted AS ({insert_rows} WHERE EXISTS (SELECT 1 FROM moved) RETURNING 1)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM moved) THEN false
    WHEN count(*) = cardinality($3) THEN true
    ELSE ('audit_log took ' || count(*) || ' of ' || cardinality($3) || ' rows; a trigger keeps rows out')::boolean
END FROM inserted"
    )
});

/// Like [`DELIVER`], for one record that goes to `audit_quarantine`.
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

/// Delivers to Postgres over one connection, which is opened at its first use.
#[derive(Debug)]
pub struct PostgresSink {
    connect: PgConnectOptions,
    /// Taken out while a statement runs, and put back if it succeeded or failed with class `Row`. After any other
    /// error, or if the future was dropped, the connection is closed, because its reply may still arrive.
    connection: Option<PgConnection>,
    migrate: bool,
    reply_timeout: Duration,
}

impl PostgresSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// The URL is not a Postgres URL.
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
        let result = self.with_timeout(operation, statement.execute(&mut connection)).await;
        self.return_connection(connection, result)
    }

    async fn fetch(
        &mut self,
        operation: &'static str,
        statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<PgRow, SinkError> {
        let mut connection = self.take_connection().await?;
        let result = self.with_timeout(operation, statement.fetch_one(&mut connection)).await;
        self.return_connection(connection, result)
    }

    async fn with_timeout<T>(
        &self,
        operation: &'static str,
        reply: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(self.reply_timeout, reply).await {
            Ok(result) => result.map_err(|error| driver_error(operation, &error)),
            Err(_) => Err(timed_out(operation, self.reply_timeout, ErrorClass::TooMuch)),
        }
    }

    fn return_connection<T>(&mut self, connection: PgConnection, result: Result<T, SinkError>) -> Result<T, SinkError> {
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
            // After an error the connection still has the lock of the migrations, so it is closed.
            match tokio::time::timeout(self.reply_timeout, migrate(&mut connection)).await {
                Ok(result) => result?,
                Err(_) => return Err(timed_out("migrate", self.reply_timeout, ErrorClass::Transient)),
            };
            self.connection = Some(connection);
        }
        let partitions = sqlx::query("SELECT gatepost_make_partitions(now(), $1)").bind(PARTITION_MONTHS);
        match self.execute("make partitions", partitions).await {
            // A record without a monthly partition goes to the default partition, so a missing one does not block
            // delivery. 57014 and 55P03 are the server's own time limits, reached if the default partition is large.
            Err(error)
                if !matches!(error.class, ErrorClass::Transient | ErrorClass::TooMuch)
                    || matches!(error.sqlstate.as_deref(), Some("57014" | "55P03")) =>
            {
                tracing::error!(%error, "could not create partitions ahead; records go to the default partition");
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
        // I5: cursor and rows change in one statement.
        let statement = insert(&DELIVER, first, batch)
            .bind(bigint(first.seq.0 - 1))
            .bind(bigint(last.seq.0))
            .bind(first.prev_hash.0.to_vec())
            .bind(last.hash.0.to_vec());
        self.fetch("deliver", statement).await.and_then(|row| cursor_update("deliver", &row))
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        let mut connection = self.take_connection().await?;
        let batch = [record];
        let insert = insert(&INSERT_ROWS, record.position, &batch);
        let rolled_back = async {
            sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
            let tried = async {
                let inserted = insert.execute(&mut connection).await?;
                // Deferred constraints, which a commit would check.
                sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut connection).await?;
                Ok(inserted.rows_affected())
            };
            let tried = tried.await;
            sqlx::raw_sql("ROLLBACK").execute(&mut connection).await?;
            Ok(tried)
        };
        // If the transaction may still be open the connection is closed: a delivery on it would not be committed.
        let tried = self.with_timeout("dry run", rolled_back).await?;
        match self.return_connection(connection, tried.map_err(|error| driver_error("dry run", &error)))? {
            1 => Ok(()),
            count => {
                let message = format!("audit_log took {count} of 1 rows; a trigger keeps rows out");
                Err(SinkError { operation: "dry run", class: ErrorClass::Row, sqlstate: None, message })
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
        self.fetch("quarantine", statement).await.and_then(|row| cursor_update("quarantine", &row))
    }
}

/// The result of [`DELIVER`], [`QUARANTINE`] and the requeue statement.
pub(super) fn cursor_update(operation: &'static str, row: &PgRow) -> Result<CursorUpdate, SinkError> {
    let moved: bool = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
    Ok(if moved { CursorUpdate::Moved } else { CursorUpdate::Unchanged })
}
