//! `gatepost outbox tail`: the newest stored records, and each new one.

use std::time::Duration;

use super::selection::Selection;
use crate::audit::record::AuditRecord;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_line, print, print_error};
use crate::cli::record_view::{records_rows, records_table};
use crate::ops::protocol::{Line, Question, StatsAnswer, UnexpectedLineError};
use crate::ops::record_ref::EpochSeq;

/// Interval between questions to a live gateway. *Chosen*: a person sees a new record at once, and one question reads
/// only one segment.
const INTERVAL: Duration = Duration::from_millis(250);

/// `gatepost outbox tail`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Number of records to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: usize,
    /// Continue with each new record, until the gateway stops
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(outboxes: &[OutboxClient], args: &Args, json: bool) -> anyhow::Result<()> {
    let mut printer = Printer { json, has_headings: false };
    let mut followed = Vec::new();
    for client in outboxes {
        followed.push((client, print_newest(client, args, &mut printer).await?));
    }
    if !args.follow {
        return Ok(());
    }
    while !followed.is_empty() {
        let mut live = Vec::new();
        for (client, mut at) in followed {
            let is_live = client.live_gateway()?.is_some();
            print_new(client, args, &mut at, &mut printer).await?;
            if is_live {
                live.push((client, at));
            }
        }
        followed = live;
        if !followed.is_empty() {
            tokio::time::sleep(INTERVAL).await;
        }
    }
    print_error("the gateway has stopped");
    Ok(())
}

/// Prints the newest records, and returns the position of the last stored one.
async fn print_newest(client: &OutboxClient, args: &Args, printer: &mut Printer) -> anyhow::Result<EpochSeq> {
    // The end is read before the records: records stored in between are after it, and the loop prints them once.
    let stats: StatsAnswer = client.one(&Question::Stats).await?;
    let newest = stats.files.streams.last().map(|stream| EpochSeq { epoch: stream.epoch.0, seq: stream.last.0 });
    let at = newest.unwrap_or_default();
    if args.lines > 0 {
        let question = Question::Records { filter: args.selection.filter(args.lines) };
        for record in client.all::<AuditRecord>(&question).await? {
            if EpochSeq::of(&record) <= at {
                printer.print(&record)?;
            }
        }
    }
    Ok(at)
}

/// Prints the records after `at`, and moves it to the last one that was read.
async fn print_new(client: &OutboxClient, args: &Args, at: &mut EpochSeq, printer: &mut Printer) -> anyhow::Result<()> {
    let question = Question::Scan { filter: args.selection.filter(1), after: Some(*at), limit: None };
    client
        .each(&question, &mut |line| match line {
            Line::Record(record) => printer.print(&record),
            Line::ScanEnd(end) => {
                *at = end.at.max(*at);
                Ok(())
            }
            _ => Err(UnexpectedLineError.into()),
        })
        .await
}

/// Prints records one by one.
struct Printer {
    json: bool,
    has_headings: bool,
}

impl Printer {
    fn print(&mut self, record: &AuditRecord) -> anyhow::Result<()> {
        let with_headings = !std::mem::replace(&mut self.has_headings, true);
        let text = match (self.json, with_headings) {
            (true, _) => json_line(record)?,
            (false, true) => records_table([record]),
            (false, false) => records_rows([record]),
        };
        Ok(print(&text)?)
    }
}
