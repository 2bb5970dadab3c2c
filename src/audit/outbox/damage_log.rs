//! The damage that was found in an outbox: what of it the scribe has still to record, and what is recorded.
//!
//! A stand-in is delivered only after the damage record that explains it is stored. The shipper's reader reports what
//! it finds here, the scribe takes it, and after the commit it says so; the shipper waits for that.
//!
//! Damage is also described in `quarantine/`, one JSON file for each. The record of an earlier damage may be among what
//! a later one destroys, so when damage is found, what is described there is recorded again: once in each process, and
//! when the damage is where this process recorded it.

use std::collections::BTreeSet;
use std::path::Path;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::damage::Damage;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use crate::audit::lost::LostRuns;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq};

/// The directory for damaged files, in the outbox directory.
pub(super) const QUARANTINE_NAME: &str = "quarantine";

/// The end of the name of a description.
const DESCRIPTION_SUFFIX: &str = ".json";

/// Most descriptions that are recorded again; of more, the newest by name. *Chosen*: many more than an operator leaves
/// in `quarantine/`, and few enough that their records fit in a commit.
const DESCRIPTIONS_MAX: usize = 256;

/// The largest description that is read, in bytes. *Derived*: a file of 128 MiB has at most some 300,000 records of the
/// smallest size, so at most half as many runs, of some 300 bytes each.
const DESCRIPTION_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Damage to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDamage {
    /// The damage.
    pub damage: Damage,
    /// False if an earlier process found it and it is recorded again.
    pub is_new: bool,
}

/// The damage that this process found or was told of.
#[derive(Debug)]
pub(super) struct DamageLog {
    state: Mutex<State>,
    /// Signalled when damage has been recorded.
    recorded: Notify,
}

#[derive(Debug)]
struct State {
    /// Everything that was reported.
    reported: Vec<Reported>,
    /// Damage that the scribe has not taken yet.
    pending: Vec<FoundDamage>,
    /// The runs of everything that was reported.
    known: LostRuns,
    /// The runs whose damage records are stored.
    recorded: LostRuns,
    /// The files whose damage records are stored.
    recorded_files: BTreeSet<String>,
}

/// Damage that was reported.
#[derive(Debug)]
struct Reported {
    damage: Damage,
    /// The records that describe it in the current epoch, once they are stored.
    records: Option<(Seq, Seq)>,
}

impl DamageLog {
    /// A log in which `recorded` is stored in the epoch's first commit, which ends at `last`.
    pub(super) fn new(gateway_id: GatewayId, recorded: &[Damage], last: Seq) -> Self {
        let all = || LostRuns::with_limit(usize::MAX);
        let stored = |damage: &Damage| Reported { damage: damage.clone(), records: Some((Seq(1), last)) };
        let (reported, pending) = (recorded.iter().map(stored).collect(), Vec::new());
        let mut state = State { reported, pending, known: all(), recorded: all(), recorded_files: BTreeSet::new() };
        for damage in recorded {
            state.add_recorded(gateway_id, damage);
            damage.add_to(&mut state.known, gateway_id);
        }
        Self { state: Mutex::new(state), recorded: Notify::new() }
    }

    /// Reports damage, unless it was reported before. Returns whether it was not.
    pub(super) fn report(&self, gateway_id: GatewayId, damage: Damage, is_new: bool) -> bool {
        let mut state = self.state.lock();
        // I6: as large as what the directory's files contain.
        if state.reported.iter().any(|reported| reported.damage == damage) {
            return false;
        }
        damage.add_to(&mut state.known, gateway_id);
        state.reported.push(Reported { damage: damage.clone(), records: None });
        state.pending.push(FoundDamage { damage, is_new });
        true
    }

    /// Reports what is described and may not be recorded any more, now that `found` was found: what this process has
    /// not recorded yet, and what it recorded where `found` is. `epoch` is the current epoch.
    pub(super) fn report_again(&self, gateway_id: GatewayId, epoch: Epoch, found: &Damage, described: Vec<Damage>) {
        let mut state = self.state.lock();
        let hits = |(first, last): (Seq, Seq)| {
            found.runs.iter().any(|run| run.epoch == epoch && run.first <= last && run.last >= first)
        };
        for damage in described {
            let known = state.reported.iter_mut().find(|reported| reported.damage == damage);
            match known {
                Some(reported) if !reported.records.is_some_and(hits) => continue,
                Some(reported) => reported.records = None,
                None => state.reported.push(Reported { damage: damage.clone(), records: None }),
            }
            damage.add_to(&mut state.known, gateway_id);
            state.pending.push(FoundDamage { damage, is_new: false });
        }
    }

