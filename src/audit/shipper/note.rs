//! The note of how far the current epoch is delivered, beside the outbox.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::record_source::RecordSource;
use crate::audit::chain::Head;
use crate::audit::record::Epoch;

/// The time between two notes. *Spec*: `docs/guarantees.md`; what Postgres got in the meantime, only the database
/// vouches for after a crash.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Notes the delivered head once a second, on a blocking thread, as long as it changes.
#[derive(Debug)]
pub(super) struct Note {
    epoch: Epoch,
    /// When the last note was begun, or the shipper.
    noted: Instant,
    /// True if the head changed since then.
    stale: bool,
    writing: Option<JoinHandle<()>>,
    /// True if the last note could not be written.
    failed: Arc<Mutex<bool>>,
}

impl Note {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, noted: Instant::now(), stale: false, writing: None, failed: Arc::default() }
    }

    /// Notes that `epoch` is delivered up to `head`, if it is the current epoch, and now or a little later.
    pub(super) fn delivered(&mut self, source: &RecordSource, epoch: Epoch, head: Head) {
        if epoch != self.epoch {
            return;
        }
        let is_early = self.noted.elapsed() < NOTE_EVERY;
        let is_writing = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        self.stale = is_early || is_writing;
        if is_writing {
            // On a disk that takes so long, the next attempt is a second later.
            self.noted = Instant::now();
        }
        if self.stale {
            return;
        }
        let (reader, failed) = (source.reader(), Arc::clone(&self.failed));
        self.noted = Instant::now();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let result = reader.note_delivered(epoch, head);
            let had_failed = std::mem::replace(&mut *failed.lock(), result.is_err());
            if let Err(error) = result
                && !had_failed
            {
                tracing::warn!(%error, "could not note how far delivery has come; delivery continues");
            }
        }));
    }

    /// Waits until the head that was not noted may be noted; for ever if there is none.
    pub(super) async fn is_due(&self) {
        if self.stale {
            tokio::time::sleep_until(self.noted + NOTE_EVERY).await;
        } else {
            std::future::pending::<()>().await;
        }
    }
}
