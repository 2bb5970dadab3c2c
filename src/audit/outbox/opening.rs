//! Opening the directory: what the previous epoch left, and the start of the next one.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit::Commit;
use super::damage::Damage;
use super::damage_log::{FoundDamage, describe, described};
use super::delivered_note::DeliveredNote;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::{Fs, create_durable_dir};
use super::generation::{Carried, FileMeta, FileSpan, Generation};
use super::keep::Keep;
use super::lock::{Hold, Lock};
use super::new_log::NEW_LOG_NAME;
use super::restore::{self, Restored};
use super::stream_end::stream_end;
use super::writer::{EpochStart, Outbox};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{Call, Epoch, GatewayId, Seq, Timestamp};
use crate::audit::tree::Tree;

/// Most earlier epochs whose end in Postgres is not settled. *Chosen*: a gateway at level `queued` that crashes more
/// often than this while Postgres is down has other troubles.
const UNSETTLED_MAX: usize = 64;

/// The previous epoch, as far as the outbox knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// The last record of the epoch: the last stored one, or a later one that is known to be delivered.
    pub head: Head,
    /// True if the epoch's `gateway/closed` record was stored. If not, the gateway crashed.
    pub closed: bool,
}

/// The state of the directory as it was found.
///
/// Nothing is changed yet, except the lock file and a damaged newest file: that is kept in `quarantine/`, with a
/// description, and replaced by a file with everything that could be read of it.
#[derive(Debug)]
pub struct Opening {
    /// The gateway that the directory belongs to.
    pub gateway_id: GatewayId,
    /// The epoch that this opening begins.
    pub epoch: Epoch,
    /// The previous epoch, if any.
    pub previous: Option<PreviousEpoch>,
    /// The calls that were open when the gateway crashed.
    pub interrupted: Vec<Call>,
    /// The damage that was found, and earlier damage, whose records may be among what is lost.
    pub damages: Vec<FoundDamage>,
    /// The tree that the epoch continues: the one over all records of the log so far or, if these are not known for
    /// sure, the empty tree of a new log.
    pub tree: Tree,
    /// True if the epoch runs at level `queued`. The caller sets it before the epoch begins.
    pub queued: bool,
    /// The limits of what is kept of delivered records; `None` keeps nothing. The caller sets it before the epoch
    /// begins.
    pub keep: Option<Keep>,
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    lock: Arc<Lock>,
    numbers: Vec<FileNumber>,
    last_number: FileNumber,
    /// Damaged files of which nothing can be read. They are in `quarantine/` and still in the directory.
    unreadable: Vec<PathBuf>,
    /// The epoch of the newest file that can be read, and its last stored record.
    stored: Option<(Epoch, Head)>,
    /// An operator wants a new log.
    wants_new_log: bool,
    carried: Carried,
}

