//! Opening the directory: what the previous epoch left, and the start of the next one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit::Commit;
use super::damage::Damage;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::generation::{FileMeta, Generation};
use super::lock::{Lock, LockError};
use super::restore::{self, Restored};
use super::stream_end::stream_end;
use super::writer::{EpochStart, Outbox};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{Call, Epoch, GatewayId};

/// The previous epoch, as far as the outbox knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// The last record of the epoch.
    pub head: Head,
    /// True if the epoch's `gateway/closed` record was stored. If not, the gateway crashed.
    pub closed: bool,
}

/// The state of the directory as it was found.
///
/// Nothing is changed yet, except the lock file and a damaged newest file: that is kept in `quarantine/` and replaced
/// by a file with everything that could be read of it.
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
    /// The damaged files that were found.
    pub damages: Vec<Damage>,
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    lock: Lock,
    numbers: Vec<FileNumber>,
    last_number: FileNumber,
    /// Damaged files of which nothing can be read. They are in `quarantine/` and still in the directory.
    unreadable: Vec<PathBuf>,
    delivered: BTreeMap<Epoch, Head>,
}

impl Opening {
    /// Locks `dir`, creates it if necessary, and reads what the previous epoch left. `configured` is the gateway id
    /// from the configuration.
    ///
    /// # Errors
    /// See [`OutboxError`]. Nothing was begun.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, configured: Option<GatewayId>) -> Result<Self, OutboxError> {
        create_dir(fs.as_ref(), dir).map_err(OutboxError::io("create directory", dir))?;
        let mut lock = Lock::take(dir).map_err(|error| match error {
            LockError::Held(holder) => OutboxError::Locked { path: dir.to_owned(), holder },
            LockError::Io(source) => OutboxError::io("lock", dir)(source),
        })?;
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
        let (mut previous, mut interrupted, mut delivered) = (None, Vec::new(), BTreeMap::new());
        if let Some((newest, meta)) = newest.as_ref().zip(meta.as_ref()) {
            delivered = newest.delivered()?.into_iter().collect();
            previous = Some(PreviousEpoch { epoch: meta.epoch, head: stream_end(newest, meta)?, closed: meta.closed });
            interrupted = open_calls(newest, dir)?;
        }
        // I3: an epoch is at most the number of its first file, so the epoch of an unreadable file is not used again.
        let unreadable_number = if numbers.last() == Some(&last_number) { 0 } else { last_number.0 };
        let epoch = previous.map_or(Epoch(0), |previous| previous.epoch).max(Epoch(unreadable_number)).next();
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

    /// Begins the epoch with its first commit, in a new file. This ends the intents that were left over: `first`
    /// contains their `interrupted` records. `bytes_max` is the quota for all files together.
    ///
    /// # Errors
    /// See [`OutboxError`]. Nothing was begun; the next opening finds the same state.
    pub fn begin(self, first: &Commit<'_>, bytes_max: u64) -> Result<Outbox, OutboxError> {
        let Self { gateway_id, epoch, previous, dir, fs, lock, numbers, last_number, unreadable, delivered, .. } = self;
        let previous = previous.map(|previous| (previous.epoch, previous.head));
        let meta = FileMeta { gateway_id, epoch, head: Head::START, closed: false, previous, damage: None };
        let start = EpochStart { fs: Arc::clone(&fs), dir, lock, numbers, last_number, delivered, meta, bytes_max };
        // I3: the file that makes the epoch known is stored in the same commit as the epoch's first record.
        let mut outbox = Outbox::begin(start, first)?;
        for path in unreadable {
            // Its second name is in `quarantine/`, and the new epoch has a record for it.
            fs.remove(&path).map_err(OutboxError::io("move to quarantine", &path))?;
        }
        outbox.refill_ballast();
        Ok(outbox)
    }
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

/// Creates `dir` if it does not exist, and makes its name durable. The name is synced even if the directory exists,
/// because an earlier process may have ended before it did so.
fn create_dir(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    };
    let missing = dir.ancestors().filter(|path| !path.as_os_str().is_empty());
    let created_in: Vec<_> = missing.take_while(|path| fs.identity(path).is_err()).map(parent).collect();
    fs.create_dir(dir)?;
    // The first is the parent of `dir` itself, which is synced below.
    for parent in created_in.iter().skip(1) {
        fs.sync_dir(parent)?;
    }
    match fs.sync_dir(&parent(dir)) {
        // If this user may not read the parent, another user created the directory and its name is not ours to sync.
        Err(error) if created_in.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}
