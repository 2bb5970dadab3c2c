//! `gatepost audit verify-export`: checks a directory with an export, without a database.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::audit::chain::{self, Head};
use crate::audit::lost::is_stand_in;
use crate::audit::record::{AuditRecord, Epoch, GatewayId};
use crate::cli::export_dir::{Format, ReadDir, Summary};
use crate::cli::output::{json_line, print};
use crate::cli::progress::Progress;
use crate::counts::plural;
use crate::ops::export_line::parse_export_line;
use crate::ops::record_ref::record_ref;

/// `gatepost audit verify-export`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory of gatepost audit export --output
    #[arg(value_name = "DIR")]
    export: PathBuf,
}

/// The result, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Checked {
    files: u64,
    records: u64,
    /// The SHA-256 sum of the manifest.
    manifest_sha256: String,
    /// Records of which only the hash is left.
    lost: u64,
    /// Records that follow the one before them in their stream, by their links.
    runs: u64,
    /// False for CSV, from which no hash can be computed.
    has_hashes: bool,
}

/// The chain of the records, in the order of their positions.
#[derive(Default)]
struct Chain {
    last: Option<(GatewayId, Epoch, Head)>,
    checked: Checked,
}

impl Chain {
    fn add(&mut self, record: &AuditRecord) -> anyhow::Result<()> {
        let AuditRecord { position, entry } = record;
        let at = record_ref(record);
        let (stream, head) = ((position.gateway_id, position.epoch), Head::after(position));
        let before = self.last.replace((stream.0, stream.1, head));
        let before = before.filter(|(gateway_id, epoch, _)| (*gateway_id, *epoch) == stream).map(|(.., head)| head);
        if let Some(before) = before {
            ensure!(before.seq < position.seq, "record {at} is in the export twice, or in the wrong place");
        }
        match before.filter(|before| before.seq.next() == position.seq) {
            Some(before) => ensure!(
                before.hash == position.prev_hash,
                "record {at} is not linked to the one before it: one of the two was replaced"
            ),
            None => self.checked.runs += 1,
        }
        if is_stand_in(record) {
            self.checked.lost += 1;
        } else {
            ensure!(
                chain::hash_matches(position, entry),
                "record {at} was changed: its contents do not match its hash"
            );
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let checked = check(&args.export)?;
    Ok(print(&if json { json_line(&checked)? } else { text(&checked) })?)
}

fn check(dir: &std::path::Path) -> anyhow::Result<Checked> {
    let export = ReadDir::open(dir)?;
    let (mut chain, mut progress) = (Chain::default(), Progress::new());
    let has_hashes = export.header.layout.format == Format::Jsonl;
    let mut records = 0;
    let summary = export.check(|line| {
        records += 1;
        progress.show(records);
        if !has_hashes {
            return Ok(());
        }
        chain.add(&parse_export_line(line).with_context(|| format!("line {records} is not a record"))?)
    });
    progress.clear();
    let Summary { files, records, sha256 } = summary?;
    Ok(Checked { files, records, manifest_sha256: sha256.to_string(), has_hashes, ..chain.checked })
}

fn text(checked: &Checked) -> String {
    let (files, records) = (plural(checked.files, "file"), plural(checked.records, "record"));
    let hashes = if checked.has_hashes {
        let runs = plural(checked.runs, "run");
        format!(", and every record its hash and its link, in {runs} of consecutive records")
    } else {
        "; from CSV no hash can be computed".to_owned()
    };
    let lost = match checked.lost {
        0 => String::new(),
        lost => format!("; the contents of {} were lost before", plural(lost, "record")),
    };
    let sum = &checked.manifest_sha256;
    format!("{records} in {files}: every file has its sum{hashes}{lost}\nthe SHA-256 sum of the manifest is {sum}\n")
}
