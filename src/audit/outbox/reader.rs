//! Reading the outbox beside its writer, or without one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::damage::Damage;
use super::fs::Fs;
use super::generation::{Generation, Meta, Number, numbers};
use super::restore::Opened;
use super::{Error, Segment, restore, salvage};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Call, Digest, Epoch, GatewayId, Seq};

/// The files, as writer and readers share them. The writer adds, seals and unlinks; readers open what they need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    /// Whether this process has the directory's lock, and so may set damaged files aside.
    owned: bool,
    files: RwLock<Vec<File>>,
    /// The sealed files that were read last, one a purpose, so that people who look do not take the shipper's file away.
    /// One at a time, since each one open holds a page cache.
    opened: [Slot; 2],
    /// The head of the epoch that is being written.
    head: Mutex<Option<(Epoch, Head)>>,
    /// Files that were found damaged, until the scribe tells of them.
    damages: Mutex<Vec<Damage>>,
}

/// The sealed file that was read last.
type Slot = Mutex<Option<(Number, Arc<Generation>)>>;

/// What a reader is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Delivery = 0,
    Inspection = 1,
}

/// One file, oldest first in [`Shared::files`].
#[derive(Clone, Debug)]
struct File {
    number: Number,
    /// Known once the file was opened.
    epoch: Option<Epoch>,
    /// The first record in a sealed file, once it was opened.
    first: Option<Seq>,
    /// The last record in a sealed file; zero where it holds none.
    last: Option<Seq>,
    /// Its size, once it is sealed.
    bytes: u64,
    /// The file being written.
    active: Option<Arc<Generation>>,
}

/// Reads what is stored. Cheap to clone. Every method does file I/O and blocks.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    purpose: Purpose,
}

/// What is stored of one epoch and not yet forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stream {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first record here.
    pub first: Seq,
    /// Its last record here.
    pub last: Seq,
    /// The last record known to be delivered.
    pub delivered: Seq,
}

/// What an outbox holds.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Whose it is; `None` for an empty directory.
    pub gateway_id: Option<GatewayId>,
    /// Generation files.
    pub generations: usize,
    /// Their size on disk, bytes.
    pub bytes: u64,
    /// Streams with records here, oldest first.
    pub streams: Vec<Stream>,
    /// Calls that are open, or were when the gateway died.
    pub intents: usize,
}

impl Shared {
    pub(super) fn new(fs: Arc<dyn Fs>, dir: PathBuf, numbers: &[Number], owned: bool) -> Self {
        let bytes = |number: &Number| fs.open(&number.path(&dir)).and_then(|file| file.len()).unwrap_or(0);
        let unread = |number: &Number| File {
            number: *number,
            epoch: None,
            first: None,
            last: None,
            bytes: bytes(number),
            active: None,
        };
        let files = RwLock::new(numbers.iter().map(unread).collect());
        Self { fs, dir, owned, files, opened: Default::default(), head: Mutex::default(), damages: Mutex::default() }
    }

    pub(super) fn add(&self, number: Number, epoch: Epoch, generation: Arc<Generation>) {
        let file = File { number, epoch: Some(epoch), first: None, last: None, bytes: 0, active: Some(generation) };
        self.files.write().unwrap_or_else(PoisonError::into_inner).push(file);
    }

    /// From now on the newest file, whose last record is `last`, is only read.
    pub(super) fn seal(&self, last: Seq) {
        if let Some(file) = self.files.write().unwrap_or_else(PoisonError::into_inner).last_mut() {
            file.bytes = file.active.take().map_or(file.bytes, |active| active.len());
            file.last = Some(last);
        }
    }

