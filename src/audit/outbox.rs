//! The outbox: what was stored and not yet delivered, on disk.
//!
//! It is a directory of generation files ([`generation`]), each written by one process in one epoch and never after its
//! first failure. Every opening begins a new epoch and a new file; older files are only read, and unlinked once all
//! in them was delivered. Unlinking needs no free page, so a full disk cannot wedge the drain.
//!
//! [`Opening`] is what was found in the directory; it becomes an [`Outbox`] with the epoch's first commit. The outbox
//! has one writer, the scribe. [`Reader`] is for the shipper and for inspection; it may be used beside the writer, and
//! on a dead gateway's directory without touching it.
//!
//! It knows nothing of the ring, of Postgres, or of what a record means. This folder is the only place that names redb.

mod backend;
pub mod damage;
mod error;
mod found;
mod frame;
pub mod fs;
mod generation;
pub mod lock;
pub mod prune;
mod reader;
pub mod restore;
mod salvage;
mod segment;
mod space;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use damage::Damage;
pub use error::Error;
pub use frame::Frame;
use fs::Fs;
use generation::{Generation, Meta, Number};
use lock::{Lock, LockError};
use reader::Shared;
pub use reader::{Reader, Stats, Stream};
use restore::Opened;
pub use salvage::stands_for_lost;
pub use segment::Segment;
use space::Ballast;
pub use space::Space;

use super::chain::Head;
use super::codec;
use super::record::{Call, Epoch, GatewayId, RequestId, Seq};

/// Bytes of segments after which a new file is begun. *Derived*: a file is at most 256 MiB (docs/design.md, "Outbox"), redb
/// doubles it as it grows, and its pages cost at most an eighth; 112 MiB of segments fit in 128 MiB.
const GENERATION_SEGMENT_BYTES_MAX: u64 = 112 * 1024 * 1024;

/// Size from which a file whose records are all delivered gives way to a small one. *Chosen*: far above a fresh file's
/// 72 KiB, so that an idle outbox is small and a busy one does not begin a file every second.
const SHRINK_BYTES: u64 = 16 * 1024 * 1024;

/// Files that fit in the quota at least. *Chosen*: the quota is kept file by file, so it is kept to an eighth.
const GENERATIONS_MIN: u64 = 8;

/// What one commit does; all of it or nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commit<'a> {
    /// New records, in order.
    pub segments: &'a [Segment],
    /// The stream's head after them, where there are any.
    pub head: Option<Head>,
    /// Intents of calls that are about to be forwarded: id and frame.
    pub begun: &'a [(RequestId, Arc<[u8]>)],
    /// Intents of calls that have ended.
    pub ended: &'a [RequestId],
    /// How far epochs were delivered; what is behind is forgotten.
    pub delivered: &'a [(Epoch, Head)],
    /// Whether the last record of this commit closes the epoch.
    pub closes: bool,
}

/// The epoch before this one, as far as the outbox knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The epoch.
    pub epoch: Epoch,
    /// Its last record.
    pub head: Head,
    /// Whether its `gateway/closed` record was stored. If not, the gateway died.
    pub closed: bool,
}

/// What was found in the directory. Nothing has been changed yet but the lock file and, where a file was damaged, that one:
/// it is in `quarantine/`, and what could be read of it in its place.
#[derive(Debug)]
pub struct Opening {
    /// Whose directory it is.
    pub gateway_id: GatewayId,
    /// The epoch that this opening begins.
    pub epoch: Epoch,
    /// The epoch before it, if any.
    pub previous: Option<Previous>,
    /// Calls that were open when the gateway died.
    pub interrupted: Vec<Call>,
    /// Files that were damaged, and what became of them.
    pub damages: Vec<Damage>,
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    lock: Lock,
    numbers: Vec<Number>,
    last_number: Number,
    /// Files that are in `quarantine/` and in whose place nothing can stand.
    unreadable: Vec<PathBuf>,
    delivered: BTreeMap<Epoch, Head>,
}

/// The writer. One per directory and process.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    meta: Meta,
    /// The file being written; `None` after a failure, until a new one could be made.
    active: Option<Arc<Generation>>,
    last_number: Number,
    segment_bytes: u64,
    open_intents: BTreeMap<RequestId, Arc<[u8]>>,
    delivered: BTreeMap<Epoch, Head>,
    bytes_max: u64,
    ballast: Ballast,
    /// Room for the first file of an epoch that begins on a full disk.
    reserve: Ballast,
    /// The directory as it was opened.
    identity: (u64, u64),
    _lock: Lock,
}

