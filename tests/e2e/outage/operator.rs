//! An operator who looks at a gateway: what is typed, and what all of it has to say.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::Load;
use super::transcript::Transcript;
use crate::browser::Browser;
use crate::common::gatepost::Gatepost;
use crate::common::wait::SOON;

/// What is typed at each look.
const READYZ: &str = "curl -s http://127.0.0.1:8809/readyz";
const METRICS: &str = concat!(
    "curl -s http://127.0.0.1:8809/metrics | grep -E ",
    "'^gatepost_(up|records_stored|oldest_undelivered|(outbox_bytes|ring_records) |delivery_(next|retries|state.* 1.0$)|alarm.*behind)'",
);
const STATS: &str = "gatepost outbox stats --config gatepost.toml";
const LOG: &str = "grep -E 'Postgres|alarm' log";

/// The metrics that are asked for by name.
pub const STORED: &str = "gatepost_records_stored";
pub const OLDEST: &str = "gatepost_oldest_undelivered_seconds";
pub const BEHIND: &str = r#"gatepost_alarm{alarm="delivery_behind"}"#;
pub const RETRIES: &str = "gatepost_delivery_retries_total";
pub const NEXT_RETRY: &str = "gatepost_delivery_next_retry_seconds";

/// Somebody who looks at a gateway under load, and keeps its console open.
#[derive(Debug)]
pub struct Operator<'a> {
    pub gatepost: &'a Gatepost,
    pub load: Load,
    pub browser: Browser,
    pub transcript: Transcript<'a>,
}

/// What the console has to show at a look.
#[derive(Debug)]
pub struct Console<'a> {
    pub sentence: &'a str,
    /// Words below the sentence.
    pub texts: &'a [&'a str],
    /// The alarms that stand.
    pub alarms: &'a [&'a str],
    /// Records that wait, at least and at most.
    pub waiting: (usize, usize),
}

/// What an operator was told.
#[derive(Debug)]
pub struct Seen {
    pub readyz: Value,
    pub metrics: Metrics,
    stats: String,
}

/// The text of `/metrics`, or lines of it.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    /// The value of a line.
    pub fn get(&self, name: &str) -> f64 {
        let found = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("{name} is not in\n{}", self.0))
    }

    /// Whether an alarm, as [`BEHIND`], stands.
    pub fn stands(&self, alarm: &str) -> bool {
        self.get(alarm) > 0.0
    }

    /// What the shipper is doing.
    pub fn state(&self) -> &str {
        let mut states = self.0.lines().filter_map(|line| line.strip_prefix("gatepost_delivery_state{state=\""));
        states.find_map(|line| line.strip_suffix("\"} 1.0")).unwrap_or_else(|| panic!("no state in\n{}", self.0))
    }
}

impl Seen {
    /// All says that records wait for a Postgres that is not there, and that calls are audited all the same.
    pub fn tells_of_the_outage(&self) {
        let Self { readyz, metrics, stats } = self;
        assert_eq!((&readyz["status"], &readyz["postgres"]["state"]), (&json!("degraded"), &json!("retrying")));
        let error = readyz["postgres"]["error"].as_str().unwrap();
        assert!(error.contains("Connection refused"), "{error}");
        assert!(stats.contains("\npostgres    retrying; ") && stats.contains(error), "{stats}");
        assert_eq!(metrics.state(), "retrying");
        assert!(metrics.get(RETRIES) >= 1.0, "{metrics:?}");
        // What waits in the outbox takes no room of the calls'.
        assert!(metrics.get("gatepost_ring_records") < 64.0, "{metrics:?}");
    }
}

impl Operator<'_> {
    pub fn metrics(&self) -> Metrics {
        Metrics(self.gatepost.get_ops("/metrics").1)
    }

    pub fn readyz(&self) -> (u16, Value) {
        let (code, body) = self.gatepost.get_ops("/readyz");
        (code, serde_json::from_str(&body).unwrap())
    }

    /// Types everything, and waits until the console, which nobody touches, shows what it has to.
    pub fn look(&mut self, name: &str, console: &Console<'_>) -> Seen {
        let (answered, failed) = self.load.so_far();
        assert_eq!(failed, 0, "callers notice nothing");
        let memory = self.memory();
        self.transcript.write(&format!("{answered} calls answered, 0 failed; resident memory {memory}\n\n"));
        let readyz = serde_json::from_str(&self.transcript.run(READYZ)).unwrap();
        let metrics = Metrics(self.transcript.run(METRICS));
        let stats = self.transcript.run(STATS);
        self.transcript.run(LOG);
        let Console { sentence, texts, alarms, waiting: (least, most) } = console;
        let look = json!({
            "name": name, "sentence": sentence, "texts": texts, "alarms": alarms, "least": least, "most": most,
        });
        self.browser.say(&look.to_string());
        assert_eq!(self.browser.hears().as_deref(), Some("done"), "at {name}: what the driver said is above");
        self.transcript.write(&format!("![The console]({name}.png)\n\n"));
        Seen { readyz, metrics, stats }
    }

    /// The gateway's resident memory.
    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gatepost.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().to_owned()
    }

    /// Lets the outage go on until `time` after `stopped`; all the while the gateway says that calls are audited.
    pub async fn outage(&self, stopped: Instant, time: Duration) {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        while stopped.elapsed() < time {
            ticks.tick().await;
            let (code, body) = self.readyz();
            assert_eq!((code, &body["status"]), (200, &json!("degraded")), "{body}");
            assert_eq!(self.load.so_far().1, 0, "callers notice nothing");
        }
    }

    /// Watches the backlog go after Postgres is back: a table of it.
    pub async fn drain(&self, back: Instant) -> String {
        let mut rows = String::from("| s | state | records waiting | oldest, s |\n| --- | --- | --- | --- |\n");
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut before = String::new();
        loop {
            ticks.tick().await;
            let (metrics, seconds) = (self.metrics(), back.elapsed().as_secs_f64());
            let (state, waiting, oldest) = (metrics.state(), metrics.get(STORED), metrics.get(OLDEST));
            if state != before || state == "delivering" {
                writeln!(rows, "| {seconds:.1} | {state} | {waiting} | {oldest:.1} |").unwrap();
            }
            if state == "delivering" && oldest < 1.0 {
                return rows;
            }
            state.clone_into(&mut before);
            assert!(back.elapsed() < 4 * SOON, "the backlog does not go\n{rows}");
        }
    }
}
