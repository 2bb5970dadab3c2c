//! A generation file: a redb database. The process that creates it writes it; all others only read it.
//!
//! ```text
//! name       outbox-NNNNNN.redb, at least six digits, ascending; created as outbox-NNNNNN.redb.tmp
//! meta       "format"      u32 LE, 1
//!            "gateway_id"  16 bytes
//!            "epoch"       u64 LE: all segments in the file belong to this epoch
//!            "head"        u64 LE seq, 32 bytes hash: the last record stored before this file was begun
//!            "previous"    u64 LE epoch, u64 LE seq, 32 bytes hash: the previous epoch and its last record, if any
//!            "damage"      JSON, only in a file that replaces a damaged one: what was kept and what was lost
//!            "begun"       i64 LE: when the file was begun, in microseconds since 1970 UTC
//!            "queued"      present if the epoch runs at level `queued`: Postgres may have more of it than this outbox
//!            "tree"        the tree over all stored records of the log, see `src/audit/tree.rs`
//!            "closed"      present once the epoch's gateway/closed record is stored
//! segments   (epoch u64, first seq u64) -> (last seq u64, record frames)
//! intents    request id, 16 bytes -> intent frame; only in the newest generation
//! delivered  epoch u64 -> (seq u64, 32 bytes hash): how far each epoch is delivered, as far as this file knows
//! unsettled  epoch u64 -> (seq u64, 32 bytes hash): earlier epochs of which Postgres may have more than was known when
//!            they ended, and what was known; only in the newest generation
//! files      number u64 -> (epoch u64, first seq u64, last seq u64, begun i64): the sealed files when this file was
//!            begun, as far as their contents were known
//! ```
//!
//! **Warning: this layout is on the disks of running gateways.** Never change a file name, a table, a key, or the type
//! or meaning of a value without a new number in [`FORMAT`], code that still reads format 1, and a test for both. An
//! older gateway must refuse the new file ([`OutboxError::NewerFormat`]) rather than misread it.
//!
//! A file appears complete: temporary name, first commit (which is synced), rename, fsync of the directory. A crash
//! before the rename leaves a `.tmp` file, which is removed when its number is used again. Commits are two-phase. A
//! file that is opened later is checked first, because redb does not verify pages as it reads them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::commit::Commit;
use super::damage::Damage;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::segment::{self, Segment, SegmentValue};
use super::storage_backend::{FailStopFile, OverlayFile};
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Epoch, GatewayId, RequestId, Seq, Timestamp};
use crate::audit::tree::Tree;

/// The memory that redb may use for the pages of a file that is being written, in bytes. *Measured*
/// (`docs/measurements.md`, "redb"): 8 to 64 MB repair a file as fast as the default of 1 GiB, in 12 to 70 MB resident.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The same for a file that is only read. Each of its segments is read once. *Measured*: `benches/backlog.rs`,
/// `benches/recover.rs`.
const READ_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// The version of the layout above.
const FORMAT: u32 = 1;

/// The value of the keys "closed" and "queued".
const PRESENT: &[u8] = &[1];

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SEGMENTS: TableDefinition<(u64, u64), SegmentValue> = TableDefinition::new("segments");
const INTENTS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("intents");
const DELIVERED: TableDefinition<u64, (u64, [u8; 32])> = TableDefinition::new("delivered");
/// A row of the table `files`: epoch, first and last seq, and when it was begun.
type SpanRow = (u64, u64, u64, i64);

const FILES: TableDefinition<u64, SpanRow> = TableDefinition::new("files");
const UNSETTLED: TableDefinition<u64, (u64, [u8; 32])> = TableDefinition::new("unsettled");

/// The contents of a file's meta table.
#[derive(Clone, Debug)]
pub(super) struct FileMeta {
    pub(super) gateway_id: GatewayId,
    pub(super) epoch: Epoch,
    /// When the file was begun, by the wall clock.
    pub(super) begun: Timestamp,
    pub(super) head: Head,
    pub(super) closed: bool,
    /// True if the epoch runs at level `queued`.
    pub(super) queued: bool,
    /// The previous epoch and its last record.
    pub(super) previous: Option<(Epoch, Head)>,
    /// Present if this file replaces a damaged one.
    pub(super) damage: Option<Damage>,
}

