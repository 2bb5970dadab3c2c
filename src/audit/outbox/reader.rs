//! Reading the outbox, beside its writer or without one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OutboxError;
use super::file_number::FileNumber;
use super::file_set::{FileSet, ListedFile, Purpose};
use super::fs::Fs;
use super::generation::Generation;
use super::salvage;
use super::segment::Segment;
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Call, Digest, Epoch, GatewayId, Seq};

/// Reads stored records. Cheap to clone. Every method does file I/O and blocks.
#[derive(Clone, Debug)]
pub struct Reader {
    files: Arc<FileSet>,
    purpose: Purpose,
}

/// The stored records of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredStream {
    /// The epoch.
    pub epoch: Epoch,
    /// The first stored record.
    pub first: Seq,
    /// The last stored record.
    pub last: Seq,
    /// The last record that is known to be delivered.
    pub delivered: Seq,
}

/// The contents of an outbox in numbers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct OutboxStats {
    /// The gateway that the outbox belongs to; `None` for an empty directory.
    pub gateway_id: Option<GatewayId>,
    /// The number of generation files.
    pub generations: usize,
    /// The size of the generation files in bytes.
    pub bytes: u64,
    /// The streams that have stored records, oldest first.
    pub streams: Vec<StoredStream>,
    /// The number of calls that are open, or were open when the gateway crashed.
    pub intents: usize,
}

impl Reader {
    pub(super) fn new(files: Arc<FileSet>) -> Self {
        Self { files, purpose: Purpose::Delivery }
    }

    /// A reader for inspection beside the shipper. It does not evict the shipper's open file and does not replace
    /// damaged files.
    #[must_use]
    pub fn for_inspection(&self) -> Self {
        Self { files: Arc::clone(&self.files), purpose: Purpose::Inspection }
    }

