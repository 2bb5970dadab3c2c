//! `gatepost audit query`: the records that match.

use uuid::Uuid;

use super::limit::parse_limit;
use crate::audit::query::{Filter, PageKey, WhoMatch, matched_by};
use crate::cli::filter_args::FilterArgs;
use crate::cli::output::{json_lines, print, print_error};
use crate::cli::record_view::records_table;
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::cli::trail;
use crate::config::Config;
use crate::ops::page_key::{page_key, parse_page_key};
use crate::ops::read_log::ReadCommand;

/// `gatepost audit query`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gatepost audit query --status denied --since yesterday\n  gatepost audit query --who \"alice*\" --since \"2026-11-24 09:00\" --local\n  gatepost audit query --columns time,who,target,client_addr --limit 500"
)]
pub(super) struct Args {
    /// Only the record of the call with this request id
    #[arg(long, value_name = "ID")]
    request_id: Option<Uuid>,
    /// Continue from this position, printed when more results exist
    #[arg(long, value_name = "POSITION", value_parser = parse_page_key)]
    before: Option<PageKey>,
    /// Most records to print, up to 10000
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = parse_limit)]
    limit: usize,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    args.table.check(json)?;
    let filter = Filter {
        request_id: args.request_id,
        before: args.before,
        limit: args.limit,
        ..args.filter.filter(terminal.zone)?
    };
    let mut trail = trail::open(config).await?;
    let records = trail.records(filter.clone()).await?;
    trail::record_read(config, &trail, ReadCommand::Query, Some(&filter), records.len() as u64).await?;
    print(&if json { json_lines(&records)? } else { records_table(&records, &args.table, terminal) })?;
    if let Some(who) = &filter.who {
        let named = records.iter().filter(|record| matched_by(who, &record.entry.call) == Some(WhoMatch::Name)).count();
        print_error(&format!("--who matched the subject of {}, the name of {named}", records.len() - named));
    }
    if records.is_empty() {
        print_error("0 records");
    }
    if let Some(first) = records.first().filter(|_| records.len() >= args.limit) {
        let (count, key) = (records.len(), page_key(first));
        print_error(&format!("these are the newest {count} that match; older ones may exist: --before {key}"));
    }
    Ok(())
}
