//! The decision whether a checkpoint is signed, and its signature.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::evidence::add_checkpoint::AddCheckpoint;
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::cosignature::{UnixTime, sign};
use crate::evidence::key::{SigningKey, VerifierKey};
use crate::evidence::note::Note;
use crate::evidence::signature::Signature;
use crate::evidence::tree::{TreeHead, empty_root, verify_consistency};

use super::refusal::Refusal;
use super::store::{Signed, Store};

/// The most seconds by which the clock may go back without a refusal. *Chosen*: a clock that is set by the network
/// steps by less.
const CLOCK_STEP_MAX: u64 = 60;

/// A witness with its keys, the logs that it knows, and its state.
#[derive(Debug)]
pub struct Witness {
    keys: Vec<SigningKey>,
    logs: BTreeMap<String, Vec<VerifierKey>>,
    store: Mutex<Store>,
}

impl Witness {
    /// A witness that signs with each of `keys`, checkpoints of the logs with the keys `logs`. The name of a log's key
    /// is its origin.
    #[must_use]
    pub fn new(keys: Vec<SigningKey>, logs: impl IntoIterator<Item = VerifierKey>, store: Store) -> Self {
        let mut by_origin: BTreeMap<String, Vec<VerifierKey>> = BTreeMap::new();
        for key in logs {
            by_origin.entry(key.name().to_owned()).or_default().push(key);
        }
        Self { keys, logs: by_origin, store: Mutex::new(store) }
    }

    /// Signs the checkpoint of a request, and returns the signature lines. `now` is the time of the clock.
    ///
    /// # Errors
    /// [`Refusal`]: nothing is signed, and the state is as before.
    ///
    /// # Durability
    /// The checkpoint is on the disk when this returns.
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Result<String, Refusal> {
        let request = AddCheckpoint::parse(body)?;
        let checkpoint = Checkpoint::parse(request.note.text())?;
        let origin = checkpoint.origin();
        let keys = self.logs.get(origin).ok_or_else(|| Refusal::Origin { origin: origin.to_owned() })?;
        request.note.verify(keys).map_err(Refusal::Signature)?;
        let (old_size, size) = (request.old_size, checkpoint.size());
        if old_size > size {
            return Err(Refusal::Sizes { old_size, size });
        }
        // From here to the write no other request is looked at.
        let mut store = self.store.lock();
        let last = store.last(origin);
        let known = last.map_or(TreeHead { size: 0, root: empty_root() }, |last| last.checkpoint.head());
        if old_size != known.size {
            return Err(Refusal::OldSize { old_size, known: known.size });
        }
        let origin = origin.to_owned();
        if let Err(source) = verify_consistency(known, checkpoint.head(), &request.proof) {
            return Err(Refusal::Inconsistent { origin, size, old_size, source });
        }
        let time = signing_time(now, last.map(|last| last.time))?;
        let signatures = self.keys.iter().map(|key| sign(key, request.note.text(), time));
        let signatures = signatures.collect::<Result<Vec<_>, _>>()?;
        let lines: Vec<String> = signatures.iter().map(|signature| format!("{signature}\n")).collect();
        let note = cosigned(&request.note, keys, signatures)?;
        store.put(Signed { checkpoint, note, time })?;
        Ok(lines.concat())
    }

    /// The last checkpoint that was signed of the log whose origin has this SHA-256 in hexadecimal digits: with the
    /// signatures of the log and of the witness.
    #[must_use]
    pub fn last_note(&self, origin_hash: &str) -> Option<String> {
        self.store.lock().last_by_hash(origin_hash).map(|last| last.note.to_string())
    }
}

/// The time to sign with: the clock's, and never before the last one, because a signature says which tree was the
/// largest at its time.
fn signing_time(now: u64, last: Option<UnixTime>) -> Result<UnixTime, Refusal> {
    let last = last.map_or(0, UnixTime::seconds);
    if last.saturating_sub(now) > CLOCK_STEP_MAX {
        return Err(Refusal::Clock { now, last });
    }
    Ok(UnixTime::from_seconds(now.max(last))?)
}

/// The note with the signatures of the log that were verified, and those of the witness.
fn cosigned(note: &Note, keys: &[VerifierKey], own: Vec<Signature>) -> Result<Note, Refusal> {
    let is_known =
        |signature: &&Signature| keys.iter().any(|key| key.name() == signature.name() && key.id() == signature.id());
    let mut by_log: Vec<Signature> = note.signatures().iter().filter(is_known).cloned().collect();
    by_log.dedup();
    Note::new(note.text().to_owned(), by_log.into_iter().chain(own).collect()).map_err(Refusal::Signature)
}
