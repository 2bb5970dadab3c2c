//! The budget of bytes for the bodies of requests, from the moment at which a body is read until nothing of its call is
//! in memory.
//!
//! A caller that is known takes room for its whole body before the body is read. The room is part of the body's text
//! ([`SharedText`]), so that it is given back with the last part of the text. A quarter of the budget is kept for small
//! bodies, which therefore never wait for large ones, and one caller may occupy half of it with large ones. Callers
//! that are not known share a small budget of their own.
//!
//! [`SharedText`]: crate::mcp::shared_text::SharedText

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Principal;
use crate::gateway::message::refusal::Refusal;
use crate::mcp::shared_text::Room;

/// Copies of a body that its call keeps in memory. *Derived*: the body, and the parameters as they are forwarded, which
/// are a copy if the tool's name, the trace or the era differ. Arguments and lines to a child are parts of these.
pub(crate) const COPIES: usize = 2;

/// The largest small body, in bytes. *Chosen*: most calls have less than 4 KiB.
pub(crate) const SMALL_BYTES_MAX: usize = 16 * 1024;

/// The longest wait for room. *Chosen*: as long as a client waits for a slow call without complaint.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Most bytes of a body that are read from a caller that is not known, for the record of its refusal. *Chosen*: most
/// calls are smaller.
pub(crate) const HINT_BYTES_MAX: usize = 4 * 1024;

/// Most bytes of all callers that are not known. *Chosen*: 256 hints at once. A request that waits for its hint takes
/// some 12 KiB more than a connection that waits for its request.
const STRANGERS_BYTES_MAX: usize = 1024 * 1024;

/// The number of callers at which those without large bodies are forgotten. *Chosen*: 100 KiB of memory.
const CALLERS_MIN: usize = 512;

/// The budget.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// The most that one caller's large bodies may occupy, in bytes.
    caller_max: usize,
    /// The rest of each caller's share, by issuer and subject, as long as the caller occupies some of it.
    callers: Mutex<HashMap<(String, String), Weak<Semaphore>>>,
}

/// There is no room for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoomError {
    #[error("no room for the request within {WAIT_MAX:?}: open requests occupy server.request_bytes_max; retry later")]
    All,
    #[error(
        "too large requests of {subject} are open (limit {max} bytes, half of server.request_bytes_max): retry when \
         one finishes"
    )]
    Caller { subject: String, max: usize },
}

impl From<NoRoomError> for Refusal {
    fn from(error: NoRoomError) -> Self {
        // *Chosen*: the end of a call cannot be predicted; long enough to prevent a busy loop.
        Self::rate_limited(error.to_string(), Duration::from_secs(1))
    }
}

impl BodyBudget {
    /// A budget of `bytes_max` bytes for known callers.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        let small = bytes_max / 4;
        Self {
            small: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(bytes_max - small)),
            strangers: Arc::new(Semaphore::new(STRANGERS_BYTES_MAX)),
            caller_max: bytes_max / 2,
            callers: Mutex::default(),
        }
    }

    /// Takes room for a body of `bytes` bytes of `principal`, after a wait if there is none now.
    ///
    /// # Errors
    /// [`NoRoomError`]; nothing was taken.
    pub(crate) async fn reserve(&self, principal: &Principal, bytes: usize) -> Result<Room, NoRoomError> {
        // I6: the bodies of all requests together are bounded. A cost over the limit never finds room.
        let permits = u32::try_from(bytes.saturating_mul(COPIES)).unwrap_or(u32::MAX);
        if bytes <= SMALL_BYTES_MAX {
            if let Ok(of_all) = Arc::clone(&self.small).try_acquire_many_owned(permits) {
                return Ok(Room::new(of_all, None));
            }
            return Ok(Room::new(wait(&self.small, permits).await?, None));
        }
        let of_caller = self.share(principal).try_acquire_many_owned(permits);
        let no_share = |_| NoRoomError::Caller { subject: principal.subject.clone(), max: self.caller_max };
        let of_caller = of_caller.map_err(no_share)?;
        Ok(Room::new(wait(&self.large, permits).await?, Some(of_caller)))
    }

    /// Takes room for the bytes that are read of a caller that is not known. `None`: there is none; nothing is read.
    pub(crate) fn reserve_hint(&self) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(HINT_BYTES_MAX).unwrap_or(u32::MAX);
        Arc::clone(&self.strangers).try_acquire_many_owned(permits).ok()
    }

    /// The rest of the caller's share.
    fn share(&self, principal: &Principal) -> Arc<Semaphore> {
        let mut callers = self.callers.lock();
        if callers.len() >= CALLERS_MIN {
            callers.retain(|_, share| share.strong_count() > 0); // I6: callers that occupy nothing are forgotten.
        }
        let share = callers.entry((principal.issuer.clone(), principal.subject.clone())).or_default();
        share.upgrade().unwrap_or_else(|| {
            let whole = Arc::new(Semaphore::new(self.caller_max));
            *share = Arc::downgrade(&whole);
            whole
        })
    }
}

