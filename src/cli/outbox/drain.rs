//! `gatepost outbox drain`: delivers what a dead gateway left, in its name, and closes its stream.
//!
//! The dead epoch is never written again. Draining opens the outbox as the gateway itself would at its next start: a new
//! epoch, whose `gateway/opened` says how the last one ended, records each call that was open as `interrupted`, and ends
//! with `gateway/closed`; then all of it is delivered, as any backlog is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use super::{ask, complain};
use crate::audit::pipeline::{Pipeline, Probe, StopReport};
use crate::audit::shipper::ShipperState;
use crate::cli::{print, serve};
use crate::config::Config;
use crate::ops::inspect::Question;

/// How often what delivery is doing is looked at, to tell of an error. *Chosen*: for a person who waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// `gatepost outbox drain`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Give up after so long; what is left stays in the outbox, and can be drained again
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// What is wrong with the configuration, before anything is opened.
pub(super) fn fault(config: &Config) -> Option<&'static str> {
    config.postgres.url.is_none().then_some(
        "postgres.url is not set, so there is nowhere to drain to; set it in the configuration or as \
         GATEPOST_POSTGRES_URL",
    )
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let dir = &config.audit.dir;
    let pipeline = serve::start_pipeline(config).await?;
    let (probe, (gateway_id, epoch)) = (pipeline.probe(), pipeline.probe().stream());
    let StopReport { lost, last, delivered } = finish(pipeline, &probe, config.audit.store_timeout, args.timeout).await;
    let state = probe.shipper();
    drop(probe);
    if lost > 0 {
        bail!("the outbox {} cannot be written; {lost} records of the draining itself are lost", dir.display());
    }
    let left = left(dir).await.context("look at what is left")?;
    if left > 0 || delivered < last {
        let why = match state {
            ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } => error,
            _ => format!("not done within {:?}", args.timeout),
        };
        bail!("{left} records are left, safe in {}: {why}; then drain again", dir.display());
    }
    let done = json!({ "gateway_id": gateway_id, "epoch": epoch, "last": last, "left": left });
    let text = format!("all is delivered; the stream of gateway {} is closed at {epoch}/{last}\n", gateway_id.0);
    Ok(print(&if json { format!("{done}\n") } else { text })?)
}

/// Closes the epoch and delivers; tells each error of delivery once.
async fn finish(pipeline: Pipeline, probe: &Probe, store: Duration, ship: Duration) -> StopReport {
    let mut stopping = std::pin::pin!(pipeline.stop(store, ship));
    let mut told = None;
    loop {
        if let Ok(ended) = tokio::time::timeout(LOOK_INTERVAL, &mut stopping).await {
            return ended;
        }
        if let ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } =
            probe.shipper()
            && told.as_ref() != Some(&error)
        {
            complain(&format!("delivery waits: {error}"));
            told = Some(error);
        }
    }
}

/// Records that are stored and not known to be delivered.
async fn left(dir: &Path) -> anyhow::Result<u64> {
    let stats = ask(dir, &Question::Stats).await?;
    let streams = stats.first().and_then(|stats| stats.get("streams")?.as_array().cloned()).unwrap_or_default();
    let of_stream = |stream: &serde_json::Value| {
        let number = |key: &str| stream.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
        number("last").saturating_sub(number("delivered").max(number("first").saturating_sub(1)))
    };
    Ok(streams.iter().map(of_stream).sum())
}
