//! `gatepost outbox list`: stored records, or open calls.

use super::selection::Selection;
use crate::audit::query::LIMIT_MAX;
use crate::audit::record::{AuditRecord, Call};
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_lines, print, print_error};
use crate::cli::record_view::records_table;
use crate::cli::table::{Column, Kind, table};
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::ops::format::target;
use crate::ops::protocol::{Line, Question, ScanEnd, UnexpectedLineError};
use crate::ops::record_ref::EpochSeq;

/// `gatepost outbox list`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gatepost outbox list --dir /var/lib/gatepost/gatepost-data\n  gatepost outbox list --after 1/512 --limit 100"
)]
pub(super) struct Args {
    /// Most records to print, up to 10000; use export for more
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = parse_limit)]
    limit: usize,
    /// Print the first records after this position instead of the newest ones
    #[arg(long, value_name = "EPOCH/SEQ")]
    after: Option<EpochSeq>,
    /// Print calls that are open, or were open when the gateway died, instead of records
    #[arg(long, conflicts_with = "after")]
    intents: bool,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    selection: Selection,
}

impl Args {
    /// The option that is about one stream, if it is given.
    pub(super) fn of_one_stream(&self) -> Option<&'static str> {
        self.after.map(|_| "--after")
    }
}

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        format!("{text} is not from 1 to {LIMIT_MAX}; use --after EPOCH/SEQ for the next page, or export")
    })
}

pub(super) async fn run(client: &OutboxClient, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    args.table.check(json)?;
    if args.intents {
        let intents: Vec<Call> = client.all(&Question::Intents).await?;
        return Ok(print(&if json { json_lines(&intents)? } else { intents_table(&intents, terminal) })?);
    }
    let filter = args.selection.filter(args.limit, terminal.zone)?;
    let question = match args.after {
        None => Question::Records { filter },
        after => Question::Scan { filter, after, limit: u64::try_from(args.limit).ok() },
    };
    let (mut records, mut end): (Vec<AuditRecord>, Option<ScanEnd>) = (Vec::new(), None);
    client
        .each(&question, &mut |line| match line {
            Line::Record(record) => {
                records.push(*record);
                Ok(())
            }
            Line::ScanEnd(scan_end) => {
                end = Some(scan_end);
                Ok(())
            }
            _ => Err(UnexpectedLineError.into()),
        })
        .await?;
    print(&if json { json_lines(&records)? } else { records_table(&records, &args.table, terminal) })?;
    match (end, records.last()) {
        (Some(ScanEnd { more: true, .. }), Some(last)) => {
            print_error(&format!("more exist: --after {}", EpochSeq::of(last)));
        }
        (None, _) if records.len() == args.limit => {
            print_error("these are the newest; --after 0/0 begins with the oldest, gatepost outbox export prints all");
        }
        _ => {}
    }
    Ok(())
}

fn intents_table(intents: &[Call], terminal: Terminal) -> String {
    let row = |call: &Call| {
        vec![
            call.request_id.to_string(),
            terminal.zone.rfc_3339(call.timestamp),
            call.client_subject.to_string(),
            target(call),
        ]
    };
    let columns = [
        Column::new("REQUEST ID", Kind::Id),
        Column::new("SINCE", Kind::Time),
        Column::new("WHO", Kind::Name),
        Column::new("BACKEND/TOOL", Kind::Name),
    ];
    table(&columns, intents.iter().map(row).collect(), terminal)
}
