//! What the pipeline counts and times of itself, for those who watch it.
//!
//! Plain atomics: writing is a few additions, once a call, a commit or a batch, and takes no lock that calls share. The
//! scribe, the shipper and the receipts write; who reads is none of their business.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::record::{Entry, Timestamp};

/// Upper ends of what one commit takes, and of what auditing adds to a call, microseconds. *Chosen*: a commit takes 0.1 ms
/// on a good disk and seconds on a failing one; two or three steps a decade.
const SHORT_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Upper ends of what calls and deliveries take, microseconds. *Chosen*: from a local echo to an outage of a day.
const LONG_US: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    21_600_000_000,
    86_400_000_000,
];

/// Upper ends of records in a batch. *Chosen*: powers of four up to the ring's default.
const COUNTS: &[u64] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384];

/// Longest error that is kept, bytes. *Chosen*: a screen of it.
const ERROR_BYTES_MAX: usize = 2_048;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// How often values fell below each of some bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
    /// How many make one of the unit that is shown.
    unit: f64,
}

/// A histogram as it was when it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// The sum of all values, in seconds or records.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
    /// Upper ends, the last one infinite, each with the number of values between it and the one before.
    pub buckets: Vec<(f64, u64)>,
}

/// An error of delivery.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LastError {
    /// What it said.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

/// Everything that the pipeline says of itself besides the ring's [`Gauge`](super::ring::Gauge) and the shipper's state.
#[derive(Debug)]
pub struct Meter {
    /// What auditing adds to a call: its waits for room and for both commits.
    pub added_latency: Histogram,
    /// What one commit of the outbox takes.
    pub commit: Histogram,
    /// Records in one commit.
    pub commit_records: Histogram,
    /// Commits that failed and were tried again.
    pub commits_failed: Counter,
    /// Records that were stored.
    pub stored: Counter,
    /// Outbox files that were set aside as damaged.
    pub set_aside: Counter,
    /// What one delivered batch took.
    pub delivery: Histogram,
    /// Records in one delivered batch.
    pub delivery_records: Histogram,
    /// From the making of a batch's first record to its delivery.
    pub delivery_delay: Histogram,
    /// Records that were delivered, quarantined ones too.
    pub delivered: Counter,
    /// Records that Postgres refused and that were set aside there.
    pub quarantined: Counter,
    /// Tries of a delivery that failed and are made again.
    pub retries: Counter,
    /// Whether a stream is forked.
    pub forked: AtomicBool,
    /// When the oldest undelivered record was made, in microseconds; 0 where there is none.
    oldest: AtomicI64,
    /// When a failed delivery is tried again, in microseconds; 0 where none is waiting.
    retry_at: AtomicI64,
    /// Locked once an error.
    last_error: Mutex<Option<LastError>>,
}

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histogram {
    fn new(bounds: &'static [u64], unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), unit }
    }

    /// For what takes milliseconds when all is well.
    #[must_use]
    pub fn for_short_times() -> Self {
        Self::new(SHORT_US, 1e6)
    }

    /// For what may take hours.
    #[must_use]
    pub fn for_long_times() -> Self {
        Self::new(LONG_US, 1e6)
    }

    /// For numbers of records.
    #[must_use]
    pub fn for_counts() -> Self {
        Self::new(COUNTS, 1.0)
    }

    /// Counts a time.
    pub fn observe_duration(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// All of it now. What is counted meanwhile may be in one of its numbers and not yet in another.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a sum beyond 2^52 microseconds is 142 years")]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let ends = self.bounds.iter().map(|bound| *bound as f64 / self.unit).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = ends.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        HistogramSnapshot { sum: self.sum.load(Ordering::Relaxed) as f64 / self.unit, count, buckets }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            added_latency: Histogram::for_short_times(),
            commit: Histogram::for_short_times(),
            commit_records: Histogram::for_counts(),
            commits_failed: Counter::default(),
            stored: Counter::default(),
            set_aside: Counter::default(),
            delivery: Histogram::for_long_times(),
            delivery_records: Histogram::for_counts(),
            delivery_delay: Histogram::for_long_times(),
            delivered: Counter::default(),
            quarantined: Counter::default(),
            retries: Counter::default(),
            forked: AtomicBool::new(false),
            oldest: AtomicI64::new(0),
            retry_at: AtomicI64::new(0),
            last_error: Mutex::default(),
        }
    }
}

impl Meter {
    /// The scribe committed `records` in `took`.
    pub fn observe_commit(&self, records: usize, took: Duration) {
        self.commit.observe_duration(took);
        if records > 0 {
            self.commit_records.observe(records as u64);
            self.stored.add(records as u64);
        }
    }