impl Opening {
    /// Locks `dir`, making it if need be, and reads what the last epoch left. `configured` is the operator's gateway id.
    ///
    /// # Errors
    /// See [`Error`]. Nothing was begun.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, configured: Option<GatewayId>) -> Result<Self, Error> {
        let io = |operation| move |source| Error::Io { operation, path: dir.to_owned(), source };
        make_dir(fs.as_ref(), dir).map_err(io("create directory"))?;
        let mut lock = Lock::take(dir).map_err(|error| match error {
            LockError::Held(holder) => Error::Locked { path: dir.to_owned(), holder },
            LockError::Io(source) => Error::Io { operation: "lock", path: dir.to_owned(), source },
        })?;
        let mut numbers = generation::numbers(fs.as_ref(), dir)?;
        let newest_number = numbers.last().copied().unwrap_or(Number(0));
        // I3: also a number that was set aside is not used again, since its epoch may have been.
        let last_number = newest_number.max(restore::last_number(fs.as_ref(), dir));
        let known = configured.or_else(|| lock.signed());
        let (mut damages, mut newest, mut unreadable) = (Vec::new(), None, Vec::new());
        // The directory is never opened silently with fewer records: what is damaged is named in the new epoch.
        while let Some(number) = numbers.last().filter(|_| newest.is_none()) {
            // I2: what a killed process wrote and did not sync is durable before it is believed, or a power loss would
            // take back the record of a call whose intent is not carried on.
            let synced = fs.open(&number.path(dir)).and_then(|file| file.sync_data());
            synced.map_err(io("sync the newest file of"))?;
            match restore::open(fs.as_ref(), dir, *number, None, known)? {
                Opened::File(file, damage) => {
                    damages.extend(damage.map(|damage| *damage).or_else(|| file.meta().ok()?.damage));
                    newest = Some(file);
                }
                Opened::Nothing(damage) => {
                    damages.push(*damage);
                    unreadable.extend(numbers.pop().map(|number| number.path(dir)));
                }
            }
        }
        let meta = newest.as_ref().map(Generation::meta).transpose()?;
        let gateway_id = match (&meta, configured) {
            (Some(meta), Some(configured)) if meta.gateway_id != configured => {
                return Err(Error::OtherGateway { path: dir.to_owned(), found: meta.gateway_id, configured });
            }
            (Some(meta), _) => meta.gateway_id,
            (None, _) => known.unwrap_or_else(|| GatewayId(uuid::Uuid::new_v4())),
        };
        lock.sign(&format!("pid {} gateway {gateway_id}", std::process::id())).map_err(io("sign the lock of"))?;
        let (mut previous, mut interrupted, mut delivered) = (None, Vec::new(), BTreeMap::new());
        if let Some((newest, meta)) = newest.as_ref().zip(meta.as_ref()) {
            delivered = newest.delivered()?.into_iter().collect();
            previous = Some(Previous { epoch: meta.epoch, head: head_of(newest, meta)?, closed: meta.closed });
            for (id, frame) in newest.intents()? {
                let broken = |source| Error::Frame { path: dir.to_owned(), what: format!("intent {id}"), source };
                interrupted.push(codec::decode_intent(&frame).map_err(broken)?);
            }
        }
        // I3: an epoch is at most the number of its first file, so one whose file tells nothing is not used again.
        let lost = if numbers.last() == Some(&last_number) { 0 } else { last_number.0 };
        let epoch = previous.map_or(Epoch(0), |previous| previous.epoch).max(Epoch(lost)).next();
        let dir = dir.to_owned();
        Ok(Self {
            gateway_id,
            epoch,
            previous,
            interrupted,
            damages,
            dir,
            fs,
            lock,
            numbers,
            last_number,
            unreadable,
            delivered,
        })
    }

    /// Begins the epoch with its first commit, in a new file. The intents that were left over are gone with it:
    /// `first` holds their `interrupted` records. `bytes_max` is the quota of all files together.
    ///
    /// # Errors
    /// See [`Error`]. Nothing was begun; the next opening finds what this one found.
    pub fn begin(self, first: &Commit<'_>, bytes_max: u64) -> Result<Outbox, Error> {
        let Self { gateway_id, epoch, previous, dir, fs, lock, numbers, last_number, unreadable, delivered, .. } = self;
        let previous = previous.map(|previous| (previous.epoch, previous.head));
        let meta = Meta { gateway_id, epoch, head: Head::START, closed: false, previous, damage: None };
        let identity = fs.identity(&dir).map_err(|source| {
            let path = dir.clone();
            Error::Io { operation: "look at", path, source }
        })?;
        let (ballast, reserve) = (Ballast::new(fs.as_ref(), &dir), Ballast::reserve(fs.as_ref(), &dir));
        let mut outbox = Outbox {
            shared: Arc::new(Shared::new(fs, dir, &numbers, true)),
            meta,
            active: None,
            last_number,
            segment_bytes: 0,
            open_intents: BTreeMap::new(),
            delivered,
            bytes_max,
            ballast,
            reserve,
            identity,
            _lock: lock,
        };
        // I3: the file that makes the epoch known is stored in the same commit as the epoch's first record.
        let fs = Arc::clone(&outbox.shared.fs);
        match outbox.rotate(first) {
            // A gateway that starts on a full disk has to, since only its deliveries make room.
            Err(error) if error.is_disk_full() && outbox.reserve.release(fs.as_ref()) => {
                outbox.rotate_with_ballast(first)?;
            }
            result => result?,
        }
        for path in unreadable {
            // Its second name is in `quarantine/`, and the new epoch tells of it.
            fs.remove(&path).map_err(|source| Error::Io { operation: "move to quarantine", path, source })?;
        }
        outbox.reserve.hold(fs.as_ref());
        outbox.ballast.hold(fs.as_ref());
        Ok(outbox)
    }
}

