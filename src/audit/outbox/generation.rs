//! One generation file: a redb database that is written by the process that created it and only read by all others.
//!
//! ```text
//! name       outbox-NNNNNN.redb, six digits at least, rising; made as outbox-NNNNNN.redb.tmp
//! meta       "format"      u32 LE, 1
//!            "gateway_id"  16 bytes
//!            "epoch"       u64 LE: all segments of the file are of this epoch
//!            "head"        u64 LE seq, 32 bytes hash: the last record stored before this file was begun
//!            "previous"    u64 LE epoch, u64 LE seq, 32 bytes hash: the epoch before and its last record, if any
//!            "damage"      JSON, where this file stands for a damaged one: what became of that
//!            "closed"      present once the epoch's gateway/closed record is stored
//! segments   (epoch u64, first seq u64) -> (last seq u64, record frames)
//! intents    request id, 16 bytes -> intent frame; in the newest generation only
//! delivered  epoch u64 -> (seq u64, 32 bytes hash): how far each epoch was delivered, as far as this file knows
//! ```
//!
//! A file comes into being whole: temporary name, first commit (which is synced), rename, fsync of the directory. A crash
//! before that leaves a `.tmp` that is removed when its number is used again. Commits are two-phase; files opened later are checked
//! first, since redb does not verify pages as it reads them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::backend::{Latched, Overlay};
use super::damage::Damage;
use super::fs::Fs;
use super::segment::{self, Laid};
use super::{Commit, Error, Segment};
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Epoch, GatewayId, RequestId, Seq};

/// Memory that redb may use for one file's pages, in bytes. *Measured*: docs/measurements.md, "redb", 8 to 64 MB repair as fast as
/// the default of 1 GiB, in 12 to 70 MB resident.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The same for a file that is only read, whose segments are each read once. *Measured*: `benches/backlog.rs`,
/// `benches/recover.rs`.
const READ_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// The layout above.
const FORMAT: u32 = 1;

/// What stands under "closed".
const CLOSED: &[u8] = &[1];

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SEGMENTS: TableDefinition<(u64, u64), Laid> = TableDefinition::new("segments");
const INTENTS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("intents");
const DELIVERED: TableDefinition<u64, (u64, [u8; 32])> = TableDefinition::new("delivered");

/// Which file: its number orders the files and, with them, the epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) u64);

impl Number {
    pub(super) fn file_name(self) -> String {
        format!("outbox-{:06}.redb", self.0)
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.file_name())
    }

    /// The number in a generation's file name.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("outbox-")?.strip_suffix(".redb")?;
        (digits.len() >= 6).then(|| digits.parse().ok().map(Self)).flatten()
    }
}

/// What a file's meta table says.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) gateway_id: GatewayId,
    pub(super) epoch: Epoch,
    pub(super) head: Head,
    pub(super) closed: bool,
    /// The epoch before this one and its last record.
    pub(super) previous: Option<(Epoch, Head)>,
    /// Where this file stands for a damaged one.
    pub(super) damage: Option<Damage>,
}

/// One open file.
#[derive(Debug)]
pub(super) struct Generation {
    path: PathBuf,
    database: Database,
    /// The length of a file that is being written.
    len: Arc<AtomicU64>,
}

