//! `gatepost outbox export`: writes all matching records to standard output, or to a file that gets its name once it is
//! complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::selection::Selection;
use crate::cli::exit::usage;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{OutputError, json_line, print_error};
use crate::ops::csv::{self, CellText};
use crate::ops::format::plural;
use crate::ops::protocol::{Line, Question, ScanEnd, UnexpectedLineError};
use crate::ops::record_ref::EpochSeq;
use crate::ops::time_arg::Zone;

/// The format of a record. Doc comments on the variants would make clap print the command's help in its long layout,
/// unlike the help of the other commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    // A JSON object per line.
    Jsonl,
    // The columns of `audit_log`; NULL is an empty cell, an empty text is `""`.
    Csv,
}

/// `gatepost outbox export`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output format: JSON lines, or CSV with the columns of the table
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "jsonl")]
    format: Format,
    /// With CSV: do not mark text that a spreadsheet would execute as a formula
    #[arg(long)]
    raw: bool,
    /// Write into this new file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only records after this position
    #[arg(long, value_name = "EPOCH/SEQ")]
    after: Option<EpochSeq>,
    /// Most records to export [default: all]
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    selection: Selection,
}

impl Args {
    /// The option that is about one stream, if it is given.
    pub(super) fn of_one_stream(&self) -> Option<&'static str> {
        self.after.map(|_| "--after").or(self.limit.map(|_| "--limit"))
    }

    /// Checks the options, before anything is read.
    fn check(&self, dir: &Path, json: bool) -> anyhow::Result<()> {
        if json && self.format == Format::Csv {
            return Err(usage("--json and --format csv are mutually exclusive; give one"));
        }
        if self.raw && self.format != Format::Csv {
            return Err(usage("--raw is for --format csv: JSON lines contain all text unchanged"));
        }
        let Some(output) = self.output.as_deref() else { return Ok(()) };
        let fault = |text: &str| Err(usage(format!("--output {}: {text}", output.display())));
        if output.symlink_metadata().is_ok() {
            return fault("the file exists; name a new file");
        }
        let Some(parent) = parent(output).canonicalize().ok().filter(|_| output.file_name().is_some()) else {
            return fault("its directory does not exist");
        };
        if dir.canonicalize().is_ok_and(|dir| parent.starts_with(dir)) {
            return fault("the outbox directory is for the outbox alone; name a file elsewhere");
        }
        Ok(())
    }
}

fn parent(output: &Path) -> &Path {
    output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) async fn run(
    dir: &Path,
    outboxes: &[OutboxClient],
    args: &Args,
    json: bool,
    zone: Zone,
) -> anyhow::Result<()> {
    args.check(dir, json)?;
    let filter = args.selection.filter(1, zone)?;
    let question = Question::Scan { filter, after: args.after, limit: args.limit };
    let Some(output) = &args.output else {
        let mut out = BufWriter::new(io::stdout().lock());
        write(outboxes, args, &question, &mut out, &|error| OutputError::new(error).into()).await?.report();
        return Ok(());
    };
    let mut temporary = output.clone().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = BufWriter::new(file.with_context(|| format!("cannot create {}", temporary.display()))?);
    let failed = |error| anyhow::Error::new(error).context(format!("cannot write {}", temporary.display()));
    let exported = match write(outboxes, args, &question, &mut file, &failed).await {
        Ok(exported) => finish(&file, &temporary, output)
            .with_context(|| format!("cannot write {}", output.display()))
            .map(|()| exported),
        Err(error) => Err(error),
    };
    if exported.is_err() {
        // The first error is reported; if the file stays, its name says that it is temporary.
        fs::remove_file(&temporary).ok();
    }
    exported?.report();
    Ok(())
}

/// Gives the file its final name, once its contents are on the disk.
fn finish(file: &BufWriter<File>, temporary: &Path, output: &Path) -> io::Result<()> {
    file.get_ref().sync_all()?;
    // A link and not a rename, which would replace a file that was created under that name meanwhile.
    fs::hard_link(temporary, output)?;
    fs::remove_file(temporary)?;
    File::open(parent(output))?.sync_all()
}

/// The result of an export.
#[derive(Default)]
struct Exported {
    records: u64,
    end: Option<ScanEnd>,
}

impl Exported {
    /// Says how to continue if the limit ended the export.
    fn report(&self) {
        if let Some(ScanEnd { at, .. }) = self.end.filter(|end| end.more) {
            print_error(&format!("{}; more exist: --after {at}", plural(self.records, "record")));
        }
    }
}

/// Writes the records to `out`; `failed` gives an error of `out` its words.
async fn write(
    outboxes: &[OutboxClient],
    args: &Args,
    question: &Question,
    out: &mut dyn Write,
    failed: &dyn Fn(io::Error) -> anyhow::Error,
) -> anyhow::Result<Exported> {
    let mut exported = Exported::default();
    let cells = if args.raw { CellText::Exact } else { CellText::SafeInSpreadsheets };
    if args.format == Format::Csv {
        out.write_all(csv::header().as_bytes()).map_err(failed)?;
    }
    for client in outboxes {
        client
            .each(question, &mut |line| match line {
                Line::Record(record) => {
                    exported.records += 1;
                    let line = match args.format {
                        Format::Jsonl => json_line(&record)?,
                        Format::Csv => csv::line(&record, cells),
                    };
                    out.write_all(line.as_bytes()).map_err(failed)
                }
                Line::ScanEnd(end) => {
                    exported.end = Some(end);
                    Ok(())
                }
                _ => Err(UnexpectedLineError.into()),
            })
            .await?;
    }
    out.flush().map_err(failed)?;
    Ok(exported)
}
