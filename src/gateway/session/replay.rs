//! The budget of bytes for the messages of all streams: those that wait for a reader, and those that were read and are
//! kept for a client that resumes.
//!
//! When the budget is used up, ended streams lose their messages first, the longest ended one before others. Messages
//! that were read may take half of the budget, so that they never keep others from being delivered.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A stream that keeps messages after its end.
pub(crate) trait Ended: Send + Sync {
    /// Drops all messages. Gives their bytes back to the budget.
    fn forget(&self);
}

/// The budget.
pub(crate) struct ReplayBudget {
    max: usize,
    used: Mutex<Used>,
    /// The streams that have ended, the longest ended one first.
    ended: Mutex<VecDeque<Weak<dyn Ended>>>,
}

#[derive(Debug, Default)]
struct Used {
    /// Bytes of all messages.
    all: usize,
    /// Bytes of messages that were read.
    kept: usize,
}

impl ReplayBudget {
    /// A budget of `max` bytes.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, used: Mutex::default(), ended: Mutex::default() })
    }

    /// Takes room for a message of `bytes` bytes. `false`: there is none, and ended streams have none to give.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        loop {
            {
                let mut used = self.used.lock();
                // I6: the messages of all streams are bounded in sum.
                if used.all.saturating_add(bytes) <= self.max {
                    used.all += bytes;
                    return true;
                }
            }
            if !self.forget_longest_ended() {
                return false;
            }
        }
    }

    /// Takes room for the last message of a stream, which never lacks room: it is the response to a request.
    pub(crate) fn take_for_response(&self, bytes: usize) {
        if !self.take(bytes) {
            self.used.lock().all += bytes;
        }
    }

    /// Counts a message that was read as kept. `false`: too many are kept, and the stream has to drop some of its own.
    pub(crate) fn keep(&self, bytes: usize) -> bool {
        let mut used = self.used.lock();
        used.kept += bytes;
        used.kept <= self.max / 2
    }

    /// Gives back the room of a message; `was_kept` if it was counted as kept.
    pub(crate) fn give_back(&self, bytes: usize, was_kept: bool) {
        let mut used = self.used.lock();
        used.all -= bytes;
        if was_kept {
            used.kept -= bytes;
        }
    }

    /// Remembers a stream that has ended and keeps its messages.
    pub(crate) fn add_ended(&self, stream: Weak<dyn Ended>) {
        let mut ended = self.ended.lock();
        if ended.len() == ended.capacity() {
            ended.retain(|stream| stream.strong_count() > 0); // I6: streams that are gone are forgotten.
        }
        ended.push_back(stream);
    }

    fn forget_longest_ended(&self) -> bool {
        let longest = self.ended.lock().pop_front();
        let Some(longest) = longest else { return false };
        if let Some(stream) = longest.upgrade() {
            stream.forget();
        }
        true
    }
}

impl std::fmt::Debug for ReplayBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayBudget").field("max", &self.max).field("used", &self.used).finish_non_exhaustive()
    }
}
