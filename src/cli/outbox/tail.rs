//! `gatepost outbox tail`: the newest stored records, and each new one.

use std::time::Duration;

use super::selection::Selection;
use crate::audit::query::Filter;
use crate::audit::record::AuditRecord;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{has_no_reader, json_line, json_lines, print, print_error};
use crate::cli::record_view::RecordsTable;
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::ops::protocol::{Line, Question, StatsAnswer, UnexpectedLineError};
use crate::ops::record_ref::EpochSeq;

/// Interval between questions to a live gateway. *Chosen*: a person sees a new record at once, and one question reads
/// only one segment.
const INTERVAL: Duration = Duration::from_millis(250);

/// `gatepost outbox tail`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of records to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: usize,
    /// Continue with each new record, until the gateway stops
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    selection: Selection,
}

pub(super) async fn run(outboxes: &[OutboxClient], args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    args.table.check(json)?;
    let filter = args.selection.filter(args.lines, terminal.zone)?;
    let table = RecordsTable::new(&args.table, terminal, outboxes.len() > 1);
    let (mut newest, mut followed) = (Vec::new(), Vec::new());
    for client in outboxes {
        followed.push((client, read_newest(client, &filter, args.lines, &mut newest).await?));
    }
    let mut printer = Printer { json, table };
    printer.begin(&newest)?;
    if !args.follow {
        return Ok(());
    }
    while !followed.is_empty() {
        if has_no_reader() {
            return Ok(());
        }
        let mut live = Vec::new();
        for (client, mut at) in followed {
            let is_live = client.live_gateway()?.is_some();
            print_new(client, &filter, &mut at, &printer).await?;
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

/// Adds the newest records to `newest`, and returns the position of the last stored one.
async fn read_newest(
    client: &OutboxClient,
    filter: &Filter,
    lines: usize,
    newest: &mut Vec<AuditRecord>,
) -> anyhow::Result<EpochSeq> {
    // The end is read before the records: records stored in between are after it, and the loop prints them once.
    let stats: StatsAnswer = client.one(&Question::Stats).await?;
    let last = stats.files.streams.last().map(|stream| EpochSeq { epoch: stream.epoch.0, seq: stream.last.0 });
    let at = last.unwrap_or_default();
    if lines > 0 {
        let records = client.all::<AuditRecord>(&Question::Records { filter: Box::new(filter.clone()) }).await?;
        newest.extend(records.into_iter().filter(|record| EpochSeq::of(record) <= at));
    }
    Ok(at)
}

/// Prints the records after `at`, and moves it to the last one that was read.
async fn print_new(client: &OutboxClient, filter: &Filter, at: &mut EpochSeq, printer: &Printer) -> anyhow::Result<()> {
    let filter = Box::new(Filter { limit: 1, ..filter.clone() });
    let question = Question::Scan { filter, after: Some(*at), limit: None };
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

/// Prints records.
struct Printer {
    json: bool,
    table: RecordsTable,
}

impl Printer {
    /// Prints the first records, under headings.
    fn begin(&mut self, records: &[AuditRecord]) -> anyhow::Result<()> {
        Ok(print(&if self.json { json_lines(records)? } else { self.table.begin(records) })?)
    }

    /// Prints one more.
    fn print(&self, record: &AuditRecord) -> anyhow::Result<()> {
        let more = || self.table.more(std::slice::from_ref(record));
        Ok(print(&if self.json { json_line(record)? } else { more() })?)
    }
}
