//! The generation files of one directory, as the writer and its readers share them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::damage::Damage;
use super::damage_log::{self, DamageLog, FoundDamage};
use super::delivered_note::DeliveredNote;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::generation::{FileMeta, FileSpan, Generation};
use super::keep::KeepRoom;
use super::listed_file::ListedFile;
use super::restore::{self, Restored};
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, GatewayId, Seq, Timestamp};

/// The list of files. The writer adds, seals and unlinks files; readers open the files that they need.
#[derive(Debug)]
pub(super) struct FileSet {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    /// Present if this process holds the directory's lock, and so may replace damaged files.
    owner: Option<Owner>,
    files: RwLock<Vec<ListedFile>>,
    /// The sealed file that was read last, for each [`Purpose`]: inspection must not evict the shipper's file. One for
    /// each, because every open file has a page cache.
    cached: [CachedFile; 2],
    /// The head of the epoch that is being written.
    head: Mutex<Option<(Epoch, Head)>>,
}

/// The state of the process that holds the directory's lock.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) gateway_id: GatewayId,
    /// The epoch that is being written.
    pub(super) epoch: Epoch,
    /// True if the epoch that is being written runs at level `queued`.
    pub(super) queued: bool,
    /// The directory's device and inode when it was opened.
    pub(super) identity: (u64, u64),
    /// Earlier epochs whose end in Postgres was not settled when the directory was opened, each with its last record as
    /// far as it was known.
    pub(super) unsettled: BTreeMap<Epoch, Head>,
    /// The last delivered record of each epoch, as far as it was known when the directory was opened.
    pub(super) delivered: BTreeMap<Epoch, Head>,
    /// The damage that was found.
    pub(super) damages: DamageLog,
}

type CachedFile = Mutex<Option<(FileNumber, Arc<Generation>)>>;

/// The purpose of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Delivery to Postgres. Replaces damaged files by restored ones.
    Delivery,
    /// Commands, the console and other inspection. Changes nothing.
    Inspection,
}

