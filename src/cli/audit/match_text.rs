//! `gatepost audit match`: compares texts with the keyed digests of a record.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::audit::query::Filter;
use crate::audit::record::{AuditRecord, Digest, DigestKey, RecordKey};
use crate::cli::exit::{CommandError, FAILED};
use crate::cli::output::{print, print_error};
use crate::cli::{digest_key, trail};
use crate::config::Config;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::{EpochSeq, parse_record_ref};
use crate::upstream::without_receipt;

/// `gatepost audit match`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The files contain the exact bytes, as they were sent: the text of params.arguments, and of result or \
    error. A line end at the end of a file may be missing in what was sent. Run it where the gateway's digest key is."
)]
pub(super) struct Args {
    /// A request id, EPOCH/SEQ or GATEWAY/EPOCH/SEQ
    #[arg(value_name = "RECORD")]
    id: String,
    /// Compare this file with the recorded arguments
    #[arg(long, value_name = "FILE", required_unless_present_any = ["response", "reveal_key"])]
    arguments: Option<PathBuf>,
    /// Compare this file with the recorded result or error
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Print the key of this one record, with which anyone can compare its digests
    #[arg(long)]
    reveal_key: bool,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let filter = parse_record_ref(&args.id).map_err(anyhow::Error::msg)?;
    let key = digest_key::read(config)?;
    let mut trail = trail::open(config).await?;
    let records = trail.records(filter.clone()).await?;
    let record = match &records[..] {
        [record] => record,
        [] => bail!("no record {} in the trail", args.id),
        _ => bail!("{} is the reference of {} records: name GATEWAY/EPOCH/SEQ", args.id, records.len()),
    };
    check_key(&mut trail, record, &key).await?;
    let command = if args.reveal_key { ReadCommand::RevealKey } else { ReadCommand::Match };
    trail::record_read(config, &trail, command, Some(&filter), 1).await?;
    let key = key.record_key(record.entry.call.request_id);
    let mut found = serde_json::Map::new();
    let parts = [
        ("arguments", &args.arguments, record.entry.call.args_digest),
        ("response", &args.response, record.entry.response_digest),
    ];
    for (name, file, digest) in parts {
        if let Some(file) = file {
            found.insert(name.to_owned(), compare(file, digest, &key)?.into());
        }
    }
    if args.reveal_key {
        found.insert("key".to_owned(), hex::encode(key.as_bytes()).into());
    }
    let differs = found.values().any(|value| value == "differ" || value == "not recorded");
    let text = |(name, value): (&String, &Value)| format!("{name}: {}\n", value.as_str().unwrap_or_default());
    print(&if json { format!("{}\n", json!(found)) } else { found.iter().map(text).collect() })?;
    if differs { Err(CommandError::Reported { code: FAILED }.into()) } else { Ok(()) }
}

/// Compares the key's id with the one that the record's epoch began with.
async fn check_key(trail: &mut trail::Trail, record: &AuditRecord, key: &DigestKey) -> anyhow::Result<()> {
    let position = record.position;
    let opened = Filter {
        gateway_id: Some(position.gateway_id.0),
        epoch: Some(position.epoch.0),
        seq: Some(1),
        limit: 1,
        ..Filter::default()
    };
    let opened = trail.records(opened).await?;
    let id = opened.first().and_then(|opened| {
        let details: Value = serde_json::from_str(opened.entry.call.request_args.as_deref()?).ok()?;
        Some(details.get("digest_key_id")?.as_str()?.to_owned())
    });
    match id {
        Some(id) if id == key.id().to_string() => Ok(()),
        Some(id) => bail!(
            "record {} was made with another digest key (id {id}; this key has {}): run this where that gateway's key \
             is, or restore it from a backup",
            EpochSeq::of(record),
            key.id()
        ),
        None => {
            print_error("cannot check the digest key: the first record of the epoch is not in this trail");
            Ok(())
        }
    }
}

/// The result of the comparison in words.
fn compare(file: &Path, digest: Option<Digest>, key: &RecordKey) -> anyhow::Result<&'static str> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let Some(digest) = digest else { return Ok("not recorded") };
    let without_line_end = text.strip_suffix(b"\n").unwrap_or(&text);
    // A reply as it was received has its receipt, which the digest does not cover.
    let without_receipt = std::str::from_utf8(without_line_end).ok().and_then(without_receipt);
    let texts = [Some(&text[..]), Some(without_line_end), without_receipt.as_deref().map(str::as_bytes)];
    let is_equal = texts.into_iter().flatten().any(|text| key.digest(text) == digest);
    Ok(if is_equal { "match" } else { "differ" })
}
