//! `gatepost outbox verify`: checks that all stored records are complete and unchanged.

use std::fmt::Write as _;

use anyhow::bail;

use crate::audit::outbox::verify::{CheckedStream, LostPlaces, OutboxVerification, TrailStart};
use crate::cli::exit::CommandError;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::print;
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::{Terminal, Tone};
use crate::ops::format::plural;
use crate::ops::protocol::Question;

pub(super) async fn run(client: &OutboxClient, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    let verified: OutboxVerification = client.one(&Question::Verify).await?;
    // The exit code has the verdict even if the report has no reader.
    let printed = print(&if json { client.json_line(&verified)? } else { text(&verified, terminal) });
    let Some(fault) = &verified.fault else {
        if verified.lost > 0 && printed.as_ref().is_ok() {
            let lost = plural(verified.lost, "record");
            return Err(
                CommandError::NotProven(format!("no fault was found, but the contents of {lost} are lost")).into()
            );
        }
        return Ok(printed?);
    };
    let position = match (fault.epoch, fault.seq) {
        (None, _) => String::new(),
        (Some(epoch), None) => format!(", epoch {epoch}"),
        (Some(epoch), Some(seq)) => format!(", {epoch}/{seq}"),
    };
    bail!("{}{position}: {}; nothing after it was checked", fault.file, fault.what);
}

fn text(verified: &OutboxVerification, terminal: Terminal) -> String {
    let row = |stream: &CheckedStream| {
        let end = if stream.closed { "closed" } else { "open: its end cannot be checked" };
        vec![stream.epoch.to_string(), stream.first.to_string(), stream.last.to_string(), end.to_owned()]
    };
    let columns = ["EPOCH", "FIRST", "LAST"].map(|heading| Column::new(heading, Kind::Fixed));
    let columns: Vec<_> = columns.into_iter().chain([Column::new("END", Kind::Text)]).collect();
    let mut text = table(&columns, verified.streams.iter().map(row).collect(), terminal);
    let (records, files) = (plural(verified.records, "record"), plural(verified.files as u64, "file"));
    writeln!(text, "\n{records} in {files}: checksums, seq, chain, open calls").ok();
    if let Some(TrailStart { epoch, seq, hash, pruned_by }) = &verified.begins_behind {
        let reason = match pruned_by {
            Some((epoch, seq)) => format!("earlier records were pruned, as gateway/pruned at {epoch}/{seq} says"),
            None => "earlier records were delivered, or removed".to_owned(),
        };
        writeln!(text, "the trail begins after {epoch}/{seq} ({hash}): {reason}").ok();
    }
    if verified.lost > 0 {
        let places = |run: &LostPlaces| match (run.first, run.last) {
            (first, last) if first == last => format!("{}/{first}", run.epoch),
            (first, last) => format!("{}/{first} to {last}", run.epoch),
        };
        let listed: Vec<_> = verified.lost_runs.iter().map(places).collect();
        let lost = plural(verified.lost, "record");
        writeln!(text, "the contents of {lost} are lost, as gateway/damage says: {}", listed.join(", ")).ok();
    }
    if verified.open > 0 {
        let calls = plural(verified.open as u64, "open call");
        writeln!(text, "{calls}; if the gateway died, its next start records them as interrupted").ok();
    }
    if verified.fault.is_none() {
        text.push_str(&terminal.paint(Tone::Good, "no fault"));
        text.push('\n');
    }
    text
}
