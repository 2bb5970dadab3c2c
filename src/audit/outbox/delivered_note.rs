//! A note of how far delivery has come, in a small file beside the outbox.
//!
//! At level `queued` Postgres has records that were never in the outbox. The shipper notes the delivered head every
//! second, so that after a crash `gateway/opened` can name an end of the epoch that only the last moment is missing
//! from. The note is replaced by renaming and never synced: after a power loss it may be older, empty or gone.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fs::Fs;
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq};

/// The name of the file in the outbox directory.
const NOTE_NAME: &str = "delivered.json";

/// The largest note that is read, in bytes. *Derived*: a note has less than 256 bytes.
const NOTE_BYTES_MAX: u64 = 4096;

/// The last record that is known to be in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeliveredNote {
    /// The gateway that the outbox belongs to.
    pub(super) gateway_id: GatewayId,
    /// The epoch of the record.
    pub(super) epoch: Epoch,
    /// True if the epoch runs at level `queued`.
    pub(super) queued: bool,
    seq: Seq,
    hash: Digest,
}

impl DeliveredNote {
    pub(super) fn new(gateway_id: GatewayId, epoch: Epoch, queued: bool, head: Head) -> Self {
        Self { gateway_id, epoch, queued, seq: head.seq, hash: head.hash }
    }

    /// The position of the record.
    pub(super) fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// The note in `dir`, if there is one that can be read.
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Option<Self> {
        let file = fs.open(&dir.join(NOTE_NAME)).ok()?;
        let length = file.len().ok().filter(|length| *length <= NOTE_BYTES_MAX)?;
        let mut json = vec![0; usize::try_from(length).ok()?];
        file.read(0, &mut json).ok()?;
        // An epoch is at most the number of its first file.
        serde_json::from_slice(&json).ok().filter(|note: &Self| u32::try_from(note.epoch.0).is_ok())
    }

    /// Replaces the note in `dir`.
    pub(super) fn write(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        let (path, temporary) = (dir.join(NOTE_NAME), dir.join(format!("{NOTE_NAME}.tmp")));
        match fs.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let json = serde_json::to_vec(self)?;
        let file = fs.create(&temporary)?;
        file.set_len(json.len() as u64)?;
        file.write(0, &json)?;
        drop(file);
        fs.rename(&temporary, &path)
    }
}
