//! `gatepost outbox requeue`: what Postgres refused and `audit_quarantine` keeps is offered to `audit_log` again.

use anyhow::Context;
use serde_json::json;

use crate::audit::sink::postgres::requeue::{
    QuarantinedRecord, RequeueMode, RequeueOutcome, next_quarantined, requeue,
};
use crate::audit::sink::{self, postgres};
use crate::cli::print;
use crate::config::Config;
use crate::escape::escape_hidden;

/// What is wrong where no database is configured.
pub(super) const NO_URL: &str = "postgres.url is not set, so there is no audit_quarantine to requeue from; set it in \
    the configuration or as GATEPOST_POSTGRES_URL";

/// `gatepost outbox requeue`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Try each record and roll it back: says what would be taken, and changes nothing
    #[arg(long)]
    dry_run: bool,
}

/// How many records came to what.
#[derive(Debug, Default)]
struct Counts {
    delivered: u64,
    refused: u64,
    gone: u64,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let url = config.postgres.url.clone().context(NO_URL)?;
    let statement_timeout = config.postgres.statement_timeout;
    let options = postgres::Options { url, statement_timeout, migrate: false };
    let mut connection = postgres::connect(&postgres::connect_options(&options)?).await?;
    let mode = if args.dry_run { RequeueMode::DryRun } else { RequeueMode::Commit };
    let (mut counts, mut at) = (Counts::default(), None);
    // One at a time: each may be a megabyte, and what was done before an error stays done.
    while let Some(row) =
        next_quarantined(&mut connection, at.as_ref()).await.map_err(|error| explained(&error, &counts))?
    {
        let done = requeue(&mut connection, &row, mode, statement_timeout).await;
        let done = done.map_err(|error| explained(&error, &counts))?;
        print(&line(&row, &done, mode, json))?;
        match done {
            RequeueOutcome::Delivered => counts.delivered += 1,
            RequeueOutcome::Refused(_) => counts.refused += 1,
            RequeueOutcome::Gone => counts.gone += 1,
        }
        at = Some(row);
    }
    let Counts { delivered, refused, gone } = counts;
    let would = if args.dry_run { "would be " } else { "" };
    if !json {
        print(&format!("{delivered} {would}delivered, {refused} refused again, {gone} passed over\n"))?;
    }
    anyhow::ensure!(refused == 0 && gone == 0, "{} records stay in audit_quarantine", refused + gone);
    Ok(())
}

/// One record and what became of it.
fn line(row: &QuarantinedRecord, done: &RequeueOutcome, mode: RequeueMode, json: bool) -> String {
    let QuarantinedRecord { gateway_id, epoch, seq, request_id, reason, .. } = row;
    let (word, now) = match (done, mode) {
        (RequeueOutcome::Delivered, RequeueMode::Commit) => ("delivered", String::new()),
        (RequeueOutcome::Delivered, RequeueMode::DryRun) => ("deliverable", String::new()),
        (RequeueOutcome::Refused(why), _) => ("refused", why.clone()),
        (RequeueOutcome::Gone, _) => {
            ("passed_over", "it was moved meanwhile, or audit_log has a record in its place".to_owned())
        }
    };
    if json {
        let line = json!({
            "gateway_id": gateway_id, "epoch": epoch, "seq": seq, "request_id": request_id, "was": reason,
            "outcome": word, "error": (!now.is_empty()).then_some(&now),
        });
        return format!("{line}\n");
    }
    // Postgres's own words may hold a piece of the record.
    let text = if now.is_empty() { format!("it was {reason}") } else { now };
    format!("{gateway_id}/{epoch}/{seq} {}: {}\n", word.replace('_', " "), escape_hidden(&text))
}

/// The error, with what to do about it and what was done before it.
fn explained(error: &sink::SinkError, counts: &Counts) -> anyhow::Error {
    let remedy = match error.sqlstate.as_deref() {
        Some("42501") => {
            "; the gateway's own role may not take records out of audit_quarantine: use one that may DELETE there and \
             INSERT into audit_log, as the owner of the tables"
        }
        Some("42P01" | "3F000") => "; this database has no Gatepost schema: name the right one",
        _ => "",
    };
    anyhow::anyhow!("{error}{remedy}; {} were delivered before it", counts.delivered)
}
