//! `gatepost outbox show`: one record in full, and its stored bytes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::audit::codec::explain;
use crate::audit::query::Filter;
use crate::audit::record::AuditRecord;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_line, print};
use crate::cli::record_view::{Arguments, record_fields};
use crate::escape::escape_hidden;
use crate::ops::protocol::{Question, StoredFrame};
use crate::ops::record_ref::{EpochSeq, parse_record_ref};

/// Bytes on one line. *Chosen*: the same as in `hexdump -C`.
const LINE_BYTES: usize = 16;

/// `gatepost outbox show`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A request id, or EPOCH/SEQ
    #[arg(value_name = "RECORD")]
    id: String,
    /// Also print the stored bytes, and the meaning of each
    #[arg(long)]
    hex: bool,
}

/// A record with its bytes as JSON.
#[derive(Debug, Serialize)]
struct JsonFrame<'a> {
    record: &'a AuditRecord,
    frame: &'a StoredFrame,
    fields: Vec<JsonField<'a>>,
}

/// A field of the frame as JSON.
#[derive(Debug, Serialize)]
struct JsonField<'a> {
    offset: usize,
    length: usize,
    name: &'static str,
    value: &'a str,
}

impl Args {
    /// The argument, if it names a position in one stream.
    pub(super) fn of_one_stream(&self) -> Option<&'static str> {
        let position = self.id.parse::<EpochSeq>().ok();
        position.map(|_| "EPOCH/SEQ")
    }
}

pub(super) async fn run(dir: &Path, outboxes: &[OutboxClient], args: &Args, json: bool) -> anyhow::Result<()> {
    let id = &args.id;
    let filter = Filter { limit: 1, ..parse_record_ref(id).map_err(anyhow::Error::msg)? };
    let mut found = None;
    for client in outboxes {
        let records: Vec<AuditRecord> = client.all(&Question::Records { filter: Box::new(filter.clone()) }).await?;
        found = found.or(records.into_iter().next().map(|record| (client, record)));
    }
    let Some((client, record)) = found else {
        bail!("no stored record {id} in {}; if it was delivered, use gatepost audit show", dir.display());
    };
    if !args.hex {
        return Ok(print(&if json { json_line(&record)? } else { record_fields(&record, Arguments::OneLine) })?);
    }
    let position = EpochSeq::of(&record);
    let frames: Vec<StoredFrame> = client.all(&Question::Frame { position }).await?;
    let Some(frame) = frames.first() else {
        bail!("the bytes of {position} are not stored: they are damaged, or were delivered and removed meanwhile");
    };
    let bytes = hex::decode(&frame.hex).context("cannot read the stored bytes")?;
    let fields = explain::fields(&bytes);
    if json {
        let fields = fields.iter().map(|explain::FrameField { offset, length, name, value }| JsonField {
            offset: *offset,
            length: *length,
            name,
            value,
        });
        let fields = fields.collect();
        return Ok(print(&json_line(&JsonFrame { record: &record, frame, fields })?)?);
    }
    let mut text = record_fields(&record, Arguments::OneLine);
    let StoredFrame { file, segment, offset, .. } = frame;
    writeln!(text, "\n{} bytes at {offset} of segment {}/{segment} in {file}", bytes.len(), position.epoch)?;
    for field in &fields {
        text.push_str(&dump(field, &bytes));
    }
    Ok(print(&text)?)
}

/// A field: offset, length, name and value, then its bytes.
fn dump(field: &explain::FrameField, bytes: &[u8]) -> String {
    let explain::FrameField { offset, length, name, value } = field;
    let mut text = format!("\n{offset:>6} +{length:<5} {name}: {}\n", escape_hidden(value));
    for line in bytes.get(*offset..offset + length).unwrap_or_default().chunks(LINE_BYTES) {
        let hex = line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let ascii: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        writeln!(text, "              {hex:<47}  {ascii}").ok();
    }
    text
}
