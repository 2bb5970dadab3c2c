//! The pipeline's own counters and timings, for status, metrics and alarms.
//!
//! The values are plain atomics: a write is a few additions per call, commit or batch, and calls share no lock. The
//! scribe, the shipper and the receipts write; they do not know the readers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ages::Ages;
use super::record::{AuditRecord, Entry, GatewayId, StreamPosition, Timestamp};

/// Bucket bounds for the duration of a commit and for the latency that auditing adds to a call, in microseconds.
/// *Chosen*: a commit takes 0.1 ms on a good disk and seconds on a failing one; two or three steps per decade.
const SHORT_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Bucket bounds for the duration of calls and deliveries, in microseconds. *Chosen*: from a local echo to an outage of
/// one day.
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

/// Bucket bounds for records in a batch. *Chosen*: powers of four up to the ring's default.
const COUNTS: &[u64] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384];

/// Longest error text that is kept, in bytes. *Chosen*: one screen of text.
const ERROR_BYTES_MAX: usize = 2_048;

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Counts of values by bucket, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One count per bound, and one for values above the last bound.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
    /// Recorded units in one exported unit, for example microseconds in a second.
    unit: f64,
}

/// A histogram's values at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Sum of all values, in seconds or records.
    pub sum: f64,
    /// Number of values.
    pub count: u64,
    /// Upper bounds, the last one infinite, each with the number of values between the bound before it and itself.
    pub buckets: Vec<(f64, u64)>,
}

/// The last error of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastError {
    /// The error's text.
    pub error: String,
    /// Time of the error.
    pub at: Timestamp,
}

/// The pipeline's counters and timings. The ring's [`Gauge`](super::ring::RingGauge) and the shipper's state are
/// separate.
#[derive(Debug)]
pub struct Meter {
    /// Latency that auditing adds to a call: the waits for room and for both commits.
    pub added_latency: Histogram,
    /// Duration of one commit of the outbox.
    pub commit: Histogram,
    /// Records in one commit.
    pub commit_records: Histogram,
    /// Commits that failed and were retried.
    pub commits_failed: Counter,
    /// Records stored.
    pub stored: Counter,
    /// Damaged outbox files that were moved to `quarantine/`.
    pub set_aside: Counter,
    /// Duration of the delivery of one batch.
    pub delivery: Histogram,
    /// Records in one delivered batch.
    pub delivery_records: Histogram,
    /// Time from the end of a batch's first call to the delivery of the batch.
    pub delivery_delay: Histogram,
    /// Records delivered, including quarantined ones.
    pub delivered: Counter,
    /// Records that Postgres refused and that were written to `audit_quarantine`.
    pub quarantined: Counter,
    /// Delivery attempts that failed and are retried.
    pub retries: Counter,
    /// Streams of which Postgres had less than was delivered, and whose kept records were delivered again.
    pub restored: Counter,
    /// True if a stream is forked.
    pub forked: AtomicBool,
    /// Locked by the scribe once per record, and by the shipper once per batch.
    ages: Mutex<Ages>,
    /// When the failed delivery is retried; `None` if none is waiting.
    retry_at: Mutex<Option<Instant>>,
    /// Locked once per error.
    last_error: Mutex<Option<LastError>>,
    /// Gateways whose lease has expired while their stream is open, if this gateway is the one to report them.
    silent_gateways: Mutex<Vec<GatewayId>>,
}

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The current value.
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

    /// A histogram for durations that are milliseconds in normal operation.
    #[must_use]
    pub fn for_short_times() -> Self {
        Self::new(SHORT_US, 1e6)
    }

    /// A histogram for durations that can be hours.
    #[must_use]
    pub fn for_long_times() -> Self {
        Self::new(LONG_US, 1e6)
    }

    /// A histogram for numbers of records.
    #[must_use]
    pub fn for_counts() -> Self {
        Self::new(COUNTS, 1.0)
    }

    /// Adds a duration.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds a value.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// The current values. A value that is added meanwhile may be included in only some of them.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a sum beyond 2^52 microseconds is 142 years")]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.unit).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
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
            restored: Counter::default(),
            forked: AtomicBool::new(false),
            ages: Mutex::default(),
            retry_at: Mutex::default(),
            last_error: Mutex::default(),
            silent_gateways: Mutex::default(),
        }
    }
}

impl Meter {
    /// Counts a commit of `records` by the scribe that took `took`.
    pub fn observe_commit(&self, records: usize, took: Duration) {
        self.commit.observe_duration(took);
        if records > 0 {
            self.commit_records.observe(records as u64);
            self.stored.add(records as u64);
        }
    }

    /// Notes that a record of this process was made now.
    pub fn made(&self, position: StreamPosition) {
        self.ages.lock().made(position, Instant::now());
    }