impl Opening {
    /// Locks `dir`, creates it if necessary, and reads what the previous epoch left. `configured` is the gateway id
    /// from the configuration.
    ///
    /// # Errors
    /// See [`OutboxError`]. Nothing was begun.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, configured: Option<GatewayId>) -> Result<Self, OutboxError> {
        create_durable_dir(fs.as_ref(), dir).map_err(OutboxError::io("create directory", dir))?;
        let mut lock = Lock::take(dir).map_err(|error| OutboxError::lock(dir, error))?;
        let mut numbers = FileNumber::list(fs.as_ref(), dir)?;
        let newest_number = numbers.last().copied().unwrap_or(FileNumber(0));
        // I3: the number of a file in quarantine is not used again either, because its epoch may have been used.
        let last_number = newest_number.max(restore::last_quarantined_number(fs.as_ref(), dir));
        let known = configured.or_else(|| lock.read_gateway_id());
        let Newest { file: newest, damages, unreadable } = Newest::open(fs.as_ref(), dir, &mut numbers, known)?;
        let meta = newest.as_ref().map(Generation::meta).transpose()?;
        let gateway_id = match (&meta, configured) {
            (Some(meta), Some(configured)) if meta.gateway_id != configured => {
                return Err(OutboxError::OtherGateway { path: dir.to_owned(), found: meta.gateway_id, configured });
            }
            (Some(meta), _) => meta.gateway_id,
            (None, _) => known.unwrap_or_else(|| GatewayId(uuid::Uuid::new_v4())),
        };
        let holder = format!("pid {} gateway {gateway_id}", std::process::id());
        lock.write_holder(&holder).map_err(OutboxError::io("sign the lock of", dir))?;
        let note = DeliveredNote::read(fs.as_ref(), dir).filter(|note| note.gateway_id == gateway_id);
        let mut ended = Ended::default();
        if let Some((newest, meta)) = newest.as_ref().zip(meta.as_ref()) {
            ended = Ended::of(newest, meta, dir)?;
            let (first, last) = newest.span()?.unwrap_or((Seq::ZERO, Seq::ZERO));
            let span = FileSpan { epoch: meta.epoch, first, last, begun: meta.begun };
            ended.carried.files.extend(numbers.last().map(|number| (*number, span)));
        }
        // I3: every file after the newest one that can be read may have begun an epoch, and none of these is used
        // again.
        let newest_read = numbers.last().copied().unwrap_or(FileNumber(0));
        let read = ended.stored.map_or(Epoch(0), |(epoch, _)| epoch);
        let begun = Epoch(read.0 + (last_number.0 - newest_read.0)).max(note.map_or(Epoch(0), |note| note.epoch));
        let damages = describe_all(fs.as_ref(), dir, damages, (ended.first_unread(), begun))?;
        let (previous, epoch) = (ended.previous(note, &damages), begun.next());
        let wants_new_log = fs.identity(&dir.join(NEW_LOG_NAME)).is_ok();
        // Records of an epoch that cannot be read may have been signed.
        let follows = |tree: &Tree| tree.last.is_none_or(|(last, _)| last.next() == epoch) && unreadable.is_empty();
        let tree = ended.tree(previous).filter(|tree| follows(tree) && !wants_new_log);
        Ok(Self {
            gateway_id,
            epoch,
            tree: tree.unwrap_or_else(|| Tree::begin(epoch)),
            previous,
            interrupted: ended.interrupted,
            damages,
            queued: false,
            keep: None,
            dir: dir.to_owned(),
            fs,
            lock: Arc::new(lock),
            numbers,
            last_number,
            unreadable,
            stored: ended.stored,
            wants_new_log,
            carried: ended.carried,
        })
    }

    /// Keeps the directory locked for those who use it after the outbox.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold(Arc::clone(&self.lock))
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins the epoch with its first commit, in a new file. This ends the intents that were left over: `first`
    /// contains their `interrupted` records. `bytes_max` is the quota for all files together.
    ///
    /// # Errors
    /// See [`OutboxError`]. Nothing was begun; the next opening finds the same state.
    pub fn begin(self, first: &Commit<'_>, bytes_max: u64) -> Result<Outbox, OutboxError> {
        let Self { gateway_id, epoch, queued, keep, dir, fs, lock, numbers, last_number, unreadable, carried, .. } =
            self;
        // The file names the last stored record, since it continues the files before it.
        let (head, previous) = (Head::START, self.stored);
        let begun = Timestamp::now();
        let meta = FileMeta { gateway_id, epoch, begun, head, closed: false, queued, previous, damage: None };
        let damages = self.damages.into_iter().map(|found| found.damage).collect();
        let fs_of_epoch = Arc::clone(&fs);
        let new_log = self.wants_new_log.then(|| dir.join(NEW_LOG_NAME));
        let limits = (bytes_max, keep);
        let start = EpochStart { fs: fs_of_epoch, dir, lock, numbers, last_number, carried, damages, meta, limits };
        // I3: the file that makes the epoch known is stored in the same commit as the epoch's first record.
        let mut outbox = Outbox::begin(start, first)?;
        for path in unreadable {
            // Its second name is in `quarantine/`, and the new epoch has a record for it.
            fs.remove(&path).map_err(OutboxError::io("move to quarantine", &path))?;
        }
        if let Some(marker) = new_log {
            // If it stays, the next start begins one more log, which does no harm.
            fs.remove(&marker).ok();
        }
        outbox.refill_ballast();
        Ok(outbox)
    }
}

/// The end of the epoch of the newest file that can be read, according to that file.
#[derive(Default)]
struct Ended {
    /// The epoch of the file, and its last stored record.
    stored: Option<(Epoch, Head)>,
    closed: bool,
    queued: bool,
    interrupted: Vec<Call>,
    carried: Carried,
}

impl Ended {
    fn of(newest: &Generation, meta: &FileMeta, dir: &Path) -> Result<Self, OutboxError> {
        let carried = Carried {
            delivered: newest.delivered()?.into_iter().collect(),
            unsettled: newest.unsettled()?.into_iter().collect(),
            files: newest.files()?,
            tree: newest.tree()?,
        };
        Ok(Self {
            stored: Some((meta.epoch, stream_end(newest, meta)?)),
            closed: meta.closed,
            queued: meta.queued,
            interrupted: open_calls(newest, dir)?,
            carried,
        })
    }

    /// The first epoch to which a file may belong that comes after this one and cannot be read.
    fn first_unread(&self) -> Epoch {
        match self.stored {
            Some((epoch, _)) if self.closed => epoch.next(),
            Some((epoch, _)) => epoch,
            None => Epoch(1),
        }
    }

