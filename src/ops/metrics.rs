//! `/metrics`: the numbers of a live gateway in the Prometheus text format.
//!
//! [`METRICS`] is the one table of all metrics, from which the response, `docs/metrics.md` and the tests of the
//! examples are made. Labels are aliases of backends, values of `response_status` and names of alarms, never text from
//! a client (I6, I8).

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::status::{BackendStatus, Condition, PipelineStatus, Sources, Status};
use crate::accept::open_files_max;
use crate::audit::meter::HistogramSnapshot;
use crate::audit::pipeline::Probe;
use crate::audit::record;
use crate::audit::shipper::ShipperState;
use crate::certificate_end::{CertificateEnd, KnownCertificate};
use crate::notary::{self, Anchored, EvidenceState, PlaceState};

/// The media type of the response.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Counts by bucket, with sum and count.
    Histogram,
}

use MetricKind::{Counter, Gauge, Histogram};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; `_total` is appended to that of a counter.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Its description, without a full stop.
    pub help: &'static str,
}

const fn metric(kind: MetricKind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// All metrics, in the order of the documentation.
pub const METRICS: &[Metric] = &[
    metric(Gauge, "gatepost_up", &[], "2: ready; 1: degraded, still ready; 0: failed, calls cannot be audited"),
    metric(Gauge, "gatepost_build_info", &["version"], "Always 1; the label is the version of Gatepost"),
    metric(Counter, "gatepost_calls", &["backend", "status"], "Audited calls that have ended, by response_status"),
    metric(
        Histogram,
        "gatepost_call_duration_seconds",
        &["backend"],
        "Duration of audited calls, including the backend and auditing",
    ),
    metric(
        Histogram,
        "gatepost_audit_added_seconds",
        &[],
        "Time that auditing added to a call: waiting for its intent and its record",
    ),
    metric(Counter, "gatepost_refusals", &["reason"], "Refused messages, by response_status"),
    metric(Gauge, "gatepost_calls_open", &[], "Calls open at backends"),
    metric(Gauge, "gatepost_calls_max", &[], "Most open calls, server.calls_max"),
    metric(Gauge, "gatepost_messages_open", &[], "Messages being handled"),
    metric(Gauge, "gatepost_connections_open", &[], "Client connections"),
    metric(
        Counter,
        "gatepost_connections_evicted",
        &[],
        "Client connections that were closed for others, because all places or those of their address were taken",
    ),
    metric(
        Counter,
        "gatepost_connections_refused",
        &[],
        "Client connections that were closed unserved, because their address had its share",
    ),
    metric(Gauge, "gatepost_sessions_open", &[], "Legacy sessions"),
    metric(Gauge, "gatepost_backend_up", &["backend"], "1 if the backend is reachable"),
    metric(
        Counter,
        "gatepost_list_items_omitted",
        &["backend"],
        "Items left out of a backend's lists, because they cannot be read or can only be called as tasks",
    ),
    metric(
        Gauge,
        "gatepost_certificate_expiry_timestamp_seconds",
        &["certificate", "backend"],
        "End of a certificate in seconds since 1970: of the listener (server), or of a backend or Postgres: the earliest of \
         those in handshakes of the last hour, or that of the last handshake",
    ),
    metric(Gauge, "gatepost_evidence_signed_records", &[], "Records that the last signed checkpoint covers"),
    metric(
        Gauge,
        "gatepost_evidence_confirmed_records",
        &["place"],
        "Records that the last checkpoint covers that Postgres or an anchor confirmed",
    ),
    metric(
        Gauge,
        "gatepost_evidence_confirmed_timestamp_seconds",
        &["place"],
        "Time of the last confirmation of a checkpoint by Postgres or an anchor, in seconds since 1970",
    ),
    metric(Gauge, "gatepost_epoch", &[], "Number of the current epoch; each start adds one"),
    metric(Gauge, "gatepost_records_queued", &[], "Records of the current epoch that are in memory only"),
    metric(Gauge, "gatepost_records_stored", &[], "Records of the current epoch that are stored and not delivered"),
    metric(Counter, "gatepost_stored_records", &[], "Records stored since startup"),
    metric(
        Counter,
        "gatepost_delivered_records",
        &[],
        "Records delivered since startup, of all epochs and including quarantined records",
    ),
    metric(
        Counter,
        "gatepost_quarantined_records",
        &[],
        "Records that Postgres refused and that are in audit_quarantine, since startup",
    ),
    metric(
        Counter,
        "gatepost_streams_restored",
        &[],
        "Streams of which Postgres had less than was delivered, and whose kept records were delivered again, since startup",
    ),
    metric(
        Gauge,
        "gatepost_oldest_undelivered_seconds",
        &[],
        "Age of the oldest undelivered record; 0 if no record waits",
    ),
    metric(
        Gauge,
        "gatepost_ring_records",
        &[],
        "Records and intents in the ring that are not stored yet, including reserved places",
    ),
    metric(Gauge, "gatepost_ring_records_max", &[], "Most records and intents in the ring, audit.ring_records_max"),
    metric(Gauge, "gatepost_ring_bytes", &[], "Bytes of the records and intents in the ring that are not stored yet"),
    metric(Gauge, "gatepost_ring_bytes_max", &[], "Most bytes in the ring, audit.ring_bytes_max"),
    metric(Gauge, "gatepost_outbox_bytes", &[], "Size of the outbox files with undelivered records"),
    metric(
        Gauge,
        "gatepost_outbox_kept_bytes",
        &[],
        "Size of the outbox files with delivered records only, which are kept for audit.keep_delivered",
    ),
    metric(Gauge, "gatepost_outbox_bytes_max", &[], "Quota of the outbox, audit.outbox_bytes_max"),
    metric(Gauge, "gatepost_outbox_generations", &[], "Generation files of the outbox"),
    metric(
        Gauge,
        "gatepost_outbox_generations_older",
        &[],
        "Generation files of older epochs, which contain undelivered records",
    ),
    metric(Gauge, "gatepost_outbox_full", &[], "1 if the quota or the disk is used up, so that no call can begin"),
    metric(
        Gauge,
        "gatepost_outbox_disk_full",
        &[],
        "1 if the disk of the outbox is full, whatever is left of the quota",
    ),
    metric(Gauge, "gatepost_outbox_failed", &[], "1 if the outbox cannot store"),
    metric(Counter, "gatepost_generations_set_aside", &[], "Damaged outbox files set aside since startup"),
    metric(Histogram, "gatepost_commit_duration_seconds", &[], "Duration of commits to the outbox"),
    metric(Histogram, "gatepost_commit_records", &[], "Records in a commit that had any"),
    metric(Counter, "gatepost_commits_failed", &[], "Commits that failed and were retried"),
    metric(
        Histogram,
        "gatepost_delivery_duration_seconds",
        &[],
        "Duration of the delivery of a batch that Postgres accepted",
    ),
    metric(Histogram, "gatepost_delivery_records", &[], "Records in a batch that Postgres accepted"),
    metric(
        Histogram,
        "gatepost_delivery_delay_seconds",
        &[],
        "Time from the creation of a batch's first record to its delivery",
    ),
    metric(Counter, "gatepost_delivery_retries", &[], "Failed deliveries that are retried"),
    metric(
        Gauge,
        "gatepost_delivery_next_retry_seconds",
        &[],
        "Time until a failed delivery is retried; 0 if none is due",
    ),
    metric(
        Gauge,
        "gatepost_delivery_state",
        &["state"],
        "1 for the current state of delivery: store_only, starting, delivering, retrying, held or forked",
    ),
    metric(Gauge, "gatepost_alarm", &["alarm"], "1 if the alarm is active; docs/runbook.md has a section for each"),
    metric(Counter, "gatepost_alarms_raised", &["alarm"], "Times that the alarm was raised since startup"),
    metric(
        Counter,
        "gatepost_alarm_notices_failed",
        &[],
        "Alarm notifications that neither the command nor the webhook accepted",
    ),
    metric(
        Counter,
        "gatepost_accepts_failed",
        &[],
        "Failures to accept a connection, usually because the process has too many open files",
    ),
    metric(Counter, "gatepost_log_lines_dropped", &[], "Log lines dropped because they could not be written in time"),
    metric(Gauge, "process_open_fds", &[], "Open file descriptors"),
    metric(Gauge, "process_max_fds", &[], "Most open file descriptors, see `LimitNOFILE=` and `ulimit -n`"),
];

/// Names of the variants of [`ShipperState`], in a fixed order.
const STATES: [&str; 6] = ["store_only", "starting", "delivering", "retrying", "held", "forked"];

/// The values of one metric, each with the values of its labels.
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

/// The response to a scrape, of the type [`CONTENT_TYPE`].
#[must_use]
pub fn text(sources: &Sources) -> String {
    let mut registry = Registry::default();
    let collector = Collector { sources: sources.clone(), status: sources.status() };
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    if prometheus_text::encode(&mut text, &registry).is_err() {
        tracing::error!("metrics are incomplete: they could not be encoded");
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
    format!("\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n{rows}")
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

fn size(size: impl TryInto<u64>) -> Values {
    one(as_f64(size.try_into().unwrap_or(u64::MAX)))
}

#[expect(clippy::cast_precision_loss, reason = "the last digit does not matter beyond 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
fn seconds(end: CertificateEnd) -> f64 {
    end.at as f64
}

impl Collector {
    /// The values of the metric with this name; `None` if it has none, for example because auditing is off.
    fn values(&self, name: &str) -> Option<Values> {
        let evidence = self.sources.evidence.as_ref().map(notary::Status::get);
        self.of_gateway(name).or_else(|| of_process(name)).or_else(|| of_evidence(name, evidence.as_ref())).or_else(
            || {
                let (probe, pipeline) = (self.sources.probe.as_ref()?, self.status.pipeline.as_ref()?);
                of_pipeline(name, pipeline).or_else(|| of_meter(name, probe))
            },
        )
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
                let of = |alias: &str, (status, count): (record::Status, u64)| {
                    (vec![alias.to_owned(), status.as_str().to_owned()], count)
                };
                let backends = tally.backends();
                let all = backends.iter().flat_map(|(alias, numbers)| numbers.calls().map(move |call| of(alias, call)));
                Values::Counts(all.collect())
            }
            "gatepost_call_duration_seconds" => {
                let backends = tally.backends().into_iter();
                Values::Histograms(backends.map(|(alias, numbers)| (vec![alias], numbers.latency.snapshot())).collect())
            }
            "gatepost_refusals" => Values::Counts(
                tally.refusals().map(|(status, count)| (vec![status.as_str().to_owned()], count)).collect(),
            ),
            "gatepost_calls_open" => size(status.calls_open),
            "gatepost_calls_max" => size(status.calls_max),
            "gatepost_messages_open" => size(status.messages_open),
            "gatepost_connections_open" => size(status.connections_open),
            "gatepost_connections_evicted" => count(self.sources.gateway.connections_evicted()),
            "gatepost_connections_refused" => count(self.sources.gateway.connections_refused()),
            "gatepost_sessions_open" => size(status.sessions_open),
            "gatepost_list_items_omitted" => {
                let omitted = |backend: &BackendStatus| (vec![backend.alias.clone()], backend.items_omitted);
                Values::Counts(status.backends.iter().map(omitted).collect())
            }
            "gatepost_backend_up" => {
                let up = |backend: &BackendStatus| (vec![backend.alias.clone()], f64::from(u8::from(backend.up)));
                Values::Numbers(status.backends.iter().map(up).collect())
            }
            "gatepost_certificate_expiry_timestamp_seconds" => {
                let end = |known: KnownCertificate| {
                    let (kind, alias) = known.owner.labels();
                    (vec![kind.to_owned(), alias.to_owned()], seconds(known.end))
                };
                Values::Numbers(self.sources.certificates().into_iter().map(end).collect())
            }
            "gatepost_alarm" => {
                let is_active = |alarm| f64::from(u8::from(status.alarms.iter().any(|active| active.alarm == alarm)));
                let all = board.raised().map(|(alarm, _)| (vec![alarm.name().to_owned()], is_active(alarm)));
                Values::Numbers(all.collect())
            }
            "gatepost_alarms_raised" => Values::Counts(
                board.raised().map(|(alarm, raised)| (vec![alarm.name().to_owned()], raised.get())).collect(),
            ),
            "gatepost_alarm_notices_failed" => count(board.notifications_failed().get()),
            "gatepost_accepts_failed" => count(self.sources.gateway.accept_failures().count()),
            "gatepost_log_lines_dropped" => count(self.sources.log.count()),
            _ => return None,
        })
    }
}