    /// Sets the oldest record that is not delivered.
    pub(super) fn set_oldest(&self, record: &AuditRecord) {
        self.ages.lock().set_oldest(record.position, made_at(&record.entry));
    }

    /// Notes that every record is delivered.
    pub(super) fn clear_oldest(&self) {
        self.ages.lock().clear_oldest();
    }

    /// Counts the delivery of a batch of `records` that begins with the oldest one and took `took`.
    pub(super) fn observe_delivery(&self, records: usize, took: Duration) {
        self.delivery.observe_duration(took);
        self.delivery_records.observe(records as u64);
        if let Some(delay) = self.oldest_age() {
            self.delivery_delay.observe_duration(delay);
        }
    }

    /// Notes that no failed delivery waits for a retry.
    pub(super) fn clear_retry(&self) {
        *self.retry_at.lock() = None;
    }

    /// Notes that a delivery failed with `error` and is retried after `pause`.
    pub(super) fn set_retry(&self, error: &str, pause: Duration) {
        self.retries.add(1);
        *self.retry_at.lock() = Some(Instant::now() + pause);
        self.set_last_error(error);
    }

    /// Keeps the error of a failed delivery.
    pub(super) fn set_last_error(&self, error: &str) {
        let error = error.get(..error.floor_char_boundary(ERROR_BYTES_MAX)).unwrap_or_default().to_owned();
        let last = LastError { error, at: Timestamp::now() };
        *self.last_error.lock() = Some(last);
    }

    pub(super) fn set_silent_gateways(&self, silent: Vec<GatewayId>) {
        *self.silent_gateways.lock() = silent;
    }

    /// Gateways whose lease has expired while their stream is open; at most a hundred, and at one gateway only.
    #[must_use]
    pub fn silent_gateways(&self) -> Vec<GatewayId> {
        self.silent_gateways.lock().clone()
    }

    /// Age of the oldest undelivered record, whatever the wall clock does; `None` if all are delivered, or if there is
    /// no sink.
    #[must_use]
    pub fn oldest_age(&self) -> Option<Duration> {
        self.ages.lock().oldest()
    }

    /// Time until the failed delivery is retried; `None` if none waits.
    #[must_use]
    pub fn next_retry(&self) -> Option<Duration> {
        self.retry_at.lock().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The last error of a delivery, even if a later delivery succeeded.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().clone()
    }
}

/// When a record was made, which is at the end of its call.
fn made_at(entry: &Entry) -> Timestamp {
    let latency = Duration::try_from_secs_f64(entry.latency_ms / 1e3).unwrap_or_default();
    let latency = i64::try_from(latency.as_micros()).unwrap_or(0);
    Timestamp::from_micros(entry.call.timestamp.micros().saturating_add(latency))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Call, Outcome, RequestId, Status};

    #[test]
    fn values_are_counted_at_or_below_their_bound_and_summed() {
        let histogram = Histogram::for_short_times();
        for micros in [0, 100, 101, 10_000_000, u64::from(u32::MAX)] {
            histogram.observe_duration(Duration::from_micros(micros));
        }
        let HistogramSnapshot { sum, count, buckets } = histogram.snapshot();
        assert_eq!((count, buckets.len()), (5, SHORT_US.len() + 1));
        assert_eq!((buckets[0], buckets[1].1), ((0.0001, 2), 1), "a bound is inclusive");
        assert_eq!(buckets[SHORT_US.len() - 1].1, 1);
        assert_eq!(buckets[SHORT_US.len()], (f64::INFINITY, 1));
        assert!((sum - 4_304.967_496).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn age_of_a_record_is_measured_from_the_end_of_its_call() {
        let mut call = Call::new(RequestId::new(), "tools/call");
        call.timestamp = Timestamp::from_micros(Timestamp::now().micros() - 3_600_000_000);
        let entry = Entry::new(call, Outcome::failed(Status::Timeout, "late"), Duration::from_secs(3_500));
        let meter = Meter::default();
        assert_eq!((meter.oldest_age(), meter.next_retry()), (None, None));
        meter.set_oldest(&AuditRecord { entry, ..AuditRecord::blank() });
        let age = meter.oldest_age().unwrap();
        assert!(age >= Duration::from_secs(100) && age < Duration::from_secs(1_000), "{age:?}");
        meter.clear_oldest();
        assert_eq!(meter.oldest_age(), None);
    }

    #[test]
    fn i6_last_error_is_truncated() {
        let meter = Meter::default();
        meter.set_retry(&"\u{e9}".repeat(ERROR_BYTES_MAX), Duration::from_mins(1));
        assert!(meter.last_error().unwrap().error.len() <= ERROR_BYTES_MAX);
        assert!(meter.next_retry().is_some_and(|left| left > Duration::from_secs(1)));
        assert_eq!(meter.retries.get(), 1);
    }
}