    /// The shipper stands before `record`, which is the oldest that is not delivered.
    pub(super) fn set_oldest(&self, record: &Entry) {
        self.oldest.store(made_at(record), Ordering::Relaxed);
    }

    /// All is delivered.
    pub(super) fn clear_oldest(&self) {
        self.oldest.store(0, Ordering::Relaxed);
    }

    /// A batch of `records`, the first of which is `first`, was delivered in `took`.
    pub(super) fn observe_delivery(&self, first: &Entry, records: usize, took: Duration) {
        self.delivery.observe_duration(took);
        self.delivery_records.observe(records as u64);
        // The wall clock may have been set back.
        let delay = Timestamp::now().micros().saturating_sub(made_at(first)).max(0);
        self.delivery_delay.observe(delay.unsigned_abs());
    }

    /// Nothing is tried again any more.
    pub(super) fn clear_retry(&self) {
        self.retry_at.store(0, Ordering::Relaxed);
    }

    /// A delivery failed, and is tried again after `pause`.
    pub(super) fn set_retry(&self, error: &str, pause: Duration) {
        self.retries.add(1);
        let pause = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
        self.retry_at.store(Timestamp::now().micros().saturating_add(pause), Ordering::Relaxed);
        self.set_last_error(error);
    }

    /// A delivery failed.
    pub(super) fn set_last_error(&self, error: &str) {
        let error = error.get(..error.floor_char_boundary(ERROR_BYTES_MAX)).unwrap_or_default().to_owned();
        let last = LastError { error, at: Timestamp::now() };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// How long ago the oldest undelivered record was made; `None` where all is delivered, or nothing is to be.
    #[must_use]
    pub fn oldest_age(&self) -> Option<Duration> {
        let oldest = self.oldest.load(Ordering::Relaxed);
        let age = Timestamp::now().micros().saturating_sub(oldest).max(0);
        (oldest != 0).then(|| Duration::from_micros(age.unsigned_abs()))
    }

    /// In how much time a failed delivery is tried again; `None` where none waits.
    #[must_use]
    pub fn next_retry(&self) -> Option<Duration> {
        let at = self.retry_at.load(Ordering::Relaxed);
        let left = at.saturating_sub(Timestamp::now().micros()).max(0);
        (at != 0).then(|| Duration::from_micros(left.unsigned_abs()))
    }

    /// The last error of a delivery, also where it has passed.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// When a record was made: at the end of its call. Microseconds since 1970.
fn made_at(entry: &Entry) -> i64 {
    let latency = Duration::try_from_secs_f64(entry.latency_ms / 1e3).unwrap_or_default();
    entry.call.timestamp.micros().saturating_add(i64::try_from(latency.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Call, Outcome, RequestId, Status};

    #[test]
    fn values_fall_below_their_bounds_and_add_up() {
        let histogram = Histogram::for_short_times();
        for micros in [0, 100, 101, 10_000_000, u64::from(u32::MAX)] {
            histogram.observe_duration(Duration::from_micros(micros));
        }
        let HistogramSnapshot { sum, count, buckets } = histogram.snapshot();
        assert_eq!((count, buckets.len()), (5, SHORT_US.len() + 1));
        assert_eq!((buckets[0], buckets[1].1), ((0.0001, 2), 1), "a bound belongs to what is below it");
        assert_eq!(buckets[SHORT_US.len() - 1].1, 1);
        assert_eq!(buckets[SHORT_US.len()], (f64::INFINITY, 1));
        assert!((sum - 4_304.967_496).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn a_long_call_is_no_old_record() {
        let mut call = Call::new(RequestId::new(), "tools/call");
        call.timestamp = Timestamp::from_micros(Timestamp::now().micros() - 3_600_000_000);
        let entry = Entry::new(call, Outcome::failed(Status::Timeout, "late"), Duration::from_secs(3_500));
        let meter = Meter::default();
        assert_eq!((meter.oldest_age(), meter.next_retry()), (None, None));
        meter.set_oldest(&entry);
        let age = meter.oldest_age().unwrap();
        assert!(age >= Duration::from_secs(100) && age < Duration::from_secs(1_000), "{age:?}");
        meter.clear_oldest();
        assert_eq!(meter.oldest_age(), None);
    }

    #[test]
    fn i6_an_error_is_kept_only_so_long() {
        let meter = Meter::default();
        meter.set_retry(&"\u{e9}".repeat(ERROR_BYTES_MAX), Duration::from_mins(1));
        assert!(meter.last_error().unwrap().error.len() <= ERROR_BYTES_MAX);
        assert!(meter.next_retry().is_some_and(|left| left > Duration::from_secs(1)));
        assert_eq!(meter.retries.get(), 1);
    }
}
