//! `/metrics`: the numbers of a live gateway in the Prometheus text format.
//!
//! [`METRICS`] is the one table of all of them: it drives what is written, `docs/metrics.md` and the tests of the examples.
//! Labels are aliases of backends, words of statuses and names of alarms, never what a client chose (I6, I8).

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::status::{Condition, Sources, Status, Trail};
use crate::audit::meter::HistogramSnapshot;
use crate::audit::pipeline::Probe;
use crate::audit::shipper::ShipperState;

/// The type of what is answered.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number of this moment.
    Gauge,
    /// Counts by size, with sum and count.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; that of a counter ends in `_total` besides.
    pub name: &'static str,
    /// What kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, without the full stop.
    pub help: &'static str,
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// All metrics, in the order of the documentation.
pub const METRICS: &[Metric] = &[
    metric(Gauge, "gatepost_up", &[], "2: ready; 1: degraded, still ready; 0: failed, calls cannot be audited"),
    metric(Gauge, "gatepost_build_info", &["version"], "Always 1; its label says which version runs"),
    metric(
        Counter,
        "gatepost_calls",
        &["backend", "status"],
        "Audited calls that have ended, by the words of response_status",
    ),
    metric(
        Histogram,
        "gatepost_call_duration_seconds",
        &["backend"],
        "What audited calls took, backend and auditing together",
    ),
    metric(
        Histogram,
        "gatepost_audit_added_seconds",
        &[],
        "What auditing added to a call: its waits for its intent and its record",
    ),
    metric(Counter, "gatepost_refusals", &["reason"], "Messages that were refused, by the words of response_status"),
    metric(Gauge, "gatepost_calls_open", &[], "Calls that are open at backends"),
    metric(Gauge, "gatepost_calls_max", &[], "Most calls that may be open, server.calls_max"),
    metric(Gauge, "gatepost_messages_open", &[], "Messages that are being handled"),
    metric(Gauge, "gatepost_connections_open", &[], "Connections of clients"),
    metric(Gauge, "gatepost_sessions_open", &[], "Legacy sessions"),
    metric(Gauge, "gatepost_backend_up", &["backend"], "1 where the backend answers"),
    metric(Gauge, "gatepost_epoch", &[], "This epoch's number: it rises by one at each start"),
    metric(Gauge, "gatepost_records_queued", &[], "Records of this epoch that are in memory only"),
    metric(Gauge, "gatepost_records_stored", &[], "Records of this epoch that are stored and not delivered"),
    metric(Counter, "gatepost_stored_records", &[], "Records that were stored since the start"),
    metric(
        Counter,
        "gatepost_delivered_records",
        &[],
        "Records that were delivered since the start, of all epochs, quarantined ones too",
    ),
    metric(
        Counter,
        "gatepost_quarantined_records",
        &[],
        "Records that Postgres refused and that are in audit_quarantine, since the start",
    ),
    metric(
        Gauge,
        "gatepost_oldest_undelivered_seconds",
        &[],
        "Age of the oldest record that is to be delivered; 0 where none waits",
    ),
    metric(
        Gauge,
        "gatepost_ring_records",
        &[],
        "Records and intents in the ring that are not stored, or with room kept for them",
    ),
    metric(Gauge, "gatepost_ring_records_max", &[], "Most of them, audit.ring_records_max"),
    metric(Gauge, "gatepost_ring_bytes", &[], "Their bytes"),
    metric(Gauge, "gatepost_ring_bytes_max", &[], "Most of these, audit.ring_bytes_max"),
    metric(Gauge, "gatepost_outbox_bytes", &[], "Bytes of the outbox's files"),
    metric(Gauge, "gatepost_outbox_bytes_max", &[], "Their quota, audit.outbox_bytes_max"),
    metric(Gauge, "gatepost_outbox_generations", &[], "Generation files of the outbox"),
    metric(Gauge, "gatepost_outbox_generations_older", &[], "Those of older epochs, which hold something undelivered"),
    metric(Gauge, "gatepost_outbox_full", &[], "1 where quota or disk are used up and no call begins"),
    metric(Gauge, "gatepost_outbox_failed", &[], "1 where the outbox cannot store"),
    metric(
        Counter,
        "gatepost_generations_set_aside",
        &[],
        "Outbox files that were set aside as damaged, since the start",
    ),
    metric(Histogram, "gatepost_commit_duration_seconds", &[], "What commits of the outbox took"),
    metric(Histogram, "gatepost_commit_records", &[], "Records in a commit that had any"),
    metric(Counter, "gatepost_commits_failed", &[], "Commits that failed and were tried again"),
    metric(Histogram, "gatepost_delivery_duration_seconds", &[], "What batches took that Postgres accepted"),
    metric(Histogram, "gatepost_delivery_records", &[], "Records in such a batch"),
    metric(
        Histogram,
        "gatepost_delivery_delay_seconds",
        &[],
        "From the making of a batch's first record to its delivery",
    ),
    metric(Counter, "gatepost_delivery_retries", &[], "Tries of a delivery that failed and are made again"),
    metric(
        Gauge,
        "gatepost_delivery_next_retry_seconds",
        &[],
        "Time until a failed delivery is tried again; 0 where none waits",
    ),
    metric(
        Gauge,
        "gatepost_delivery_state",
        &["state"],
        "1 for what the shipper is doing, one of store_only, starting, delivering, retrying, held, forked",
    ),
    metric(Gauge, "gatepost_alarm", &["alarm"], "1 where the alarm stands; each has a section in docs/runbook.md"),
    metric(Counter, "gatepost_alarms_raised", &["alarm"], "How often the alarm was raised since the start"),
    metric(Counter, "gatepost_alarm_notices_failed", &[], "Notices of alarms that neither command nor webhook took"),
];