    /// The tree over all records of the log, if it ends where the `previous` epoch does.
    fn tree(&self, previous: Option<PreviousEpoch>) -> Option<Tree> {
        let end = previous.map(|previous| (previous.epoch, previous.head.seq));
        // Postgres may have more of an epoch whose end is not settled.
        let is_settled = end.is_none_or(|(epoch, _)| !self.carried.unsettled.contains_key(&epoch));
        self.carried.tree.clone().filter(|tree| is_settled && tree.last == end)
    }

    /// The previous epoch and its end: the later of what is stored and what is noted as delivered. If Postgres may have
    /// more of it, the epoch is unsettled from now on.
    fn previous(&mut self, note: Option<DeliveredNote>, damages: &[FoundDamage]) -> Option<PreviousEpoch> {
        let stored = self.stored.map(|(epoch, head)| PreviousEpoch { epoch, head, closed: self.closed });
        let noted = note.filter(|note| {
            let is_later = |stored: PreviousEpoch| match note.epoch.cmp(&stored.epoch) {
                Ordering::Less => false,
                Ordering::Equal => !stored.closed && note.head().seq > stored.head.seq,
                Ordering::Greater => true,
            };
            stored.is_none_or(is_later)
        });
        let queued = noted.map_or(self.queued, |note| note.queued);
        let noted = noted.map(|note| PreviousEpoch { epoch: note.epoch, head: note.head(), closed: false });
        let previous = noted.or(stored)?;
        let costs_the_end = |found: &FoundDamage| {
            let Damage { epoch, epochs, end_known, .. } = found.damage;
            let in_range = epochs.is_some_and(|(first, last)| (first..=last).contains(&previous.epoch));
            in_range || epoch == Some(previous.epoch) && !end_known
        };
        if !previous.closed && (queued || damages.iter().any(costs_the_end)) {
            let unsettled = &mut self.carried.unsettled;
            unsettled.insert(previous.epoch, previous.head);
            // I6: of more, the oldest stay without a record that names their ends.
            while unsettled.len() > UNSETTLED_MAX {
                unsettled.pop_first();
            }
        }
        Some(previous)
    }
}

/// Describes the damaged files of which nothing could be read, which may be of any of `epochs`. Adds all damage that is
/// described, if any was found now.
fn describe_all(
    fs: &dyn Fs,
    dir: &Path,
    found: Vec<Damage>,
    epochs: (Epoch, Epoch),
) -> Result<Vec<FoundDamage>, OutboxError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for mut damage in found {
        if damage.epoch.is_none() {
            damage.epochs = Some(epochs);
            describe(fs, dir, &damage.file, &damage)?;
        }
        all.push(FoundDamage { damage, is_new: true });
    }
    for damage in described(fs, dir) {
        if !all.iter().any(|found| found.damage == damage) {
            all.push(FoundDamage { damage, is_new: false });
        }
    }
    Ok(all)
}

/// The newest file that can be read, and the damage that was found on the way to it.
#[derive(Default)]
struct Newest {
    file: Option<Generation>,
    damages: Vec<Damage>,
    unreadable: Vec<PathBuf>,
}

impl Newest {
    /// Opens the newest of the files `numbers`. Files of which nothing can be read are removed from `numbers`.
    fn open(
        fs: &dyn Fs,
        dir: &Path,
        numbers: &mut Vec<FileNumber>,
        gateway_id: Option<GatewayId>,
    ) -> Result<Self, OutboxError> {
        let mut newest = Self::default();
        // The directory is never opened silently with fewer records: the new epoch has a record for each damaged file.
        while let Some(number) = numbers.last().filter(|_| newest.file.is_none()) {
            // I2: data that a killed process wrote and did not sync is made durable before it is used. Otherwise a
            // power loss could take back the record of a call whose intent was not carried over.
            let synced = fs.open(&number.path(dir)).and_then(|file| file.sync_data());
            synced.map_err(OutboxError::io("sync the newest file of", dir))?;
            match restore::open(fs, dir, *number, None, gateway_id)? {
                Restored::File(file, damage) => {
                    newest.damages.extend(damage.map(|damage| *damage).or_else(|| file.meta().ok()?.damage));
                    newest.file = Some(file);
                }
                Restored::Nothing(damage) => {
                    newest.damages.push(*damage);
                    newest.unreadable.extend(numbers.pop().map(|number| number.path(dir)));
                }
            }
        }
        Ok(newest)
    }
}

/// The calls whose intents are in `newest`.
fn open_calls(newest: &Generation, dir: &Path) -> Result<Vec<Call>, OutboxError> {
    let decode = |(id, frame): (_, Vec<u8>)| {
        let broken = |source| OutboxError::BrokenFrame { path: dir.to_owned(), what: format!("intent {id}"), source };
        codec::decode_intent(&frame).map_err(broken)
    };
    newest.intents()?.into_iter().map(decode).collect()
}
