//! `gatepost audit tail`: the newest records, and those that come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::super::matching::Matching;
use super::super::outbox::{json_lines, records_table};
use super::super::print;
use super::query::limit;
use super::trail::{Trail, explained, recorded};
use crate::audit::query::{self, Filter, LIMIT_MAX};
use crate::config::Config;
use crate::ops::trail::Source as _;

/// How often is asked for more. *Chosen*: at once, to a person.
const INTERVAL: Duration = Duration::from_millis(500);

/// `gatepost audit tail`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) matching: Matching,
    /// Begin with so many, up to 10000
    #[arg(long, short = 'n', default_value_t = 10, value_parser = limit)]
    lines: usize,
    /// Go on with those that come, until interrupted
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let mut trail = Trail::open(config).await?;
    // Looked at before the records, so that none falls between.
    let mut follower = Follower::begin(&mut trail).await?;
    let filter = Filter { limit: args.lines, ..args.matching.filter() };
    let records = trail.records(filter.clone()).await?;
    // Once: a follower that saw the records of its own reading would never come to rest.
    recorded(config, if args.follow { "tail --follow" } else { "tail" }, Some(&filter), records.len()).await?;
    follower.shown(&records);
    print(&if json { json_lines(&records) } else { records_table(&records) })?;
    if !args.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        let records = follower.next(&mut trail, &args.matching.filter()).await?;
        if !records.is_empty() {
            let text = if json { json_lines(&records) } else { without_headings(&records_table(&records)) };
            print(&text)?;
        }
    }
}

fn without_headings(table: &str) -> String {
    table.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
}

/// How far each stream was shown. Times of arrival do not tell: a record is delivered after those that ended before it.
#[derive(Debug, Default)]
struct Follower {
    heads: BTreeMap<(Uuid, u64), u64>,
    /// Records of the first answer that the heads do not cover.
    ahead: Vec<(Option<String>, Option<u64>, Option<u64>)>,
}

impl Follower {
    async fn begin(trail: &mut Trail) -> anyhow::Result<Self> {
        let mut heads = BTreeMap::new();
        match trail {
            Trail::Postgres(connection) => {
                let cursors = query::delivered_positions(connection, true).await;
                let cursors = cursors.map_err(|error| explained("read the cursors", error))?;
                heads.extend(cursors.into_iter().map(|(id, epoch, seq)| ((id, epoch), seq)));
            }
            Trail::Outbox(_) => {
                let newest = trail.records(Filter { limit: 1, ..Filter::default() }).await?;
                if let Some((_, Some(epoch), Some(seq))) = newest.first().map(place) {
                    heads.insert((Uuid::nil(), epoch), seq);
                }
            }
        }
        Ok(Self { heads, ahead: Vec::new() })
    }

    fn shown(&mut self, records: &[Value]) {
        self.ahead = records.iter().map(place).collect();
    }

    /// Those that came since.
    async fn next(&mut self, trail: &mut Trail, filter: &Filter) -> anyhow::Result<Vec<Value>> {
        let filter = Filter { limit: LIMIT_MAX, ..filter.clone() };
        let mut came = Vec::new();
        if let Trail::Postgres(connection) = trail {
            let cursors = query::delivered_positions(connection, false).await;
            for (id, epoch, seq) in cursors.map_err(|error| explained("read the cursors", error))? {
                let head = self.heads.entry((id, epoch)).or_insert(0);
                while *head < seq {
                    let of_stream = Filter { gateway_id: Some(id), epoch: Some(epoch), ..filter.clone() };
                    let some = trail.records(Filter { after: Some((epoch, *head)), ..of_stream }).await?;
                    // What came since the cursor was read is shown already; what does not match is passed over.
                    *head = some.last().and_then(|record| place(record).2).unwrap_or(seq);
                    came.extend(some);
                }
            }
        } else {
            let head = self.heads.last_key_value().map_or((0, 0), |((_, epoch), seq)| (*epoch, *seq));
            // All of them, so that those that do not match are not read again.
            let after = Filter { after: Some(head), limit: LIMIT_MAX, ..Filter::default() };
            let some = trail.records(after).await?;
            if let Some((_, Some(epoch), Some(seq))) = some.last().map(place) {
                self.heads.insert((Uuid::nil(), epoch), seq);
                let matching = trail.records(Filter { after: Some(head), ..filter }).await?;
                came.extend(matching.into_iter().filter(|record| {
                    let (_, record_epoch, record_seq) = place(record);
                    (record_epoch, record_seq) <= (Some(epoch), Some(seq))
                }));
            }
        }
        came.retain(|record| !self.ahead.contains(&place(record)));
        Ok(came)
    }
}

fn place(record: &Value) -> (Option<String>, Option<u64>, Option<u64>) {
    let number = |key: &str| record.get(key).and_then(Value::as_u64);
    (record.get("gateway_id").and_then(Value::as_str).map(str::to_owned), number("epoch"), number("seq"))
}
