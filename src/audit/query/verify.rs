//! Reads the trail in Postgres, or a part of it, in the order of the streams, through a [`Checker`].
//!
//! One statement reads `audit_log` and `audit_quarantine`, merged by their keys. Rows are read as they arrive and
//! hashed on another thread, with a bounded number of batches in between.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::reading::bigint;
use super::row;
use super::snapshot::TrailSnapshot;
use super::windows::windows;
use crate::audit::codec;
use crate::audit::record::column::{COLUMNS, Column, Part};
use crate::audit::record::{Entry, GatewayId, StreamPosition};
use crate::audit::sql;
use crate::audit::verify::{Checker, Cursor, Heads, Options, Origin, Place, Report, StreamId, TrailRecord, Window};

/// Most records in a batch for the hashing thread. *Chosen*: hashing so many costs far more than passing a batch on.
const BATCH_RECORDS: usize = 512;
/// Bytes of records after which a batch is passed on. *Chosen*: with [`BATCHES_MAX`], a few megabytes wait at most.
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches that may wait for the hashing thread. *Chosen*: enough that neither side waits for the other at every batch.
const BATCHES_MAX: usize = 4;

/// The columns of both tables, up to the condition on the rows of each.
static RECORDS: LazyLock<[String; 2]> = LazyLock::new(|| {
    let quarantined = |column: &Column| match (column.part(), column.name) {
        (Part::Position, name) | (_, name @ "request_id") => name,
        _ => "NULL",
    };
    [
        format!("SELECT {}, NULL::bytea AS frame FROM {{log}}", row::COLUMN_LIST.as_str()),
        format!("SELECT {}, frame FROM {{quarantine}}", COLUMNS.iter().map(quarantined).collect::<Vec<_>>().join(", ")),
    ]
});

/// The condition on the rows of one window.
const IN_WINDOW: &str = " WHERE gateway_id = $1 AND epoch = $2 AND seq BETWEEN $3 AND $4";

/// Records beyond those that the cursors count. *Chosen*: more than a person adds by hand.
const EXTRA_RECORDS: u64 = 1_000;
/// Most rows with a position that cannot exist, of which each is reported. *Chosen*: as many as a report lists.
const STRAYS_MAX: usize = 10_000;

/// Request ids that more than one record of a gateway has, among the candidates `$2` and `$3`, or among all if these
/// are NULL. Two rows at one position are another fault. The server groups in its own memory and temporary files.
const REPEATED: &str = "SELECT gateway_id, request_id, min(epoch), min(seq), max(epoch), max(seq), count(*) FROM (
        SELECT gateway_id, request_id, epoch, seq FROM {log}
        UNION ALL SELECT gateway_id, request_id, epoch, seq FROM {quarantine}) records
    WHERE $2::uuid[] IS NULL OR (gateway_id, request_id) IN (SELECT * FROM unnest($2::uuid[], $3::uuid[]))
    GROUP BY gateway_id, request_id
    HAVING count(*) > 1 AND (min(epoch) <> max(epoch) OR min(seq) <> max(seq)) LIMIT $1";

/// The hashing thread, and the batch that it gets next.
struct Hashing {
    batches: mpsc::Sender<Vec<TrailRecord>>,
    batch: Vec<TrailRecord>,
    /// Rows whose position cannot exist.
    strays: Vec<String>,
    bytes: usize,
    records: u64,
    thread: JoinHandle<Checker>,
}

