//! Reads the trail in Postgres, or a part of it, in the order of the streams, through a [`Checker`].
//!
//! One statement reads `audit_log` and `audit_quarantine`, merged by their keys. Rows are decoded and hashed on another
//! thread than the one that receives them, with a bounded number of batches in between.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use sqlx::Row;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::copied::{CopiedRow, CopiedRows};
use super::reading::bigint;
use super::row;
use super::silent::silent_gateways;
use super::snapshot::TrailSnapshot;
use super::windows::windows;
use crate::audit::codec;
use crate::audit::record::column::{COLUMNS, Column, Part};
use crate::audit::record::{AuditRecord, Entry, GatewayId, StreamPosition};
use crate::audit::sql;
use crate::audit::verify::{Checker, Cursor, Heads, Options, Origin, Place, Report, StreamId, TrailRecord, Window};

/// Most records in a batch for the hashing thread. *Chosen*: hashing so many costs far more than passing a batch on.
const BATCH_RECORDS: usize = 512;
/// Bytes of records after which a batch is passed on. *Chosen*: with [`BATCHES_MAX`], a few megabytes wait at most.
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches that may wait for the hashing thread. *Chosen*: enough that neither side waits for the other at every batch.
const BATCHES_MAX: usize = 4;

/// The rows of both tables, in the same columns.
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

