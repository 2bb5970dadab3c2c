//! `gatepost outbox stats`: the contents of the outbox, and the status of a live gateway.

use crate::audit::outbox::StoredStream;
use crate::audit::shipper::ShipperState;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::print;
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::{Terminal, Tone};
use crate::escape::escape_hidden;
use crate::ops::format::{age, bytes, count, plural};
use crate::ops::protocol::{Question, StatsAnswer};
use crate::ops::status::PipelineStatus;

pub(super) async fn run(client: &OutboxClient, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    let stats: StatsAnswer = client.one(&Question::Stats).await?;
    Ok(print(&if json { client.json_line(&stats)? } else { text(&stats, terminal) })?)
}

fn text(stats: &StatsAnswer, terminal: Terminal) -> String {
    let files = plural(stats.files.generations as u64, "file");
    let mut lines = vec![("gateway", stats.files.gateway_id.map_or("none yet".to_owned(), |id| id.to_string()))];
    match &stats.live {
        Some(live) => lines.extend(live_lines(live, &files, terminal)),
        None => lines.push(("outbox", format!("{} in {files}", bytes(stats.files.bytes)))),
    }
    let oldest = stats.oldest.map_or(String::new(), |oldest| format!(", the oldest from {oldest}"));
    let kept: u64 = stats.files.streams.iter().map(kept).sum();
    let kept = if kept == 0 { String::new() } else { format!(" ({} of them delivered, and kept)", count(kept)) };
    lines.push(("records", format!("{} on disk{kept}{oldest}", count(stats.stored))));
    lines.push(("open calls", count(stats.files.intents as u64)));
    let lines = lines.into_iter().fold(String::new(), |out, (name, text)| format!("{out}{name:<12}{text}\n"));
    lines + &streams(&stats.files.streams, terminal)
}

/// The records of a stream that are delivered and still stored.
fn kept(stream: &StoredStream) -> u64 {
    (stream.delivered.min(stream.last).0 + 1).saturating_sub(stream.first.0)
}

fn live_lines(live: &PipelineStatus, files: &str, terminal: Terminal) -> Vec<(&'static str, String)> {
    let PipelineStatus { ring, outbox, .. } = live;
    let bad = |is: bool, text: &str| if is { format!("; {}", terminal.paint(Tone::Bad, text)) } else { String::new() };
    let failed = bad(outbox.failed, "cannot store");
    let full = bad(outbox.disk_full || outbox.full, if outbox.disk_full { "the disk is full" } else { "full" });
    let not_delivered = if live.postgres == ShipperState::StoreOnly { "" } else { ", not delivered" };
    let mut lines = vec![
        ("epoch", format!("{}, at seq {}", count(live.epoch.0), count(live.last_seq.0))),
        (
            "ring",
            format!(
                "{} queued; {} of {} places, {} of {}",
                count(live.queued),
                count(ring.records as u64),
                count(ring.records_max as u64),
                bytes(ring.bytes as u64),
                bytes(ring.bytes_max as u64)
            ),
        ),
        (
            "outbox",
            format!(
                "{} of this epoch stored{not_delivered}; {} of {} ({} %) in {files}{failed}{full}",
                count(live.stored),
                bytes(outbox.bytes),
                bytes(outbox.bytes_max),
                outbox.percent
            ),
        ),
        ("postgres", delivery(live, terminal)),
    ];
    if let Some(error) = &live.last_error {
        let resolved = if live.postgres == ShipperState::Delivering { " (resolved)" } else { "" };
        lines.push(("last error", format!("{}{resolved}: {}", error.at, escape_hidden(&error.error))));
    }
    lines
}

