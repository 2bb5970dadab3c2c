//! The charts of the overview: calls, their duration, and the records that wait, as inline SVG.
//!
//! A chart has only shapes, which stretch to the width of the page; its words and numbers are HTML beside it. Each line
//! has a pattern of its own besides its colour, and the description of the picture has the last value and the range.

use std::fmt::Write as _;

use maud::{Markup, html};
use tokio::time::Instant;

use crate::ops::format::{age, count};
use crate::ops::history::{INTERVAL, KEPT, Sample};

/// The width of a chart in its own units. *Derived*: one unit for each sample.
const WIDTH: f64 = 360.0;

/// The height of a chart in its own units. *Chosen*: tenths of a unit are finer than a pixel.
const HEIGHT: f64 = 100.0;

/// The samples over which quantiles of durations are taken. *Chosen*: half a minute; with one interval, a single call
/// would draw a tower.
const QUANTILE_SAMPLES: usize = 6;

/// The line of a chart: its values, oldest first, each with its age in seconds.
struct Line {
    name: &'static str,
    values: Vec<(f64, f64)>,
}

/// One chart.
struct Chart {
    id: &'static str,
    title: &'static str,
    /// The unit, as it follows a number.
    unit: &'static str,
    show: fn(f64) -> String,
    lines: Vec<Line>,
}

/// The section with the charts.
pub(super) fn section(samples: &[Sample], now: Instant) -> Markup {
    let mut charts = vec![calls(samples, now), durations(samples, now)];
    charts.extend(backlog(samples, now));
    html! {
        section aria-labelledby="charts" {
            h2 id="charts" { "Last 30 minutes" }
            div.charts { @for chart in &charts { (chart.figure()) } }
        }
    }
}

fn calls(samples: &[Sample], now: Instant) -> Chart {
    let rate = |name, counter: fn(&Sample) -> u64| {
        let value = |(before, after): (&Sample, &Sample)| {
            let seconds = (after.at - before.at).as_secs_f64();
            Some(as_f64(counter(after).saturating_sub(counter(before))) / seconds).filter(|rate| rate.is_finite())
        };
        let pairs = samples.iter().zip(samples.iter().skip(1));
        let values = pairs.filter_map(|pair| Some((age_of(pair.1, now), value(pair)?))).collect();
        Line { name, values }
    };
    let lines = vec![
        rate("ok", |sample| sample.ok),
        rate("refused", |sample| sample.refused),
        rate("failed", |sample| sample.failed),
    ];
    Chart { id: "chart-calls", title: "Calls", unit: " per second", show: |value| format!("{value:.1}"), lines }
}

fn durations(samples: &[Sample], now: Instant) -> Chart {
    let line = |name, part: f64| {
        let values = samples.iter().enumerate().filter_map(|(idx, sample)| {
            let before = samples.get(idx.saturating_sub(QUANTILE_SAMPLES))?;
            Some((age_of(sample, now), quantile(&before.durations, &sample.durations, part)?))
        });
        Line { name, values: values.collect() }
    };
    let lines = vec![line("p50", 0.5), line("p95", 0.95)];
    Chart { id: "chart-durations", title: "Duration of calls", unit: "", show: duration, lines }
}

/// `None` if nothing is delivered.
fn backlog(samples: &[Sample], now: Instant) -> Option<Chart> {
    let value = |sample: &Sample| Some((age_of(sample, now), as_f64(sample.undelivered?)));
    let values: Vec<_> = samples.iter().filter_map(value).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count")]
    let show = |value: f64| count(value as u64);
    let lines = vec![Line { name: "waiting", values }];
    let chart = Chart { id: "chart-backlog", title: "Not delivered", unit: " records", show, lines };
    samples.last().is_some_and(|sample| sample.undelivered.is_some()).then_some(chart)
}