    /// A reader of the directory of a gateway that is not running. It changes nothing there.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn offline(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self, OutboxError> {
        let numbers = FileNumber::list(fs.as_ref(), dir)?;
        Ok(Self::new(Arc::new(FileSet::new(fs, dir.to_owned(), &numbers, false))))
    }

    /// The numbers of the files, oldest first.
    pub(super) fn numbers(&self) -> Vec<FileNumber> {
        self.files.list().iter().map(|file| file.number).collect()
    }

    /// Returns true if this process holds the directory's lock.
    pub(super) fn is_owner(&self) -> bool {
        self.files.is_owned()
    }

    pub(super) fn path(&self, number: FileNumber) -> PathBuf {
        number.path(&self.files.dir)
    }

    /// The size of a sealed file in bytes.
    pub(super) fn file_bytes(&self, number: FileNumber) -> u64 {
        self.files.list().iter().find(|file| file.number == number).map_or(0, |file| file.bytes)
    }

    /// Unlinks a sealed file.
    pub(super) fn remove(&self, number: FileNumber) -> io::Result<()> {
        self.files.remove(number)
    }

    /// Makes unlinked files stay unlinked after a power loss.
    pub(super) fn sync_dir(&self) -> Result<(), OutboxError> {
        self.files.fs.sync_dir(&self.files.dir).map_err(OutboxError::io("sync", &self.files.dir))
    }

    /// Opens a file; `None` if it was unlinked after it was listed.
    pub(super) fn file(&self, number: FileNumber) -> Result<Option<Arc<Generation>>, OutboxError> {
        let Some(file) = self.files.list().into_iter().find(|file| file.number == number) else { return Ok(None) };
        Ok(self.files.generation(&file, self.purpose)?.map(|(_, generation)| generation))
    }

    /// The oldest epoch after `after` that has stored records.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next_epoch(&self, after: Option<Epoch>) -> Result<Option<Epoch>, OutboxError> {
        for file in self.files.list() {
            if file.epoch.is_some_and(|epoch| after.is_some_and(|after| epoch <= after)) {
                continue;
            }
            let Some((epoch, generation)) = self.files.generation(&file, self.purpose)? else { continue };
            if after.is_none_or(|after| epoch > after) && generation.span()?.is_some() {
                return Ok(Some(epoch));
            }
        }
        Ok(None)
    }

    /// Reads the records of `epoch` after `after`, at most those of one segment; none if the next record is not stored
    /// yet. If records before the first stored one were removed, it starts at the first stored one. A record whose
    /// bytes are damaged is replaced by a `gateway/gap` record, and an error is logged.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, epoch: Epoch, after: Head) -> Result<Vec<AuditRecord>, OutboxError> {
        let from = after.seq.next();
        for file in self.files.list() {
            let other_epoch = file.epoch.is_some_and(|known| known != epoch);
            if other_epoch || file.last.is_some_and(|last| file.active.is_none() && last < from) {
                continue;
            }
            let Some((found, generation)) = self.files.generation(&file, self.purpose)? else { continue };
            if found != epoch {
                continue;
            }
            if let Some(segment) = generation.segment_from(epoch, from)? {
                return self.decode(&file, &generation, &segment, after);
            }
        }
        Ok(Vec::new())
    }

    /// Reads the records of the newest segment that begins before the position `before`: those before the position,
    /// oldest first; none if there is no such segment. Damaged records are replaced as [`read`](Self::read) does.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read_before(&self, before: (Epoch, Seq)) -> Result<Vec<AuditRecord>, OutboxError> {
        let Some((file, generation, segment)) = self.segment_before(before)? else { return Ok(Vec::new()) };
        let first = (segment.epoch, segment.first);
        let unlinked = |segment: &Segment| Head { seq: Seq(segment.first.0 - 1), hash: Digest::ZERO };
        let mut records = self.decode(&file, &generation, &segment, unlinked(&segment))?;
        // A lost first record must be linked to the record before it, which is in another segment.
        let is_unlinked = |first: &AuditRecord| first.position.prev_hash == Digest::ZERO && first.position.seq > Seq(1);
        if records.first().is_some_and(is_unlinked)
            && let Some((other, previous, ahead)) = self.segment_before(first)?
            && let Some(last) = self.decode(&other, &previous, &ahead, unlinked(&ahead))?.last()
            && (last.position.epoch, last.position.seq.next()) == first
        {
            records = self.decode(&file, &generation, &segment, Head::after(&last.position))?;
        }
        records.retain(|record| (record.position.epoch, record.position.seq) < before);
        Ok(records)
    }

    /// The newest segment that begins before this position, with its file.
    fn segment_before(
        &self,
        before: (Epoch, Seq),
    ) -> Result<Option<(ListedFile, Arc<Generation>, Segment)>, OutboxError> {
        for file in self.files.list().into_iter().rev() {
            let is_empty = file.active.is_none() && file.last == Some(Seq::ZERO);
            // Of a file that was not opened yet, neither is known.
            if is_empty || file.epoch.zip(file.first).is_some_and(|first| first >= before) {
                continue;
            }
            let Some((_, generation)) = self.files.generation(&file, self.purpose)? else { continue };
            if let Some(segment) = generation.segment_before(before)? {
                return Ok(Some((file, generation, segment)));
            }
        }
        Ok(None)
    }

    /// The contents of the outbox in numbers. Opens the newest file, and each other file once in the life of the
    /// process.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn stats(&self) -> Result<OutboxStats, OutboxError> {
        let bytes = self.files.bytes();
        let mut stats = OutboxStats { gateway_id: None, generations: 0, bytes, streams: Vec::new(), intents: 0 };
        for file in self.files.list() {
            stats.generations += 1;
            let Some((epoch, first, last)) = self.files.span(&file, self.purpose)? else { continue };
            match stats.streams.last_mut().filter(|stream| stream.epoch == epoch) {
                Some(stream) => stream.last = stream.last.max(last),
                None => stats.streams.push(StoredStream { epoch, first, last, delivered: Seq::ZERO }),
            }
        }
        // The newest file contains the intents, and all watermarks that still matter.
        let Some(newest) = self.files.list().pop() else { return Ok(stats) };
        let Some((_, generation)) = self.files.generation(&newest, self.purpose)? else { return Ok(stats) };
        stats.gateway_id = Some(generation.meta()?.gateway_id);
        stats.intents = generation.intents()?.len();
        for (epoch, head) in generation.delivered()? {
            if let Some(stream) = stats.streams.iter_mut().find(|stream| stream.epoch == epoch) {
                stream.delivered = head.seq;
            }
        }
        Ok(stats)
    }

    /// The number of files, and the number of files of earlier epochs. Reads no file.
    #[must_use]
    pub fn file_counts(&self) -> (usize, usize) {
        let files = self.files.list();
        // The epoch of a file that an earlier process left is unknown until the file is read.
        let current = files.last().and_then(|newest| newest.epoch);
        (files.len(), files.iter().filter(|file| file.epoch.is_none() || file.epoch != current).count())
    }

    /// The calls that are open, or were open when the gateway crashed.
    ///
    /// # Errors
    /// The newest file cannot be read, or an intent in it is broken.
    pub fn intents(&self) -> Result<Vec<Call>, OutboxError> {
        let Some(file) = self.files.list().pop() else { return Ok(Vec::new()) };
        let Some((_, generation)) = self.files.generation(&file, self.purpose)? else { return Ok(Vec::new()) };
        let path = file.number.path(&self.files.dir);
        let decode = |(id, frame): (_, Vec<u8>)| {
            let broken = |source| OutboxError::BrokenFrame { path: path.clone(), what: format!("intent {id}"), source };
            codec::decode_intent(&frame).map_err(broken)
        };
        generation.intents()?.into_iter().map(decode).collect()
    }

    /// The records of `segment` after `after`, with gap records for those that do not decode.
    fn decode(
        &self,
        file: &ListedFile,
        generation: &Generation,
        segment: &Segment,
        after: Head,
    ) -> Result<Vec<AuditRecord>, OutboxError> {
        let count = segment.last().0 - segment.first.0 + 1;
        match codec::decode_segment(segment.frames()).collect::<Result<Vec<_>, _>>() {
            Ok(mut records) if records.len() as u64 == count => {
                records.retain(|record| record.position.seq > after.seq);
                Ok(records)
            }
            damaged => {
                let cause = damaged.map_or_else(|error| error.to_string(), |_| "records are missing".to_owned());
                let (file_name, epoch, first_seq) = (file.number.file_name(), segment.epoch, segment.first);
                tracing::error!(
                    %cause, %epoch, %first_seq, file = file_name,
                    "outbox segment is damaged; replacing the lost records by gap records"
                );
                let end = self.hash_at_end(file, generation, segment)?;
                Ok(salvage::records(segment, generation.meta()?.gateway_id, after, end))
            }
        }
    }

    /// The hash of the last record of `segment`, according to the record, the file or the head after it.
    fn hash_at_end(
        &self,
        file: &ListedFile,
        generation: &Generation,
        segment: &Segment,
    ) -> Result<Option<Digest>, OutboxError> {
        if let Some(next) = generation.segment_from(segment.epoch, segment.last().next())? {
            let first = codec::decode_segment(next.frames()).next().and_then(Result::ok);
            let follows = |first: &AuditRecord| first.position.seq == segment.last().next();
            return Ok(first.filter(follows).map(|first| first.position.prev_hash));
        }
        let next_file = self.files.meta_after(file).and_then(|meta| match meta.previous {
            _ if meta.epoch == segment.epoch => Some(meta.head),
            Some((epoch, head)) if epoch == segment.epoch => Some(head),
            _ => None,
        });
        let current = self.files.head().filter(|(epoch, _)| *epoch == segment.epoch).map(|(_, head)| head);
        Ok(next_file.into_iter().chain(current).find(|head| head.seq == segment.last()).map(|head| head.hash))
    }
}
