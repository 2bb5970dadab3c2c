//! `gatepost audit retire`: removes whole months of records, and records what was removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::confirmed::ConfirmedCheckpoints;
use super::decision_args::{DecisionArgs, commit_with_journal, with_remedy};
use super::journal::Journal;
use super::month::Month;
use super::registrar_log;
use crate::audit::query::{Filter, Pager, signing_gateways};
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, StreamPosition};
use crate::audit::retired::{RETIRED_METHOD, Retired, Retirement};
use crate::audit::sink::SinkError;
use crate::audit::sink::postgres::Connection;
use crate::audit::sink::postgres::holds::locked_holds;
use crate::audit::sink::postgres::registrar::{Decision, LockedRegistrar, accepted, entry, registrar_id};
use crate::audit::sink::postgres::retire::{
    Removal, first_kept_epoch, foreign_rows, hash_at, is_busy, keep_policies, server_time,
};
use crate::audit::verify::StreamHead;
use crate::cli::database;
use crate::cli::export_dir::{ExportDir, Format, Layout};
use crate::cli::output::{json_line, print};
use crate::cli::progress::Progress;
use crate::config::Config;
use crate::counts::plural;
use crate::escape::escape_hidden;
use crate::ops::trail::failed;

/// Time between two attempts to lock the tables. *Chosen*: deliveries that waited are done, and the load has changed.
const PAUSE: Duration = Duration::from_secs(2);

/// `gatepost audit retire`
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gatepost audit retire [OPTIONS] --heads <FILE> --reason <TEXT>\n       --journal <FILE> <--before <MONTH>|--older-than <AGE>>\n       <--export <DIR>|--without-export>"
)]
#[command(group = clap::ArgGroup::new("cut").required(true).args(["before", "older_than"]))]
#[command(group = clap::ArgGroup::new("copy").required(true).args(["export", "without_export"]))]
pub(super) struct Args {
    /// Retire the records of all months before this one, for example 2026-08
    #[arg(long, value_name = "MONTH")]
    before: Option<Month>,
    /// Retire the records of all months that ended before this age, for example 400d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// An output of gatepost audit heads that was kept elsewhere and is later than these months
    #[arg(long, value_name = "FILE")]
    heads: PathBuf,
    /// Also retire records that no witness or other anchor has confirmed, although checkpoints are signed
    #[arg(long)]
    unanchored: bool,
    /// Export the records into this new directory first
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Keep no copy of the records
    #[arg(long)]
    without_export: bool,
    /// Longest time that deliveries wait for a lock of this command
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    lock_timeout: Duration,
    /// Time for which locks are tried again, for example behind a long report
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print what would be retired, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct JsonResult<'a> {
    before: String,
    records: u64,
    streams: usize,
    partitions: &'a [String],
    /// Rows in `audit_foreign` of these months, which were kept.
    foreign_rows: u64,
    /// The SHA-256 sum of the manifest of the export.
    export: Option<Digest>,
    /// The seqs of the first and the last decision in the registrar's stream; null if nothing was changed.
    decisions: Option<[u64; 2]>,
}

/// A file of heads.
struct HeadsFile {
    path: PathBuf,
    heads: Vec<StreamHead>,
    sha256: Digest,
}

