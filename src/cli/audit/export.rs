//! `gatepost audit export`: all matching records of a trail in Postgres, to standard output or into a directory of
//! files with a manifest.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::bail;
use uuid::Uuid;

use crate::audit::query::{Exported, Filter, Pager};
use crate::audit::sink::postgres::Connection;
use crate::cli::exit::usage;
use crate::cli::export_dir::{ExportDir, Format, Layout, parse_position};
use crate::cli::filter_args::FilterArgs;
use crate::cli::output::{OutputError, print_error};
use crate::cli::progress::Progress;
use crate::cli::trail::{self, Trail};
use crate::config::Config;
use crate::counts::plural;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::record_ref;
use crate::ops::time_arg::Zone;
use crate::ops::trail::{TrailReader, failed};

/// `gatepost audit export`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gatepost audit export --since 2026-11-01 --until 2026-12-01 --output november\n  gatepost audit export --who alice --format csv > alice.csv"
)]
pub(super) struct Args {
    /// Output format: JSON lines, or CSV with the columns of the table
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "jsonl")]
    format: Format,
    /// With CSV: do not mark text that a spreadsheet would execute as a formula
    #[arg(long)]
    raw: bool,
    /// Write compressed files and a manifest into this new directory [default: standard output]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Continue the export in --output that was broken off, with its own options
    #[arg(long, requires = "output", conflicts_with = "after")]
    resume: bool,
    /// Only records after this one, printed when an export to standard output is broken off
    #[arg(long, value_name = "GATEWAY/EPOCH/SEQ", value_parser = parse_position, conflicts_with = "output")]
    after: Option<(Uuid, u64, u64)>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, zone: Zone) -> anyhow::Result<()> {
    let layout = Layout { format: args.format, raw: args.raw };
    if json && args.format == Format::Csv {
        return Err(usage("--json and --format csv are mutually exclusive; give one"));
    }
    if args.raw && args.format != Format::Csv {
        return Err(usage("--raw is for --format csv: JSON lines contain all text unchanged"));
    }
    let own = args.filter.filter(zone)?;
    if args.resume && own != Filter::default() {
        return Err(usage("--resume continues the export with its own options: give no others"));
    }
    let mut trail = trail::open(config).await?;
    if let TrailReader::Outbox(_) = trail {
        bail!("postgres.url is not set, and the trail in an outbox is exported with gatepost outbox export");
    }
    let resumed = args.output.as_deref().filter(|_| args.resume).map(ExportDir::resume).transpose()?;
    let filter = resumed.as_ref().map_or(own, |dir| dir.header().filter.clone());
    // Before anything is shown. How many records there are is recorded at the end.
    trail::record_read(config, &trail, ReadCommand::Export, Some(&filter), 0).await?;
    let after = match &resumed {
        Some(dir) => dir.last()?,
        None => args.after,
    };
    let mut output = Output::new(args, layout, resumed);
    let exported = export(&mut trail, &filter, after, &mut output).await;
    let records = match exported {
        Ok(records) => records,
        Err(error) => return Err(output.broken_off(error)),
    };
    if trail::has_gateway(config) {
        trail::record_read(config, &trail, ReadCommand::Export, Some(&filter), records).await?;
    }
    Ok(())
}

/// Writes the records to `output`, and returns their number.
async fn export(
    trail: &mut Trail,
    filter: &Filter,
    after: Option<(Uuid, u64, u64)>,
    output: &mut Output<'_>,
) -> anyhow::Result<u64> {
    let TrailReader::Postgres(connection) = trail else { return Ok(0) };
    let connection: &mut Connection = connection;
    let error = |error| failed("read the trail", error);
    let mut pager = Pager::begin(connection, filter, after).await.map_err(error)?;
    output.begin(pager.filter())?;
    let mut progress = Progress::new();
    let mut records = 0;
    while let Some(page) = pager.next(connection).await.map_err(error)? {
        for exported in &page {
            output.push(exported)?;
            records += 1;
        }
        progress.show(records);
    }
    progress.clear();
    output.finish()?;
    Ok(records)
}

/// The destination of the records.
struct Output<'a> {
    args: &'a Args,
    layout: Layout,
    dir: Option<ExportDir>,
    stdout: BufWriter<io::StdoutLock<'static>>,
    /// The last record that was written to standard output.
    last: Option<String>,
}

impl<'a> Output<'a> {
    fn new(args: &'a Args, layout: Layout, dir: Option<ExportDir>) -> Self {
        Self { args, layout, dir, stdout: BufWriter::new(io::stdout().lock()), last: None }
    }

    fn begin(&mut self, filter: &Filter) -> anyhow::Result<()> {
        match &self.args.output {
            Some(path) if self.dir.is_none() => self.dir = Some(ExportDir::create(path, self.layout, filter)?),
            Some(_) => {}
            None => self.stdout.write_all(self.layout.header().as_bytes()).map_err(OutputError::new)?,
        }
        Ok(())
    }

    fn push(&mut self, exported: &Exported) -> anyhow::Result<()> {
        if let Some(dir) = &mut self.dir {
            return dir.push(exported);
        }
        self.stdout.write_all(self.layout.line(exported)?.as_bytes()).map_err(OutputError::new)?;
        self.last = Some(record_ref(&exported.record));
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.stdout.flush().map_err(OutputError::new)?;
        if let (Some(dir), Some(path)) = (self.dir.take(), &self.args.output) {
            let summary = dir.finish()?;
            let (records, files) = (plural(summary.records, "record"), plural(summary.files, "file"));
            print_error(&format!(
                "{records} in {files} in {}; the SHA-256 sum of the manifest is {}",
                path.display(),
                summary.sha256
            ));
        }
        Ok(())
    }

    /// The error, and how to continue.
    fn broken_off(mut self, error: anyhow::Error) -> anyhow::Error {
        // What is in the buffer is complete lines.
        let is_flushed = self.stdout.flush().is_ok();
        match (&self.args.output, self.last) {
            (Some(dir), _) => error.context(format!(
                "the export is not complete: continue it with gatepost audit export --output {} --resume",
                dir.display()
            )),
            (None, Some(last)) if is_flushed => {
                error.context(format!("the export is not complete: continue it with --after {last}"))
            }
            _ => error,
        }
    }
}
