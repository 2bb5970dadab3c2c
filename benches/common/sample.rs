//! Percentiles, medians and rates.

use std::time::Duration;

/// Durations of one kind of operation, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<u64>);

impl Sample {
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub fn add(&mut self, duration: Duration) {
        self.0.push(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which `percent` of all lie.
    pub fn percentile(&mut self, percent: f64) -> Duration {
        assert!(!self.0.is_empty(), "nothing was measured");
        self.0.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let at = (self.0.len() as f64 * percent / 100.0) as usize;
        Duration::from_nanos(self.0[at.min(self.0.len() - 1)])
    }
}

/// The middle of what several rounds gave.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many a second.
pub fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

pub fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

pub fn nanoseconds(duration: Duration) -> String {
    super::table::count(duration.as_nanos() as f64)
}