/// Waits for `permits`. The wait is bounded, and in the order of arrival.
async fn wait(semaphore: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, NoRoomError> {
    let acquired = tokio::time::timeout(WAIT_MAX, Arc::clone(semaphore).acquire_many_owned(permits)).await;
    // The semaphores are never closed.
    acquired.ok().and_then(Result::ok).ok_or(NoRoomError::All)
}

#[cfg(test)]
mod tests {
    use crate::auth::credential::Credential;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn principal(subject: &str) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles: Vec::new(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn i6_bodies_are_bounded_in_sum_and_wait_for_room_a_bounded_time() {
        let budget = BodyBudget::new(32 * MIB);
        let [ann, bob] = ["ann", "bob"].map(principal);
        let mut rooms = Vec::new();
        for caller in [&ann, &ann, &bob] {
            rooms.push(budget.reserve(caller, 4 * MIB).await.unwrap());
        }
        // The last quarter is for small bodies.
        let begun = tokio::time::Instant::now();
        assert_eq!(budget.reserve(&bob, SMALL_BYTES_MAX + 1).await.unwrap_err(), NoRoomError::All);
        assert_eq!(begun.elapsed(), WAIT_MAX);
        for _ in 0..8 * MIB / SMALL_BYTES_MAX / COPIES {
            rooms.push(budget.reserve(&bob, SMALL_BYTES_MAX).await.unwrap());
        }
        assert_eq!(budget.reserve(&ann, 1).await.unwrap_err(), NoRoomError::All);
        // One that waits gets the room of one that ends.
        let (room, ()) = tokio::join!(budget.reserve(&bob, 4 * MIB), async { drop(rooms.remove(0)) });
        assert!(room.is_ok());
    }

    #[tokio::test]
    async fn caller_occupies_at_most_half_and_its_share_is_forgotten() {
        let budget = BodyBudget::new(32 * MIB);
        let ann = principal("ann");
        let mut rooms =
            vec![budget.reserve(&ann, 4 * MIB).await.unwrap(), budget.reserve(&ann, 4 * MIB).await.unwrap()];
        let refused = budget.reserve(&ann, MIB).await.unwrap_err();
        assert_eq!(refused, NoRoomError::Caller { subject: "ann".to_owned(), max: 16 * MIB });
        assert!(budget.reserve(&ann, SMALL_BYTES_MAX).await.is_ok(), "small bodies have no share");
        assert!(budget.reserve(&principal("bob"), 4 * MIB).await.is_ok());
        rooms[0].shrink(COPIES);
        assert!(budget.reserve(&ann, MIB).await.is_ok(), "what a body did not need is given back");
        drop(rooms);
        for caller in 0..2 * CALLERS_MIN {
            budget.reserve(&principal(&caller.to_string()), MIB).await.unwrap();
        }
        assert!(budget.callers.lock().len() <= CALLERS_MIN);
    }

    #[test]
    fn i6_hints_of_unknown_callers_are_bounded_in_sum() {
        let budget = BodyBudget::new(1);
        let hints: Vec<_> = std::iter::from_fn(|| budget.reserve_hint()).collect();
        assert_eq!(hints.len() * HINT_BYTES_MAX, STRANGERS_BYTES_MAX);
    }
}
