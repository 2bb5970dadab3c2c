//! The counters of the last half hour, for the charts of the console.
//!
//! A task reads the counters that calls increase anyway, every [`INTERVAL`]; calls do not know it. The samples are in
//! memory only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::status::{Sources, pipeline_status};
use crate::audit::record::Status;
use crate::audit::shipper::ShipperState;

/// The time between two samples. *Chosen*: short enough to see a burst, and few enough to draw.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The time that is kept. *Chosen*: the beginning of most trouble that an operator is called for.
pub const KEPT: Duration = Duration::from_mins(30);

/// Most samples: those of [`KEPT`], and the one before them. *Derived*: about 80 KiB.
const SAMPLES_MAX: usize = 361;

/// The counters at one moment, since the start of the gateway.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The moment.
    pub at: Instant,
    /// Calls that ended well, or asked the client for input.
    pub ok: u64,
    /// Calls that ended in another way.
    pub failed: u64,
    /// Refused messages.
    pub refused: u64,
    /// Calls by duration: upper bounds in seconds, the last one infinite, each with the calls between the bound before
    /// it and itself.
    pub durations: Vec<(f64, u64)>,
    /// Records that wait for Postgres; `None` if nothing is delivered.
    pub undelivered: Option<u64>,
}

/// The samples, oldest first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

impl History {
    /// Adds a sample; the oldest one gives way.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock();
        // I6: bounded by count.
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples, oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().iter().cloned().collect()
    }

    /// Takes samples until `stop`.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.add(sample(&sources));
        }
    }
}

/// The counters now.
#[must_use]
pub fn sample(sources: &Sources) -> Sample {
    let counters = sources.gateway.counters();
    let (mut ok, mut failed) = (0, 0);
    let mut durations: Vec<(f64, u64)> = Vec::new();
    for (_, backend) in counters.backends() {
        for (status, count) in backend.calls() {
            *(if matches!(status, Status::Ok | Status::InputRequired) { &mut ok } else { &mut failed }) += count;
        }
        let buckets = backend.latency.snapshot().buckets;
        if durations.is_empty() {
            durations = buckets;
        } else {
            durations.iter_mut().zip(buckets).for_each(|((_, sum), (_, count))| *sum += count);
        }
    }
    let pipeline = sources.probe.as_ref().map(pipeline_status);
    let delivered = pipeline.filter(|pipeline| pipeline.postgres != ShipperState::StoreOnly);
    Sample {
        at: Instant::now(),
        ok,
        failed,
        refused: counters.refusals().map(|(_, count)| count).sum(),
        durations,
        undelivered: delivered.map(|pipeline| pipeline.queued + pipeline.stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn i6_the_history_is_bounded_and_covers_its_time() {
        let history = History::default();
        for ok in 0..1_000 {
            let at = Instant::now();
            history.add(Sample { at, ok, failed: 0, refused: 0, durations: Vec::new(), undelivered: None });
            tokio::time::advance(INTERVAL).await;
        }
        let samples = history.samples();
        assert_eq!((samples.len(), samples[0].ok), (SAMPLES_MAX, 1_000 - SAMPLES_MAX as u64));
        assert_eq!(samples[SAMPLES_MAX - 1].at - samples[0].at, KEPT);
    }
}