/// The parts of a retirement that are known before anything is changed.
struct Plan {
    retirement: Retirement,
    kept: BTreeMap<GatewayId, Epoch>,
    base: Retired,
    foreign_rows: u64,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let heads = HeadsFile::read(&args.heads)?;
    let options = database::required(config, ", so there is nothing to retire")?;
    let mut journal = Journal::open(&args.decision.journal)?;
    let mut connection = database::connect(&options).await?;
    let cut = cut(&mut connection, args).await?;
    {
        // What would be refused at the end is refused before months of records are read.
        let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
        journal.check(&registrar)?;
        check_holds(&mut registrar, cut).await?;
    }
    let (retirement, export) = read(&mut connection, args, cut).await?;
    if retirement.records() == 0 {
        let line = JsonResult {
            before: cut.to_string(),
            records: 0,
            streams: 0,
            partitions: &[],
            foreign_rows: 0,
            export: None,
            decisions: None,
        };
        return Ok(print(&if json { json_line(&line)? } else { format!("no record is older than {cut}\n") })?);
    }
    heads.check(&mut connection, &retirement).await?;
    if !args.unanchored {
        check_anchored(&mut connection, config, &retirement).await?;
    }
    let mut kept = BTreeMap::new();
    for gateway in retirement.gateways() {
        let first = first_kept_epoch(&mut connection, gateway, cut.begin()).await.map_err(with_remedy)?;
        kept.extend(first.map(|first| (gateway, first)));
    }
    let export = export.map(ExportDir::finish).transpose()?.map(|summary| summary.sha256);
    let (before, runs, copies) = (cut.to_string(), Vec::new(), Vec::new());
    let base = Retired { before, records: 0, runs, copies, export, heads: heads.sha256 };
    let foreign_rows = foreign_rows(&mut connection, cut.begin()).await.map_err(with_remedy)?;
    let plan = Plan { retirement, kept, base, foreign_rows };
    let until = Instant::now() + args.wait;
    let (partitions, records) = loop {
        match attempt(&mut connection, args, cut, &plan, &mut journal).await {
            Err(error) if is_busy_error(&error) && Instant::now() < until => tokio::time::sleep(PAUSE).await,
            Err(error) if is_busy_error(&error) => {
                return Err(error.context(
                    "other sessions kept the tables locked; nothing was retired. Run the command again, or with a \
                     longer --wait",
                ));
            }
            done => {
                break done.map_err(|error| error.downcast::<SinkError>().map_or_else(|other| other, with_remedy))?;
            }
        }
    };
    if !args.dry_run {
        registrar_log::sign(config).await;
    }
    report(args, cut, &plan, &partitions, &records, json)
}

/// The first month that is kept.
async fn cut(connection: &mut Connection, args: &Args) -> anyhow::Result<Month> {
    let now = server_time(connection).await.map_err(with_remedy)?;
    let this = Month::of(now);
    let cut = match (args.before, args.older_than) {
        (Some(month), _) => month,
        (None, age) => Month::before(now, age.unwrap_or_default()),
    };
    ensure!(cut <= this, "{cut} begins later than the current month, {this}: only months that are over are retired");
    Ok(cut)
}

async fn check_holds(registrar: &mut LockedRegistrar<'_>, cut: Month) -> anyhow::Result<()> {
    let in_force = locked_holds(registrar).await.map_err(with_remedy)?;
    let Some((number, hold)) = in_force.iter().find(|(_, hold)| hold.overlaps(cut.begin())) else { return Ok(()) };
    let since = hold.since.map_or_else(|| "the beginning".to_owned(), |since| since.to_string());
    let until = hold.until.map_or_else(|| "its end".to_owned(), |until| until.to_string());
    bail!(
        "hold {number} keeps records from {since} to {until} ({}): nothing was retired. Name an earlier month, or lift \
         the hold: gatepost audit hold lift {number}",
        escape_hidden(&hold.reason)
    )
}

/// Checks that an anchor has confirmed a checkpoint over the records of each gateway that signs checkpoints, or of all
/// if evidence is configured: once records are gone, only that shows what they were.
async fn check_anchored(connection: &mut Connection, config: &Config, retirement: &Retirement) -> anyhow::Result<()> {
    let signing = signing_gateways(connection).await.map_err(|error| failed("read the checkpoints", error))?;
    let mut confirmed = None;
    for (gateway_id, epoch, end) in retirement.ends() {
        if config.evidence.origin.is_some() || signing.contains(&gateway_id) {
            let confirmed = match &mut confirmed {
                Some(confirmed) => confirmed,
                none => none.insert(ConfirmedCheckpoints::new(config)?),
            };
            let (seq, hash, prev_hash) = (end.seq, end.hash, Digest::ZERO);
            let record = StreamPosition { gateway_id, epoch, seq, prev_hash, hash };
            confirmed.check(connection, &record).await?;
        }
    }
    Ok(())
}

