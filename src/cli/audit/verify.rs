//! `gatepost audit verify`: checks that the trail is what its gateways recorded, and lists what is not proven.

mod checkpoints;
mod live;
mod text;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use checkpoints::{CheckpointFindings, Kept};
use live::LiveFindings;

use crate::audit::query::TrailSnapshot;
use crate::audit::record::{Epoch, GatewayId, Timestamp};
use crate::audit::sink::postgres::Connection;
use crate::audit::verify::{Expect, HeadSource, Heads, Options, Report, Selection, StreamHead, Verdict};
use crate::cli::exit::{CommandError, usage};
use crate::cli::filter_args::micros;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_line, print};
use crate::cli::progress::Progress;
use crate::cli::terminal::Terminal;
use crate::cli::witness::read_policy;
use crate::cli::{slots, trail};
use crate::config::Config;
use crate::counts::plural;
use crate::ops::protocol::{CheckRequest, Question};
use crate::ops::read_log::ReadCommand;
use crate::ops::time_arg::{TimeArg, Zone};
use crate::ops::trail::{TrailReader, failed};
use crate::ops::trail_check::FAULTS_MAX;

/// Columns that no hash binds. *Spec*: docs/trail.md, "Columns in no hash".
const UNBOUND_COLUMNS: [&str; 5] = [
    "audit_stream.begun_at",
    "audit_stream.delivered_at",
    "audit_quarantine.sqlstate",
    "audit_quarantine.error",
    "audit_quarantine.quarantined_at",
];

/// `gatepost audit verify`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Confirm the trail by the heads in this file, an earlier output of gatepost audit heads; may be repeated
    #[arg(long, value_name = "FILE")]
    expect: Vec<PathBuf>,
    /// Exit with 4 if records after the heads of --expect rest on the database alone
    #[arg(long, requires = "expect")]
    strict: bool,
    /// Compare the records with all signed checkpoints that this policy accepts; these confirm them
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Compare them with this checkpoint too, which was kept elsewhere; may be repeated
    #[arg(long, value_name = "FILE", requires = "policy")]
    checkpoint: Vec<PathBuf>,
    /// Time in which what is missing at the end of a stream may still arrive, for example 90s
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// Check only the streams of this gateway, and their neighbours
    #[arg(long, value_name = "ID")]
    gateway: Option<uuid::Uuid>,
    /// Check only this epoch, and its neighbours
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
    /// Check only from the first record since this time, written as for audit query
    #[arg(long, value_name = "TIME")]
    since: Option<TimeArg>,
    /// Check only up to the last record before this time
    #[arg(long, value_name = "TIME")]
    until: Option<TimeArg>,
    /// Most faults, and most unproven parts, to list; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=FAULTS_MAX as u64))]
    faults: usize,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct JsonReport<'a> {
    #[serde(flatten)]
    report: &'a Report,
    exit_code: u8,
    /// The sentence at the end of the text.
    conclusion: String,
    columns_in_no_hash: &'static [&'static str],
}

impl Args {
    fn selection(&self, zone: Zone) -> anyhow::Result<Selection> {
        Ok(Selection {
            gateway: self.gateway.map(GatewayId),
            epoch: self.epoch.map(Epoch),
            since: micros("--since", self.since, zone)?.map(Timestamp::from_micros),
            until: micros("--until", self.until, zone)?.map(Timestamp::from_micros),
        })
    }