/// The metrics that every process has, under the names that Prometheus' own libraries give them.
fn of_process(name: &str) -> Option<Values> {
    Some(match name {
        // One of them is that of the directory itself.
        "process_open_fds" => size(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)),
        "process_max_fds" => size(open_files_max()?),
        _ => return None,
    })
}

fn of_evidence(name: &str, state: Option<&EvidenceState>) -> Option<Values> {
    let of_places = |number: fn(Anchored) -> f64| {
        let of = |(name, place): (&String, &PlaceState)| Some((vec![name.clone()], number(place.last?)));
        Values::Numbers(state.iter().flat_map(|state| &state.places).filter_map(of).collect())
    };
    Some(match name {
        "gatepost_evidence_signed_records" => {
            let signed = state.and_then(|state| state.signed);
            Values::Numbers(signed.into_iter().map(|signed| (Vec::new(), as_f64(signed.size))).collect())
        }
        "gatepost_evidence_confirmed_records" => of_places(|last| as_f64(last.size)),
        "gatepost_evidence_confirmed_timestamp_seconds" => {
            of_places(|last| Duration::from_micros(last.at.micros().unsigned_abs()).as_secs_f64())
        }
        _ => return None,
    })
}

fn of_pipeline(name: &str, pipeline: &PipelineStatus) -> Option<Values> {
    let PipelineStatus { ring, outbox, .. } = pipeline;
    Some(match name {
        "gatepost_epoch" => size(pipeline.epoch.0),
        "gatepost_records_queued" => size(pipeline.queued),
        "gatepost_records_stored" => size(pipeline.stored),
        "gatepost_oldest_undelivered_seconds" => one(pipeline.oldest_undelivered_seconds.unwrap_or(0.0)),
        "gatepost_ring_records" => size(ring.records),
        "gatepost_ring_records_max" => size(ring.records_max),
        "gatepost_ring_bytes" => size(ring.bytes),
        "gatepost_ring_bytes_max" => size(ring.bytes_max),
        "gatepost_outbox_bytes" => size(outbox.bytes),
        "gatepost_outbox_kept_bytes" => size(outbox.kept_bytes),
        "gatepost_outbox_bytes_max" => size(outbox.bytes_max),
        "gatepost_outbox_generations" => size(outbox.generations),
        "gatepost_outbox_generations_older" => size(outbox.generations_older),
        "gatepost_outbox_full" => flag(outbox.full),
        "gatepost_outbox_disk_full" => flag(outbox.disk_full),
        "gatepost_outbox_failed" => flag(outbox.failed),
        "gatepost_delivery_next_retry_seconds" => one(pipeline.next_retry_seconds.unwrap_or(0.0)),
        "gatepost_delivery_state" => {
            let now = match pipeline.postgres {
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
        "gatepost_streams_restored" => count(meter.restored.get()),
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