impl Chart {
    fn figure(&self) -> Markup {
        let top = self.top();
        let (title, description) = (format!("{}-title", self.id), format!("{}-text", self.id));
        html! {
            figure.chart {
                figcaption {
                    h3 { (self.title) span.quiet { "up to " (self.text(top)) } }
                    ul.legend {
                        @for (idx, line) in self.lines.iter().enumerate() {
                            li data-line=(idx) { (line.name) " " strong { (self.last(line)) } }
                        }
                    }
                }
                svg role="img" aria-labelledby={ (title) " " (description) } viewBox={ "0 0 " (WIDTH) " " (HEIGHT) }
                    preserveAspectRatio="none" {
                    title id=(title) { (self.title) ", last 30 minutes" }
                    desc id=(description) { (self.description()) }
                    path.grid d={ "M0 " (HEIGHT / 2.0) "H" (WIDTH) "M0 0H" (WIDTH) } {}
                    @for (idx, line) in self.lines.iter().enumerate() {
                        path data-line=(idx) d=(path(&line.values, top)) {}
                    }
                }
                p.axis { span { "30 min ago" } span { "now" } }
            }
        }
    }

    /// The value at the upper edge.
    fn top(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value);
        nice(values.fold(0.0, f64::max))
    }

    fn text(&self, value: f64) -> String {
        format!("{}{}", (self.show)(value), self.unit)
    }

    /// The last value of a line, if there is one of the last interval.
    fn last(&self, line: &Line) -> String {
        let last = line.values.last().filter(|(age, _)| *age < 2.0 * INTERVAL.as_secs_f64());
        last.map_or("-".to_owned(), |(_, value)| (self.show)(*value))
    }

    fn description(&self) -> String {
        let of_line = |line: &Line| {
            let values = || line.values.iter().map(|(_, value)| *value);
            if line.values.is_empty() {
                return format!("{}: no values", line.name);
            }
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
            format!("{}: now {}, from {} to {}", line.name, self.last(line), (self.show)(low), self.text(high))
        };
        self.lines.iter().map(of_line).collect::<Vec<_>>().join("; ")
    }
}

/// The path of a line. It is interrupted where samples are missing; in a level part only the ends are drawn.
fn path(values: &[(f64, f64)], top: f64) -> String {
    let mut path = String::new();
    let mut before: Option<(f64, f64)> = None;
    for (idx, (age, value)) in values.iter().enumerate() {
        let is_next = before.is_some_and(|(last, _)| last - age < 2.5 * INTERVAL.as_secs_f64());
        let is_level =
            |other: Option<&(f64, f64)>| other.is_some_and(|(_, other)| (other - value).abs() < f64::EPSILON);
        let next = values.get(idx + 1);
        let has_next = next.is_some_and(|(then, _)| age - then < 2.5 * INTERVAL.as_secs_f64());
        if !(is_next && has_next && is_level(before.as_ref()) && is_level(next)) {
            let x = WIDTH * (1.0 - age / KEPT.as_secs_f64()).clamp(0.0, 1.0);
            let y = HEIGHT * (1.0 - value / top).clamp(0.0, 1.0);
            write!(path, "{}{x:.1} {y:.1}", if is_next { 'L' } else { 'M' }).ok();
            // A single value is a short line.
            if !is_next && !has_next {
                path.push_str("h1");
            }
        }
        before = Some((*age, *value));
    }
    path
}

/// The quantile of the durations between two samples, in seconds, by interpolation within its bucket. `None`: there was
/// no call.
fn quantile(before: &[(f64, u64)], after: &[(f64, u64)], part: f64) -> Option<f64> {
    let of_bucket = |idx: usize, count: u64| count.saturating_sub(before.get(idx).map_or(0, |(_, count)| *count));
    let counts: Vec<_> =
        after.iter().enumerate().map(|(idx, (bound, count))| (*bound, of_bucket(idx, *count))).collect();
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let wanted = as_f64(total) * part;
    let (mut below, mut seen) = (0.0, 0.0);
    for (bound, count) in counts.into_iter().filter(|_| total > 0) {
        let count = as_f64(count);
        if count > 0.0 && seen + count >= wanted {
            // Above the last bound nothing is known but the bound.
            return Some(if bound.is_finite() { below + (bound - below) * (wanted - seen) / count } else { below });
        }
        (below, seen) = (bound, seen + count);
    }
    None
}