/// Reads, checks and exports the records before `cut`.
async fn read(connection: &mut Connection, args: &Args, cut: Month) -> anyhow::Result<(Retirement, Option<ExportDir>)> {
    let registrar = registrar_id(connection).await.map_err(with_remedy)?;
    let excuses = accepted(connection, registrar).await.map_err(with_remedy)?;
    let excuses = |kind: &'static str, position: &StreamPosition| {
        let StreamPosition { gateway_id, epoch, seq, .. } = *position;
        let covers =
            |it: &Decision| it.first.is_none_or(|first| first <= seq) && it.last.is_none_or(|last| seq <= last);
        excuses.iter().any(|it| it.kind == kind && it.gateway == gateway_id && it.epoch == Some(epoch) && covers(it))
    };
    let filter = Filter { until_micros: Some(cut.begin().micros()), ..Filter::default() };
    let layout = Layout { format: Format::Jsonl, raw: false };
    let error = |error| failed("read the trail", error);
    let mut pager = Pager::begin(connection, &filter, None).await.map_err(error)?;
    let (mut retirement, mut export, mut progress) = (Retirement::default(), None, Progress::new());
    while let Some(page) = pager.next(connection).await.map_err(error)? {
        for exported in page.iter().filter(|exported| exported.record.position.gateway_id != registrar) {
            if let (Some(path), None, false) = (&args.export, &export, args.dry_run) {
                export = Some(ExportDir::create(path, layout, &filter)?);
            }
            if let Some(export) = &mut export {
                export.push(exported)?;
            }
            retirement.add(&exported.record, exported.quarantined.is_some(), excuses);
        }
        progress.show(retirement.records());
    }
    progress.clear();
    if let ([first, ..], count) = retirement.damaged() {
        let StreamPosition { gateway_id, epoch, seq, .. } = first.position;
        bail!(
            "{} of these months would be faults for gatepost audit verify, and could not be examined any more ({} at \
             {gateway_id}/{epoch}/{seq}); nothing was retired. Run it, and record what is known with gatepost audit accept",
            plural(count, "record"),
            first.kind
        );
    }
    Ok((retirement, export))
}

impl HeadsFile {
    fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let heads = StreamHead::from_lines(&text).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), heads, sha256: Digest::of(text.as_bytes()) })
    }

    /// Checks that for each gateway a head in the file is at or after its last retired record, and that the trail has
    /// the newest one.
    async fn check(&self, connection: &mut Connection, retirement: &Retirement) -> anyhow::Result<()> {
        let path = self.path.display();
        let mut seen = BTreeSet::new();
        for (gateway, epoch, end) in retirement.ends() {
            let heads = self.heads.iter().filter(|head| head.gateway == gateway);
            let Some(newest) = heads.max_by_key(|head| (head.epoch, head.seq)) else {
                bail!("{path} has no head of gateway {gateway}: take gatepost audit heads again, and review it");
            };
            ensure!(
                (newest.epoch, newest.seq) >= (epoch, end.seq),
                "the newest head of gateway {gateway} in {path} is {}/{}, before its record {epoch}/{} of these months: \
                 take gatepost audit heads again, and review it",
                newest.epoch,
                newest.seq,
                end.seq
            );
            if seen.insert(gateway) {
                let found = hash_at(connection, (gateway, newest.epoch), newest.seq).await.map_err(with_remedy)?;
                ensure!(
                    found == Some(newest.hash),
                    "the head {}/{} of gateway {gateway} in {path} is not in the trail: run gatepost audit verify \
                     --expect {path}",
                    newest.epoch,
                    newest.seq
                );
            }
        }
        Ok(())
    }
}

/// Records and removes everything in one transaction.
async fn attempt(
    connection: &mut Connection,
    args: &Args,
    cut: Month,
    plan: &Plan,
    journal: &mut Journal,
) -> anyhow::Result<(Vec<String>, Vec<AuditRecord>)> {
    let mut registrar = LockedRegistrar::lock(connection).await?;
    match remove(&mut registrar, args, cut, plan, journal).await {
        Ok(removed) if args.dry_run => {
            registrar.rollback().await?;
            Ok(removed)
        }
        Ok(removed) => {
            commit_with_journal(registrar, &args.decision).await?;
            Ok(removed)
        }
        Err(error) => {
            // Before anything else is waited for: it holds locks. The first error is the one to report.
            registrar.rollback().await.ok();
            Err(error)
        }
    }
}