impl Generation {
    /// Makes file `number`, holding `meta`, the watermarks, all that `first` has and what `more` puts in, before it gets
    /// its name.
    pub(super) fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: Number,
        meta: &Meta,
        delivered: &[(Epoch, Head)],
        first: &Commit<'_>,
        more: impl FnOnce(&Self) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let path = number.path(dir);
        let temporary = dir.join(format!("{}.tmp", number.file_name()));
        let io = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { operation, path, source }
        };
        if let Err(error) = fs.remove(&temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(io("remove", &temporary)(error));
        }
        let file = fs.create(&temporary).map_err(io("create", &temporary))?;
        let len = Arc::new(AtomicU64::new(0));
        let database = builder()
            .create_with_backend(Latched::new(file, Arc::clone(&len)))
            .map_err(|source| Error::redb("create", &temporary, source))?;
        let generation = Self { path, database, len };
        generation.write("initialise", |transaction| {
            let mut table = transaction.open_table(META)?;
            table.insert("format", FORMAT.to_le_bytes().as_slice())?;
            table.insert("gateway_id", meta.gateway_id.0.as_bytes().as_slice())?;
            table.insert("epoch", meta.epoch.0.to_le_bytes().as_slice())?;
            table.insert("head", head_bytes(meta.head).as_slice())?;
            if meta.closed {
                table.insert("closed", CLOSED)?;
            }
            if let Some(damage) = meta.damage.as_ref().and_then(|damage| serde_json::to_vec(damage).ok()) {
                table.insert("damage", damage.as_slice())?;
            }
            if let Some((epoch, head)) = meta.previous {
                let bytes = [&epoch.0.to_le_bytes(), head_bytes(head).as_slice()].concat();
                table.insert("previous", bytes.as_slice())?;
            }
            // redb opens a table once at a time, and the commit needs its own.
            drop(table);
            let mut table = transaction.open_table(DELIVERED)?;
            for (epoch, head) in delivered {
                table.insert(epoch.0, (head.seq.0, head.hash.0))?;
            }
            drop(table);
            apply(transaction, first)
        })?;
        more(&generation)?;
        fs.rename(&temporary, &generation.path).map_err(io("rename", &temporary))?;
        fs.sync_dir(dir).map_err(io("sync", dir))?;
        Ok(generation)
    }

    /// Opens an existing file for reading and checks all of it; the file itself is never written.
    pub(super) fn open(fs: &dyn Fs, dir: &Path, number: Number) -> Result<Self, Error> {
        Self::open_with(builder().set_cache_size(READ_CACHE_BYTES), fs, dir, number)
    }

    /// The same without the check, for a file that is known to be damaged. What it gives may be wrong, or panic.
    pub(super) fn open_unchecked(fs: &dyn Fs, dir: &Path, number: Number) -> Result<Self, Error> {
        let mut unchecked = builder();
        unchecked.set_check_integrity_on_open(false).set_cache_size(READ_CACHE_BYTES);
        Self::open_with(&unchecked, fs, dir, number)
    }

    fn open_with(builder: &redb::Builder, fs: &dyn Fs, dir: &Path, number: Number) -> Result<Self, Error> {
        let path = number.path(dir);
        let io = |source| Error::Io { operation: "open", path: path.clone(), source };
        let overlay = Overlay::new(fs.open(&path).map_err(io)?).map_err(io)?;
        if redb::StorageBackend::len(&overlay).map_err(io)? == 0 {
            return Err(Error::NotAnOutbox { path, what: "an empty file".to_owned() });
        }
        let database = builder.create_with_backend(overlay).map_err(|source| Error::redb("open", &path, source))?;
        Ok(Self { path, database, len: Arc::default() })
    }

    /// Bytes of the file, which this process is writing.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Stores a commit: all of it or nothing. Returns after fsync.
    ///
    /// After an error it is unknown whether the commit is in the file; the file is never written again.
    pub(super) fn commit(&self, commit: &Commit<'_>) -> Result<(), Error> {
        self.write("commit", |transaction| apply(transaction, commit))
    }

    pub(super) fn meta(&self) -> Result<Meta, Error> {
        self.read("read", |transaction| {
            let table = transaction.open_table(META)?;
            let get = |key: &str| Ok::<_, redb::Error>(table.get(key)?.map(|guard| guard.value().to_vec()));
            let place = [get("format")?, get("gateway_id")?, get("epoch")?, get("head")?];
            Ok((place, get("closed")?, get("previous")?, get("damage")?))
        })
        .and_then(|([format, gateway_id, epoch, head], closed, previous, damage)| {
            let broken = |what: &str| Error::NotAnOutbox { path: self.path.clone(), what: what.to_owned() };
            let format = format.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            match format {
                Some(FORMAT) => {}
                Some(found) => return Err(Error::NewerFormat { path: self.path.clone(), found, known: FORMAT }),
                None => return Err(broken("no format version in its meta table")),
            }
            let gateway_id = gateway_id.and_then(|bytes| bytes.try_into().ok()).map(uuid::Uuid::from_bytes);
            let epoch = epoch.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            let head = head.as_deref().and_then(head_from_bytes);
            match (gateway_id, epoch, head) {
                (Some(id), Some(epoch), Some(head)) => {
                    let previous = previous.as_deref().and_then(previous_from_bytes);
                    let (gateway_id, epoch, closed) = (GatewayId(id), Epoch(epoch), closed.is_some());
                    let damage = damage.and_then(|json| serde_json::from_slice(&json).ok());
                    Ok(Meta { gateway_id, epoch, head, closed, previous, damage })
                }
                _ => Err(broken("a meta table without gateway_id, epoch or head")),
            }
        })
    }

    /// The watermarks, by epoch.
    pub(super) fn delivered(&self) -> Result<Vec<(Epoch, Head)>, Error> {
        self.read("read", |transaction| {
            transaction
                .open_table(DELIVERED)?
                .iter()?
                .map(|row| {
                    let (epoch, head) = row?;
                    let (seq, hash) = head.value();
                    Ok((Epoch(epoch.value()), Head { seq: Seq(seq), hash: Digest(hash) }))
                })
                .collect()
        })
    }

    /// The frames of the intents, in the order of their ids, which is that of their arrival.
    pub(super) fn intents(&self) -> Result<Vec<(RequestId, Vec<u8>)>, Error> {
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
    pub(super) fn last_segment(&self) -> Result<Option<Segment>, Error> {
        self.segments("read", |table| {
            table.last()?.map(|(key, value)| Ok(Segment::of_value(key.value(), value.value()))).transpose()
        })
    }

    /// The first seq of the first segment and the last of the last, if there is one.
    pub(super) fn span(&self) -> Result<Option<(Seq, Seq)>, Error> {
        self.segments("read", |table| {
            let first = table.first()?.map(|(key, _)| Seq(key.value().1));
            let last = table.last()?.map(|(_, value)| segment::last(value.value()));
            Ok(first.zip(last))
        })
    }

    /// The segment that holds `seq` or, where none does, the first one behind it.
    pub(super) fn segment_from(&self, epoch: Epoch, seq: Seq) -> Result<Option<Segment>, Error> {
        self.segments("read", |table| {
            if let Some(row) = table.range((epoch.0, 0)..=(epoch.0, seq.0))?.next_back() {
                let (key, value) = row?;
                if segment::last(value.value()) >= seq {
                    return Ok(Some(Segment::of_value(key.value(), value.value())));
                }
            }
            let behind = table.range((epoch.0, seq.0)..=(epoch.0, u64::MAX))?.next();
            behind.transpose()?.map(|(key, value)| Ok(Segment::of_value(key.value(), value.value()))).transpose()
        })
    }

    /// The newest segment that begins before this place.
    pub(super) fn segment_before(&self, (epoch, seq): (Epoch, Seq)) -> Result<Option<Segment>, Error> {
        self.segments("read", |table| {
            let row = table.range(..(epoch.0, seq.0))?.next_back();
            row.transpose()?.map(|(key, value)| Ok(Segment::of_value(key.value(), value.value()))).transpose()
        })
    }

    /// The first segment behind the one with the key `after`, in the order of keys.
    pub(super) fn next_segment(&self, after: Option<(Epoch, Seq)>) -> Result<Option<Segment>, Error> {
        let from = after.map_or((0, 0), |(epoch, first)| (epoch.0, first.next().0));
        self.segments("read", |table| {
            let next = table.range(from..)?.next();
            next.transpose()?.map(|(key, value)| Ok(Segment::of_value(key.value(), value.value()))).transpose()
        })
    }

    fn segments<T: Default>(
        &self,
        operation: &'static str,
        body: impl FnOnce(redb::ReadOnlyTable<(u64, u64), Laid>) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        self.read(operation, |transaction| match transaction.open_table(SEGMENTS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(T::default()),
            table => body(table?),
        })
    }

    fn read<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let result = self.database.begin_read().map_err(redb::Error::from).and_then(|transaction| body(&transaction));
        result.map_err(|source| Error::redb(operation, &self.path, source))
    }

    fn write(
        &self,
        operation: &'static str,
        body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let result = self.database.begin_write().map_err(redb::Error::from).and_then(|mut transaction| {
            transaction.set_two_phase_commit(true);
            body(&transaction)?;
            Ok(transaction.commit()?)
        });
        result.map_err(|source| Error::redb(operation, &self.path, source))
    }
}

/// The generation files in `dir`, oldest first.
pub(super) fn numbers(fs: &dyn Fs, dir: &Path) -> Result<Vec<Number>, Error> {
    let list = fs.list(dir).map_err(|source| Error::Io { operation: "list", path: dir.to_owned(), source })?;
    let mut numbers: Vec<_> = list.iter().filter_map(|name| Number::from_file_name(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Runs `work`; a panic of redb in it is an error like others, since a damaged file may cause one.
pub(super) fn checked<T>(work: impl FnOnce() -> T) -> Result<T, String> {
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

fn apply(transaction: &WriteTransaction, commit: &Commit<'_>) -> Result<(), redb::Error> {
    if !commit.segments.is_empty() || !commit.delivered.is_empty() {
        let mut table = transaction.open_table(SEGMENTS)?;
        for segment in commit.segments {
            table.insert((segment.epoch.0, segment.first.0), segment.value())?;
        }
        for (epoch, head) in commit.delivered {
            // I4: only segments whose last record was delivered are forgotten.
            table.retain_in((epoch.0, 0)..=(epoch.0, head.seq.0), |_, value| segment::last(value) > head.seq)?;
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
    if commit.closes {
        transaction.open_table(META)?.insert("closed", CLOSED)?;
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