impl Outbox {
    /// A reader beside this writer.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Stores `commit`. When the file being written fails it is sealed, and the commit goes into a new one.
    ///
    /// # Errors
    /// Neither the file nor a new one could take the commit. The caller still holds everything and tries again later;
    /// whether the commit is in the sealed file is unknown and does not matter: records are read by seq, and intents
    /// from the newest file only.
    ///
    /// # Durability
    /// *Stored* on return.
    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<(), Error> {
        let (fs, dir) = (Arc::clone(&self.shared.fs), self.shared.dir.clone());
        if fs.identity(&dir).ok() != Some(self.identity) {
            return Err(Error::Replaced { path: dir });
        }
        let bytes = commit.segments.iter().map(|segment| segment.frames().len() as u64).sum::<u64>();
        let bytes_max = GENERATION_SEGMENT_BYTES_MAX.min(self.bytes_max / GENERATIONS_MIN);
        if self.segment_bytes > 0 && self.segment_bytes + bytes > bytes_max {
            self.seal();
        }
        match &self.active {
            None => self.rotate_with_ballast(commit)?,
            Some(active) => match active.commit(commit) {
                Ok(()) => self.note(commit),
                Err(error) => {
                    // I7: what failed is sealed; what is in memory goes into a new file.
                    tracing::error!(%error, "outbox file sealed after a failed write");
                    self.seal();
                    self.rotate_with_ballast(commit)?;
                }
            },
        }
        self.shrink();
        self.unlink_delivered();
        self.hold_ballast();
        Ok(())
    }

    fn hold_ballast(&mut self) {
        let fs = Arc::clone(&self.shared.fs);
        self.reserve.hold(fs.as_ref());
        self.ballast.hold(fs.as_ref());
    }