/// Names of [`ShipperState`], in a fixed order.
const STATES: [&str; 6] = ["store_only", "starting", "delivering", "retrying", "held", "forked"];

/// Values of one metric, each with the values of its labels.
#[derive(Debug)]
enum Values {
    Numbers(Vec<(Vec<String>, f64)>),
    Counts(Vec<(Vec<String>, u64)>),
    Histograms(Vec<(Vec<String>, HistogramSnapshot)>),
}

#[derive(Debug)]
struct Collector {
    sources: Sources,
    status: Status,
}

/// All numbers now, as [`CONTENT_TYPE`] says.
#[must_use]
pub fn text(sources: &Sources) -> String {
    let mut registry = Registry::default();
    let collector = Collector { sources: sources.clone(), status: sources.status() };
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    if prometheus_text::encode(&mut text, &registry).is_err() {
        tracing::error!("the metrics could not be written whole: a fault of Gatepost");
    }
    text
}

/// The table of `docs/metrics.md`, in Markdown.
#[must_use]
pub fn reference() -> String {
    let row = |metric: &Metric| {
        let (name, kind) = match metric.kind {
            Counter => (format!("{}_total", metric.name), "counter"),
            Gauge => (metric.name.to_owned(), "gauge"),
            Histogram => (metric.name.to_owned(), "histogram"),
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {} |\n", labels.join(", "), metric.help)
    };
    let rows: String = METRICS.iter().map(row).collect();
    format!("\n| metric | kind | labels | what it says |\n| --- | --- | --- | --- |\n{rows}")
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let Some(values) = self.values(metric.name) else { continue };
            let kind = match metric.kind {
                Counter => MetricType::Counter,
                Gauge => MetricType::Gauge,
                Histogram => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            let labels =
                |values: Vec<String>| -> Vec<(&str, String)> { metric.labels.iter().copied().zip(values).collect() };
            match values {
                Values::Numbers(numbers) => {
                    for (values, number) in numbers {
                        encoder.encode_family(&labels(values))?.encode_gauge(&number)?;
                    }
                }
                Values::Counts(counts) => {
                    for (values, count) in counts {
                        encoder.encode_family(&labels(values))?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
                    }
                }
                Values::Histograms(readings) => {
                    for (values, HistogramSnapshot { sum, count, buckets }) in readings {
                        let labels = labels(values);
                        let mut encoder = encoder.encode_family(&labels)?;
                        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn one(number: f64) -> Values {
    Values::Numbers(vec![(Vec::new(), number)])
}

fn count(count: u64) -> Values {
    Values::Counts(vec![(Vec::new(), count)])
}

fn histogram(reading: HistogramSnapshot) -> Values {
    Values::Histograms(vec![(Vec::new(), reading)])
}

fn flag(flag: bool) -> Values {
    one(f64::from(u8::from(flag)))
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody looks at the last digit")]
fn size(size: impl TryInto<u64>) -> Values {
    one(size.try_into().unwrap_or(u64::MAX) as f64)
}

impl Collector {
    /// The values of the metric with this name; `None` where it has none, as without auditing.
    fn values(&self, name: &str) -> Option<Values> {
        self.of_gateway(name).or_else(|| {
            let (probe, trail) = (self.sources.probe.as_ref()?, self.status.trail.as_ref()?);
            of_trail(name, trail).or_else(|| of_meter(name, probe))
        })
    }

    fn of_gateway(&self, name: &str) -> Option<Values> {
        let (status, tally, board) = (&self.status, self.sources.gateway.counters(), &self.sources.board);
        Some(match name {
            "gatepost_up" => one(match status.condition {
                Condition::Ready => 2.0,
                Condition::Degraded => 1.0,
                Condition::Failed => 0.0,
            }),
            "gatepost_build_info" => Values::Numbers(vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)]),
            "gatepost_calls" => {
                let of = |alias: &str, (status, count): (crate::audit::record::Status, u64)| {
                    (vec![alias.to_owned(), status.as_str().to_owned()], count)
                };
                let all = tally
                    .backends()
                    .flat_map(|(alias, of_backend)| of_backend.calls().map(move |call| of(alias, call)));
                Values::Counts(all.collect())
            }
            "gatepost_call_duration_seconds" => {
                let of =
                    tally.backends().map(|(alias, of_backend)| (vec![alias.to_owned()], of_backend.latency.snapshot()));
                Values::Histograms(of.collect())
            }
            "gatepost_refusals" => Values::Counts(
                tally.refusals().map(|(status, count)| (vec![status.as_str().to_owned()], count)).collect(),
            ),
            "gatepost_calls_open" => size(status.calls_open),
            "gatepost_calls_max" => size(status.calls_max),
            "gatepost_messages_open" => size(status.messages_open),
            "gatepost_connections_open" => size(status.connections_open),
            "gatepost_sessions_open" => size(status.sessions_open),
            "gatepost_backend_up" => {
                let up =
                    |backend: &super::status::Backend| (vec![backend.alias.clone()], f64::from(u8::from(backend.up)));
                Values::Numbers(status.backends.iter().map(up).collect())
            }
            "gatepost_alarm" => {
                let stands = |alarm| f64::from(u8::from(status.alarms.iter().any(|standing| standing.alarm == alarm)));
                let all = board.raised().map(|(alarm, _)| (vec![alarm.name().to_owned()], stands(alarm)));
                Values::Numbers(all.collect())
            }
            "gatepost_alarms_raised" => Values::Counts(
                board.raised().map(|(alarm, raised)| (vec![alarm.name().to_owned()], raised.get())).collect(),
            ),
            "gatepost_alarm_notices_failed" => count(board.unnoticed().get()),
            _ => return None,
        })
    }
}

fn of_trail(name: &str, trail: &Trail) -> Option<Values> {
    let Trail { ring, outbox, .. } = trail;
    Some(match name {
        "gatepost_epoch" => size(trail.epoch.0),
        "gatepost_records_queued" => size(trail.queued),
        "gatepost_records_stored" => size(trail.stored),
        "gatepost_oldest_undelivered_seconds" => one(trail.oldest_undelivered_seconds.unwrap_or(0.0)),
        "gatepost_ring_records" => size(ring.records),
        "gatepost_ring_records_max" => size(ring.records_max),
        "gatepost_ring_bytes" => size(ring.bytes),
        "gatepost_ring_bytes_max" => size(ring.bytes_max),
        "gatepost_outbox_bytes" => size(outbox.bytes),
        "gatepost_outbox_bytes_max" => size(outbox.bytes_max),
        "gatepost_outbox_generations" => size(outbox.generations),
        "gatepost_outbox_generations_older" => size(outbox.generations_older),
        "gatepost_outbox_full" => flag(outbox.full),
        "gatepost_outbox_failed" => flag(outbox.failed),
        "gatepost_delivery_next_retry_seconds" => one(trail.next_retry_seconds.unwrap_or(0.0)),
        "gatepost_delivery_state" => {
            let now = match trail.postgres {
                ShipperState::StoreOnly => "store_only",
                ShipperState::Starting => "starting",
                ShipperState::Delivering => "delivering",
                ShipperState::Retrying { .. } => "retrying",
                ShipperState::Held { .. } => "held",
                ShipperState::Forked { .. } => "forked",
            };
            let all = STATES.iter().map(|state| (vec![(*state).to_owned()], f64::from(u8::from(*state == now))));
            Values::Numbers(all.collect())
        }
        _ => return None,
    })
}

fn of_meter(name: &str, probe: &Probe) -> Option<Values> {
    let meter = probe.meter();
    Some(match name {
        "gatepost_audit_added_seconds" => histogram(meter.added_latency.snapshot()),
        "gatepost_stored_records" => count(meter.stored.get()),
        "gatepost_delivered_records" => count(meter.delivered.get()),
        "gatepost_quarantined_records" => count(meter.quarantined.get()),
        "gatepost_generations_set_aside" => count(meter.set_aside.get()),
        "gatepost_commit_duration_seconds" => histogram(meter.commit.snapshot()),
        "gatepost_commit_records" => histogram(meter.commit_records.snapshot()),
        "gatepost_commits_failed" => count(meter.commits_failed.get()),
        "gatepost_delivery_duration_seconds" => histogram(meter.delivery.snapshot()),
        "gatepost_delivery_records" => histogram(meter.delivery_records.snapshot()),
        "gatepost_delivery_delay_seconds" => histogram(meter.delivery_delay.snapshot()),
        "gatepost_delivery_retries" => count(meter.retries.get()),
        _ => return None,
    })
}