/// The contents of a sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSpan {
    pub(super) epoch: Epoch,
    /// The first record.
    pub(super) first: Seq,
    /// The last record; zero if it has none.
    pub(super) last: Seq,
    /// When it was begun, by the wall clock.
    pub(super) begun: Timestamp,
}

/// The positions that a new file takes over from the one before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    /// The last delivered record of each epoch.
    pub(super) delivered: BTreeMap<Epoch, Head>,
    /// Earlier epochs whose end in Postgres is not settled, each with its last record as far as it was known.
    pub(super) unsettled: BTreeMap<Epoch, Head>,
    /// The contents of sealed files, as far as they are known.
    pub(super) files: BTreeMap<FileNumber, FileSpan>,
    /// The tree over all stored records, if it is known.
    pub(super) tree: Option<Tree>,
}

/// An open generation file.
#[derive(Debug)]
pub(super) struct Generation {
    path: PathBuf,
    database: Database,
    /// The length of the file, if this process is writing it.
    len: Arc<AtomicU64>,
}

impl Generation {
    /// Creates file `number` with `meta`, the positions in `carried`, the commit `first` and the commits that `more`
    /// makes. The file gets its name last.
    pub(super) fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: FileNumber,
        meta: &FileMeta,
        carried: &Carried,
        first: &Commit<'_>,
        more: impl FnOnce(&Self) -> Result<(), OutboxError>,
    ) -> Result<Self, OutboxError> {
        let path = number.path(dir);
        let temporary = dir.join(format!("{}.tmp", number.file_name()));
        if let Err(error) = fs.remove(&temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(OutboxError::io("remove", &temporary)(error));
        }
        let file = fs.create(&temporary).map_err(OutboxError::io("create", &temporary))?;
        let len = Arc::new(AtomicU64::new(0));
        let database = builder()
            .create_with_backend(FailStopFile::new(file, Arc::clone(&len)))
            .map_err(|source| OutboxError::redb("create", &temporary, source))?;
        let generation = Self { path, database, len };
        generation.write("initialise", |transaction| {
            let mut table = transaction.open_table(META)?;
            table.insert("format", FORMAT.to_le_bytes().as_slice())?;
            table.insert("gateway_id", meta.gateway_id.0.as_bytes().as_slice())?;
            table.insert("epoch", meta.epoch.0.to_le_bytes().as_slice())?;
            table.insert("head", head_bytes(meta.head).as_slice())?;
            table.insert("begun", meta.begun.micros().to_le_bytes().as_slice())?;
            if meta.closed {
                table.insert("closed", PRESENT)?;
            }
            if meta.queued {
                table.insert("queued", PRESENT)?;
            }
            if let Some(damage) = meta.damage.as_ref().and_then(|damage| serde_json::to_vec(damage).ok()) {
                table.insert("damage", damage.as_slice())?;
            }
            if let Some((epoch, head)) = meta.previous {
                let bytes = [&epoch.0.to_le_bytes(), head_bytes(head).as_slice()].concat();
                table.insert("previous", bytes.as_slice())?;
            }
            if let Some(tree) = &carried.tree {
                table.insert("tree", tree.to_bytes().as_slice())?;
            }
            // redb opens a table only once at a time, and `apply` opens it again.
            drop(table);
            for (table, heads) in [(DELIVERED, &carried.delivered), (UNSETTLED, &carried.unsettled)] {
                let mut table = transaction.open_table(table)?;
                for (epoch, head) in heads {
                    table.insert(epoch.0, (head.seq.0, head.hash.0))?;
                }
            }
            let mut table = transaction.open_table(FILES)?;
            for (number, FileSpan { epoch, first, last, begun }) in &carried.files {
                table.insert(number.0, (epoch.0, first.0, last.0, begun.micros()))?;
            }
            drop(table);
            apply(transaction, first)
        })?;
        more(&generation)?;
        fs.rename(&temporary, &generation.path).map_err(OutboxError::io("rename", &temporary))?;
        fs.sync_dir(dir).map_err(OutboxError::io("sync", dir))?;
        Ok(generation)
    }

    /// Opens an existing file for reading, and checks all of it. The file is never written.
    pub(super) fn open(fs: &dyn Fs, dir: &Path, number: FileNumber) -> Result<Self, OutboxError> {
        Self::open_with(builder().set_cache_size(READ_CACHE_BYTES), fs, dir, number)
    }

    /// Opens an existing file for reading without the check, for a file that is known to be damaged. Its methods may
    /// return wrong values or panic.
    pub(super) fn open_unchecked(fs: &dyn Fs, dir: &Path, number: FileNumber) -> Result<Self, OutboxError> {
        let mut unchecked = builder();
        unchecked.set_check_integrity_on_open(false).set_cache_size(READ_CACHE_BYTES);
        Self::open_with(&unchecked, fs, dir, number)
    }

    fn open_with(builder: &redb::Builder, fs: &dyn Fs, dir: &Path, number: FileNumber) -> Result<Self, OutboxError> {
        let path = number.path(dir);
        let io = || OutboxError::io("open", &path);
        let overlay = OverlayFile::new(fs.open(&path).map_err(io())?).map_err(io())?;
        if redb::StorageBackend::len(&overlay).map_err(io())? == 0 {
            return Err(OutboxError::NotAnOutbox { path, what: "it is empty".to_owned() });
        }
        let database =
            builder.create_with_backend(overlay).map_err(|source| OutboxError::redb("open", &path, source))?;
        Ok(Self { path, database, len: Arc::default() })
    }

    /// The size of the file in bytes, if this process is writing it.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Stores `commit`, all of it or nothing, and returns after the fsync.
    ///
    /// After an error it is unknown whether the commit is in the file. The file is never written again.
    pub(super) fn commit(&self, commit: &Commit<'_>) -> Result<(), OutboxError> {
        self.write("commit", |transaction| apply(transaction, commit))
    }

    /// Reads the meta table.
    pub(super) fn meta(&self) -> Result<FileMeta, OutboxError> {
        self.read("read", |transaction| {
            let table = transaction.open_table(META)?;
            let get = |key: &str| Ok::<_, redb::Error>(table.get(key)?.map(|guard| guard.value().to_vec()));
            let required = [get("format")?, get("gateway_id")?, get("epoch")?, get("head")?];
            Ok((required, [get("closed")?, get("queued")?], [get("previous")?, get("damage")?, get("begun")?]))
        })
        .and_then(|([format, gateway_id, epoch, head], [closed, queued], [previous, damage, begun])| {
            let broken = |what: &str| OutboxError::NotAnOutbox { path: self.path.clone(), what: what.to_owned() };
            let format = format.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            match format {
                Some(FORMAT) => {}
                Some(found) => return Err(OutboxError::NewerFormat { path: self.path.clone(), found, known: FORMAT }),
                None => return Err(broken("its meta table has no format version")),
            }
            let gateway_id = gateway_id.and_then(|bytes| bytes.try_into().ok()).map(uuid::Uuid::from_bytes);
            let epoch = epoch.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            let head = head.as_deref().and_then(head_from_bytes);
            match (gateway_id, epoch, head) {
                (Some(id), Some(epoch), Some(head)) => {
                    let previous = previous.as_deref().and_then(previous_from_bytes);
                    let (gateway_id, epoch) = (GatewayId(id), Epoch(epoch));
                    let (closed, queued) = (closed.is_some(), queued.is_some());
                    let damage = damage.and_then(|json| serde_json::from_slice(&json).ok());
                    let begun = begun.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_le_bytes);
                    let begun = Timestamp::from_micros(begun);
                    Ok(FileMeta { gateway_id, epoch, begun, head, closed, queued, previous, damage })
                }
                _ => Err(broken("its meta table lacks gateway_id, epoch or head")),
            }
        })
    }

    /// The tree over all records that were stored when this file was written last; `None` if it is not known.
    pub(super) fn tree(&self) -> Result<Option<Tree>, OutboxError> {
        let bytes = self.read("read", |transaction| {
            Ok(transaction.open_table(META)?.get("tree")?.map(|guard| guard.value().to_vec()))
        })?;
        Ok(bytes.as_deref().and_then(Tree::from_bytes))
    }

    /// The delivery watermarks, by epoch.
    pub(super) fn delivered(&self) -> Result<Vec<(Epoch, Head)>, OutboxError> {
        self.heads(DELIVERED)
    }

    /// The epochs whose end in Postgres is not settled, each with its last record as far as it was known.
    pub(super) fn unsettled(&self) -> Result<Vec<(Epoch, Head)>, OutboxError> {
        self.heads(UNSETTLED)
    }

    /// The contents of the files that were sealed when this file was begun, as far as they were known.
    pub(super) fn files(&self) -> Result<BTreeMap<FileNumber, FileSpan>, OutboxError> {
        self.read("read", |transaction| match transaction.open_table(FILES) {
            Err(TableError::TableDoesNotExist(_)) => Ok(BTreeMap::new()),
            table => table?
                .iter()?
                .map(|row| {
                    let (number, span) = row?;
                    let (epoch, first, last, begun) = span.value();
                    let begun = Timestamp::from_micros(begun);
                    let span = FileSpan { epoch: Epoch(epoch), first: Seq(first), last: Seq(last), begun };
                    Ok((FileNumber(number.value()), span))
                })
                .collect(),
        })
    }

    fn heads(&self, table: TableDefinition<'_, u64, (u64, [u8; 32])>) -> Result<Vec<(Epoch, Head)>, OutboxError> {
        self.read("read", |transaction| match transaction.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            table => table?
                .iter()?
                .map(|row| {
                    let (epoch, head) = row?;
                    let (seq, hash) = head.value();
                    Ok((Epoch(epoch.value()), Head { seq: Seq(seq), hash: Digest(hash) }))
                })
                .collect(),
        })
    }

    /// The frames of the intents, in the order of their ids, which is the order of their arrival.
    pub(super) fn intents(&self) -> Result<Vec<(RequestId, Vec<u8>)>, OutboxError> {
        self.read("read", |transaction| match transaction.open_table(INTENTS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            table => table?
                .iter()?
                .map(|row| {
                    let (id, frame) = row?;
                    Ok((RequestId(uuid::Uuid::from_bytes(id.value())), frame.value().to_vec()))
                })
                .collect(),
        })
    }

    /// The last segment, if any.
    pub(super) fn last_segment(&self) -> Result<Option<Segment>, OutboxError> {
        self.segments("read", |table| {
            table.last()?.map(|(key, value)| Ok(Segment::from_row(key.value(), value.value()))).transpose()
        })
    }

    /// The seqs of the first and the last record, if there is one.
    pub(super) fn span(&self) -> Result<Option<(Seq, Seq)>, OutboxError> {
        self.segments("read", |table| {
            let first = table.first()?.map(|(key, _)| Seq(key.value().1));
            let last = table.last()?.map(|(_, value)| segment::last(value.value()));
            Ok(first.zip(last))
        })
    }

    /// The segment that contains `seq` or, if none does, the first one after it.
    pub(super) fn segment_from(&self, epoch: Epoch, seq: Seq) -> Result<Option<Segment>, OutboxError> {
        self.segments("read", |table| {
            if let Some(row) = table.range((epoch.0, 0)..=(epoch.0, seq.0))?.next_back() {
                let (key, value) = row?;
                if segment::last(value.value()) >= seq {
                    return Ok(Some(Segment::from_row(key.value(), value.value())));
                }
            }
            let after = table.range((epoch.0, seq.0)..=(epoch.0, u64::MAX))?.next();
            after.transpose()?.map(|(key, value)| Ok(Segment::from_row(key.value(), value.value()))).transpose()
        })
    }

    /// The newest segment that begins before this position.
    pub(super) fn segment_before(&self, (epoch, seq): (Epoch, Seq)) -> Result<Option<Segment>, OutboxError> {
        self.segments("read", |table| {
            let row = table.range(..(epoch.0, seq.0))?.next_back();
            row.transpose()?.map(|(key, value)| Ok(Segment::from_row(key.value(), value.value()))).transpose()
        })
    }

    /// The first segment after the one with the key `after`, in the order of keys.
    pub(super) fn next_segment(&self, after: Option<(Epoch, Seq)>) -> Result<Option<Segment>, OutboxError> {
        let from = after.map_or((0, 0), |(epoch, first)| (epoch.0, first.next().0));
        self.segments("read", |table| {
            let next = table.range(from..)?.next();
            next.transpose()?.map(|(key, value)| Ok(Segment::from_row(key.value(), value.value()))).transpose()
        })
    }

    fn segments<T: Default>(
        &self,
        operation: &'static str,
        body: impl FnOnce(redb::ReadOnlyTable<(u64, u64), SegmentValue>) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        self.read(operation, |transaction| match transaction.open_table(SEGMENTS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(T::default()),
            table => body(table?),
        })
    }

    fn read<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        let result = self.database.begin_read().map_err(redb::Error::from).and_then(|transaction| body(&transaction));
        result.map_err(|source| OutboxError::redb(operation, &self.path, source))
    }

    fn write(
        &self,
        operation: &'static str,
        body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), OutboxError> {
        let result = self.database.begin_write().map_err(redb::Error::from).and_then(|mut transaction| {
            transaction.set_two_phase_commit(true);
            body(&transaction)?;
            Ok(transaction.commit()?)
        });
        result.map_err(|source| OutboxError::redb(operation, &self.path, source))
    }
}