    /// Files that were found damaged since the last time this was asked, and what became of them.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.take_damages()
    }

    /// Unlinks what was delivered, without a commit: it needs no room on the disk. The next commit stores the
    /// watermarks.
    pub fn forget(&mut self, delivered: &[(Epoch, Head)]) {
        self.delivered.extend(delivered.iter().copied());
        self.unlink_delivered();
        self.hold_ballast();
    }

    /// How full the outbox is.
    #[must_use]
    pub fn space(&self) -> Space {
        Space {
            used_bytes: self.shared.bytes(),
            max_bytes: self.bytes_max,
            disk_full: self.ballast.disk_full() || self.reserve.disk_full(),
        }
    }

    /// Begins a new file; where the disk is full, once more without the ballast.
    fn rotate_with_ballast(&mut self, commit: &Commit<'_>) -> Result<(), Error> {
        match self.rotate(commit) {
            Err(error) if error.is_disk_full() && self.ballast.release(self.shared.fs.as_ref()) => self.rotate(commit),
            result => result,
        }
    }

    /// Lets a large file whose records are all delivered give way to a small one.
    fn shrink(&mut self) {
        let large = self.active.as_ref().is_some_and(|active| active.len() >= SHRINK_BYTES);
        if large && self.segment_bytes == 0 {
            self.seal();
            if let Err(error) = self.rotate(&Commit::default()) {
                // The next commit begins the file.
                tracing::warn!(%error, "no smaller outbox file yet");
            }
        }
    }

    fn seal(&mut self) {
        self.active = None;
        // What the file may hold behind this, from a commit that failed, goes into the next one too.
        self.shared.seal(self.meta.head.seq);
    }

    /// Begins a new file with the intents of all open calls and `commit`.
    fn rotate(&mut self, commit: &Commit<'_>) -> Result<(), Error> {
        // The number is taken again after a failure, and what the failed try left under it is replaced.
        let number = Number(self.last_number.0 + 1);
        let ended: BTreeSet<_> = commit.ended.iter().collect();
        let carried =
            self.open_intents.iter().filter(|(id, _)| !ended.contains(id)).map(|(id, frame)| (*id, Arc::clone(frame)));
        let begun: Vec<_> = carried.chain(commit.begun.iter().cloned()).collect();
        let delivered: Vec<_> = self.delivered.iter().map(|(epoch, head)| (*epoch, *head)).collect();
        let first = Commit { begun: &begun, ended: &[], ..*commit };
        let (fs, dir) = (self.shared.fs.as_ref(), &self.shared.dir);
        let generation = Arc::new(Generation::create(fs, dir, number, &self.meta, &delivered, &first, |_| Ok(()))?);
        self.last_number = number;
        self.shared.add(number, self.meta.epoch, Arc::clone(&generation));
        self.active = Some(generation);
        self.segment_bytes = 0;
        self.note(commit);
        Ok(())
    }

    /// Remembers what a commit that succeeded did.
    fn note(&mut self, commit: &Commit<'_>) {
        self.segment_bytes += commit.segments.iter().map(|segment| segment.frames().len() as u64).sum::<u64>();
        self.open_intents.extend(commit.begun.iter().cloned());
        for id in commit.ended {
            self.open_intents.remove(id);
        }
        if let Some(head) = commit.head {
            self.meta.head = head;
            self.shared.set_head(self.meta.epoch, head);
        }
        self.meta.closed |= commit.closes;
        self.delivered.extend(commit.delivered.iter().copied());
        if self.delivered.get(&self.meta.epoch).is_some_and(|head| head.seq >= self.meta.head.seq) {
            self.segment_bytes = 0;
        }
    }

    fn unlink_delivered(&mut self) {
        // I4: a file is unlinked only when every record in it was delivered.
        let done = |epoch: Epoch, last: Seq| self.delivered.get(&epoch).is_some_and(|head| head.seq >= last);
        self.shared.unlink_where(done);
        let oldest = self.shared.oldest_epoch();
        self.delivered.retain(|epoch, _| oldest.is_none_or(|oldest| *epoch >= oldest));
    }
}

/// Makes `dir` where it is missing, and its name durable: also where it is there, since an earlier process may have died
/// before it had done so.
fn make_dir(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    };
    let missing = dir.ancestors().filter(|path| !path.as_os_str().is_empty());
    let made: Vec<_> = missing.take_while(|path| fs.identity(path).is_err()).map(parent).collect();
    fs.create_dir(dir)?;
    // The first of them is the directory's own.
    for parent in made.iter().skip(1) {
        fs.sync_dir(parent)?;
    }
    match fs.sync_dir(&parent(dir)) {
        // One that this user may not read is one in which somebody else made the directory.
        Err(error) if made.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// The last record that `newest` and the files before it hold.
fn head_of(newest: &Generation, meta: &Meta) -> Result<Head, Error> {
    let Some(segment) = newest.last_segment()? else { return Ok(delivered_head(newest, meta)?.unwrap_or(meta.head)) };
    let records = salvage::whole(&segment, meta.gateway_id, Head::START, None);
    Ok(records.last().map_or(meta.head, |record| Head::after(&record.position)))
}

/// Where all segments of a file were delivered and forgotten, its watermark is the last record.
fn delivered_head(newest: &Generation, meta: &Meta) -> Result<Option<Head>, Error> {
    let of_epoch = newest.delivered()?.into_iter().find(|(epoch, _)| *epoch == meta.epoch);
    Ok(of_epoch.map(|(_, head)| head).filter(|head| head.seq > meta.head.seq))
}
