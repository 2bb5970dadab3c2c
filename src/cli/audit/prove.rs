//! `gatepost audit prove`: a record, and the proof that it is in its gateway's log, which reveals no other record.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::output::{json_line, print};
use crate::cli::trail;
use crate::config::Config;
use crate::counts::plural;
use crate::ops::export_line::export_line;
use crate::ops::proof::{Signatures, is_witness, proof};
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::{parse_record_ref, record_ref};
use crate::ops::trail::TrailReader;

/// `gatepost audit prove`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A request id, EPOCH/SEQ or GATEWAY/EPOCH/SEQ
    #[arg(value_name = "RECORD")]
    id: String,
    /// Directory for the two files, REQUEST-ID.json and REQUEST-ID.tlog-proof
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Also accept a checkpoint that no witness has signed
    #[arg(long)]
    unwitnessed: bool,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let filter = parse_record_ref(&args.id).map_err(anyhow::Error::msg)?;
    let mut trail = trail::open(config).await?;
    let quarantined = trail.quarantined(&filter).await?.into_iter().map(|(record, reason)| (record, Some(reason)));
    let mut found: Vec<_> = trail.records(filter.clone()).await?.into_iter().map(|record| (record, None)).collect();
    found.extend(quarantined);
    let (record, reason) = match &found[..] {
        [one] => one,
        [] => bail!("no record {} in the trail", args.id),
        several => {
            let places: Vec<_> = several.iter().map(|(record, _)| record_ref(record)).collect();
            bail!("{} is {}: name one of {}", args.id, plural(several.len() as u64, "record"), places.join(", "));
        }
    };
    trail::record_read(config, &trail, ReadCommand::Prove, Some(&filter), 1).await?;
    let TrailReader::Postgres(connection) = &mut trail else {
        bail!("postgres.url is not set, and checkpoints are in Postgres");
    };
    let signatures = if args.unwitnessed { Signatures::Own } else { Signatures::Witnessed };
    let (proof, checkpoint) = proof(connection, record, signatures).await?;
    let id = record.entry.call.request_id;
    let files = [
        (args.output.join(format!("{id}.json")), export_line(record, reason.as_deref())?),
        (args.output.join(format!("{id}.tlog-proof")), proof.to_string()),
    ];
    for (path, text) in &files {
        write_new(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let witnesses: Vec<_> = checkpoint.anchors.iter().filter(|anchor| is_witness(&anchor.kind)).collect();
    let names: Vec<_> = witnesses.iter().map(|anchor| anchor.name.as_str()).collect();
    let origin = proof.note.text().lines().next().unwrap_or_default().to_owned();
    if json {
        let paths: Vec<_> = files.iter().map(|(path, _)| path).collect();
        return Ok(print(&json_line(&serde_json::json!({
            "origin": origin, "index": proof.index, "size": checkpoint.head.size, "witnesses": names, "files": paths,
        }))?)?);
    }
    let signed = if names.is_empty() { "no witness".to_owned() } else { names.join(", ") };
    let [(record_file, _), (proof_file, _)] = &files;
    Ok(print(&format!(
        "record {} is number {} of {} in {origin}\nwith the signatures of the log and {signed}\nwrote {} and {}\n",
        record_ref(record),
        proof.index,
        checkpoint.head.size,
        record_file.display(),
        proof_file.display(),
    ))?)
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    new_file(path)?.write_all(text.as_bytes())
}

/// A file that did not exist. Records are not for everybody.
pub(super) fn new_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