    /// Unlinks every sealed file whose records satisfy `done`. A file that cannot be unlinked stays and is tried again.
    pub(super) fn unlink_where(&self, done: impl Fn(Epoch, Seq) -> bool) {
        let gone = |file: &File| {
            let known = file.epoch.zip(file.last).filter(|_| file.active.is_none());
            known.is_some_and(|(epoch, last)| last == Seq::ZERO || done(epoch, last))
        };
        for file in self.files().into_iter().filter(gone) {
            if let Err(error) = self.remove(file.number) {
                tracing::warn!(%error, file = file.number.file_name(), "delivered outbox file not removed");
            }
        }
    }

    /// Unlinks a file that is not written any more. One that cannot be unlinked stays in the list.
    fn remove(&self, number: Number) -> io::Result<()> {
        // Under the lock, so that a reader that finds the file gone finds it gone from the list as well.
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        self.fs.remove(&number.path(&self.dir))?;
        files.retain(|listed| listed.number != number);
        drop(files);
        // An open file keeps its blocks though it is unlinked. Where this is locked another one is being opened, which
        // takes its place.
        for mut opened in self.opened.iter().filter_map(|opened| opened.try_lock().ok()) {
            opened.take_if(|(opened, _)| *opened == number);
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().map(|file| file.active.as_ref().map_or(file.bytes, |active| active.len())).sum()
    }

    pub(super) fn oldest_epoch(&self) -> Option<Epoch> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).first().and_then(|file| file.epoch)
    }

    fn files(&self) -> Vec<File> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_listed(&self, number: Number) -> bool {
        self.files.read().unwrap_or_else(PoisonError::into_inner).iter().any(|file| file.number == number)
    }

    /// The open file, with its epoch; `None` where it was unlinked since it was listed, as all in it was delivered.
    fn generation(&self, file: &File, purpose: Purpose) -> Result<Option<(Epoch, Arc<Generation>)>, Error> {
        let result = self.open(file, purpose);
        if result.is_err() && !self.is_listed(file.number) {
            return Ok(None);
        }
        result.map(Some)
    }

    /// What is learnt of a sealed file is kept.
    fn open(&self, file: &File, purpose: Purpose) -> Result<(Epoch, Arc<Generation>), Error> {
        if let (Some(active), Some(epoch)) = (&file.active, file.epoch) {
            return Ok((epoch, Arc::clone(active)));
        }
        let [delivery, inspection] = &self.opened;
        let slot = if purpose == Purpose::Delivery { delivery } else { inspection };
        let mut opened = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = match opened.as_ref().filter(|(number, _)| *number == file.number) {
            Some((_, generation)) => Arc::clone(generation),
            None => Arc::new(self.open_or_save(file, purpose)?),
        };
        *opened = Some((file.number, Arc::clone(&generation)));
        drop(opened);
        // The writer must not wait at every segment for people who look, whose thread may wait long for a processor.
        if let (Some(epoch), Some(_), Some(_)) = (file.epoch, file.first, file.last)
            && self.is_listed(file.number)
        {
            return Ok((epoch, generation));
        }
        let (first, last) = generation.span()?.unwrap_or((Seq::ZERO, Seq::ZERO));
        // What the writer said when it sealed the file goes for it.
        let (epoch, last) = (generation.meta()?.epoch, file.last.unwrap_or(last));
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = files.iter_mut().find(|entry| entry.number == file.number && entry.active.is_none()) {
            (entry.epoch, entry.first, entry.last) = (Some(epoch), Some(first), Some(last));
        } else {
            drop(files);
            // It was unlinked while it was being opened, when the slot could not be emptied.
            slot.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(number, _)| *number == file.number);
        }
        Ok((epoch, generation))
    }

    /// A file's epoch and the places of its first and last record; `None` where it holds none or is gone.
    fn span(&self, file: &File, purpose: Purpose) -> Result<Option<(Epoch, Seq, Seq)>, Error> {
        if let (Some(epoch), Some(first), Some(last), None) = (file.epoch, file.first, file.last, &file.active) {
            return Ok((last > Seq::ZERO).then_some((epoch, first, last)));
        }
        let Some((epoch, generation)) = self.generation(file, purpose)? else { return Ok(None) };
        Ok(generation.span()?.map(|(first, last)| (epoch, first, last)))
    }

    /// Opens a sealed file; where it is damaged and this is the shipper of the gateway that owns the directory, what can
    /// be saved of it.
    fn open_or_save(&self, file: &File, purpose: Purpose) -> Result<Generation, Error> {
        let (fs, dir) = (self.fs.as_ref(), &self.dir);
        if !self.owned || purpose != Purpose::Delivery {
            return Generation::open(fs, dir, file.number);
        }
        let follows = self.meta_behind(file);
        let known = follows.as_ref().map(|meta| meta.gateway_id);
        match restore::open(fs, dir, file.number, follows.as_ref(), known)? {
            Opened::File(generation, damage) => {
                self.tell(damage);
                Ok(generation)
            }
            Opened::Nothing(damage) => {
                let path = file.number.path(dir);
                let gone = fs.remove(&path);
                gone.map_err(|source| Error::Io { operation: "move to quarantine", path: path.clone(), source })?;
                self.tell(Some(damage));
                self.files.write().unwrap_or_else(PoisonError::into_inner).retain(|known| known.number != file.number);
                Err(Error::NotAnOutbox { path, what: "damaged beyond recognition".to_owned() })
            }
        }
    }

    /// The meta table of the file behind this one, where it can be read.
    fn meta_behind(&self, file: &File) -> Option<Meta> {
        let next = self.files().into_iter().find(|next| next.number > file.number)?;
        match next.active {
            Some(active) => active.meta().ok(),
            None => restore::meta(self.fs.as_ref(), &self.dir, next.number),
        }
    }

    fn tell(&self, damage: Option<Box<Damage>>) {
        if let Some(damage) = damage {
            tracing::error!(?damage, "a damaged outbox file was set aside, and what could be read of it is delivered");
            self.damages.lock().unwrap_or_else(PoisonError::into_inner).push(*damage);
        }
    }

    pub(super) fn take_damages(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.damages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_head(&self, epoch: Epoch, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, head));
    }

    /// The hash of the last record of `segment`, told by what comes behind it.
    fn hash_at_end(&self, file: &File, generation: &Generation, segment: &Segment) -> Result<Option<Digest>, Error> {
        if let Some(next) = generation.segment_from(segment.epoch, segment.last().next())? {
            let first = codec::decode_segment(next.frames()).next().and_then(Result::ok);
            return Ok(first
                .filter(|first| first.position.seq == segment.last().next())
                .map(|first| first.position.prev_hash));
        }
        let behind = self.meta_behind(file).and_then(|meta| match meta.previous {
            _ if meta.epoch == segment.epoch => Some(meta.head),
            Some((epoch, head)) if epoch == segment.epoch => Some(head),
            _ => None,
        });
        let current = *self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let current = current.filter(|(epoch, _)| *epoch == segment.epoch).map(|(_, head)| head);
        Ok(behind.into_iter().chain(current).find(|head| head.seq == segment.last()).map(|head| head.hash))
    }

    /// The records of `segment` behind `after`.
    fn decode(
        &self,
        file: &File,
        generation: &Generation,
        segment: &Segment,
        after: Head,
    ) -> Result<Vec<AuditRecord>, Error> {
        let count = segment.last().0 - segment.first.0 + 1;
        match codec::decode_segment(segment.frames()).collect::<Result<Vec<_>, _>>() {
            Ok(mut records) if records.len() as u64 == count => {
                records.retain(|record| record.position.seq > after.seq);
                Ok(records)
            }
            damaged => {
                let cause = damaged.map_or_else(|error| error.to_string(), |_| "records are missing".to_owned());
                let (name, epoch, first) = (file.number.file_name(), segment.epoch, segment.first);
                tracing::error!(%cause, %epoch, %first, name, "outbox segment is damaged; gap records stand for what is lost");
                let end = self.hash_at_end(file, generation, segment)?;
                Ok(salvage::whole(segment, generation.meta()?.gateway_id, after, end))
            }
        }
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, purpose: Purpose::Delivery }
    }

    /// The same for people who look: it does not take the file away that the shipper reads, and mends nothing.
    #[must_use]
    pub fn for_inspection(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), purpose: Purpose::Inspection }
    }

    /// Reads the directory of a gateway that does not run. Nothing in it is changed.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn of_dead(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self, Error> {
        let numbers = numbers(fs.as_ref(), dir)?;
        Ok(Self::new(Arc::new(Shared::new(fs, dir.to_owned(), &numbers, false))))
    }

    /// The files, oldest first.
    pub(super) fn numbers(&self) -> Vec<Number> {
        self.shared.files().iter().map(|file| file.number).collect()
    }

    /// Whether this reader's owner has the directory's lock.
    pub(super) fn owns(&self) -> bool {
        self.shared.owned
    }

    pub(super) fn path(&self, number: Number) -> PathBuf {
        number.path(&self.shared.dir)
    }

    /// The size of a file on disk.
    pub(super) fn file_bytes(&self, number: Number) -> u64 {
        self.shared.files().iter().find(|file| file.number == number).map_or(0, |file| file.bytes)
    }

    /// Unlinks a file that is not written any more.
    pub(super) fn remove(&self, number: Number) -> io::Result<()> {
        self.shared.remove(number)
    }

    /// Makes what was unlinked stay so.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let io = |source| Error::Io { operation: "sync", path: self.shared.dir.clone(), source };
        self.shared.fs.sync_dir(&self.shared.dir).map_err(io)
    }

    /// An open file; `None` where it was unlinked since it was listed.
    pub(super) fn file(&self, number: Number) -> Result<Option<Arc<Generation>>, Error> {
        let Some(file) = self.shared.files().into_iter().find(|file| file.number == number) else { return Ok(None) };
        Ok(self.shared.generation(&file, self.purpose)?.map(|(_, generation)| generation))
    }

    /// The oldest epoch after `after` that has records here.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next_epoch(&self, after: Option<Epoch>) -> Result<Option<Epoch>, Error> {
        for file in self.shared.files() {
            if file.epoch.is_some_and(|epoch| after.is_some_and(|after| epoch <= after)) {
                continue;
            }
            let Some((epoch, generation)) = self.shared.generation(&file, self.purpose)? else { continue };
            if after.is_none_or(|after| epoch > after) && generation.span()?.is_some() {
                return Ok(Some(epoch));
            }
        }
        Ok(None)
    }

    /// The records of `epoch` behind `after`, as many as stand in one segment; none where the next one is not stored yet.
    /// Where records before the first one here were forgotten, the first one here comes. A record whose bytes rotted
    /// is replaced by a `gateway/gap` record in its place, and an alarm is logged.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, epoch: Epoch, after: Head) -> Result<Vec<AuditRecord>, Error> {
        let from = after.seq.next();
        for file in self.shared.files() {
            let other = file.epoch.is_some_and(|known| known != epoch);
            if other || file.last.is_some_and(|last| file.active.is_none() && last < from) {
                continue;
            }
            let Some((found, generation)) = self.shared.generation(&file, self.purpose)? else { continue };
            if found != epoch {
                continue;
            }
            if let Some(segment) = generation.segment_from(epoch, from)? {
                return self.shared.decode(&file, &generation, &segment, after);
            }
        }
        Ok(Vec::new())
    }

    /// The records of the newest segment that begins before the place `before`, those of them that are before it, oldest
    /// first; none where nothing is. Rotted ones are replaced as [`read`](Self::read) does.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read_before(&self, before: (Epoch, Seq)) -> Result<Vec<AuditRecord>, Error> {
        let Some((file, generation, segment)) = self.segment_before(before)? else { return Ok(Vec::new()) };
        let first = (segment.epoch, segment.first);
        let loose = |segment: &Segment| Head { seq: Seq(segment.first.0 - 1), hash: Digest::ZERO };
        let mut records = self.shared.decode(&file, &generation, &segment, loose(&segment))?;
        // A lost record is linked to the one before it, which stands in another segment.
        let is_loose = |first: &AuditRecord| first.position.prev_hash == Digest::ZERO && first.position.seq > Seq(1);
        if records.first().is_some_and(is_loose)
            && let Some((other, previous, ahead)) = self.segment_before(first)?
            && let Some(last) = self.shared.decode(&other, &previous, &ahead, loose(&ahead))?.last()
            && (last.position.epoch, last.position.seq.next()) == first
        {
            records = self.shared.decode(&file, &generation, &segment, Head::after(&last.position))?;
        }
        records.retain(|record| (record.position.epoch, record.position.seq) < before);
        Ok(records)
    }

    /// The newest segment that begins before this place, and where it stands.
    fn segment_before(&self, before: (Epoch, Seq)) -> Result<Option<(File, Arc<Generation>, Segment)>, Error> {
        for file in self.shared.files().into_iter().rev() {
            let is_empty = file.active.is_none() && file.last == Some(Seq::ZERO);
            // A file that was not opened yet tells neither.
            if is_empty || file.epoch.zip(file.first).is_some_and(|first| first >= before) {
                continue;
            }
            let Some((_, generation)) = self.shared.generation(&file, self.purpose)? else { continue };
            if let Some(segment) = generation.segment_before(before)? {
                return Ok(Some((file, generation, segment)));
            }
        }
        Ok(None)
    }

    /// What the outbox holds. Opens the newest file, and each other one once in the life of this reader's owner.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats =
            Stats { gateway_id: None, generations: 0, bytes: self.shared.bytes(), streams: Vec::new(), intents: 0 };
        for file in self.shared.files() {
            stats.generations += 1;
            let Some((epoch, first, last)) = self.shared.span(&file, self.purpose)? else { continue };
            match stats.streams.last_mut().filter(|stream| stream.epoch == epoch) {
                Some(stream) => stream.last = stream.last.max(last),
                None => stats.streams.push(Stream { epoch, first, last, delivered: Seq::ZERO }),
            }
        }
        // The newest file knows the intents, and all watermarks that still matter.
        let Some(newest) = self.shared.files().pop() else { return Ok(stats) };
        let Some((_, generation)) = self.shared.generation(&newest, self.purpose)? else { return Ok(stats) };
        stats.gateway_id = Some(generation.meta()?.gateway_id);
        stats.intents = generation.intents()?.len();
        for (epoch, head) in generation.delivered()? {
            if let Some(stream) = stats.streams.iter_mut().find(|stream| stream.epoch == epoch) {
                stream.delivered = head.seq;
            }
        }
        Ok(stats)
    }

    /// How many files the outbox has, and how many of them are of older epochs. Reads nothing.
    #[must_use]
    pub fn file_counts(&self) -> (usize, usize) {
        let files = self.shared.files();
        // Those that an earlier process left are not known by their epoch until they are read.
        let current = files.last().and_then(|newest| newest.epoch);
        (files.len(), files.iter().filter(|file| file.epoch.is_none() || file.epoch != current).count())
    }

    /// The calls that are open, or were when the gateway died.
    ///
    /// # Errors
    /// The newest file cannot be read, or an intent in it is broken.
    pub fn intents(&self) -> Result<Vec<Call>, Error> {
        let Some(file) = self.shared.files().pop() else { return Ok(Vec::new()) };
        let Some((_, generation)) = self.shared.generation(&file, self.purpose)? else { return Ok(Vec::new()) };
        let path = file.number.path(&self.shared.dir);
        let decode = |(id, frame): (_, Vec<u8>)| {
            let broken = |source| Error::Frame { path: path.clone(), what: format!("intent {id}"), source };
            codec::decode_intent(&frame).map_err(broken)
        };
        generation.intents()?.into_iter().map(decode).collect()
    }
}
