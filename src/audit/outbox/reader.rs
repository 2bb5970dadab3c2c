//! Reading the outbox, beside its writer or without one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::damage::Damage;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::file_set::{FileSet, Purpose};
use super::fs::Fs;
use super::generation::{FileMeta, Generation};
use super::listed_file::ListedFile;
use super::salvage::{self, Salvaged};
use super::segment::Segment;
use super::stream_end::head_before;
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::lost::{LostRun, is_stand_in};
use crate::audit::record::{AuditRecord, Call, Digest, Epoch, GatewayId, Seq, StreamPosition};

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
    /// True if records of this outbox were delivered, as far as its newest file knows.
    #[serde(default)]
    pub has_delivered: bool,
}

impl StoredStream {
    /// The number of stored records that are not known to be delivered.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.last.0.saturating_sub(self.delivered.0.max(self.first.0.saturating_sub(1)))
    }
}

impl OutboxStats {
    /// The number of stored records that are not known to be delivered.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.streams.iter().map(StoredStream::undelivered).sum()
    }
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
        Ok(Self::new(Arc::new(FileSet::new(fs, dir.to_owned(), &numbers, &BTreeMap::new(), None))))
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// The numbers of the files, oldest first.
    pub(super) fn numbers(&self) -> Vec<FileNumber> {
        self.files.list().iter().map(|file| file.number).collect()
    }

    /// Returns true if this process holds the directory's lock.
    pub(super) fn is_owner(&self) -> bool {
        self.files.owner().is_some()
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
            let Some((epoch, ..)) = self.files.span(&file, self.purpose)? else { continue };
            if after.is_none_or(|after| epoch > after) {
                return Ok(Some(epoch));
            }
        }
        Ok(None)
    }

    /// Reads the records of `epoch` after `after`, at most those of one segment; none if the next record is not stored
    /// yet. If records before the first stored one were removed, it starts at the first stored one. A stand-in
    /// (`gateway/gap`) replaces a record whose bytes are damaged. The shipper's reader reports the damage, so that the
    /// scribe records it; see [`Reader::is_recorded`].
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
                let mut records = self.decode(&file, &generation, &segment, Some(after))?;
                records.retain(|record| record.position.seq > after.seq);
                if records.first().is_some_and(|first| first.position.prev_hash != after.hash) {
                    let damage = generation.meta()?.damage;
                    salvage::relink(&mut records, after, &damage.map(|damage| damage.runs).unwrap_or_default());
                }
                self.replace_unexplained(&mut records);
                return Ok(records);
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
        let mut records = self.decode(&file, &generation, &segment, None)?;
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
        let mut stats = OutboxStats {
            gateway_id: None,
            generations: 0,
            bytes,
            streams: Vec::new(),
            intents: 0,
            has_delivered: false,
        };
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
            stats.has_delivered |= head.seq > Seq::ZERO;
            if let Some(stream) = stats.streams.iter_mut().find(|stream| stream.epoch == epoch) {
                stream.delivered = head.seq;
            }
        }
        Ok(stats)
    }

    /// The number of files, and of those of earlier epochs that are not known to be delivered. Reads no file.
    #[must_use]
    pub fn file_counts(&self) -> (usize, usize) {
        let files = self.files.list();
        // The epoch of a file that an earlier process left is unknown until the file is read.
        let current = files.last().and_then(|newest| newest.epoch);
        let waits = |file: &&ListedFile| !file.kept && (file.epoch.is_none() || file.epoch != current);
        (files.len(), files.iter().filter(waits).count())
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

    /// The records of `segment`, with stand-ins for those that do not decode. `after` is the head from which the caller
    /// continues, if it does.
    fn decode(
        &self,
        file: &ListedFile,
        generation: &Generation,
        segment: &Segment,
        after: Option<Head>,
    ) -> Result<Vec<AuditRecord>, OutboxError> {
        let count = segment.last().0 - segment.first.0 + 1;
        let cause = match codec::decode_segment(segment.frames()).collect::<Result<Vec<_>, _>>() {
            Ok(records) if records.len() as u64 == count => return Ok(records),
            damaged => damaged.map_or_else(|error| error.to_string(), |_| "records are missing".to_owned()),
        };
        let meta = generation.meta()?;
        let is_known = |head: &Head| *head == Head::START || head.hash != Digest::ZERO;
        let before = after.filter(|head| head.seq.next() == segment.first).filter(is_known);
        let before = before.map_or_else(|| self.head_before(generation, &meta, segment), |head| Ok(Some(head)))?;
        let end = self.hash_at_end(file, generation, segment)?;
        let Salvaged { mut records, runs } = salvage::records(segment, meta.gateway_id, before, end);
        let (epoch, first, lost) =
            (segment.epoch, segment.first, runs.iter().map(|run| run.last.0 - run.first.0 + 1).sum());
        if let Some(after) = after {
            records.retain(|record| record.position.seq > after.seq);
            salvage::relink(&mut records, after, &runs);
        }
        if self.purpose == Purpose::Delivery {
            let file = file.number.file_name();
            let name = format!("{file}.{epoch}-{first}");
            let (kept, maybe_open, end_known) = (count - lost, Vec::new(), true);
            let (epoch, epochs) = (Some(epoch), None);
            let damage = Damage { file, epoch, epochs, kept, lost, end_known, runs, maybe_open, cause };
            self.files.report_lost_records(&name, &damage);
        } else {
            tracing::warn!(%epoch, %first, lost, %cause, "an outbox segment is damaged; showing what could be read");
        }
        Ok(records)
    }

    /// The head before `segment`, if its file or the file before it knows it.
    fn head_before(
        &self,
        generation: &Generation,
        meta: &FileMeta,
        segment: &Segment,
    ) -> Result<Option<Head>, OutboxError> {
        if let Some(known) = head_before(generation, meta, segment)? {
            return Ok(Some(known));
        }
        let Some((_, _, ahead)) = self.segment_before((segment.epoch, segment.first))? else { return Ok(None) };
        let last = salvage::records(&ahead, meta.gateway_id, None, None).records.pop();
        let is_before =
            |last: &AuditRecord| last.position.epoch == segment.epoch && last.position.seq.next() == segment.first;
        Ok(last.filter(is_before).map(|last| Head::after(&last.position)))
    }

    /// Returns true if a damage record explains the stand-in `record` and is stored in this epoch. Only then may the
    /// stand-in be delivered.
    #[must_use]
    pub fn is_recorded(&self, record: &AuditRecord) -> bool {
        self.files.owner().is_some_and(|owner| owner.damages.is_recorded(record))
    }

    /// Returns true if damage that this process found explains `record`, whether or not it is recorded yet.
    pub(super) fn is_known_loss(&self, record: &AuditRecord) -> bool {
        self.files.owner().is_some_and(|owner| owner.damages.is_known(record))
    }

    /// Waits until [`Reader::is_recorded`] is true.
    pub async fn wait_until_recorded(&self, record: &AuditRecord) {
        if let Some(owner) = self.files.owner() {
            owner.damages.wait_until_recorded(record).await;
        }
    }

    /// Returns true if damage was found that the scribe has not taken yet.
    #[must_use]
    pub fn has_damage_to_record(&self) -> bool {
        self.files.owner().is_some_and(|owner| owner.damages.has_pending())
    }

    /// Replaces the stand-ins that no damage explains which this process knows. Another program wrote them, so their
    /// places are lost, and reported like others. Only the shipper's reader does this.
    fn replace_unexplained(&self, records: &mut [AuditRecord]) {
        let Some(owner) = self.files.owner().filter(|_| self.purpose == Purpose::Delivery) else { return };
        for record in records.iter_mut().filter(|record| is_stand_in(record) && !owner.damages.is_known(record)) {
            let StreamPosition { gateway_id, epoch, seq, prev_hash, hash } = record.position;
            let (prev_hash, hash, timestamp) = (Some(prev_hash), Some(hash), record.entry.call.timestamp);
            let run = LostRun { epoch, first: seq, last: seq, prev_hash, hash, timestamp };
            let name = format!("{epoch}-{seq}");
            let damage = Damage {
                file: name.clone(),
                epoch: Some(epoch),
                epochs: None,
                kept: 0,
                lost: 1,
                end_known: true,
                runs: vec![run],
                maybe_open: Vec::new(),
                cause: "a gap record that no damage explains".to_owned(),
            };
            self.files.report_lost_records(&name, &damage);
            *record = run.stand_in(gateway_id, seq, prev_hash.unwrap_or(Digest::ZERO));
        }
    }

    /// Returns true if the hash of the record at this place is not known, because it is lost.
    #[must_use]
    pub fn has_unknown_hash(&self, epoch: Epoch, seq: Seq) -> bool {
        self.files.owner().is_some_and(|owner| owner.damages.has_unknown_hash(owner.gateway_id, epoch, seq))
    }

    /// Returns true if Postgres may have the earlier epoch `epoch` up to `seq`, which is not stored any more or never
    /// was: it was delivered and removed, or the epoch ran at level `queued`, or damage may have cost its end.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn may_be_delivered(&self, epoch: Epoch, seq: Seq) -> Result<bool, OutboxError> {
        let Some(owner) = self.files.owner() else { return Ok(false) };
        for file in self.files.list() {
            let Some((found, generation)) = self.files.generation(&file, self.purpose)? else { continue };
            let meta = generation.meta()?;
            let heads = generation.delivered()?.into_iter().chain(meta.previous);
            if found == epoch && meta.queued || heads.into_iter().any(|(of, head)| of == epoch && head.seq >= seq) {
                return Ok(true);
            }
        }
        Ok(owner.damages.has_unknown_end(owner.gateway_id, epoch))
    }

    /// Earlier epochs whose end in Postgres was not settled when the outbox was opened, each with its last record as
    /// far as it was known.
    #[must_use]
    pub fn unsettled(&self) -> BTreeMap<Epoch, Head> {
        self.files.owner().map(|owner| owner.unsettled.clone()).unwrap_or_default()
    }

    /// The last delivered record of each epoch, as far as the newest file knows it.
    pub(super) fn delivered_ends(&self) -> Result<Vec<(Epoch, Head)>, OutboxError> {
        let Some(newest) = self.files.list().pop() else { return Ok(Vec::new()) };
        let Some((_, generation)) = self.files.generation(&newest, self.purpose)? else { return Ok(Vec::new()) };
        generation.delivered()
    }

    /// The last delivered record of each epoch, as far as it was known when the outbox was opened.
    #[must_use]
    pub fn delivered(&self) -> BTreeMap<Epoch, Head> {
        self.files.owner().map(|owner| owner.delivered.clone()).unwrap_or_default()
    }

    /// Notes beside the outbox that the stream of the current `epoch` is delivered up to `head`.
    ///
    /// # Errors
    /// The note cannot be written; an earlier one is unchanged.
    pub fn note_delivered(&self, epoch: Epoch, head: Head) -> io::Result<()> {
        self.files.note_delivered(epoch, head)
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
