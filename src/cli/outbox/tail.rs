//! `gatepost outbox tail`

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::{Place, Which, ask, each, place_of};
use crate::audit::outbox::lock;
use crate::cli::complain;
use crate::cli::table::{RECORD_HEADINGS, record_row, table};
use crate::ops::inspect::Question;

/// How often a live gateway is asked for more. *Chosen*: at once, for a person; one question reads one segment.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// `gatepost outbox tail`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Begin with so many of the newest
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Go on until the gateway stops
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(dir: &Path, args: &Args, json: bool) -> anyhow::Result<()> {
    // Before the records: what comes meanwhile is behind it and shown once, by the loop.
    let stats = ask(dir, &Question::Stats).await?;
    let newest = stats.first().and_then(|stats| stats.get("streams")?.as_array()?.last().cloned());
    let newest = newest.and_then(|stream| Some((stream.get("epoch")?.as_u64()?, stream.get("last")?.as_u64()?)));
    let mut at = newest.unwrap_or_default();
    let mut lines = Lines { json, headed: false };
    if args.lines > 0 {
        for record in ask(dir, &Question::Records { filter: args.which.filter(args.lines) }).await? {
            if place_of(&record).is_some_and(|Place { epoch, seq }| (epoch, seq) <= at) {
                lines.print(&record)?;
            }
        }
    }
    let mut live = args.follow;
    while live {
        live = lock::holder(dir).with_context(|| format!("look at the lock of {}", dir.display()))?.is_some();
        let question = Question::Scan { filter: args.which.filter(1), after: Some(at), limit: None };
        let mut take = |line: Value| {
            if let Some(end) = line.get("at") {
                at = place_of(end).map_or(at, |Place { epoch, seq }| (epoch, seq).max(at));
                return Ok(());
            }
            lines.print(&line)
        };
        each(dir, &question, &mut take).await?;
        if live {
            tokio::time::sleep(ASK_INTERVAL).await;
        } else {
            complain("the gateway has stopped");
        }
    }
    Ok(())
}

/// Records on standard output, one a line, as they come.
struct Lines {
    json: bool,
    headed: bool,
}

impl Lines {
    fn print(&mut self, record: &Value) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{record}")?;
            return stdout.flush();
        }
        let text = table(&RECORD_HEADINGS, &[record_row(record)]);
        let skipped = usize::from(self.headed);
        self.headed = true;
        for line in text.lines().skip(skipped) {
            writeln!(stdout, "{line}")?;
        }
        stdout.flush()
    }
}
