//! `gatepost audit query`: the records that match.

use uuid::Uuid;

use super::super::matching::Matching;
use super::super::outbox::{json_lines, records_table};
use super::super::{complain, print};
use super::trail::{Trail, recorded};
use crate::audit::query::{Filter, LIMIT_MAX, PageKey};
use crate::config::Config;
use crate::ops::trail::Source as _;
use crate::ops::trail::moment::{key, key_of, moment};

/// `gatepost audit query`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) matching: Matching,
    /// Only before this: an age, as 90s, 2h or 7d, or a moment, as 2026-11-26T10:00:00Z
    #[arg(long, value_parser = moment)]
    until: Option<i64>,
    /// The request id of the call
    #[arg(long)]
    request_id: Option<Uuid>,
    /// Go on before this place, which an answer with more behind it names
    #[arg(long, value_parser = key, value_name = "PLACE")]
    before: Option<PageKey>,
    /// At most so many records, up to 10000
    #[arg(long, default_value_t = 50, value_parser = limit)]
    limit: usize,
}

pub(super) fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| format!("{text} is not from 1 to {LIMIT_MAX}; go on with --before, or ask by SQL for more"))
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let filter = Filter {
        until_micros: args.until,
        request_id: args.request_id,
        before: args.before,
        limit: args.limit,
        ..args.matching.filter()
    };
    let records = Trail::open(config).await?.records(filter.clone()).await?;
    recorded(config, "query", Some(&filter), records.len()).await?;
    print(&if json { json_lines(&records) } else { records_table(&records) })?;
    if let Some(first) = records.first().filter(|_| records.len() >= args.limit) {
        let count = records.len();
        complain(&format!("the newest {count} that match; there may be older ones: --before {}", key_of(first)));
    }
    Ok(())
}
