//! `/metrics`: what it says after calls, and that documentation and examples name what there is.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::command::run;
use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until};
use gatepost::ops::alarm::Alarm;
use gatepost::ops::metrics::{METRICS, MetricKind, reference};
use serde_json::{Value, json};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The value of one line, as `gatepost_calls_total{backend="example",status="ok"}`.
fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

fn scrape(gatepost: &Gatepost) -> String {
    let (status, text) = gatepost.get_ops("/metrics");
    assert_eq!(status, 200);
    text
}

#[test]
fn the_documentation_lists_every_metric() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, table) = text.split_once("<!-- metrics -->\n").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{head}<!-- metrics -->\n{}", reference())).unwrap();
    } else {
        assert_eq!(table, reference(), "run UPDATE_DOCS=1 cargo test --test cli metrics");
    }
}

#[test]
fn the_examples_name_only_metrics_that_exist() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        let suffixes: &[&str] = match metric.kind {
            MetricKind::Counter => &["_total"],
            MetricKind::Gauge => &[""],
            MetricKind::Histogram => &["_bucket", "_sum", "_count"],
        };
        names.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", metric.name)));
    }
    // What Prometheus itself says of a target.
    names.insert("up".to_owned());
    let dashboard: Value = serde_json::from_str(&read("examples/grafana.json")).unwrap();
    let exprs = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let dashboard: Vec<_> = exprs.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let rules = read("examples/alerts.yml");
    let rules: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect();
    assert!(dashboard.len() > 10 && rules.len() > 5);
    for expr in dashboard.iter().chain(&rules) {
        let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let is_metric = |word: &&str| ["gatepost_", "process_"].iter().any(|start| word.starts_with(start));
        let found: Vec<_> = words.filter(|word| is_metric(word) || *word == "up").collect();
        assert!(!found.is_empty(), "{expr}");
        for name in found {
            assert!(names.contains(name), "{name} of {expr} does not exist");
        }
    }
}

