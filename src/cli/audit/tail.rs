//! `gatepost audit tail`: the newest records, and each new one.

use std::time::Duration;

use super::limit::parse_limit;
use crate::audit::query::Filter;
use crate::cli::filter_args::FilterArgs;
use crate::cli::output::{has_no_reader, json_lines, print};
use crate::cli::record_view::{RecordsTable, has_several_gateways};
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::cli::trail::{self, Trail};
use crate::config::Config;
use crate::ops::follow::Follower;
use crate::ops::read_log::ReadCommand;

/// Interval between polls for new records. *Chosen*: a person sees a new record at once.
const INTERVAL: Duration = Duration::from_millis(500);

/// `gatepost audit tail`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of records to begin with, up to 10000
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10, value_parser = parse_limit)]
    lines: usize,
    /// Continue with each new record, until interrupted
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    args.table.check(json)?;
    let mut trail = trail::open(config).await?;
    // The positions are read before the records, so that no record falls between the two.
    let mut follower = Follower::new(&mut trail).await?;
    let own = args.filter.filter(terminal.zone)?;
    let filter = Filter { limit: args.lines, ..own.clone() };
    let records = trail.records(filter.clone()).await?;
    // Recorded once: a follower that showed the records of its own reads would never stop.
    let command = if args.follow { ReadCommand::TailFollow } else { ReadCommand::Tail };
    trail::record_read(config, &trail, command, Some(&filter), records.len() as u64).await?;
    follower.skip(&records);
    // Later records may be of any gateway that delivers there.
    let may_have_several = args.follow && own.gateway_id.is_none() && matches!(trail, Trail::Postgres(_));
    let mut table = RecordsTable::new(&args.table, terminal, may_have_several || has_several_gateways(&records));
    print(&if json { json_lines(&records)? } else { table.begin(&records) })?;
    if !args.follow {
        return Ok(());
    }
    while !has_no_reader() {
        tokio::time::sleep(INTERVAL).await;
        let records = follower.next(&mut trail, &own).await?;
        if !records.is_empty() {
            print(&if json { json_lines(&records)? } else { table.more(&records) })?;
        }
    }
    Ok(())
}
