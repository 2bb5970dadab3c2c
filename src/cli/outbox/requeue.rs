//! `gatepost outbox requeue`: retries delivering the records in `audit_quarantine` to `audit_log`.

use serde::Serialize;
use uuid::Uuid;

use crate::audit::sink::SinkError;
use crate::audit::sink::postgres::requeue::{
    KnownLosses, QuarantinedRecord, RequeueMode, RequeueOutcome, next_quarantined, requeue,
};
use crate::cli::database;
use crate::cli::output::{json_line, print_if_read};
use crate::config::Config;
use crate::escape::escape_hidden;
use crate::ops::format::plural;

/// `gatepost outbox requeue`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Try each record and roll it back: print which would be delivered, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Numbers of records by outcome.
#[derive(Debug, Default)]
struct Counts {
    delivered: u64,
    refused: u64,
    skipped: u64,
}

/// The outcome of one record as JSON.
#[derive(Debug, Serialize)]
struct JsonOutcome<'a> {
    gateway_id: Uuid,
    epoch: i64,
    seq: i64,
    request_id: Uuid,
    was: &'a str,
    outcome: &'static str,
    error: Option<&'a str>,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let options = database::required(config, ", so there is no audit_quarantine to requeue from")?;
    let statement_timeout = options.statement_timeout;
    let mut connection = database::connect(&options).await?;
    let mode = if args.dry_run { RequeueMode::DryRun } else { RequeueMode::Commit };
    let (mut counts, mut losses, mut at) = (Counts::default(), KnownLosses::default(), None);
    // One at a time: a record may have a megabyte, and an error does not undo the records before it.
    while let Some(record) =
        next_quarantined(&mut connection, at.as_ref()).await.map_err(|error| with_remedy(&error, &counts))?
    {
        let outcome = requeue(&mut connection, &record, mode, statement_timeout, &mut losses).await;
        let outcome = outcome.map_err(|error| with_remedy(&error, &counts))?;
        print_if_read(&line(&record, &outcome, mode, json)?)?;
        match outcome {
            RequeueOutcome::Delivered => counts.delivered += 1,
            RequeueOutcome::Refused(_) => counts.refused += 1,
            RequeueOutcome::Gone => counts.skipped += 1,
        }
        at = Some(record);
    }
    let Counts { delivered, refused, skipped } = counts;
    let would_be = if args.dry_run { "would be " } else { "" };
    if !json {
        print_if_read(&format!("{delivered} {would_be}delivered, {refused} refused again, {skipped} skipped\n"))?;
    }
    let left = refused + skipped;
    anyhow::ensure!(left == 0, "{} left in audit_quarantine", plural(left, "record"));
    Ok(())
}

/// One record and its outcome.
fn line(
    record: &QuarantinedRecord,
    outcome: &RequeueOutcome,
    mode: RequeueMode,
    json: bool,
) -> serde_json::Result<String> {
    let QuarantinedRecord { gateway_id, epoch, seq, request_id, reason, .. } = record;
    let (word, json_word, error) = match (outcome, mode) {
        (RequeueOutcome::Delivered, RequeueMode::Commit) => ("delivered", "delivered", None),
        (RequeueOutcome::Delivered, RequeueMode::DryRun) => ("deliverable", "deliverable", None),
        (RequeueOutcome::Refused(error), _) => ("refused", "refused", Some(error.as_str())),
        (RequeueOutcome::Gone, _) => {
            ("skipped", "passed_over", Some("it was moved meanwhile, or audit_log has a record at its position"))
        }
    };
    if json {
        let (gateway_id, epoch, seq, request_id) = (*gateway_id, *epoch, *seq, *request_id);
        return json_line(&JsonOutcome { gateway_id, epoch, seq, request_id, was: reason, outcome: json_word, error });
    }
    let text = error.map_or_else(|| format!("it was {reason}"), str::to_owned);
    // An error of Postgres may quote text of the record.
    Ok(format!("{gateway_id}/{epoch}/{seq} {word}: {}\n", escape_hidden(&text)))
}

/// The error, what to do about it, and what was done before it.
fn with_remedy(error: &SinkError, counts: &Counts) -> anyhow::Error {
    let remedy = match error.sqlstate.as_deref() {
        Some("42501") => {
            "; the gateway's own role may not remove records from audit_quarantine: use a role that may DELETE there and \
             INSERT into audit_log, for example the owner of the tables"
        }
        Some("42P01" | "3F000") => "; this database has no Gatepost schema: name the right one",
        _ => "",
    };
    anyhow::anyhow!("{error}{remedy}; {} delivered before it", plural(counts.delivered, "record"))
}
