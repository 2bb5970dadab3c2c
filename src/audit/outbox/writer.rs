//! The writer: it stores commits, begins new files, and unlinks delivered ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::commit::Commit;
use super::damage::Damage;
use super::damage_log::{DamageLog, FoundDamage};
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::file_set::{FileSet, Owner};
use super::fs::Fs;
use super::generation::{Carried, FileMeta, Generation};
use super::keep::{Keep, KeepRoom};
use super::lock::Lock;
use super::reader::Reader;
use super::space::{Ballast, Space};
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, RequestId, Seq, Timestamp};

/// The size of the segments after which a new file is begun, in bytes. *Derived*: a file has at most 256 MiB
/// (`docs/design.md`, "Outbox"), redb doubles a file as it grows, and redb's pages cost at most an eighth: 112 MiB of
/// segments fit in 128 MiB.
const GENERATION_SEGMENT_BYTES_MAX: u64 = 112 * 1024 * 1024;

/// The size from which a file without undelivered records is replaced by a new one, in bytes. *Chosen*: far above the
/// 72 KiB of a new file, so that an idle outbox is small and a busy one does not begin a file every second.
const SHRINK_BYTES: u64 = 16 * 1024 * 1024;

/// The number of files that fit in the quota, at least. *Chosen*: the quota is enforced by whole files, and so to
/// within an eighth.
const GENERATIONS_MIN: u64 = 8;

/// Most earlier epochs whose delivered ends are known although nothing of them is stored. *Chosen*: more starts than
/// there are in the time for which backups are usually kept apart, and each costs one question to Postgres at a start.
const KNOWN_ENDS_MAX: usize = 64;

/// The writer. There is one for each directory, in one process.
#[derive(Debug)]
pub struct Outbox {
    files: Arc<FileSet>,
    /// The meta table of the next file.
    meta: FileMeta,
    /// The file that is being written; `None` after a failed write, until a new file is begun.
    active: Option<Arc<Generation>>,
    last_number: FileNumber,
    /// The size of the segments in the active file.
    segment_bytes: u64,
    open_intents: BTreeMap<RequestId, Arc<[u8]>>,
    carried: Carried,
    /// The epochs whose delivery Postgres confirmed in this process. What is kept of others may be needed soon.
    confirmed: BTreeSet<Epoch>,
    /// The database went back in this process. What was delivered before counts only where that is confirmed.
    went_back: bool,
    /// The first record in the active file, if there is one and it stays until the file is removed.
    first: Option<Seq>,
    keep: Option<Keep>,
    bytes_max: u64,
    ballast: Ballast,
    /// Room for the first file of an epoch that begins on a full disk.
    reserve: Ballast,
    _lock: Arc<Lock>,
}

/// The state from which a new epoch begins.
pub(super) struct EpochStart {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) lock: Arc<Lock>,
    /// The files of earlier epochs, oldest first.
    pub(super) numbers: Vec<FileNumber>,
    /// The highest number that was ever used.
    pub(super) last_number: FileNumber,
    pub(super) carried: Carried,
    /// The damage that the first commit records.
    pub(super) damages: Vec<Damage>,
    /// The meta table of the epoch's first file.
    pub(super) meta: FileMeta,
    /// The quota for all files together, and what is kept of delivered records.
    pub(super) limits: (u64, Option<Keep>),
}

impl Outbox {
    /// Begins an epoch with its first commit, in a new file. The caller calls [`Outbox::refill_ballast`] afterwards.
    pub(super) fn begin(start: EpochStart, first: &Commit<'_>) -> Result<Self, OutboxError> {
        let EpochStart { fs, dir, lock, numbers, last_number, carried, damages, meta, limits } = start;
        let (bytes_max, keep) = limits;
        let identity = fs.identity(&dir).map_err(OutboxError::io("look at", &dir))?;
        let (ballast, reserve) = (Ballast::new(fs.as_ref(), &dir), Ballast::reserve(fs.as_ref(), &dir));
        let owner = Owner {
            gateway_id: meta.gateway_id,
            epoch: meta.epoch,
            queued: meta.queued,
            identity,
            unsettled: carried.unsettled.clone(),
            delivered: carried.delivered.clone(),
            damages: DamageLog::new(meta.gateway_id, &damages, first.head.unwrap_or(Head::START).seq),
        };
        let mut outbox = Self {
            files: Arc::new(FileSet::new(Arc::clone(&fs), dir, &numbers, &carried.files, Some(owner))),
            meta,
            active: None,
            last_number,
            segment_bytes: 0,
            open_intents: BTreeMap::new(),
            carried,
            confirmed: BTreeSet::new(),
            went_back: false,
            first: None,
            keep,
            bytes_max,
            ballast,
            reserve,
            _lock: lock,
        };
        match outbox.rotate(first) {
            // A gateway must be able to start on a full disk, because only its deliveries make room.
            Err(error) if error.is_disk_full() && outbox.reserve.release(fs.as_ref()) => {
                outbox.rotate_with_ballast(first)?;
            }
            result => result?,
        }
        Ok(outbox)
    }

