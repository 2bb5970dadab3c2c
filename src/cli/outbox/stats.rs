//! `gatepost outbox stats`

use std::path::Path;

use serde_json::Value;

use super::{ask, json_lines};
use crate::cli::print;
use crate::cli::table::table;
use crate::escape::escape_hidden;
use crate::ops::inspect::Question;
use crate::ops::words::{age, bytes, count, some};

/// Where the shipper's state stands, a JSON pointer.
const STATE: &str = "/live/postgres/state";

pub(super) async fn run(dir: &Path, json: bool) -> anyhow::Result<()> {
    let lines = ask(dir, &Question::Stats).await?;
    let text = || lines.iter().map(|stats| lines_of(stats) + &streams(stats)).collect();
    Ok(print(&if json { json_lines(&lines) } else { text() })?)
}

/// What is at `path`, a JSON pointer, if it is a number.
fn number(stats: &Value, path: &str) -> Option<u64> {
    stats.pointer(path).and_then(Value::as_u64)
}

fn text(stats: &Value, path: &str) -> Option<String> {
    stats.pointer(path).and_then(Value::as_str).map(|text| escape_hidden(text).into_owned())
}

fn counted(stats: &Value, path: &str) -> String {
    count(number(stats, path).unwrap_or_default())
}

fn sized(stats: &Value, path: &str) -> String {
    bytes(number(stats, path).unwrap_or_default())
}

fn lines_of(stats: &Value) -> String {
    let files = some(number(stats, "/generations").and_then(|files| files.try_into().ok()).unwrap_or_default(), "file");
    let mut lines = vec![("gateway", text(stats, "/gateway_id").unwrap_or_else(|| "none yet".to_owned()))];
    if stats.get("live").is_some() {
        let [epoch, last, queued, waiting] =
            ["/live/epoch", "/live/last_seq", "/live/queued", "/live/stored"].map(|path| counted(stats, path));
        let [places, places_max] = ["/live/ring/records", "/live/ring/records_max"].map(|path| counted(stats, path));
        let [memory, memory_max, used, quota] =
            ["/live/ring/bytes", "/live/ring/bytes_max", "/live/outbox/bytes", "/live/outbox/bytes_max"]
                .map(|path| sized(stats, path));
        let percent = counted(stats, "/live/outbox/percent");
        let flag = |path, word| stats.pointer(path).and_then(Value::as_bool).filter(|is| *is).map_or("", |_| word);
        let trouble = [flag("/live/outbox/failed", "; cannot store"), flag("/live/outbox/full", "; full")].concat();
        let undelivered = if is_store_only(stats) { "" } else { ", not delivered" };
        lines.push(("epoch", format!("{epoch}, at seq {last}")));
        lines.push(("ring", format!("{queued} queued; {places} of {places_max} places, {memory} of {memory_max}")));
        lines.push((
            "outbox",
            format!("{waiting} of this epoch stored{undelivered}; {used} of {quota} ({percent} %) in {files}{trouble}"),
        ));
        lines.push(("postgres", delivery(stats)));
        if let Some(error) = text(stats, "/live/last_error/error") {
            let at = text(stats, "/live/last_error/at").unwrap_or_default();
            let passed = if stats.pointer(STATE).is_some_and(|state| state == "delivering") { " (passed)" } else { "" };
            lines.push(("last error", format!("{at}{passed}: {error}")));
        }
    } else {
        lines.push(("outbox", format!("{} in {files}", sized(stats, "/bytes"))));
    }
    let stored = counted(stats, "/stored");
    lines.push((
        "records",
        match text(stats, "/oldest") {
            Some(oldest) => format!("{stored} on disk, the oldest of {oldest}"),
            None => format!("{stored} on disk"),
        },
    ));
    lines.push(("open calls", counted(stats, "/intents")));
    lines.into_iter().fold(String::new(), |out, (name, text)| format!("{out}{name:<12}{text}\n"))
}

fn is_store_only(stats: &Value) -> bool {
    stats.pointer(STATE).is_some_and(|state| state == "store_only")
}

/// What delivery is doing.
fn delivery(stats: &Value) -> String {
    let doing = text(stats, STATE).unwrap_or_default();
    if is_store_only(stats) {
        return "none configured: records stay in the outbox".to_owned();
    }
    let delivered = counted(stats, "/live/delivered");
    let seconds = |path| stats.pointer(path).and_then(Value::as_f64).map(age);
    let delay = seconds("/live/oldest_undelivered_seconds")
        .map_or("nothing waits".to_owned(), |age| format!("the oldest that waits is {age} old"));
    let again = seconds("/live/next_retry_seconds").map_or(String::new(), |left| format!("; tried again in {left}"));
    format!("{doing}; {delivered} of this epoch delivered; {delay}{again}")
}

fn streams(stats: &Value) -> String {
    let streams = stats.get("streams").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if streams.is_empty() {
        return String::new();
    }
    let row = |stream: &Value| {
        ["/epoch", "/first", "/last", "/delivered"]
            .map(|path| number(stream, path).unwrap_or_default().to_string())
            .to_vec()
    };
    format!("\n{}", table(&["EPOCH", "FIRST", "LAST", "DELIVERED"], &streams.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_live_gateway_in_an_outage_is_told_in_words() {
        let mut stats = json!({
            "gateway_id": "0193a7c2", "generations": 2, "bytes": 37_748_736, "intents": 3, "stored": 4_012,
            "oldest": "2026-11-26T10:00:00Z",
            "streams": [{"epoch": 2, "first": 6_210, "last": 10_221, "delivered": 6_209}],
            "live": {
                "epoch": 2, "last_seq": 10_234, "queued": 13, "stored": 4_012, "delivered": 6_209,
                "oldest_undelivered_seconds": 190.0, "next_retry_seconds": 12.0,
                "ring": {"records": 16, "records_max": 16_384, "bytes": 6_144, "bytes_max": 67_108_864},
                "outbox": {"bytes": 37_748_736, "bytes_max": 8_589_934_592_u64, "percent": 0, "failed": false, "full": false},
                "postgres": {"state": "retrying"},
                "last_error": {"error": "connection refused\u{1b}", "at": "2026-11-26T10:03:10Z"},
            },
        });
        let shown = lines_of(&stats) + &streams(&stats);
        let expected = "\
gateway     0193a7c2
epoch       2, at seq 10,234
ring        13 queued; 16 of 16,384 places, 6.0 KiB of 64.0 MiB
outbox      4,012 of this epoch stored, not delivered; 36.0 MiB of 8.0 GiB (0 %) in 2 files
postgres    retrying; 6,209 of this epoch delivered; the oldest that waits is 3 min old; tried again in 12 s
last error  2026-11-26T10:03:10Z: connection refused\\u{1b}
records     4,012 on disk, the oldest of 2026-11-26T10:00:00Z
open calls  3

EPOCH  FIRST  LAST   DELIVERED
2      6210   10221  6209
";
        assert_eq!(shown, expected);
        stats["live"]["outbox"]["full"] = json!(true);
        stats["live"]["postgres"]["state"] = json!("delivering");
        assert!(lines_of(&stats).contains("last error  2026-11-26T10:03:10Z (passed): connection refused"));
        assert!(lines_of(&stats).contains("in 2 files; full\n"));
    }
}