impl FileSet {
    /// `spans` are the contents of files, as far as they are known without opening them.
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        numbers: &[FileNumber],
        spans: &BTreeMap<FileNumber, FileSpan>,
        owner: Option<Owner>,
    ) -> Self {
        let bytes = |number: &FileNumber| fs.open(&number.path(&dir)).and_then(|file| file.len()).unwrap_or(0);
        let unopened = |number: &FileNumber| {
            let span = spans.get(number);
            ListedFile {
                number: *number,
                epoch: span.map(|span| span.epoch),
                first: span.map(|span| span.first),
                last: span.map(|span| span.last),
                begun: span.map(|span| span.begun),
                bytes: bytes(number),
                kept: false,
                active: None,
            }
        };
        let files = RwLock::new(numbers.iter().map(unopened).collect());
        Self { fs, dir, owner, files, cached: Default::default(), head: Mutex::default() }
    }

    /// Present if this process holds the directory's lock.
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// Returns true if another directory, or none, is where this one was opened.
    pub(super) fn is_replaced(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| self.fs.identity(&self.dir).ok() != Some(owner.identity))
    }

    /// The files, oldest first.
    pub(super) fn list(&self) -> Vec<ListedFile> {
        self.files.read().clone()
    }

    fn is_listed(&self, number: FileNumber) -> bool {
        self.files.read().iter().any(|file| file.number == number)
    }

    /// Adds the file that is written from now on.
    pub(super) fn add(&self, number: FileNumber, epoch: Epoch, begun: Timestamp, generation: Arc<Generation>) {
        let active = Some(generation);
        let (epoch, begun) = (Some(epoch), Some(begun));
        let (first, last, bytes, kept) = (None, None, 0, false);
        self.files.write().push(ListedFile { number, epoch, first, last, begun, bytes, kept, active });
    }

    /// Marks the newest file as no longer written. Its last record is `last`, its first one `first`, if that is known.
    pub(super) fn seal(&self, first: Option<Seq>, last: Seq) {
        if let Some(file) = self.files.write().last_mut() {
            file.bytes = file.active.take().map_or(file.bytes, |active| active.len());
            (file.first, file.last) = (first, Some(last));
        }
    }

    /// The contents of the sealed files, as far as they are known.
    pub(super) fn spans(&self) -> BTreeMap<FileNumber, FileSpan> {
        self.files.read().iter().filter_map(|file| Some((file.number, file.file_span()?))).collect()
    }

    /// Unlinks the sealed files whose records satisfy `done` and that `room` does not keep, given the epochs that are
    /// `confirmed`. A file that cannot be unlinked stays listed and is tried again.
    pub(super) fn unlink_delivered(
        &self,
        done: impl Fn(Epoch, Seq) -> bool,
        confirmed: impl Fn(Epoch) -> bool,
        room: KeepRoom,
    ) {
        let is_done = |file: &ListedFile| {
            let known = file.epoch.zip(file.last).filter(|_| file.active.is_none());
            known.is_some_and(|(epoch, last)| last == Seq::ZERO || done(epoch, last))
        };
        let files = self.list();
        if files.iter().any(|file| file.kept != is_done(file)) {
            for file in self.files.write().iter_mut() {
                file.kept = is_done(file);
            }
        }
        let is_confirmed = |file: &ListedFile| file.epoch.is_some_and(&confirmed);
        for file in room.too_many(&files, is_done, is_confirmed) {
            if let Err(error) = self.remove(file.number) {
                let file = file.number.file_name();
                tracing::warn!(%error, file, "could not remove a delivered outbox file; retrying later");
            }
        }
    }

    /// Unlinks a sealed file. If that fails, it stays listed.
    pub(super) fn remove(&self, number: FileNumber) -> io::Result<()> {
        // Under the lock, so that a reader that does not find the file does not find it in the list either.
        let mut files = self.files.write();
        self.fs.remove(&number.path(&self.dir))?;
        files.retain(|listed| listed.number != number);
        drop(files);
        // An open file keeps its blocks although it is unlinked. If a cache entry is locked, another file is being
        // opened and will replace the entry.
        for mut cached in self.cached.iter().filter_map(Mutex::try_lock) {
            cached.take_if(|(cached, _)| *cached == number);
        }
        Ok(())
    }

    /// The size of all files in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.read().iter().map(ListedFile::size).sum()
    }

    /// The size of the sealed files whose records are all delivered, in bytes.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.files.read().iter().filter(|file| file.kept).map(ListedFile::size).sum()
    }

    pub(super) fn oldest_epoch(&self) -> Option<Epoch> {
        self.files.read().first().and_then(|file| file.epoch)
    }

    /// Opens `file`; returns it with its epoch, or `None` if it was unlinked after it was listed, because all its
    /// records were delivered.
    pub(super) fn generation(
        &self,
        file: &ListedFile,
        purpose: Purpose,
    ) -> Result<Option<(Epoch, Arc<Generation>)>, OutboxError> {
        let result = self.open(file, purpose);
        if result.is_err() && !self.is_listed(file.number) {
            return Ok(None);
        }
        result.map(Some)
    }

    /// Opens `file`, and adds its epoch and its first and last record to the list.
    fn open(&self, file: &ListedFile, purpose: Purpose) -> Result<(Epoch, Arc<Generation>), OutboxError> {
        if let (Some(active), Some(epoch)) = (&file.active, file.epoch) {
            return Ok((epoch, Arc::clone(active)));
        }
        let [delivery, inspection] = &self.cached;
        let entry = if purpose == Purpose::Delivery { delivery } else { inspection };
        let mut cached = entry.lock();
        let generation = match cached.as_ref().filter(|(number, _)| *number == file.number) {
            Some((_, generation)) => Arc::clone(generation),
            None => Arc::new(self.open_or_restore(file, purpose)?),
        };
        *cached = Some((file.number, Arc::clone(&generation)));
        drop(cached);
        // Without the write lock if possible: otherwise the writer would wait, at every segment, for inspection, whose
        // threads have a low priority and may wait long for a processor.
        if let (Some(epoch), Some(_), Some(_), Some(_)) = (file.epoch, file.first, file.last, file.begun)
            && self.is_listed(file.number)
        {
            return Ok((epoch, generation));
        }
        let (first, last) = generation.span()?.unwrap_or((Seq::ZERO, Seq::ZERO));
        // The last record that the writer gave when it sealed the file takes precedence.
        let FileMeta { epoch, begun, .. } = generation.meta()?;
        let last = file.last.unwrap_or(last);
        let mut files = self.files.write();
        if let Some(listed) = files.iter_mut().find(|listed| listed.number == file.number && listed.active.is_none()) {
            (listed.epoch, listed.first, listed.last, listed.begun) =
                (Some(epoch), Some(first), Some(last), Some(begun));
        } else {
            drop(files);
            // It was unlinked while it was being opened, when its cache entry could not be cleared.
            entry.lock().take_if(|(number, _)| *number == file.number);
        }
        Ok((epoch, generation))
    }

    /// The epoch of `file` and the seqs of its first and last record; `None` if it has no record or is unlinked.
    pub(super) fn span(&self, file: &ListedFile, purpose: Purpose) -> Result<Option<(Epoch, Seq, Seq)>, OutboxError> {
        if let (Some(epoch), Some(first), Some(last), None) = (file.epoch, file.first, file.last, &file.active) {
            return Ok((last > Seq::ZERO).then_some((epoch, first, last)));
        }
        let Some((epoch, generation)) = self.generation(file, purpose)? else { return Ok(None) };
        Ok(generation.span()?.map(|(first, last)| (epoch, first, last)))
    }

    /// Opens a sealed file. The shipper of the gateway that owns the directory replaces a damaged file by everything
    /// that can be read of it, and reports the damage, also that of a file that an earlier process restored,
    /// which may have ended before it recorded that.
    fn open_or_restore(&self, file: &ListedFile, purpose: Purpose) -> Result<Generation, OutboxError> {
        let (fs, dir) = (self.fs.as_ref(), &self.dir);
        let Some(owner) = self.owner.as_ref().filter(|_| purpose == Purpose::Delivery) else {
            return Generation::open(fs, dir, file.number);
        };
        let next = self.meta_after(file);
        match restore::open(fs, dir, file.number, next.as_ref(), Some(owner.gateway_id))? {
            Restored::File(generation, Some(damage)) => {
                self.report_damage(owner, &damage, true);
                Ok(generation)
            }
            Restored::File(generation, None) => {
                if let Some(damage) = generation.meta()?.damage {
                    self.report_damage(owner, &damage, false);
                }
                Ok(generation)
            }
            Restored::Nothing(damage) => {
                let (path, what) = (file.number.path(dir), "it is damaged beyond recognition".to_owned());
                // Only after the damage is recorded: until then the next start must find it again.
                if owner.damages.is_file_recorded(&damage.file) {
                    fs.remove(&path).map_err(OutboxError::io("move to quarantine", &path))?;
                    self.files.write().retain(|listed| listed.number != file.number);
                } else {
                    let damage = Damage { epochs: Some(self.epochs_of(file)), ..*damage };
                    damage_log::describe(fs, dir, &damage.file, &damage)?;
                    self.report_damage(owner, &damage, true);
                }
                Err(OutboxError::NotAnOutbox { path, what })
            }
        }
    }

    /// The first and the last epoch that a file may have, by the files beside it.
    fn epochs_of(&self, file: &ListedFile) -> (Epoch, Epoch) {
        let files = self.list();
        let (before, after): (Vec<_>, Vec<_>) = files.iter().partition(|other| other.number < file.number);
        let first = before.iter().rev().find_map(|other| other.epoch).unwrap_or(Epoch(1));
        let last = after.iter().find_map(|other| other.epoch).or(self.head().map(|(epoch, _)| epoch));
        (first, last.unwrap_or(first))
    }

    /// The meta table of the file after `file`, if it can be read.
    pub(super) fn meta_after(&self, file: &ListedFile) -> Option<FileMeta> {
        let next = self.list().into_iter().find(|next| next.number > file.number)?;
        match next.active {
            Some(active) => active.meta().ok(),
            None => restore::meta(self.fs.as_ref(), &self.dir, next.number),
        }
    }

    /// Reports damage, unless it was reported before. Returns whether it was not.
    fn report_damage(&self, owner: &Owner, damage: &Damage, is_new: bool) -> bool {
        if !owner.damages.report(owner.gateway_id, damage.clone(), is_new) {
            return false;
        }
        if is_new {
            let Damage { file, epoch, kept, lost, end_known, cause, .. } = damage;
            let epoch = epoch.map(|epoch| epoch.0);
            tracing::error!(
                file, epoch, kept, lost, end_known, %cause,
                "an outbox file is damaged; recording the damage, then delivering the records that could be read from it"
            );
            // The records of earlier damage may be among what is lost.
            let described = damage_log::described(self.fs.as_ref(), &self.dir);
            owner.damages.report_again(owner.gateway_id, owner.epoch, damage, described);
        }
        true
    }

    /// Reports damaged records of a file that is otherwise whole. `name` is that of its description.
    pub(super) fn report_lost_records(&self, name: &str, damage: &Damage) {
        let Some(owner) = &self.owner else { return };
        if self.report_damage(owner, damage, true)
            && let Err(error) = damage_log::describe(self.fs.as_ref(), &self.dir, name, damage)
        {
            tracing::warn!(%error, "could not describe the damage in quarantine/; it is recorded all the same");
        }
    }

    pub(super) fn take_damages(&self) -> Vec<FoundDamage> {
        self.owner.as_ref().map(|owner| owner.damages.take()).unwrap_or_default()
    }

    pub(super) fn mark_recorded(&self, damage: &Damage, records: (Seq, Seq)) {
        if let Some(owner) = &self.owner {
            owner.damages.mark_recorded(owner.gateway_id, damage, records);
        }
    }

    /// Notes that the stream of `epoch` is delivered up to `head`.
    pub(super) fn note_delivered(&self, epoch: Epoch, head: Head) -> io::Result<()> {
        let Some(owner) = self.owner.as_ref().filter(|_| !self.is_replaced()) else { return Ok(()) };
        DeliveredNote::new(owner.gateway_id, epoch, owner.queued, head).write(self.fs.as_ref(), &self.dir)
    }

    /// The head of the epoch that is being written.
    pub(super) fn head(&self) -> Option<(Epoch, Head)> {
        *self.head.lock()
    }

    pub(super) fn set_head(&self, epoch: Epoch, head: Head) {
        *self.head.lock() = Some((epoch, head));
    }
}