impl TrailSnapshot<'_> {
    /// Checks the records, and ends the snapshot. Calls `progress` at intervals with the number of records read.
    ///
    /// # Errors
    /// Any error of Postgres; see [`super::remedy`].
    pub async fn check(
        mut self,
        heads: Heads,
        options: Options,
        mut progress: impl FnMut(u64),
    ) -> Result<Report, sqlx::Error> {
        let statements = self.statements().await?;
        let windows = windows(&mut self).await?;
        let mut checker = Checker::new(Origin::Postgres, options, statements, heads);
        for stream in &self.streams {
            checker.add_stream(*stream);
        }
        for (stream, cursor) in &self.cursors {
            checker.add_cursor(*stream, *cursor);
        }
        if let Some(windows) = &windows {
            checker.limit_to(windows.clone());
        }
        checker.expect_records(self.records_expected(windows.as_ref()));
        checker.begin();
        let mut hashing = Hashing::start(checker);
        match &windows {
            None => self.walk(None, &mut hashing, &mut progress).await?,
            Some(windows) => {
                for (stream, window) in windows {
                    self.walk(Some((*stream, *window)), &mut hashing, &mut progress).await?;
                }
            }
        }
        let mut checker = hashing.finish().await?;
        self.repeated_ids(&mut checker, options.findings_max).await?;
        let mut report = checker.finish();
        report.add_faults(self.tables.faults);
        report.add_unproven(self.tables.unproven);
        report.add_mentions(self.tables.mentions);
        report.source = Some(self.source);
        self.reading.end().await?;
        Ok(report)
    }

    /// At most so many records are there, if the cursors are right.
    fn records_expected(&self, windows: Option<&BTreeMap<StreamId, Window>>) -> u64 {
        let in_window = |(stream, cursor): (&StreamId, &Cursor)| {
            let window = windows.map_or(Some(Window::ALL), |windows| windows.get(stream).copied());
            let last = |window: Window| window.last.unwrap_or(cursor.head.seq).min(cursor.head.seq).0;
            window.map_or(0, |window| (last(window) + 1).saturating_sub(window.first.0))
        };
        // With a few rows more than the cursors say, the server need not compare all.
        self.cursors.iter().map(in_window).fold(EXTRA_RECORDS, u64::saturating_add)
    }

    /// Passes the records of a window, or all, to the hashing thread.
    async fn walk(
        &mut self,
        window: Option<(StreamId, Window)>,
        hashing: &mut Hashing,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), sqlx::Error> {
        let condition = if window.is_some() { IN_WINDOW } else { "" };
        let [log, quarantine] = &*RECORDS;
        let sql = format!("{log}{condition} UNION ALL {quarantine}{condition} ORDER BY gateway_id, epoch, seq");
        let sql = self.reading.sql(&sql);
        let mut query = sql::query(sql);
        if let Some((stream, window)) = window {
            query = bind_window(query, stream, window);
        }
        let mut rows = query.fetch(&mut *self.reading.transaction);
        while let Some(row) = rows.try_next().await? {
            match trail_record(&row)? {
                Ok(record) => {
                    if hashing.push(record).await {
                        progress(hashing.records);
                    }
                }
                // I6: bounded.
                Err(stray) if hashing.strays.len() < STRAYS_MAX => hashing.strays.push(stray),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// I2: each call has one record, so that no two records of a gateway have the same request id. Looks up the ids
    /// that may be repeated; in a trail too long for that, the server compares all.
    async fn repeated_ids(&mut self, checker: &mut Checker, limit: usize) -> Result<(), sqlx::Error> {
        let candidates = checker.repeated_candidates();
        if candidates.is_some_and(<[_]>::is_empty) {
            return Ok(());
        }
        let gateways: Option<Vec<Uuid>> = candidates.map(|ids| ids.iter().map(|(gateway, _)| gateway.0).collect());
        let ids: Option<Vec<Uuid>> = candidates.map(|ids| ids.iter().map(|(_, id)| id.0).collect());
        // The server may sort here: it has nothing to return row by row.
        let settings = "SET LOCAL enable_sort = on; SET LOCAL enable_hashjoin = on";
        sqlx::raw_sql(settings).execute(&mut *self.reading.transaction).await?;
        let sql = self.reading.sql(REPEATED);
        let query = sql::query(sql).bind(i64::try_from(limit).unwrap_or(i64::MAX)).bind(gateways).bind(ids);
        for row in query.fetch_all(&mut *self.reading.transaction).await? {
            let (gateway, id): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
            let [epoch, seq, last_epoch, last_seq, count] =
                [2, 3, 4, 5, 6].map(|column| row.try_get::<i64, _>(column).unwrap_or(0));
            let what = format!(
                "request id {id} has {count} records, from epoch {epoch} to {last_epoch} and seq {seq} to {last_seq}: \
                 a call has one record, so that the others were made up"
            );
            checker.repeated_id(Place::gateway(GatewayId(gateway)), what);
        }
        Ok(())
    }
}

impl Hashing {
    fn start(mut checker: Checker) -> Self {
        let (batches, mut received) = mpsc::channel::<Vec<TrailRecord>>(BATCHES_MAX);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(batch) = received.blocking_recv() {
                for record in &batch {
                    checker.check(record);
                }
            }
            checker
        });
        let (batch, strays) = (Vec::with_capacity(BATCH_RECORDS), Vec::new());
        Self { batches, batch, strays, bytes: 0, records: 0, thread }
    }

    /// Adds a record. Returns true if a batch was passed on.
    async fn push(&mut self, record: TrailRecord) -> bool {
        self.bytes += record.content.as_ref().map_or(0, Entry::size_bytes);
        self.batch.push(record);
        self.records += 1;
        // I6: bounded by count and by bytes.
        if self.batch.len() < BATCH_RECORDS && self.bytes <= BATCH_BYTES {
            return false;
        }
        let full = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_RECORDS));
        self.bytes = 0;
        // A thread that panicked is noticed at the end.
        self.batches.send(full).await.ok();
        true
    }

    async fn finish(self) -> Result<Checker, sqlx::Error> {
        let Self { batches, batch, thread, strays, .. } = self;
        batches.send(batch).await.ok();
        drop(batches);
        let mut checker = thread.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        for what in strays {
            checker.stray_row(what);
        }
        Ok(checker)
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, PgArguments>;

fn bind_window(query: Query<'_>, (gateway_id, epoch): StreamId, window: Window) -> Query<'_> {
    let last = window.last.map_or(i64::MAX, |last| bigint(last.0));
    query.bind(gateway_id.0).bind(bigint(epoch.0)).bind(bigint(window.first.0)).bind(last)
}

/// The record of a row, or the description of a row whose position cannot exist.
fn trail_record(row: &PgRow) -> Result<Result<TrailRecord, String>, sqlx::Error> {
    let (epoch, seq): (i64, i64) = (row.try_get("epoch")?, row.try_get("seq")?);
    if epoch < 1 || seq < 1 {
        let gateway: Uuid = row.try_get("gateway_id")?;
        let what =
            format!("gateway {gateway} has a row at epoch {epoch} seq {seq}: both are from 1 on, so it was added");
        return Ok(Err(what));
    }
    let position = row::position(row)?;
    let frame: Option<&[u8]> = row.try_get("frame")?;
    let content = match frame {
        Some(frame) => quarantined_entry(row, &position, frame),
        None => row::entry(row).map_err(|error| error.to_string()),
    };
    Ok(Ok(TrailRecord { position, content, quarantined: frame.is_some() }))
}

/// Decodes a quarantined frame and checks that the row's columns match it.
fn quarantined_entry(row: &PgRow, position: &StreamPosition, frame: &[u8]) -> Result<Entry, String> {
    let (record, length) = codec::decode_record(frame).map_err(|error| format!("the quarantined bytes: {error}"))?;
    if length != frame.len() {
        return Err("the quarantined bytes continue after the record".to_owned());
    }
    let request_id: Uuid = row.try_get("request_id").map_err(|error| error.to_string())?;
    if record.position != *position || record.entry.call.request_id.0 != request_id {
        return Err("the columns in audit_quarantine do not match the record in the bytes".to_owned());
    }
    Ok(record.entry)
}