    /// Takes what is to be recorded.
    pub(super) fn take(&self) -> Vec<FoundDamage> {
        std::mem::take(&mut self.state.lock().pending)
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.state.lock().pending.is_empty()
    }

    /// Notes that `damage` is recorded from the first to the last of `records`, and that these are stored.
    pub(super) fn mark_recorded(&self, gateway_id: GatewayId, damage: &Damage, records: (Seq, Seq)) {
        let mut state = self.state.lock();
        state.add_recorded(gateway_id, damage);
        if let Some(reported) = state.reported.iter_mut().find(|reported| reported.damage == *damage) {
            reported.records = Some(records);
        }
        drop(state);
        self.recorded.notify_waiters();
    }

    /// Returns true if a stored damage record explains `record`.
    pub(super) fn is_recorded(&self, record: &AuditRecord) -> bool {
        self.state.lock().recorded.explains(record)
    }

    /// Returns true if the damage of the file with this name in `quarantine/` is recorded.
    pub(super) fn is_file_recorded(&self, file: &str) -> bool {
        self.state.lock().recorded_files.contains(file)
    }

    /// Returns true if damage that was found explains `record`, recorded or not.
    pub(super) fn is_known(&self, record: &AuditRecord) -> bool {
        self.state.lock().known.explains(record)
    }

    /// See [`LostRuns::has_unknown_hash`].
    pub(super) fn has_unknown_hash(&self, gateway_id: GatewayId, epoch: Epoch, seq: Seq) -> bool {
        self.state.lock().known.has_unknown_hash(gateway_id, epoch, seq)
    }

    /// See [`LostRuns::has_unknown_end`].
    pub(super) fn has_unknown_end(&self, gateway_id: GatewayId, epoch: Epoch) -> bool {
        self.state.lock().known.has_unknown_end(gateway_id, epoch)
    }

    /// Waits until a stored damage record explains `record`.
    pub(super) async fn wait_until_recorded(&self, record: &AuditRecord) {
        loop {
            let mut recorded = std::pin::pin!(self.recorded.notified());
            recorded.as_mut().enable();
            if self.is_recorded(record) {
                return;
            }
            recorded.await;
        }
    }
}

impl State {
    fn add_recorded(&mut self, gateway_id: GatewayId, damage: &Damage) {
        self.recorded_files.insert(damage.file.clone());
        damage.add_to(&mut self.recorded, gateway_id);
    }
}

/// The number of the file that has `name` in `quarantine/`.
pub(super) fn quarantined_number(name: &str) -> Option<FileNumber> {
    FileNumber::from_file_name(name.rsplit_once('.').map_or(name, |(file, _)| file))
}

/// Describes `damage` in `quarantine/`, under `name`. It replaces an earlier description of that name.
///
/// # Errors
/// The file cannot be written; an earlier description is unchanged.
///
/// # Durability
/// The description survives a power loss once this has returned.
pub(super) fn describe(fs: &dyn Fs, dir: &Path, name: &str, damage: &Damage) -> Result<(), OutboxError> {
    let quarantine = dir.join(QUARANTINE_NAME);
    let (path, temporary) =
        (quarantine.join(format!("{name}{DESCRIPTION_SUFFIX}")), quarantine.join(format!("{name}.tmp")));
    fs.create_dir(&quarantine).map_err(OutboxError::io("create directory", &quarantine))?;
    fs.remove(&temporary).ok();
    let write = || {
        let json = serde_json::to_vec(damage)?;
        let file = fs.create(&temporary)?;
        file.set_len(json.len() as u64)?;
        file.write(0, &json)?;
        file.sync_data()?;
        drop(file);
        fs.rename(&temporary, &path)?;
        fs.sync_dir(&quarantine)
    };
    write().map_err(OutboxError::io("describe the damage in", &path))
}

/// The damage that is described in `quarantine/`. A description that cannot be read is logged and left out.
pub(super) fn described(fs: &dyn Fs, dir: &Path) -> Vec<Damage> {
    let quarantine = dir.join(QUARANTINE_NAME);
    let mut names = fs.list(&quarantine).unwrap_or_default();
    names.retain(|name| name.ends_with(DESCRIPTION_SUFFIX));
    names.sort_unstable();
    let read = |name: &String| {
        let path = quarantine.join(name);
        let json = || {
            let file = fs.open(&path)?;
            let length = file.len()?.min(DESCRIPTION_BYTES_MAX);
            let mut json = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read(0, &mut json)?;
            Ok::<_, std::io::Error>(serde_json::from_slice(&json)?)
        };
        json().inspect_err(|error| tracing::error!(%error, name, "cannot read the description of damage")).ok()
    };
    names.iter().rev().take(DESCRIPTIONS_MAX).rev().filter_map(read).collect()
}
