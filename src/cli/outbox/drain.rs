//! `gatepost outbox drain`: delivers the records that a dead gateway left, in its name, and closes its stream.
//!
//! The dead epoch is never written again. Draining opens the outbox as the gateway's next start would. The new epoch's
//! `gateway/opened` says how the last one ended, and each call that was open gets an `interrupted` record. Then all
//! records are delivered, like any backlog, and `gateway/closed` is last.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::audit::pipeline::{Pipeline, Probe, StopReport};
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::shipper::ShipperState;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{print, print_error};
use crate::cli::{database, pipeline};
use crate::config::Config;
use crate::ops::format::plural;
use crate::ops::protocol::{Question, StatsAnswer};

/// Interval between polls of the state of delivery, whose errors are printed. *Chosen*: a person waits for them.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Interval between looks whether everything is delivered. *Chosen*: short beside the delivery itself.
const SHIPPED_INTERVAL: Duration = Duration::from_millis(25);

/// `gatepost outbox drain`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop after this time; undelivered records stay in the outbox and can be drained again
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Drained {
    gateway_id: GatewayId,
    epoch: Epoch,
    last: Seq,
    left: u64,
}

pub(super) async fn run(config: &Config, client: &OutboxClient, args: &Args, json: bool) -> anyhow::Result<()> {
    database::required(config, ", so there is no database to drain to")?;
    let dir = &config.audit.dir;
    let pipeline = pipeline::start(config).await?;
    let (probe, (gateway_id, epoch)) = (pipeline.probe(), pipeline.probe().stream());
    let StopReport { lost, last, delivered } = finish(pipeline, &probe, config.audit.store_timeout, args.timeout).await;
    let state = probe.shipper();
    drop(probe);
    if lost > 0 {
        let records = plural(lost as u64, "record");
        bail!("the outbox {} cannot be written; {records} of the draining itself are lost", dir.display());
    }
    let left = undelivered(client).await.context("cannot read how many records are left")?;
    if left > 0 || delivered < last {
        let reason = match state {
            ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } => error,
            _ => format!("not finished within {:?}", args.timeout),
        };
        let (records, dir) = (plural(left, "undelivered record"), dir.display());
        bail!("{records} left, stored in {dir}: {reason}; fix this and drain again");
    }
    let text = format!("all records are delivered; the stream of gateway {gateway_id} is closed at {epoch}/{last}\n");
    Ok(print(&if json { client.json_line(&Drained { gateway_id, epoch, last, left })? } else { text })?)
}

/// Delivers everything, then closes the epoch and delivers that; prints each error of delivery once. For at most
/// `ship`.
async fn finish(pipeline: Pipeline, probe: &Probe, store: Duration, ship: Duration) -> StopReport {
    let (deadline, mut printed) = (Instant::now() + ship, None);
    // The epoch stays open until then, because damage that is found on the way has to be recorded in it.
    while !is_shipped(probe) && Instant::now() < deadline {
        print_new_error(probe, &mut printed);
        tokio::time::sleep(SHIPPED_INTERVAL).await;
    }
    let mut stopping = std::pin::pin!(pipeline.stop(store, deadline.saturating_duration_since(Instant::now())));
    loop {
        if let Ok(report) = tokio::time::timeout(LOOK_INTERVAL, &mut stopping).await {
            return report;
        }
        print_new_error(probe, &mut printed);
    }
}

/// Returns true if all streams are delivered as far as they can be: the current one is the last.
fn is_shipped(probe: &Probe) -> bool {
    let gauge = probe.gauge();
    gauge.delivered >= gauge.stamped || matches!(probe.shipper(), ShipperState::Forked { .. })
}

fn print_new_error(probe: &Probe, printed: &mut Option<String>) {
    if let ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } =
        probe.shipper()
        && printed.as_ref() != Some(&error)
    {
        print_error(&format!("cannot deliver, retrying: {error}"));
        *printed = Some(error);
    }
}

/// Records that are stored and not known to be delivered.
async fn undelivered(client: &OutboxClient) -> anyhow::Result<u64> {
    let stats: StatsAnswer = client.one(&Question::Stats).await?;
    Ok(stats.files.undelivered())
}
