//! `gatepost audit heads`: the last record of each stream, as JSON lines, for `gatepost audit verify --expect`.

use anyhow::Context;

use crate::audit::query::{Filter, TrailSnapshot};
use crate::audit::record::{AuditRecord, Timestamp};
use crate::audit::verify::{Selection, StreamHead};
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_lines, print};
use crate::cli::trail;
use crate::config::Config;
use crate::ops::protocol::{Question, StatsAnswer};
use crate::ops::read_log::ReadCommand;
use crate::ops::trail::{TrailReader, failed};

pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    let mut trail = trail::open(config).await?;
    let heads = match &mut trail {
        TrailReader::Postgres(connection) => {
            let error = |error| failed("read the heads", error);
            let mut snapshot = TrailSnapshot::begin(connection, Selection::default()).await.map_err(error)?;
            let heads = snapshot.heads_to_keep().await.map_err(error)?;
            snapshot.end().await.map_err(error)?;
            heads
        }
        TrailReader::Outbox(outbox) => in_outbox(outbox).await?,
    };
    trail::record_read(config, &trail, ReadCommand::Heads, None, heads.len() as u64).await?;
    Ok(print(&json_lines(&heads)?)?)
}

async fn in_outbox(outbox: &OutboxClient) -> anyhow::Result<Vec<StreamHead>> {
    let time = Timestamp::now();
    let stats: StatsAnswer = outbox.one(&Question::Stats).await?;
    let mut heads = Vec::new();
    for stream in &stats.files.streams {
        let (epoch, seq) = (Some(stream.epoch.0), Some(stream.last.0));
        let filter = Filter { epoch, seq, limit: 1, ..Filter::default() };
        let records: Vec<AuditRecord> = outbox.all(&Question::Records { filter: Box::new(filter) }).await?;
        let record = records.into_iter().next().context("a record left the outbox meanwhile; repeat the command")?;
        let position = record.position;
        let (gateway, epoch) = (position.gateway_id, position.epoch);
        heads.push(StreamHead { gateway, epoch, seq: position.seq, hash: position.hash, time });
    }
    Ok(heads)
}
