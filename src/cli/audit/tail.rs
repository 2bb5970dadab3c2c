//! `gatepost audit tail`: the newest records, and each new one.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::limit::parse_limit;
use crate::audit::query::{Filter, LIMIT_MAX};
use crate::audit::record::AuditRecord;
use crate::cli::filter_args::FilterArgs;
use crate::cli::output::{has_no_reader, json_lines, print};
use crate::cli::record_view::{RecordsTable, has_several_gateways};
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::cli::trail::{self, Trail};
use crate::config::Config;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::EpochSeq;

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
    // What follows may be of any gateway that delivers there.
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

/// The last printed position of each stream. Arrival times would miss records: a stream has its records in the order in
/// which their calls end, so a later record can have an earlier arrival.
#[derive(Debug, Default)]
struct Follower {
    printed: BTreeMap<(Uuid, u64), u64>,
    /// Records of the first result, which may be after these positions.
    skipped: Vec<(Uuid, EpochSeq)>,
}

impl Follower {
    async fn new(trail: &mut Trail) -> anyhow::Result<Self> {
        let mut printed = BTreeMap::new();
        match trail {
            Trail::Postgres(_) => {
                let positions = trail.delivered_positions(true).await?;
                printed.extend(positions.into_iter().map(|(id, at)| ((id, at.epoch), at.seq)));
            }
            Trail::Outbox(_) => {
                let newest = trail.records(Filter { limit: 1, ..Filter::default() }).await?;
                printed.extend(newest.first().map(EpochSeq::of).map(|at| ((Uuid::nil(), at.epoch), at.seq)));
            }
        }
        Ok(Self { printed, skipped: Vec::new() })
    }

    /// Does not return these records again.
    fn skip(&mut self, records: &[AuditRecord]) {
        self.skipped = records.iter().map(position).collect();
    }

    /// The matching records since the last time.
    async fn next(&mut self, trail: &mut Trail, filter: &Filter) -> anyhow::Result<Vec<AuditRecord>> {
        let filter = Filter { limit: LIMIT_MAX, ..filter.clone() };
        let mut records = match trail {
            Trail::Postgres(_) => self.next_delivered(trail, &filter).await?,
            Trail::Outbox(_) => self.next_stored(trail, &filter).await?,
        };
        records.retain(|record| !self.skipped.contains(&position(record)));
        Ok(records)
    }

    async fn next_delivered(&mut self, trail: &mut Trail, filter: &Filter) -> anyhow::Result<Vec<AuditRecord>> {
        let mut records = Vec::new();
        for (id, EpochSeq { epoch, seq }) in trail.delivered_positions(false).await? {
            let printed = self.printed.entry((id, epoch)).or_insert(0);
            while *printed < seq {
                let after = Some((epoch, *printed));
                let filter = Filter { gateway_id: Some(id), epoch: Some(epoch), after, ..filter.clone() };
                let page = trail.records(filter).await?;
                // The page may have records since the positions were read; records that do not match are skipped.
                *printed = page.last().map_or(seq, |record| record.position.seq.0);
                records.extend(page);
            }
        }
        Ok(records)
    }

    async fn next_stored(&mut self, trail: &mut Trail, filter: &Filter) -> anyhow::Result<Vec<AuditRecord>> {
        let printed = self.printed.last_key_value().map_or((0, 0), |((_, epoch), seq)| (*epoch, *seq));
        // All of them, so that records that do not match are not read again and again.
        let all = Filter { after: Some(printed), limit: LIMIT_MAX, ..Filter::default() };
        let page = trail.records(all).await?;
        let Some(last) = page.last().map(EpochSeq::of) else { return Ok(Vec::new()) };
        self.printed.insert((Uuid::nil(), last.epoch), last.seq);
        let mut records = trail.records(Filter { after: Some(printed), ..filter.clone() }).await?;
        records.retain(|record| EpochSeq::of(record) <= last);
        Ok(records)
    }
}

fn position(record: &AuditRecord) -> (Uuid, EpochSeq) {
    (record.position.gateway_id.0, EpochSeq::of(record))
}