    /// The heads in the files of `--expect`.
    fn expected(&self) -> anyhow::Result<Vec<StreamHead>> {
        let mut heads = Vec::new();
        for path in &self.expect {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let read = StreamHead::from_lines(&text).map_err(|error| usage(format!("{}: {error}", path.display())))?;
            heads.extend(read);
        }
        Ok(heads)
    }
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    let expected = args.expected()?;
    let selection = args.selection(terminal.zone)?;
    let mut trail = trail::open(config).await?;
    let mut progress = Progress::new();
    let report = match &mut trail {
        TrailReader::Postgres(connection) => {
            let checkpoints = args.checkpoints(connection).await?;
            let snapshot = TrailSnapshot::begin(connection, selection).await;
            let snapshot = snapshot.map_err(|error| failed("read the trail", error))?;
            in_postgres(config, args, (&expected, checkpoints), snapshot, &mut progress).await
        }
        TrailReader::Outbox(outbox) => in_outbox(args, selection, expected.clone(), outbox).await,
    };
    progress.clear();
    let report = report?;
    trail::record_read(config, &trail, ReadCommand::Verify, None, report.records).await?;
    let (conclusion, code) =
        text::conclusion(&report, expected.iter().map(|head| head.time).max(), args.policy.is_some());
    let shown = if json {
        let columns_in_no_hash = if report.is_of_postgres() { &UNBOUND_COLUMNS[..] } else { &[] };
        json_line(&JsonReport { report: &report, exit_code: code, conclusion, columns_in_no_hash })?
    } else {
        text::text(&report, &UNBOUND_COLUMNS, &conclusion, terminal)
    };
    // The exit code has the verdict even if the report has no reader.
    let printed = print(&shown);
    match (report.verdict, &printed) {
        (Verdict::Proven, _) => Ok(printed?),
        (Verdict::NotProven, Err(error)) if !error.is_closed() => Ok(printed?),
        (Verdict::NotProven, _) => {
            let count = plural(report.unproven_count, "part");
            Err(CommandError::NotProven(format!("no fault was found, but {count} of the trail cannot be proven"))
                .into())
        }
        (Verdict::Faulty, _) => {
            anyhow::bail!("the trail is not what its gateways recorded: {}", plural(report.faults_count, "fault"))
        }
    }
}

async fn in_postgres(
    config: &Config,
    args: &Args,
    (expected, checkpoints): (&[StreamHead], CheckpointFindings),
    snapshot: TrailSnapshot<'_>,
    progress: &mut Progress,
) -> anyhow::Result<Report> {
    let mut heads = Heads::default();
    for head in expected {
        heads.add(head, HeadSource::File);
    }
    checkpoints.confirm(&mut heads);
    let mut live = LiveFindings::default();
    for dir in slots::live(&config.audit.dir) {
        live.compare(config, &OutboxClient::new(&dir), &snapshot, args.settle, &mut heads).await?;
    }
    let options = Options {
        findings_max: args.faults,
        now: snapshot.time(),
        settle: args.settle,
        expect: Expect::new(!args.expect.is_empty(), args.strict),
        vouched: false,
        replica: snapshot.is_replica(),
        live: live.streams,
    };
    let checked = snapshot.check(heads, options, |count| progress.show(count)).await;
    let mut report = checked.map_err(|error| failed("check the trail", error))?;
    report.add_faults(live.faults.into_iter().chain(checkpoints.faults));
    report.add_mentions(live.mentions.into_iter().chain(checkpoints.mentions));
    report.add_unproven(live.unproven.into_iter().chain(checkpoints.unproven));
    Ok(report)
}

impl Args {
    /// The comparison with signed checkpoints, if there is a policy.
    async fn checkpoints(&self, connection: &mut Connection) -> anyhow::Result<CheckpointFindings> {
        let Some(path) = &self.policy else { return Ok(CheckpointFindings::default()) };
        let policy = read_policy(path)?;
        let kept = self.checkpoint.iter().map(|path| Kept::read(path, &policy)).collect::<anyhow::Result<Vec<_>>>()?;
        CheckpointFindings::compare(connection, &policy, &kept, self.gateway.map(GatewayId)).await
    }
}

async fn in_outbox(
    args: &Args,
    selection: Selection,
    expected: Vec<StreamHead>,
    outbox: &OutboxClient,
) -> anyhow::Result<Report> {
    if args.policy.is_some() {
        return Err(usage("--policy needs a trail in Postgres, where checkpoints are"));
    }
    if selection.has_times() {
        return Err(usage("--since and --until need a trail in Postgres; an outbox is checked by --epoch"));
    }
    let request = CheckRequest {
        findings_max: args.faults,
        selection,
        heads: (!args.expect.is_empty()).then_some(expected),
        strict: args.strict,
        settle_seconds: args.settle.as_secs(),
    };
    let mut report: Report = outbox.one(&Question::CheckTrail { request: Box::new(request) }).await?;
    if let Some(source) = &mut report.source {
        source.directory = Some(outbox.dir().display().to_string());
    }
    Ok(report)
}