/// Runs `work` and turns a panic into an error: redb may panic on a damaged file.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panicked| {
        let text = panicked.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panicked.downcast_ref::<&str>().copied());
        format!("redb panicked: {}", text.unwrap_or("without a message"))
    })
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Makes the changes of `commit`.
fn apply(transaction: &WriteTransaction, commit: &Commit<'_>) -> Result<(), redb::Error> {
    if !commit.segments.is_empty() || !commit.delivered.is_empty() {
        let mut table = transaction.open_table(SEGMENTS)?;
        for segment in commit.segments {
            table.insert((segment.epoch.0, segment.first.0), segment.value())?;
        }
        for (epoch, head) in commit.delivered {
            if !commit.keeps {
                // I4: a segment is removed only when its last record is delivered.
                table.retain_in((epoch.0, 0)..=(epoch.0, head.seq.0), |_, value| segment::last(value) > head.seq)?;
            }
            transaction.open_table(DELIVERED)?.insert(epoch.0, (head.seq.0, head.hash.0))?;
        }
    }
    if !commit.begun.is_empty() || !commit.ended.is_empty() {
        let mut table = transaction.open_table(INTENTS)?;
        for (id, frame) in commit.begun {
            table.insert(id.0.into_bytes(), frame.as_ref())?;
        }
        for id in commit.ended {
            table.remove(id.0.into_bytes())?;
        }
    }
    if !commit.settled.is_empty() {
        let mut table = transaction.open_table(UNSETTLED)?;
        for epoch in commit.settled {
            table.remove(epoch.0)?;
        }
    }
    if let Some(tree) = commit.tree {
        transaction.open_table(META)?.insert("tree", tree.to_bytes().as_slice())?;
    }
    if commit.closes {
        transaction.open_table(META)?.insert("closed", PRESENT)?;
    }
    Ok(())
}

fn head_bytes(head: Head) -> [u8; 40] {
    let mut bytes = [0; 40];
    let (seq, hash) = bytes.split_at_mut(8);
    seq.copy_from_slice(&head.seq.0.to_le_bytes());
    hash.copy_from_slice(&head.hash.0);
    bytes
}

fn head_from_bytes(bytes: &[u8]) -> Option<Head> {
    let (seq, hash) = bytes.split_first_chunk()?;
    Some(Head { seq: Seq(u64::from_le_bytes(*seq)), hash: Digest(hash.try_into().ok()?) })
}

fn previous_from_bytes(bytes: &[u8]) -> Option<(Epoch, Head)> {
    let (epoch, head) = bytes.split_first_chunk()?;
    Some((Epoch(u64::from_le_bytes(*epoch)), head_from_bytes(head)?))
}
