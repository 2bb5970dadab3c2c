//! Aggregation of refusals: in a window of time, the first refusals of a kind are recorded one by one, and the rest are
//! counted in one record.
//!
//! The kind ([`RefusalKey`]) contains nothing that the caller can choose freely. For a caller without a valid token it
//! is the network of its address and the status; for a principal, the principal, the status and the backend, if it
//! exists. All callers without a valid token share one [`TokenBucket`] of refusals that are recorded one by one, and
//! each principal has one.
//!
//! The number of windows is bounded (I6). Refusals for which there is no window are counted by status alone. Each
//! refusal is recorded or counted exactly once, and a count leaves this module only to be recorded. The caller passes
//! the time.

mod counted;
mod refused;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::call::token_bucket::{BucketSize, TokenBucket};

pub(crate) use counted::CountedRefusals;
pub(crate) use refused::{Network, RefusedRequest};
use refused::{PrincipalId, RefusalKey};

/// The length of a window. *Chosen*: a loop of refusals leaves few records, and their number is known soon. A crash
/// loses the counts of the open windows.
pub(crate) const WINDOW: Duration = Duration::from_mins(1);

/// Most windows of callers without a valid token. *Derived*: the holder of an IPv6 network has as many /64 as it likes;
/// 256 windows of 600 bytes leave 220 MB of records a day.
const STRANGER_WINDOWS_MAX: usize = 256;

/// Most windows of principals. *Derived*: 8 MiB at 2 KiB each.
const PRINCIPAL_WINDOWS_MAX: usize = 4096;

/// The refusals that all callers without a valid token, or one principal, may leave as single records in a window, as a
/// multiple of those of one kind. *Chosen*: the refusals of one principal are usually of one or two kinds; a caller
/// that varies status and backend gains little.
const KINDS: u32 = 3;

/// The open windows.
#[derive(Debug)]
pub(crate) struct RefusalWindows {
    /// The number of refusals of one kind that are recorded one by one in a window.
    singles_max: u32,
    windows: HashMap<RefusalKey, Window>,
    /// The number of windows of callers without a valid token, and of principals.
    stranger_windows: usize,
    principal_windows: usize,
    /// The refusals that a principal may still leave as single records; `None` for all other callers together.
    buckets: HashMap<Option<PrincipalId>, TokenBucket>,
    /// The windows were taken for the last time: nothing is counted any more.
    is_closed: bool,
}

/// The treatment of one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalDecision {
    /// The refusal gets a record of its own.
    Single,
    /// The refusal was counted: the record of its window includes it.
    Counted,
}

/// One window. It lasts until it is taken, so that every refusal belongs to one.
#[derive(Debug)]
struct Window {
    began: Instant,
    singles: u32,
    counted: Option<CountedRefusals>,
}

impl RefusalWindows {
    /// Counts the refusals of one kind after the first `singles_max` of a window.
    pub(crate) fn new(singles_max: u32) -> Self {
        Self {
            singles_max,
            windows: HashMap::new(),
            stranger_windows: 0,
            principal_windows: 0,
            buckets: HashMap::new(),
            is_closed: false,
        }
    }

    /// Decides on a refusal, and counts it if it gets no record of its own. Once the windows were taken for the last
    /// time, every refusal gets one.
    pub(crate) fn observe(&mut self, refused: &RefusedRequest<'_>, now: Instant) -> RefusalDecision {
        if self.is_closed {
            return RefusalDecision::Single;
        }
        let key = self.open(RefusalKey::of(refused), now);
        let is_single = self.windows.get(&key).is_some_and(|window| window.singles < self.singles_max);
        let is_single = is_single && !matches!(key, RefusalKey::Others { .. }) && self.take_token(&key, now);
        let Some(window) = self.windows.get_mut(&key) else { return RefusalDecision::Single };
        if is_single {
            window.singles += 1;
            return RefusalDecision::Single;
        }
        window.count(&key, refused);
        RefusalDecision::Counted
    }

    /// Counts a refusal for whose own record there was no room. Returns `false` if the windows were taken for the last
    /// time: nothing was counted.
    pub(crate) fn count(&mut self, refused: &RefusedRequest<'_>, now: Instant) -> bool {
        if self.is_closed {
            return false;
        }
        let key = self.open(RefusalKey::of(refused), now);
        if let Some(window) = self.windows.get_mut(&key) {
            window.count(&key, refused);
        }
        true
    }

    /// Removes the windows that have ended, and returns those that counted refusals.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Vec<CountedRefusals> {
        self.take(|window| now.saturating_duration_since(window.began) >= WINDOW, now)
    }

    /// Removes all windows for the last time, and returns those that counted refusals.
    pub(crate) fn take_last(&mut self) -> Vec<CountedRefusals> {
        self.is_closed = true;
        self.take(|_| true, Instant::now())
    }

    fn take(&mut self, is_taken: impl Fn(&Window) -> bool, now: Instant) -> Vec<CountedRefusals> {
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        let taken: Vec<_> = self.windows.extract_if(|_, window| is_taken(window)).collect();
        for (key, _) in &taken {
            if let Some(number) = self.number_of(key).0 {
                *number -= 1;
            }
        }
        taken.into_iter().filter_map(|(_, window)| window.counted).collect()
    }

    /// Opens the window of `key`, if it is not open. Returns its key: that of other callers if there is no room for one
    /// more.
    fn open(&mut self, key: RefusalKey, now: Instant) -> RefusalKey {
        if self.windows.contains_key(&key) {
            return key;
        }
        // I6: the number of windows is bounded: those of other callers have one for each status.
        let key = match self.number_of(&key) {
            (Some(number), max) if *number >= max => key.others(),
            (Some(number), _) => {
                *number += 1;
                key
            }
            (None, _) => key,
        };
        self.windows.entry(key.clone()).or_insert(Window { began: now, singles: 0, counted: None });
        key
    }

    /// The number of windows of the class of `key`, and its limit.
    fn number_of(&mut self, key: &RefusalKey) -> (Option<&mut usize>, usize) {
        match key {
            RefusalKey::Stranger { .. } => (Some(&mut self.stranger_windows), STRANGER_WINDOWS_MAX),
            RefusalKey::Principal { .. } => (Some(&mut self.principal_windows), PRINCIPAL_WINDOWS_MAX),
            RefusalKey::Others { .. } => (None, usize::MAX),
        }
    }

    /// Takes one of the single records that the caller of `key` has left. Returns `false` if it has none.
    fn take_token(&mut self, key: &RefusalKey, now: Instant) -> bool {
        let tokens = self.singles_max.saturating_mul(KINDS);
        let size = BucketSize { tokens, period: WINDOW / tokens.max(1) };
        let bucket = self.buckets.entry(key.principal()).or_insert_with(|| TokenBucket::full(now));
        bucket.take(size, now).is_ok()
    }
}

impl Window {
    fn count(&mut self, key: &RefusalKey, refused: &RefusedRequest<'_>) {
        match &mut self.counted {
            Some(counted) => counted.add(refused),
            None => self.counted = Some(CountedRefusals::begin(key, refused)),
        }
    }
}

#[cfg(test)]
mod tests;