/// Does all of it but the commit.
async fn remove(
    registrar: &mut LockedRegistrar<'_>,
    args: &Args,
    cut: Month,
    plan: &Plan,
    journal: &mut Journal,
) -> anyhow::Result<(Vec<String>, Vec<AuditRecord>)> {
    journal.check(registrar)?;
    check_holds(registrar, cut).await?;
    let (id, quarantined) = (registrar.gateway_id(), plan.retirement.quarantined());
    let (gateways, connection) = (plan.retirement.gateways(), registrar.connection());
    let removal = Removal::begin(connection, id, cut.begin(), &gateways, quarantined, args.lock_timeout).await?;
    ensure!(
        removal.rows() == plan.retirement.records(),
        "{} before {cut} were read, and {} are there now: records arrived late, or rows were deleted. Nothing was \
         retired; run the command again, with a new directory for --export",
        plural(plan.retirement.records(), "record"),
        removal.rows()
    );
    if args.dry_run {
        return Ok((removal.partitions().to_vec(), Vec::new()));
    }
    let mut records = Vec::new();
    for (gateway, epoch, retired) in plan.retirement.decisions(&plan.kept, &plan.base) {
        let range = retired.runs.first().zip(retired.runs.last()).map(|(first, last)| (first.first, last.last));
        let decision = args.decision.decision("retired", gateway, Some(epoch), range);
        let mut details = serde_json::to_value(&decision)?;
        if let (Some(all), serde_json::Value::Object(more)) = (details.as_object_mut(), serde_json::to_value(retired)?)
        {
            all.extend(more);
        }
        let record = registrar.append(entry(RETIRED_METHOD, &decision.by, &details)?).await?;
        records.push(record);
    }
    keep_policies(registrar.connection(), plan.retirement.policies().iter()).await?;
    // From here on deliveries wait, and only what cannot be done before is done.
    removal.lock(registrar.connection()).await?;
    removal.drop_partitions(registrar.connection()).await?;
    journal.append(&records)?;
    Ok((removal.partitions().to_vec(), records))
}

fn is_busy_error(error: &anyhow::Error) -> bool {
    error.downcast_ref::<SinkError>().is_some_and(is_busy)
}

fn report(
    args: &Args,
    cut: Month,
    plan: &Plan,
    partitions: &[String],
    records: &[AuditRecord],
    json: bool,
) -> anyhow::Result<()> {
    let (count, streams) = (plan.retirement.records(), plan.retirement.ends().count());
    let seqs = records.first().zip(records.last()).map(|(first, last)| [first.position.seq.0, last.position.seq.0]);
    if json {
        let (before, export) = (cut.to_string(), plan.base.export);
        let foreign_rows = plan.foreign_rows;
        let result = JsonResult { before, records: count, streams, partitions, foreign_rows, export, decisions: seqs };
        return Ok(print(&json_line(&result)?)?);
    }
    let (of, in_streams) = (plural(count, "record"), plural(streams as u64, "stream"));
    let would = if args.dry_run { "would be" } else { "were" };
    let mut text = format!("{of} of {in_streams} before {cut} {would} retired");
    if !partitions.is_empty() {
        text += ", with ";
        text += &partitions.join(", ");
    }
    text += "\n";
    if let Some(sum) = plan.base.export {
        text += "the SHA-256 sum of the manifest of the export is ";
        text += &sum.to_string();
        text += "\n";
    }
    if plan.foreign_rows > 0 {
        let rows = plural(plan.foreign_rows, "row");
        text +=
            &["audit_foreign keeps ", &rows, " of these months, which no check reads: delete them by SQL\n"].concat();
    }
    if let Some(([first, last], end)) = seqs.zip(records.last()) {
        let hash = end.position.hash;
        text += &[
            format!("{RETIRED_METHOD} is recorded as 1/{first} to 1/{last}, hash {hash}\n"),
            "audit verify excuses it once these are reviewed and confirmed: keep gatepost audit heads for --expect\n"
                .to_owned(),
        ]
        .concat();
    }
    Ok(print(&text)?)
}
