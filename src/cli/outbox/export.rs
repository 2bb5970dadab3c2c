//! `gatepost outbox export`: everything that matches, to standard output or into a file, which is there as a whole or not
//! at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::{Place, Which, each, place_of};
use crate::cli::complain;
use crate::ops::inspect::Question;

/// The columns of a CSV file: those of `audit_log`, in its order.
const COLUMNS: [&str; 24] = [
    "gateway_id",
    "epoch",
    "seq",
    "prev_hash",
    "hash",
    "request_id",
    "timestamp",
    "method",
    "client_subject",
    "client_role",
    "client_issuer",
    "token_id",
    "client_addr",
    "session_id",
    "rpc_id",
    "tool_name",
    "backend_name",
    "request_args",
    "args_digest",
    "response_status",
    "error_message",
    "response_digest",
    "response_bytes",
    "latency_ms",
];

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A JSON object a line
    Jsonl,
    /// The columns of `audit_log` under their names; NULL is an empty cell, an empty text is `""`
    Csv,
}

/// `gatepost outbox export`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// How
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Into this new file [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Only those behind this place
    #[arg(long, value_name = "EPOCH/SEQ")]
    after: Option<Place>,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<u64>,
}

impl Args {
    /// What is wrong with the file to be written, before anything is read.
    pub(super) fn fault(&self, dir: &Path) -> Option<String> {
        let output = self.output.as_deref()?;
        if output.symlink_metadata().is_ok() {
            return Some(format!("--output {}: it is there already; name a new file", output.display()));
        }
        let Some(parent) = parent(output).canonicalize().ok().filter(|_| output.file_name().is_some()) else {
            return Some(format!("--output {}: its directory is not there", output.display()));
        };
        let inside = dir.canonicalize().is_ok_and(|dir| parent.starts_with(dir));
        inside.then(|| format!("--output {}: the outbox directory is for the outbox alone", output.display()))
    }
}

fn parent(output: &Path) -> &Path {
    output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) async fn run(dir: &Path, args: &Args) -> anyhow::Result<()> {
    let Some(output) = &args.output else {
        let done = write(dir, args, &mut BufWriter::new(io::stdout().lock())).await?;
        tell(&done);
        return Ok(());
    };
    let mut temporary = output.clone().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = BufWriter::new(file.with_context(|| format!("create {}", temporary.display()))?);
    let done = match write(dir, args, &mut file).await {
        Ok(done) => {
            finish(&file, &temporary, output).with_context(|| format!("write {}", output.display())).map(|()| done)
        }
        Err(error) => Err(error),
    };
    if done.is_err() {
        // What failed is told; a leftover bears a name that says what it is.
        fs::remove_file(&temporary).ok();
    }
    tell(&done?);
    Ok(())
}

/// The file gets its name once all in it is on the disk.
fn finish(file: &BufWriter<File>, temporary: &Path, output: &Path) -> io::Result<()> {
    file.get_ref().sync_all()?;
    // A link, since a rename would replace what came under that name meanwhile.
    fs::hard_link(temporary, output)?;
    fs::remove_file(temporary)?;
    File::open(parent(output))?.sync_all()
}

#[derive(Default)]
struct Done {
    records: u64,
    last: Option<Place>,
    more: bool,
}

fn tell(done: &Done) {
    if let Some(Place { epoch, seq }) = done.last.filter(|_| done.more) {
        complain(&format!("{} records; there are more: --after {epoch}/{seq}", done.records));
    }
}

async fn write(dir: &Path, args: &Args, out: &mut dyn Write) -> anyhow::Result<Done> {
    let after = args.after.map(|Place { epoch, seq }| (epoch, seq));
    let question = Question::Scan { filter: args.which.filter(1), after, limit: args.limit };
    let mut done = Done::default();
    if args.format == Format::Csv {
        writeln!(out, "{}", COLUMNS.join(","))?;
    }
    each(dir, &question, &mut |line| {
        if let Some(end) = line.get("at") {
            // Only now: the last record that matched may be far before it.
            done.last = place_of(end);
            done.more = line.get("more").and_then(Value::as_bool) == Some(true);
            return Ok(());
        }
        done.records += 1;
        match args.format {
            Format::Jsonl => writeln!(out, "{line}"),
            Format::Csv => writeln!(out, "{}", COLUMNS.map(|column| cell(line.get(column))).join(",")),
        }
    })
    .await?;
    out.flush()?;
    Ok(done)
}

/// RFC 4180. Text is always quoted, so that it differs from NULL.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(other) => other.to_string(),
    }
}