/// Runs Debian's promtool, which `scripts/setup` installs.
fn promtool(args: &[&str]) {
    let mut command = std::process::Command::new("promtool");
    run(command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")));
}

#[test]
fn the_rules_page_for_what_is_at_risk_and_for_nothing_else() {
    promtool(&["check", "rules", "examples/alerts.yml"]);
    promtool(&["test", "rules", "tests/cli/alerts_test.yml"]);
}

#[test]
fn every_alarm_is_a_page_or_a_ticket() {
    let rules = read("examples/alerts.yml");
    let listed = |operator: &str| -> BTreeSet<String> {
        let start = format!("gatepost_alarm{{alarm{operator}\"");
        let lists: Vec<_> = rules.split(&start).skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
        assert_eq!(lists.len(), 1, "{operator}");
        lists[0].split('|').map(str::to_owned).collect()
    };
    // One rule has these alarms, the other all but these.
    let pages = listed("=~");
    assert_eq!(pages, listed("!~"));
    let names: BTreeSet<String> = Alarm::ALL.map(|alarm| alarm.name().to_owned()).into();
    assert!(pages.is_subset(&names), "{pages:?}");
    for passing in [Alarm::DeliveryBehind, Alarm::OperatorError, Alarm::Capacity75] {
        assert!(!pages.contains(passing.name()), "the outbox has room");
    }
}

#[test]
fn every_alarm_has_its_section_in_the_runbook() {
    let runbook = read("docs/runbook.md");
    let sections: Vec<_> = runbook.split("\n## ").skip(1).collect();
    let names: Vec<_> = sections.iter().map(|section| section.lines().next().unwrap()).collect();
    assert_eq!(names, Alarm::ALL.map(Alarm::name));
    for section in sections {
        let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["**Means**", "**At risk**", "**Do**", "**Type**"] {
            assert!(section.contains(part), "{section} lacks {part}");
        }
    }
}

#[tokio::test]
async fn metrics_count_calls_without_labels_chosen_by_clients() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    for _ in 0..3 {
        assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    }
    let echo = gatepost.client_at("/mcp/example", Era::Modern, "echo").await;
    assert_eq!(echo.call("nosuchtool", json!({})).await.unwrap().error_code(), -32003);
    let stranger = Client::unconnected(&format!("{}/mcp/example", gatepost.url()), Era::Modern, Some("forged"));
    assert_eq!(stranger.call("echo", json!({"text": "x"})).await.unwrap().status, 401);
    // The record of a call is counted before its reply leaves; opened, initialize, 3 calls and 2 refusals.
    let text = scrape(&gatepost);
    for (line, expected) in [
        ("gatepost_up", 2.0),
        (r#"gatepost_calls_total{backend="example",status="ok"}"#, 3.0),
        (r#"gatepost_call_duration_seconds_count{backend="example"}"#, 3.0),
        ("gatepost_audit_added_seconds_count", 3.0),
        (r#"gatepost_refusals_total{reason="denied"}"#, 1.0),
        (r#"gatepost_refusals_total{reason="unauthenticated"}"#, 1.0),
        (r#"gatepost_backend_up{backend="example"}"#, 1.0),
        (r#"gatepost_delivery_state{state="store_only"}"#, 1.0),
        ("gatepost_oldest_undelivered_seconds", 0.0),
        ("gatepost_outbox_generations", 1.0),
        ("gatepost_outbox_failed", 0.0),
        ("gatepost_outbox_disk_full", 0.0),
        ("gatepost_sessions_open", 1.0),
        ("gatepost_epoch", 1.0),
        (r#"gatepost_alarm{alarm="fork"}"#, 0.0),
    ] {
        assert_eq!(value(&text, line), Some(expected), "{line}\n{text}");
    }
    assert_eq!(value(&text, "gatepost_stored_records_total"), value(&text, "gatepost_records_stored"), "{text}");
    assert!(value(&text, "gatepost_stored_records_total").unwrap() >= 7.0, "{text}");
    assert!(value(&text, r#"gatepost_commit_duration_seconds_bucket{le="+Inf"}"#).unwrap() >= 5.0, "{text}");
    assert!(value(&text, "gatepost_audit_added_seconds_sum").unwrap() > 0.0, "{text}");
    let files = value(&text, "process_open_fds").unwrap();
    assert!(files > 10.0 && files < value(&text, "process_max_fds").unwrap(), "{text}");
    // I6, I8: a label is never what a client sent.
    for chosen in ["tester", "nosuchtool", "forged", &token("admin")] {
        assert!(!text.contains(chosen), "{chosen}\n{text}");
    }
    // Every metric has its line, but for those without a value yet.
    for metric in METRICS {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let name =
            if metric.kind == MetricKind::Counter { format!("{}_total", metric.name) } else { metric.name.to_owned() };
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}\n{text}");
    }
    until("connections are counted", SOON, || value(&scrape(&gatepost), "gatepost_connections_open").unwrap() >= 1.0);
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn metrics_are_served_without_auditing() {
    let mut setup = Setup::new();
    let gatepost = setup.set_toml("audit.enabled", "false");
    // Such a gateway writes no addresses: it is asked in-process instead.
    let config = gatepost::config::Config::load(Some(&gatepost.config_file()), []).unwrap();
    let gateway = gatepost::gateway::Gateway::build(
        &config,
        gatepost::audit::Audit::disabled(),
        &gatepost::walls::Launcher::direct(),
    )
    .unwrap();
    let board = gatepost::ops::alarm::Board::default();
    let sources = gatepost::ops::status::Sources {
        evidence: None,
        probe: None,
        gateway: gateway.handle(),
        board,
        log: gatepost::log::DroppedLines::default(),
    };
    let text = gatepost::ops::metrics::text(&sources);
    assert!(value(&text, "gatepost_up").is_some() && !text.contains("gatepost_ring_records"), "{text}");
    assert_eq!(serde_json::to_value(sources.status()).unwrap()["trail"], Value::Null);
}