    /// A reader beside this writer.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.files))
    }

    /// Stores `commit`. If the active file fails, it is sealed and the commit goes into a new file.
    ///
    /// # Errors
    /// Neither the active file nor a new one could take the commit. The caller keeps its data and tries again later.
    /// Whether the commit is in the sealed file is unknown, and does not matter: records are read by seq, and intents
    /// only from the newest file.
    ///
    /// # Durability
    /// *Stored* on return.
    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<(), OutboxError> {
        if self.files.is_replaced() {
            return Err(OutboxError::DirectoryReplaced { path: self.files.dir.clone() });
        }
        let commit = &Commit { keeps: self.keep.is_some(), ..*commit };
        let bytes_max = GENERATION_SEGMENT_BYTES_MAX.min(self.bytes_max / GENERATIONS_MIN);
        let bytes_max = bytes_max.min(self.keep.map_or(u64::MAX, Keep::segment_bytes_max));
        if self.segment_bytes > 0 && self.segment_bytes + commit.bytes() > bytes_max {
            self.seal();
        }
        match &self.active {
            None => self.rotate_with_ballast(commit)?,
            Some(active) => match active.commit(commit) {
                Ok(()) => self.record_commit(commit),
                Err(error) => {
                    // I7: a file that failed is sealed. Everything that is in memory goes into a new file.
                    tracing::error!(%error, "failed to write the outbox file; sealing it and starting a new one");
                    self.seal();
                    self.rotate_with_ballast(commit)?;
                }
            },
        }
        self.shrink();
        self.unlink_delivered();
        self.refill_ballast();
        Ok(())
    }

    /// Writes the ballast and the reserve again if they were released.
    pub(super) fn refill_ballast(&mut self) {
        let fs = Arc::clone(&self.files.fs);
        self.reserve.hold(fs.as_ref());
        self.ballast.hold(fs.as_ref());
    }

    /// True if delivered records are kept for a while.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.keep.is_some()
    }

    /// Removes the delivered records whose time is over. To be called from time to time, also if nothing is stored.
    pub fn expire(&mut self) {
        let Some(keep) = self.keep.filter(|_| !self.files.is_replaced()) else { return };
        if self.active.is_some() && self.is_delivered() && keep.is_old_enough_to_seal(self.meta.begun) {
            self.seal();
            if let Err(error) = self.rotate(&Commit::default()) {
                // The next commit begins the file.
                tracing::warn!(%error, "could not begin a new outbox file for delivered records; retrying on the next commit");
            }
        }
        self.unlink_delivered();
    }

    /// The damage that was found since the last call, and is to be recorded.
    #[must_use]
    pub fn take_damages(&self) -> Vec<FoundDamage> {
        self.files.take_damages()
    }

    /// Notes that the records of `damage`, from the first to the last of `records`, are stored: what replaces the lost
    /// records may be delivered.
    pub fn mark_recorded(&self, damage: &Damage, records: (Seq, Seq)) {
        self.files.mark_recorded(damage, records);
    }

    /// Unlinks the files whose records are all delivered, without a commit, so that it needs no room on the disk. The
    /// next commit stores the watermarks.
    pub fn remove_delivered(&mut self, delivered: &[(Epoch, Head)]) {
        self.note_delivered(delivered);
        self.unlink_delivered();
        self.refill_ballast();
    }

    /// Keeps what was delivered until Postgres confirms, epoch by epoch, that it still has it: the database went back.
    pub fn go_back(&mut self) {
        self.confirmed.clear();
        self.went_back = true;
    }

    /// The outbox's fill level.
    #[must_use]
    pub fn space(&self) -> Space {
        let active = self.active.as_ref().filter(|_| self.keep.is_some() && self.is_delivered());
        let kept_bytes = self.files.kept_bytes() + active.map_or(0, |active| active.len());
        Space {
            used_bytes: self.files.bytes().saturating_sub(kept_bytes),
            kept_bytes,
            max_bytes: self.bytes_max,
            disk_full: self.ballast.disk_full() || self.reserve.disk_full(),
        }
    }

    /// Begins a new file. If the disk is full, removes what is only kept and tries again, then releases the ballast.
    fn rotate_with_ballast(&mut self, commit: &Commit<'_>) -> Result<(), OutboxError> {
        let is_full = |result: &Result<(), OutboxError>| result.as_ref().is_err_and(OutboxError::is_disk_full);
        let mut result = self.rotate(commit);
        if let Err(error) = result.as_ref().map_err(ToString::to_string)
            && !is_full(&result)
        {
            // I7: as after a failed write, once more from the beginning. A closing epoch may have no later attempt.
            tracing::error!(error, "failed to begin an outbox file; trying again");
            result = self.rotate(commit);
        }
        if is_full(&result) && self.files.kept_bytes() > 0 {
            self.unlink(KeepRoom { keep: None, bytes_max: self.bytes_max, disk_full: true });
            result = self.rotate(commit);
        }
        if is_full(&result) && self.ballast.release(self.files.fs.as_ref()) {
            result = self.rotate(commit);
        }
        result
    }

    /// Replaces a large active file by a new one if all its records are delivered.
    fn shrink(&mut self) {
        let large = self.active.as_ref().is_some_and(|active| active.len() >= SHRINK_BYTES);
        if large && self.segment_bytes == 0 {
            self.seal();
            if let Err(error) = self.rotate(&Commit::default()) {
                // The next commit begins the file.
                tracing::warn!(%error, "could not rotate to a smaller outbox file; retrying on the next commit");
            }
        }
    }

    fn seal(&mut self) {
        self.active = None;
        // A failed commit may have left records after this one in the file. They go into the next file too.
        self.files.seal(self.first.take(), self.meta.head.seq);
    }

    /// Begins a new file with the intents of all open calls and `commit`.
    fn rotate(&mut self, commit: &Commit<'_>) -> Result<(), OutboxError> {
        // After a failed attempt the same number is used again, and the attempt's temporary file is replaced.
        let number = FileNumber(self.last_number.0 + 1);
        let ended: BTreeSet<_> = commit.ended.iter().collect();
        let carried =
            self.open_intents.iter().filter(|(id, _)| !ended.contains(id)).map(|(id, frame)| (*id, Arc::clone(frame)));
        let begun: Vec<_> = carried.chain(commit.begun.iter().cloned()).collect();
        let first = Commit { begun: &begun, ended: &[], ..*commit };
        let (fs, dir) = (self.files.fs.as_ref(), &self.files.dir);
        self.meta.begun = Timestamp::now();
        self.carried.files = self.files.spans();
        let generation = Arc::new(Generation::create(fs, dir, number, &self.meta, &self.carried, &first, |_| Ok(()))?);
        self.last_number = number;
        self.files.add(number, self.meta.epoch, self.meta.begun, Arc::clone(&generation));
        self.active = Some(generation);
        self.segment_bytes = 0;
        self.record_commit(commit);
        Ok(())
    }

    /// Updates the state in memory after a successful commit.
    fn record_commit(&mut self, commit: &Commit<'_>) {
        self.segment_bytes += commit.bytes();
        if self.keep.is_some() {
            self.first = self.first.or(commit.segments.first().map(|segment| segment.first));
        }
        self.open_intents.extend(commit.begun.iter().cloned());
        for id in commit.ended {
            self.open_intents.remove(id);
        }
        if let Some(head) = commit.head {
            self.meta.head = head;
            self.files.set_head(self.meta.epoch, head);
        }
        self.carried.tree = commit.tree.cloned().or(self.carried.tree.take());
        self.meta.closed |= commit.closes;
        self.note_delivered(commit.delivered);
        self.carried.unsettled.retain(|epoch, _| !commit.settled.contains(epoch));
        if self.keep.is_none() && self.is_delivered() {
            self.segment_bytes = 0;
        }
    }

    fn note_delivered(&mut self, delivered: &[(Epoch, Head)]) {
        self.carried.delivered.extend(delivered.iter().copied());
        self.confirmed.extend(delivered.iter().map(|(epoch, _)| *epoch));
    }

    /// True if everything in the active file is delivered.
    fn is_delivered(&self) -> bool {
        let delivered = self.carried.delivered.get(&self.meta.epoch);
        self.segment_bytes > 0 && delivered.is_some_and(|head| head.seq >= self.meta.head.seq)
    }

    fn unlink_delivered(&mut self) {
        let disk_full = self.ballast.disk_full() || self.reserve.disk_full();
        self.unlink(KeepRoom { keep: self.keep, bytes_max: self.bytes_max, disk_full });
        let oldest = self.files.oldest_epoch();
        // The last ones stay in any case: they say that this outbox delivers, and what it delivered.
        let is_old = |epoch: &Epoch| oldest.is_some_and(|oldest| *epoch < oldest);
        while self.carried.delivered.len() > KNOWN_ENDS_MAX && self.carried.delivered.keys().next().is_some_and(is_old)
        {
            self.carried.delivered.pop_first();
        }
    }

    fn unlink(&self, room: KeepRoom) {
        // I4: a file is unlinked only when every record in it is delivered.
        let done = |epoch: Epoch, last: Seq| {
            let counts = !self.went_back || self.confirmed.contains(&epoch);
            counts && self.carried.delivered.get(&epoch).is_some_and(|head| head.seq >= last)
        };
        self.files.unlink_delivered(done, |epoch| self.confirmed.contains(&epoch), room);
    }
}
