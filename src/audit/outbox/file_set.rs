//! The generation files of one directory, as the writer and its readers share them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::damage::Damage;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::generation::{FileMeta, Generation};
use super::restore::{self, Restored};
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, Seq};

/// The list of files. The writer adds, seals and unlinks files; readers open the files that they need.
#[derive(Debug)]
pub(super) struct FileSet {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    /// True if this process holds the directory's lock, and so may replace damaged files.
    owned: bool,
    files: RwLock<Vec<ListedFile>>,
    /// The sealed file that was read last, for each [`Purpose`]: inspection must not evict the shipper's file. One for
    /// each, because every open file has a page cache.
    cached: [CachedFile; 2],
    /// The head of the epoch that is being written.
    head: Mutex<Option<(Epoch, Head)>>,
    /// Damaged files that the scribe has not recorded yet.
    damages: Mutex<Vec<Damage>>,
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

/// An entry of the list, which is ordered from the oldest file to the newest.
#[derive(Clone, Debug)]
pub(super) struct ListedFile {
    pub(super) number: FileNumber,
    /// Known once the file was opened.
    pub(super) epoch: Option<Epoch>,
    /// The first record of a sealed file, known once it was opened.
    pub(super) first: Option<Seq>,
    /// The last record of a sealed file; zero if it has none.
    pub(super) last: Option<Seq>,
    /// The size of a sealed file.
    pub(super) bytes: u64,
    /// Present if the file is being written.
    pub(super) active: Option<Arc<Generation>>,
}

impl FileSet {
    pub(super) fn new(fs: Arc<dyn Fs>, dir: PathBuf, numbers: &[FileNumber], owned: bool) -> Self {
        let bytes = |number: &FileNumber| fs.open(&number.path(&dir)).and_then(|file| file.len()).unwrap_or(0);
        let unopened = |number: &FileNumber| ListedFile {
            number: *number,
            epoch: None,
            first: None,
            last: None,
            bytes: bytes(number),
            active: None,
        };
        let files = RwLock::new(numbers.iter().map(unopened).collect());
        Self { fs, dir, owned, files, cached: Default::default(), head: Mutex::default(), damages: Mutex::default() }
    }

    /// Returns true if this process holds the directory's lock.
    pub(super) fn is_owned(&self) -> bool {
        self.owned
    }

    /// The files, oldest first.
    pub(super) fn list(&self) -> Vec<ListedFile> {
        self.files.read().clone()
    }

    fn is_listed(&self, number: FileNumber) -> bool {
        self.files.read().iter().any(|file| file.number == number)
    }

    /// Adds the file that is written from now on.
    pub(super) fn add(&self, number: FileNumber, epoch: Epoch, generation: Arc<Generation>) {
        let active = Some(generation);
        self.files.write().push(ListedFile { number, epoch: Some(epoch), first: None, last: None, bytes: 0, active });
    }

    /// Marks the newest file, whose last record is `last`, as no longer written.
    pub(super) fn seal(&self, last: Seq) {
        if let Some(file) = self.files.write().last_mut() {
            file.bytes = file.active.take().map_or(file.bytes, |active| active.len());
            file.last = Some(last);
        }
    }

    /// Unlinks every sealed file whose records satisfy `done`. A file that cannot be unlinked stays listed and is tried
    /// again.
    pub(super) fn unlink_where(&self, done: impl Fn(Epoch, Seq) -> bool) {
        let is_done = |file: &ListedFile| {
            let known = file.epoch.zip(file.last).filter(|_| file.active.is_none());
            known.is_some_and(|(epoch, last)| last == Seq::ZERO || done(epoch, last))
        };
        for file in self.list().into_iter().filter(is_done) {
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
        self.files.read().iter().map(|file| file.active.as_ref().map_or(file.bytes, |active| active.len())).sum()
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
        if let (Some(epoch), Some(_), Some(_)) = (file.epoch, file.first, file.last)
            && self.is_listed(file.number)
        {
            return Ok((epoch, generation));
        }
        let (first, last) = generation.span()?.unwrap_or((Seq::ZERO, Seq::ZERO));
        // The last record that the writer gave when it sealed the file takes precedence.
        let (epoch, last) = (generation.meta()?.epoch, file.last.unwrap_or(last));
        let mut files = self.files.write();
        if let Some(listed) = files.iter_mut().find(|listed| listed.number == file.number && listed.active.is_none()) {
            (listed.epoch, listed.first, listed.last) = (Some(epoch), Some(first), Some(last));
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
    /// that can be read of it.
    fn open_or_restore(&self, file: &ListedFile, purpose: Purpose) -> Result<Generation, OutboxError> {
        let (fs, dir) = (self.fs.as_ref(), &self.dir);
        if !self.owned || purpose != Purpose::Delivery {
            return Generation::open(fs, dir, file.number);
        }
        let next = self.meta_after(file);
        let known = next.as_ref().map(|meta| meta.gateway_id);
        match restore::open(fs, dir, file.number, next.as_ref(), known)? {
            Restored::File(generation, damage) => {
                self.report_damage(damage);
                Ok(generation)
            }
            Restored::Nothing(damage) => {
                let path = file.number.path(dir);
                fs.remove(&path).map_err(OutboxError::io("move to quarantine", &path))?;
                self.report_damage(Some(damage));
                self.files.write().retain(|listed| listed.number != file.number);
                Err(OutboxError::NotAnOutbox { path, what: "it is damaged beyond recognition".to_owned() })
            }
        }
    }

    /// The meta table of the file after `file`, if it can be read.
    pub(super) fn meta_after(&self, file: &ListedFile) -> Option<FileMeta> {
        let next = self.list().into_iter().find(|next| next.number > file.number)?;
        match next.active {
            Some(active) => active.meta().ok(),
            None => restore::meta(self.fs.as_ref(), &self.dir, next.number),
        }
    }

    fn report_damage(&self, damage: Option<Box<Damage>>) {
        if let Some(damage) = damage {
            let Damage { file, epoch, kept, lost, end_known, cause, .. } = &*damage;
            let epoch = epoch.map(|epoch| epoch.0);
            tracing::error!(
                file, epoch, kept, lost, end_known, %cause,
                "moved a damaged outbox file to quarantine; delivering the records that could be read from it"
            );
            self.damages.lock().push(*damage);
        }
    }

    pub(super) fn take_damages(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.damages.lock())
    }

    /// The head of the epoch that is being written.
    pub(super) fn head(&self) -> Option<(Epoch, Head)> {
        *self.head.lock()
    }

    pub(super) fn set_head(&self, epoch: Epoch, head: Head) {
        *self.head.lock() = Some((epoch, head));
    }
}