/// The fields of a row: the columns, and the quarantined frame.
const FIELDS: usize = COLUMNS.len() + 1;

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
    batches: mpsc::Sender<Vec<CopiedRow>>,
    batch: Vec<CopiedRow>,
    bytes: usize,
    rows: u64,
    thread: JoinHandle<Result<Checker, sqlx::Error>>,
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
        let mut windows = windows(&mut self).await?;
        if let (Some(windows), Some(registrar)) = (&mut windows, statements.deciding_registrar()) {
            // Its decisions count only if its own stream is confirmed.
            windows.insert(registrar, Window::ALL);
        }
        let retired = if windows.is_none() { statements.retired_records() } else { 0 };
        let findings_max = options.findings_max;
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
        checker.expect_records(self.records_expected(windows.as_ref()).saturating_sub(retired));
        checker.begin();
        let mut hashing = Hashing::start(checker);
        match &windows {
            None => {
                for gateway in std::mem::take(&mut self.gateways) {
                    self.walk(&of_gateway(gateway), &mut hashing, &mut progress).await?;
                }
            }
            Some(windows) => {
                for (stream, window) in windows {
                    self.walk(&in_window(*stream, *window), &mut hashing, &mut progress).await?;
                }
            }
        }
        let mut checker = hashing.finish().await?;
        self.repeated_ids(&mut checker, findings_max).await?;
        let mut report = checker.finish();
        report.add_faults(self.tables.faults);
        report.add_unproven(self.tables.unproven);
        report.add_mentions(self.tables.mentions);
        report.add_mentions(silent_gateways(&mut self.reading).await?);
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

    /// Passes the records of a part of one gateway's streams to the hashing thread, in their order.
    async fn walk(
        &mut self,
        condition: &str,
        hashing: &mut Hashing,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), sqlx::Error> {
        let [log, quarantine] = &*RECORDS;
        // The condition stands outside: within the parts, the server sorts all their rows instead of reading an index.
        let rows =
            format!("SELECT * FROM ({log} UNION ALL {quarantine}) records{condition} ORDER BY gateway_id, epoch, seq");
        let sql = self.reading.sql(&format!("COPY ({rows}) TO STDOUT (FORMAT binary)")).0;
        let mut parts = self.reading.transaction.copy_out_raw(&sql).await?;
        let mut copied = CopiedRows::default();
        while let Some(part) = parts.try_next().await? {
            copied.add(part);
            while let Some(row) = copied.next_row()? {
                if hashing.push(row).await {
                    progress(hashing.rows);
                }
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
        let (batches, mut received) = mpsc::channel::<Vec<CopiedRow>>(BATCHES_MAX);
        let thread = tokio::task::spawn_blocking(move || {
            let mut strays = Vec::new();
            while let Some(batch) = received.blocking_recv() {
                for row in &batch {
                    match trail_record(row)? {
                        Ok(record) => checker.check(&record),
                        // I6: bounded.
                        Err(stray) if strays.len() < STRAYS_MAX => strays.push(stray),
                        Err(_) => {}
                    }
                }
            }
            for what in strays {
                checker.stray_row(what);
            }
            Ok(checker)
        });
        Self { batches, batch: Vec::with_capacity(BATCH_RECORDS), bytes: 0, rows: 0, thread }
    }

    /// Adds a row. Returns true if a batch was passed on.
    async fn push(&mut self, row: CopiedRow) -> bool {
        self.bytes += row.len();
        self.batch.push(row);
        self.rows += 1;
        // I6: bounded by count and by bytes.
        if self.batch.len() < BATCH_RECORDS && self.bytes <= BATCH_BYTES {
            return false;
        }
        let full = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_RECORDS));
        self.bytes = 0;
        // A thread that failed is noticed at the end.
        self.batches.send(full).await.ok();
        true
    }

    async fn finish(self) -> Result<Checker, sqlx::Error> {
        let Self { batches, batch, thread, .. } = self;
        batches.send(batch).await.ok();
        drop(batches);
        thread.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

/// The condition on the rows of one gateway. COPY takes no parameters.
fn of_gateway(gateway: Uuid) -> String {
    format!(" WHERE gateway_id = '{gateway}'")
}

/// The condition on the rows of one window.
fn in_window((gateway_id, epoch): StreamId, window: Window) -> String {
    let [epoch, first] = [epoch.0, window.first.0].map(bigint);
    let last = window.last.map_or(i64::MAX, |last| bigint(last.0));
    format!(" WHERE gateway_id = '{}' AND epoch = {epoch} AND seq BETWEEN {first} AND {last}", gateway_id.0)
}

/// The record of a row, or the description of a row whose position cannot exist.
fn trail_record(row: &CopiedRow) -> Result<Result<TrailRecord, String>, sqlx::Error> {
    let fields: [Option<&[u8]>; FIELDS] =
        row.fields().ok_or_else(|| sqlx::Error::Protocol("a row has too few fields".to_owned()))?;
    let [columns @ .., frame] = &fields;
    let mut record = AuditRecord::blank();
    row::set_parts(&mut record, columns, |part| part == Part::Position)?;
    let position = record.position;
    let [epoch, seq] = [position.epoch.0, position.seq.0].map(u64::cast_signed);
    if epoch < 1 || seq < 1 {
        let gateway = position.gateway_id.0;
        let what =
            format!("gateway {gateway} has a row at epoch {epoch} seq {seq}: both are from 1 on, so it was added");
        return Ok(Err(what));
    }
    let content = match frame {
        Some(frame) => quarantined_entry(columns, &position, frame),
        None => match row::set_parts(&mut record, columns, |part| part != Part::Position) {
            Ok(()) => Ok(record.entry),
            Err(error) => Err(error.to_string()),
        },
    };
    Ok(Ok(TrailRecord { position, content, quarantined: frame.is_some() }))
}

/// Decodes a quarantined frame and checks that the row's columns match it.
fn quarantined_entry(columns: &[Option<&[u8]>], position: &StreamPosition, frame: &[u8]) -> Result<Entry, String> {
    let (record, length) = codec::decode_record(frame).map_err(|error| format!("the quarantined bytes: {error}"))?;
    if length != frame.len() {
        return Err("the quarantined bytes continue after the record".to_owned());
    }
    let request_id = COLUMNS.iter().zip(columns).find(|(column, _)| column.name == "request_id");
    let request_id = request_id.and_then(|(_, field)| *field);
    if record.position != *position || request_id != Some(record.entry.call.request_id.0.as_bytes()) {
        return Err("the columns in audit_quarantine do not match the record in the bytes".to_owned());
    }
    Ok(record.entry)
}