/// The next of 1, 2, 5, 10, ... in the decade of a value.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * decade >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * decade
}

fn age_of(sample: &Sample, now: Instant) -> f64 {
    now.saturating_duration_since(sample.at).as_secs_f64()
}

/// A duration in seconds, for people.
fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { age(seconds) }
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn samples(all: &[(u64, u64, u64)]) -> (Vec<Sample>, Instant) {
        let start = Instant::now();
        let sample = |(idx, (ok, failed, refused)): (usize, &(u64, u64, u64))| Sample {
            at: start + INTERVAL * u32::try_from(idx).unwrap(),
            ok: *ok,
            failed: *failed,
            refused: *refused,
            durations: vec![(0.001, *ok), (0.01, 0), (f64::INFINITY, 0)],
            undelivered: Some(*ok),
        };
        (all.iter().enumerate().map(sample).collect(), start + INTERVAL * u32::try_from(all.len() - 1).unwrap())
    }

    #[tokio::test]
    async fn a_chart_says_in_words_what_it_draws() {
        let (samples, now) = samples(&[(0, 0, 0), (10, 0, 5), (60, 5, 5)]);
        let chart = calls(&samples, now);
        assert_eq!(
            chart.description(),
            "ok: now 10.0, from 2.0 to 10.0 per second; refused: now 0.0, from 0.0 to 1.0 per second; failed: now 1.0, \
             from 0.0 to 1.0 per second"
        );
        assert_eq!(path(&chart.lines[0].values, 10.0), "M359.0 80.0L360.0 0.0");
        let later = chart.last(&calls(&samples, now + Duration::from_mins(1)).lines[0]);
        assert_eq!(later, "-", "an old value is not that of now");
        assert!(durations(&samples, now).description().starts_with("p50: now 0.5 ms, from 0.5 ms to 0.5 ms"));
        let shown = section(&samples, now).into_string();
        assert!(
            shown.contains("Not delivered") && shown.contains("role=\"img\"") && !shown.contains("style="),
            "{shown}"
        );
        let (none, now) = self::samples(&[(0, 0, 0)]);
        assert!(calls(&none, now).description().starts_with("ok: no values; "));
        let first = section(&[], now).into_string();
        assert!(first.contains("Calls") && !first.contains("Not delivered"), "before the first sample");
        let store_only = [Sample { undelivered: None, ..samples[0].clone() }];
        assert!(backlog(&store_only, now).is_none(), "nothing is delivered");
    }

    #[test]
    fn a_line_is_interrupted_by_missing_samples_and_has_only_the_ends_of_a_level_part() {
        let level = |from: u32, to: u32| (to..=from).rev().map(|idx| (f64::from(idx) * 5.0, 1.0));
        let values: Vec<_> = level(300, 200).chain(level(100, 0)).collect();
        assert_eq!(path(&values, 2.0), "M60.0 50.0L160.0 50.0M260.0 50.0L360.0 50.0");
        assert_eq!(path(&[(0.0, 1.0)], 2.0), "M360.0 50.0h1");
        assert_eq!(path(&[], 1.0), "");
    }

    #[test]
    fn a_quantile_is_interpolated_and_of_the_calls_between_two_samples() {
        let buckets = |counts: [u64; 3]| [0.1, 1.0, f64::INFINITY].into_iter().zip(counts).collect::<Vec<_>>();
        let before = buckets([1000, 0, 0]);
        assert_eq!(quantile(&before, &buckets([1000, 10, 0]), 0.5), Some(0.55));
        assert_eq!(quantile(&before, &buckets([1010, 0, 0]), 1.0), Some(0.1));
        assert_eq!(quantile(&before, &buckets([1000, 0, 5]), 0.5), Some(1.0));
        assert_eq!(quantile(&before, &before, 0.5), None);
        assert_eq!(quantile(&before, &[], 0.5), None, "the backends were removed");
    }

    #[test]
    fn the_upper_edge_is_a_round_number() {
        for (value, top) in [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (4.0, 5.0), (700.0, 1000.0)] {
            assert!((nice(value) - top).abs() < 1e-9, "{value}: {}", nice(value));
        }
    }
}