/// The state of delivery.
fn delivery(live: &PipelineStatus, terminal: Terminal) -> String {
    let state = match &live.postgres {
        ShipperState::StoreOnly => return "not configured: records stay in the outbox".to_owned(),
        ShipperState::Starting => "starting".to_owned(),
        ShipperState::Delivering => terminal.paint(Tone::Good, "delivering"),
        ShipperState::Retrying { .. } => terminal.paint(Tone::Notable, "retrying"),
        ShipperState::Held { .. } => terminal.paint(Tone::Bad, "held"),
        ShipperState::Forked { .. } => terminal.paint(Tone::Bad, "forked"),
    };
    let delivered = count(live.delivered);
    let waiting = live.oldest_undelivered_seconds;
    let waiting = waiting.map_or("no record waits".to_owned(), |seconds| format!("oldest waiting {}", age(seconds)));
    let retry = live.next_retry_seconds.map_or(String::new(), |left| format!("; retrying in {}", age(left)));
    format!("{state}; {delivered} of this epoch delivered; {waiting}{retry}")
}

fn streams(streams: &[StoredStream], terminal: Terminal) -> String {
    if streams.is_empty() {
        return String::new();
    }
    let row = |stream: &StoredStream| {
        let StoredStream { epoch, first, last, delivered } = stream;
        vec![epoch.to_string(), first.to_string(), last.to_string(), delivered.to_string()]
    };
    let columns = ["EPOCH", "FIRST", "LAST", "DELIVERED"].map(|heading| Column::new(heading, Kind::Fixed));
    format!("\n{}", table(&columns, streams.iter().map(row).collect(), terminal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_of_a_live_gateway_in_an_outage_is_shown() {
        let gateway = "00000000-0000-0000-0000-000000000007";
        let mut stats = json!({
            "gateway_id": gateway, "generations": 2, "bytes": 37_748_736, "intents": 3, "stored": 4_012,
            "oldest": "2026-11-26T10:00:00.000000Z",
            "streams": [{"epoch": 2, "first": 6_210, "last": 10_221, "delivered": 6_209}],
            "live": {
                "gateway_id": gateway, "epoch": 2, "last_seq": 10_234, "queued": 13, "stored": 4_012,
                "delivered": 6_209, "delivered_hash": "00".repeat(32), "oldest_undelivered_seconds": 190.0, "next_retry_seconds": 12.0,
                "ring": {"records": 16, "records_max": 16_384, "bytes": 6_144, "bytes_max": 67_108_864},
                "outbox": {
                    "bytes": 37_748_736, "bytes_max": 8_589_934_592_u64, "percent": 0, "failed": false, "full": false, "disk_full": false,
                    "kept_bytes": 0, "generations": 2, "generations_older": 0, "set_aside": 0,
                },
                "postgres": {"state": "retrying", "error": "connection refused"},
                "last_error": {"error": "connection refused\u{1b}", "at": "2026-11-26T10:03:10.000000Z"},
            },
        });
        let shown =
            |stats: &serde_json::Value| text(&serde_json::from_value(stats.clone()).unwrap(), Terminal::default());
        let expected = "\
gateway     00000000-0000-0000-0000-000000000007
epoch       2, at seq 10,234
ring        13 queued; 16 of 16,384 places, 6.0 KiB of 64.0 MiB
outbox      4,012 of this epoch stored, not delivered; 36.0 MiB of 8.0 GiB (0 %) in 2 files
postgres    retrying; 6,209 of this epoch delivered; oldest waiting 3 min; retrying in 12 s
last error  2026-11-26T10:03:10.000000Z: connection refused\\u{1b}
records     4,012 on disk, the oldest from 2026-11-26T10:00:00.000000Z
open calls  3

EPOCH  FIRST  LAST   DELIVERED
2      6210   10221  6209
";
        assert_eq!(shown(&stats), expected);
        stats["live"]["outbox"]["full"] = json!(true);
        stats["live"]["postgres"] = json!({"state": "delivering"});
        assert!(shown(&stats).contains("last error  2026-11-26T10:03:10.000000Z (resolved): connection refused"));
        assert!(shown(&stats).contains("in 2 files; full\n"));
    }
}
