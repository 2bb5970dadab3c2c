//! The time at which a caller's token or certificate ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::audit::record::Timestamp;

/// Longest time between two looks at the wall clock. *Chosen*: a machine that slept notices soon that a token ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The longest validity that is counted. *Chosen*: a process does not run longer, and an [`Instant`] can represent it.
const VALIDITY_MAX: Duration = Duration::from_hours(24 * 365 * 10);

/// The time at which a token or certificate ends, if it does.
///
/// It has ended when either clock says so: the monotonic clock, since a wall clock may be set back; or the wall clock,
/// since the monotonic clock stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity(Option<End>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    wall: Timestamp,
    monotonic: Instant,
    /// The part of the time that only tolerates differences between clocks.
    leeway: Duration,
}

impl Validity {
    /// A credential that does not end by itself.
    pub const UNLIMITED: Self = Self(None);

    /// Until `end`.
    #[must_use]
    pub fn until(end: Timestamp) -> Self {
        let left = left_until(end).min(VALIDITY_MAX);
        Self(Some(End { wall: end, monotonic: Instant::now() + left, leeway: Duration::ZERO }))
    }

    /// Until `seconds` since 1970, and `leeway` after that.
    #[must_use]
    pub fn until_seconds(seconds: u64, leeway: Duration) -> Self {
        let micros = seconds.saturating_add(leeway.as_secs()).saturating_mul(1_000_000);
        let Self(end) = Self::until(Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX)));
        Self(end.map(|end| End { leeway, ..end }))
    }

    /// Returns `true` if the credential has ended.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Returns true if the credential ends before one that is valid for `other`.
    #[must_use]
    pub fn ends_before(self, other: Self) -> bool {
        match (self.0, other.0) {
            (Some(own), Some(other)) => own.wall < other.wall,
            (own, other) => own.is_some() && other.is_none(),
        }
    }

    /// Waits until the credential has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(self) {
        loop {
            match self.left() {
                None => std::future::pending().await,
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left.min(LOOK_INTERVAL)).await,
            }
        }
    }

    /// The time that is left; `None` if the credential does not end.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        let End { wall, monotonic, leeway: _ } = self.0?;
        Some(monotonic.saturating_duration_since(Instant::now()).min(left_until(wall)))
    }

    /// The time that is left without the leeway: for sessions that are opened with the credential.
    #[must_use]
    pub fn left_of_credential(self) -> Option<Duration> {
        let leeway = self.0.map_or(Duration::ZERO, |end| end.leeway);
        self.left().map(|left| left.saturating_sub(leeway))
    }
}

fn left_until(end: Timestamp) -> Duration {
    let micros = end.micros().saturating_sub(Timestamp::now().micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds_from_now(seconds: i64) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000)
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_ends_at_its_time_by_the_monotonic_clock() {
        let validity = Validity::until(seconds_from_now(3600));
        assert!(!validity.has_ended());
        assert!(tokio::time::timeout(Duration::from_secs(3590), validity.ended()).await.is_err());
        validity.ended().await;
        assert!(validity.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_ends_at_its_time_by_the_wall_clock_too() {
        // As after a sleep of the machine: the monotonic clock has an hour left.
        let leeway = Duration::ZERO;
        let ended = End { wall: seconds_from_now(-1), monotonic: Instant::now() + Duration::from_hours(1), leeway };
        let validity = Validity(Some(ended));
        assert!(validity.has_ended());
        validity.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_without_an_end_or_with_one_far_away_has_not_ended() {
        for validity in [Validity::UNLIMITED, Validity::until_seconds(u64::MAX, Duration::MAX)] {
            assert!(!validity.has_ended());
            assert!(tokio::time::timeout(Duration::from_hours(24), validity.ended()).await.is_err());
        }
    }
}
