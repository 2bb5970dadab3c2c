//! The ring as the shipper uses it: reading records from the window, and reporting their delivery.

use std::sync::Arc;

use super::slot::Slot;
use super::state::Ring;
use super::work::{Finding, Phase, WindowRead};
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, Seq};

impl Ring {
    /// Reads records from `from` on: at most `records_max`, and at most `bytes_max` together, but at least one.
    #[must_use]
    pub fn read_from(&self, from: Seq, records_max: usize, bytes_max: usize) -> WindowRead {
        let state = self.lock();
        if from > state.shippable {
            return WindowRead::Nothing;
        }
        let Some(front) = state.window.front().map(|slot| slot.record.position.seq) else { return WindowRead::Older };
        if from < front {
            return WindowRead::Older;
        }
        let skip = usize::try_from(from.0 - front.0).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            let first = bytes == 0;
            bytes += slot.bytes;
            first || bytes <= bytes_max
        };
        let records = state.window.iter().skip(skip).take(records_max).take_while(fits);
        WindowRead::Records(records.map(|slot| Arc::clone(&slot.record)).collect())
    }

    /// Waits until there is a record after `seq`, or the epoch is closed.
    pub async fn wait_for_shippable_after(&self, seq: Seq) {
        loop {
            let notified = self.shippable.notified();
            {
                let state = self.lock();
                if state.shippable > seq || state.phase >= Phase::Closed {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Records that the stream of `epoch` is delivered up to `head`. `current` says whether it is this epoch's stream.
    pub fn mark_delivered(&self, epoch: Epoch, head: Head, current: bool) {
        let mut state = self.lock();
        state.watermarks.set(epoch, head);
        let mut delivered = Vec::new();
        if current {
            // Earlier than before if the database was restored.
            (state.delivered, state.delivered_hash) = (head.seq, head.hash);
            delivered = state.pop_delivered();
        }
        drop(state);
        drop(delivered);
        self.room.notify_waiters();
        self.work.notify_one();
    }

    /// Records that the database went back. What was delivered before counts as delivered again, epoch by epoch, with
    /// the next [`Ring::mark_delivered`] of each.
    pub fn go_back(&self) {
        self.lock().watermarks.go_back();
        self.work.notify_one();
    }

    /// Passes a finding about a stream in Postgres on to the scribe.
    pub fn report(&self, finding: Finding) {
        self.lock().findings.push(finding);
        self.work.notify_one();
    }

    /// Asks the scribe for a turn although nothing was appended: it has damage to record.
    pub fn request_turn(&self) {
        self.lock().turns_wanted += 1;
        self.work.notify_one();
    }
}
