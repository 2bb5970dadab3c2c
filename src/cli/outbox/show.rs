//! `gatepost outbox show`: one record in full, and the bytes it is stored as.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{Place, ask, fields, json_lines, one, place_of};
use crate::audit::codec::explain;
use crate::cli::print;
use crate::escape::escape_hidden;
use crate::ops::inspect::Question;

/// Bytes in one line. *Chosen*: what `hexdump -C` shows.
const LINE_BYTES: usize = 16;

/// `gatepost outbox show`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A request id, or EPOCH/SEQ
    which: String,
    /// Also the stored bytes, and what each of them means
    #[arg(long)]
    hex: bool,
}

pub(super) async fn run(dir: &Path, args: &Args, json: bool) -> anyhow::Result<()> {
    let which = &args.which;
    let mut lines = ask(dir, &Question::Records { filter: Box::new(one(which)?) }).await?;
    let Some(record) = lines.first() else {
        bail!("no stored record {which} in {}; it may have been delivered: try gatepost audit query", dir.display());
    };
    if !args.hex {
        return Ok(print(&if json { json_lines(&lines) } else { fields(record, "") })?);
    }
    let Place { epoch, seq } = place_of(record).context("read the record's place")?;
    let frame = ask(dir, &Question::Frame { epoch, seq }).await?;
    let Some(frame) = frame.first() else {
        bail!("the bytes of {epoch}/{seq} are not stored: they rotted, or were delivered and forgotten meanwhile");
    };
    let bytes = unhex(frame.get("hex").and_then(Value::as_str).unwrap_or_default());
    let explained = explain::fields(&bytes);
    if json {
        let field = |field: &explain::FrameField| json!({ "offset": field.offset, "length": field.length, "name": field.name, "value": field.value });
        let explained: Vec<Value> = explained.iter().map(field).collect();
        let record = lines.remove(0);
        return Ok(print(&json_lines(&[json!({ "record": record, "frame": frame, "fields": explained })]))?);
    }
    let place = |key: &str| frame.get(key).map(Value::to_string).unwrap_or_default();
    let mut text = fields(record, "");
    writeln!(
        text,
        "\n{} bytes at {} of segment {epoch}/{} in {}",
        bytes.len(),
        place("offset"),
        place("segment"),
        place("file").trim_matches('"')
    )?;
    for field in explained {
        let bytes = bytes.get(field.offset..field.offset + field.length).unwrap_or_default();
        writeln!(text, "\n{:>6} +{:<5} {}: {}", field.offset, field.length, field.name, escape_hidden(&field.value))?;
        for line in bytes.chunks(LINE_BYTES) {
            let hex = line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            let shown: String =
                line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
            writeln!(text, "              {hex:<47}  {shown}")?;
        }
    }
    Ok(print(&text)?)
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    text.as_bytes().chunks(2).filter_map(byte).collect()
}
