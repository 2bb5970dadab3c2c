//! `gatepost audit prove`: a record, and the proof that it is in its gateway's log, which reveals no other record.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::audit::chain;
use crate::audit::query::{self, LogReading, StoredCheckpoint};
use crate::audit::record::AuditRecord;
use crate::audit::sink::checkpoints::AnchorKind;
use crate::audit::sink::postgres::Connection;
use crate::cli::output::{json_line, print};
use crate::cli::trail;
use crate::config::Config;
use crate::counts::plural;
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::cosignature::{UnixTime, stated_time};
use crate::evidence::note::Note;
use crate::evidence::proof::LogProof;
use crate::evidence::signature::Signature;
use crate::evidence::tree::prove;
use crate::ops::export_line::export_line;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::{parse_record_ref, record_ref};
use crate::ops::trail::{TrailReader, failed};

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
    let (proof, checkpoint) = proof(connection, record, args.unwitnessed).await?;
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

/// The proof of `record`, and the checkpoint that it leads to: the first one that a witness has signed.
async fn proof(
    connection: &mut Connection,
    record: &AuditRecord,
    unwitnessed: bool,
) -> anyhow::Result<(LogProof, StoredCheckpoint)> {
    let position = record.position;
    if !chain::hash_matches(&position, &record.entry) {
        bail!("the record's hash is not that of its contents: it was changed, or lost; see gatepost audit verify");
    }
    let place = (position.epoch, position.seq);
    let error = |error| failed("read the checkpoints", error);
    let mut log = LogReading::begin(connection, position.gateway_id).await.map_err(error)?;
    let kind = (!unwitnessed).then_some(AnchorKind::Witness.name());
    let Some(to) = log.covering(place, kind).await.map_err(error)? else {
        if kind.is_some() && log.covering(place, None).await.map_err(error)?.is_some() {
            bail!(
                "the checkpoints that cover the record are signed by its gateway only: wait for a witness, or prove it \
                 against the gateway's own signature with --unwitnessed"
            );
        }
        bail!("no checkpoint covers the record: it is younger than the last one, or its gateway signs none");
    };
    let from = log.before(to.log, place).await.map_err(error)?;
    let mut nodes = match log.nodes(from.as_ref(), &to).await {
        Err(query::Error::RowNotFound) => bail!(
            "records between the checkpoints around it are missing, so nothing can be proved: see gatepost audit verify"
        ),
        nodes => nodes.map_err(error)?,
    };
    log.end().await.map_err(error)?;
    if nodes.whole_edge().root() != to.head.root {
        bail!("the records in the database do not give the signed root: one was changed; see gatepost audit verify");
    }
    let (note, _) = signed_note(&to, |_| true)?;
    let index = nodes.index_of(&position.hash.0).context("the record is not where its place says")?;
    let hashes = prove::inclusion(index, to.head.size, &mut nodes)?;
    Ok((LogProof { index, hashes, note, extra: None }, to))
}

/// The note with the signatures of its log, and of each witness the first one whose time is wanted.
pub(super) fn signed_note(
    checkpoint: &StoredCheckpoint,
    is_wanted: impl Fn(UnixTime) -> bool,
) -> anyhow::Result<(Note, Vec<(String, UnixTime)>)> {
    let note = Note::parse(checkpoint.note.as_bytes()).context("the note in audit_checkpoint")?;
    if Checkpoint::parse(note.text())?.head() != checkpoint.head {
        bail!("the note in audit_checkpoint is of another tree than its row: it was changed");
    }
    let (mut signatures, mut times) = (note.signatures().to_vec(), Vec::new());
    for anchor in checkpoint.anchors.iter().filter(|anchor| is_witness(&anchor.kind)) {
        for proof in [&anchor.first.0, &anchor.last.0] {
            let text = str::from_utf8(proof).unwrap_or_default();
            let parsed: Option<Vec<_>> = text.lines().map(Signature::parse).collect();
            let parsed = parsed.with_context(|| format!("the signature of {} in audit_anchor", anchor.name))?;
            // A witness with several keys signs with all at one time.
            if let Some(time) = parsed.first().and_then(stated_time).filter(|time| is_wanted(*time)) {
                signatures.extend(parsed);
                times.push((anchor.name.clone(), time));
                break;
            }
        }
    }
    Ok((Note::new(note.text().to_owned(), signatures)?, times))
}

fn is_witness(kind: &str) -> bool {
    kind == AnchorKind::Witness.name()
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    new_file(path)?.write_all(text.as_bytes())
}

/// A file that did not exist. Records are not for everybody.
pub(super) fn new_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
