//! `gatepost audit certify`: a certificate that no record of a range is missing, or none of a person's.
//!
//! The range is that of the log: the records between two checkpoints that witnesses signed, one before and one after
//! the times that are asked for. Everything is checked before a certificate is left behind: whether the records have
//! their hashes, and whether they lead from one signed root to the other. The verifier checks the same, without this
//! program.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::Serialize;
use uuid::Uuid;

use super::prove::new_file;
use crate::audit::chain;
use crate::audit::lost::{LostRuns, is_stand_in};
use crate::audit::query::{Filter, LogReading, Pager, Side, StoredCheckpoint, lost_runs, signing_gateways};
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq, TEXT_BYTES_MAX, Timestamp};
use crate::audit::sink::postgres::Connection;
use crate::cli::exit::usage;
use crate::cli::filter_args::FilterArgs;
use crate::cli::output::{json_line, print, print_error};
use crate::cli::trail;
use crate::cli::witness::read_policy;
use crate::config::Config;
use crate::counts::plural;
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::cosignature::{UnixTime, has_ed25519_length};
use crate::evidence::key::{SignatureType, VerifierKey};
use crate::evidence::note::Note;
use crate::evidence::policy::Policy;
use crate::evidence::tree::Edge;
use crate::ops::export_line::{Shown, certificate_line};
use crate::ops::proof::signed_note;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::record_ref;
use crate::ops::time_arg::Zone;
use crate::ops::trail::{TrailReader, failed};

/// The format that the first line names. *Spec*: docs/evidence.md, "Certificates".
const FORMAT: &str = "gatepost.certificate.v1";

/// `gatepost audit certify`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Prove that no record of this subject is missing: show these, and of all others who called [default: prove that
    /// no record at all is missing, show those that match, and of the others the hash]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only the log that begins with this epoch, if the gateway began a new one within the range
    #[arg(long, value_name = "EPOCH")]
    log: Option<u64>,
    /// Use only checkpoints that this policy accepts [default: those that any witness signed]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The certificate: a new file
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
}

/// The first line of a certificate.
#[derive(Debug, Serialize)]
struct Header<'a> {
    format: &'static str,
    subject: Option<&'a str>,
    since: Timestamp,
    until: Timestamp,
    from: Option<String>,
    edge: Vec<String>,
    to: String,
}

/// A checkpoint with the signatures of witnesses on one side of a time.
#[derive(Debug)]
struct Witnessed {
    checkpoint: StoredCheckpoint,
    note: Note,
    times: Vec<(String, UnixTime)>,
}

/// The two ends of a range in one log.
#[derive(Debug)]
struct Range {
    /// `None`: the range begins with the log.
    from: Option<Witnessed>,
    to: Witnessed,
    /// The checkpoints before the range that cannot be used.
    refused: Refused,
}

/// The selection of records.
#[derive(Debug)]
struct Asked {
    subject: Option<String>,
    filter: Filter,
}

/// The records of a certificate, by what is shown of them.
#[derive(Debug, Default)]
struct Counts {
    whole: u64,
    who: u64,
    hash: u64,
    lost: u64,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, zone: Zone) -> anyhow::Result<()> {
    let mut filter = args.filter.filter(zone)?;
    let since = filter.since_micros.take().ok_or_else(|| usage("name the beginning of the range with --since"))?;
    let until = filter.until_micros.take().ok_or_else(|| usage("name the end of the range with --until"))?;
    let gateway = filter.gateway_id.take();
    if since >= until {
        return Err(usage("the range is empty: --since must be before --until"));
    }
    if args.subject.as_ref().is_some_and(|subject| subject.len() > TEXT_BYTES_MAX) {
        return Err(usage(format!("--subject is longer than a record has it: the limit is {TEXT_BYTES_MAX} bytes")));
    }
    if args.subject.is_some() && filter != Filter::default() {
        return Err(usage("--subject shows all records of a person: give no other option that selects records"));
    }
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let (since, until) = (Timestamp::from_micros(since), Timestamp::from_micros(until));
    let mut trail = trail::open(config).await?;
    let TrailReader::Postgres(connection) = &mut trail else {
        bail!("postgres.url is not set, and checkpoints are in Postgres");
    };
    let gateway = gateway_id(connection, gateway).await?;
    let find = Find { gateway, log: args.log.map(Epoch), since, until, policy: policy.as_ref() };
    let range = find.range(connection).await?;
    let asked = Asked { subject: args.subject.clone(), filter };
    let read = Filter { who: args.subject.clone(), since_micros: Some(since.micros()), ..asked.filter.clone() };
    trail::record_read(config, &trail, ReadCommand::Certify, Some(&read), range.records()).await?;
    let TrailReader::Postgres(connection) = &mut trail else { return Ok(()) };
    let file = new_file(&args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    let written = write(file, connection, gateway, &range, &asked, (since, until)).await;
    let counts = match written {
        Ok(counts) => counts,
        Err(error) => {
            // Nothing that looks like a certificate is left behind.
            std::fs::remove_file(&args.output).ok();
            return Err(error);
        }
    };
    if counts.lost > 0 {
        let lost = plural(counts.lost, "record");
        print_error(&format!("{lost} of the range lost on the gateway's disk: the certificate has the hash of each"));
    }
    report(args, &range, &asked, &counts, json)
}

/// The gateway that was named, or the only one that signs checkpoints.
async fn gateway_id(connection: &mut Connection, named: Option<Uuid>) -> anyhow::Result<GatewayId> {
    let signing = signing_gateways(connection).await.map_err(|error| failed("read the checkpoints", error))?;
    match (named, &signing[..]) {
        (Some(id), _) if signing.contains(&GatewayId(id)) => Ok(GatewayId(id)),
        (Some(id), _) => bail!("gateway {id} has signed no checkpoints, so nothing can be proved of it"),
        (None, [one]) => Ok(*one),
        (None, []) => bail!("no gateway of this trail has signed checkpoints: see [evidence] in the documentation"),
        (None, several) => {
            let ids: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(usage(format!("{} gateways sign checkpoints: name one with --gateway: {}", ids.len(), ids.join(", "))))
        }
    }
}

/// The search for the two ends.
#[derive(Clone, Copy)]
struct Find<'a> {
    gateway: GatewayId,
    log: Option<Epoch>,
    since: Timestamp,
    until: Timestamp,
    policy: Option<&'a Policy>,
}

/// The checkpoints that a search looked at and cannot use, whatever their times.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    /// The reason for the nearest one.
    nearest: Option<anyhow::Error>,
}

impl Find<'_> {
    async fn range(self, connection: &mut Connection) -> anyhow::Result<Range> {
        let error = |error| failed("read the checkpoints", error);
        let mut log = LogReading::begin(connection, self.gateway).await.map_err(error)?;
        let mut refused = Refused::default();
        let Some(to) = self.nearest(&mut log, self.log, (Side::After, self.until), &mut refused).await? else {
            if let Some(nearest) = refused.nearest {
                bail!(
                    "none of the checkpoints that witnesses signed since {} can be used: {} looked at; the nearest one: \
                     {nearest:#}",
                    self.until,
                    plural(refused.count, "checkpoint")
                );
            }
            let last = self.nearest(&mut log, self.log, (Side::Before, self.until), &mut refused).await?;
            let when = last.map_or_else(|| "none before it either".to_owned(), |last| format!("the last one {last}"));
            bail!(
                "no witness has signed a checkpoint since {}, only {when}: end the range earlier, or wait for a witness",
                self.until
            );
        };
        let (name, mut refused) = (to.checkpoint.log, Refused::default());
        let from = self.nearest(&mut log, Some(name), (Side::Before, self.since), &mut refused).await?;
        let older = log.logs().await.map_err(error)?;
        if from.is_none()
            && self.log.is_none()
            && let Some(older) = older.into_iter().rfind(|older| *older < name)
        {
            let mut ignored = Refused::default();
            let last = self.nearest(&mut log, Some(older), (Side::Before, self.until), &mut ignored).await?;
            let first = match last {
                Some(last) => format!("the first one with --log {older} and --until not after what was signed {last}"),
                None => "and nothing can be certified of the first one, since no witness has signed it".to_owned(),
            };
            bail!(
                "the log that began with epoch {older} ended, and one that begins with epoch {name} continues: certify each \
                 by itself, the second one with --log {name}, {first}",
            );
        }
        log.end().await.map_err(error)?;
        if from.as_ref().is_some_and(|from| from.checkpoint.head.size > to.checkpoint.head.size) {
            bail!("the clocks of the witnesses differ by more than the range has: choose a longer one");
        }
        Ok(Range { from, to, refused })
    }

    /// The nearest checkpoint on this side of a time that can be used, page after page until there is one or none is
    /// left.
    async fn nearest(
        &self,
        reading: &mut LogReading<'_>,
        log: Option<Epoch>,
        of: (Side, Timestamp),
        refused: &mut Refused,
    ) -> anyhow::Result<Option<Witnessed>> {
        let mut after = None;
        loop {
            let page = reading.witnessed(log, of, after).await;
            let page = page.map_err(|error| failed("read the checkpoints", error))?;
            let Some(last) = page.last() else { return Ok(None) };
            after = Some((last.log, last.head.size));
            for checkpoint in page {
                match self.signed(checkpoint, of) {
                    Ok(Some(found)) => return Ok(Some(found)),
                    Ok(None) => {}
                    Err(reason) => {
                        refused.count += 1;
                        refused.nearest.get_or_insert(reason);
                    }
                }
            }
        }
    }

    /// The checkpoint with the signatures on this side of the time; `None` if there are none.
    ///
    /// # Errors
    /// The policy does not accept it, the verifier would not, or it was changed.
    fn signed(&self, checkpoint: StoredCheckpoint, (side, at): (Side, Timestamp)) -> anyhow::Result<Option<Witnessed>> {
        let micros = |time: UnixTime| i64::try_from(time.seconds().saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let (note, times) = signed_note(&checkpoint, |time| match side {
            Side::Before => micros(time) <= at.micros(),
            Side::After => micros(time) >= at.micros(),
        })?;
        // A checkpoint from before the end would lack what was recorded until a witness signed it, unless the
        // gateway published it again: then nothing was recorded.
        let is_new = || {
            let times = checkpoint.anchors.iter().map(|anchor| anchor.first.1);
            checkpoint.stored_at >= self.until || times.min().is_some_and(|first| first < self.until)
        };
        if times.is_empty() || side == Side::After && !is_new() {
            return Ok(None);
        }
        // The verifier of certificates counts no signature by ML-DSA-44.
        let only_ml_dsa =
            "without signatures by ML-DSA-44, which verify/gatepost_verify.py does not count, too few signed it";
        if let Some(policy) = self.policy {
            let checked = policy.check(&note)?.confirmed()?;
            let counts = |key: &VerifierKey| key.signature_type() != SignatureType::CosignatureMlDsa44;
            if checked.witnesses.is_empty() {
                bail!("no witness of the policy signed it");
            }
            if !policy.accepts_with(&checked, counts) || !checked.witnesses.iter().any(|by| counts(&by.witness.key)) {
                bail!(only_ml_dsa);
            }
        } else if !note.signatures().iter().any(has_ed25519_length) {
            bail!(only_ml_dsa);
        }
        Ok(Some(Witnessed { checkpoint, note, times }))
    }
}

impl std::fmt::Display for Witnessed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time =
            |time: &UnixTime| Timestamp::from_micros(i64::try_from(time.seconds() * 1_000_000).unwrap_or(i64::MAX));
        let times: Vec<_> = self.times.iter().map(|(name, when)| format!("at {} by {name}", time(when))).collect();
        f.write_str(&times.join(" and "))
    }
}

impl Range {
    fn first(&self) -> u64 {
        self.from.as_ref().map_or(0, |from| from.checkpoint.head.size)
    }

    /// The reason why a range begins with its log although witnesses signed checkpoints before it; `None` if they did
    /// not.
    fn refused_before(&self) -> Option<String> {
        let nearest = self.refused.nearest.as_ref().filter(|_| self.from.is_none())?;
        let count = plural(self.refused.count, "checkpoint");
        Some(format!("{count} before the range cannot be used; the nearest one: {nearest:#}"))
    }

    fn records(&self) -> u64 {
        self.to.checkpoint.head.size - self.first()
    }

    fn edge(&self) -> Edge {
        self.from.as_ref().map_or(Edge::EMPTY, |from| from.checkpoint.edge.clone())
    }
}

impl Asked {
    /// The part of a record that the certificate shows.
    fn shown(&self, record: &AuditRecord, lost: &LostRuns) -> anyhow::Result<Shown> {
        let (position, call) = (&record.position, &record.entry.call);
        let is_whole = chain::hash_matches(position, &record.entry);
        if !is_whole && !lost.explains(record) {
            bail!("record {} was changed: its hash is not that of its contents", record_ref(record));
        }
        let Some(subject) = &self.subject else {
            let is_shown = is_whole && self.filter.matches(record);
            return Ok(if is_shown { Shown::Whole } else { Shown::Hash });
        };
        if !is_whole {
            bail!(
                "record {} was lost on the gateway's disk, so it cannot be shown that it is not of {subject:?}: prove only \
                 that no record at all is missing, with --who in place of --subject",
                record_ref(record)
            );
        }
        let is_theirs = call.client_subject == *subject || call.actor_subject.as_deref() == Some(subject);
        Ok(if is_theirs { Shown::Whole } else { Shown::Who })
    }
}

/// Writes the certificate.
async fn write(
    file: File,
    connection: &mut Connection,
    gateway: GatewayId,
    range: &Range,
    asked: &Asked,
    (since, until): (Timestamp, Timestamp),
) -> anyhow::Result<Counts> {
    let mut edge = range.edge();
    let header = Header {
        format: FORMAT,
        subject: asked.subject.as_deref(),
        since,
        until,
        from: range.from.as_ref().map(|from| from.note.to_string()),
        edge: edge.hashes().iter().map(|hash| hex::encode(hash.0)).collect(),
        to: range.to.note.to_string(),
    };
    let mut output = BufWriter::new(file);
    writeln!(output, "{}", serde_json::to_string(&header)?)?;
    let StoredCheckpoint { log, last, head, .. } = &range.to.checkpoint;
    let after = range.from.as_ref().map_or((*log, Seq::ZERO), |from| from.checkpoint.last);
    let error = |error| failed("read the records of the range", error);
    // All of them, whatever their timestamps say.
    let all = Filter { gateway_id: Some(gateway.0), until_micros: Some(i64::MAX), ..Filter::default() };
    let mut pager = Pager::begin(connection, &all, Some((gateway.0, after.0.0, after.1.0))).await.map_err(error)?;
    let lost = lost_runs(connection, Some(gateway.0)).await.map_err(error)?;
    let (mut counts, mut unknown) = (Counts::default(), 0_u64);
    'pages: while let Some(page) = pager.next(connection).await.map_err(error)? {
        for record in page.iter().map(|exported| &exported.record) {
            if (record.position.epoch, record.position.seq) > *last {
                break 'pages;
            }
            let shown = asked.shown(record, &lost)?;
            output.write_all(certificate_line(edge.size(), record, shown)?.as_bytes())?;
            edge.push(&record.position.hash.0, |_, _, _| {})?;
            let is_known = !chain::hash_matches(&record.position, &record.entry);
            counts.add(shown, is_stand_in(record) && is_known);
            unknown += u64::from(is_stand_in(record) && !is_known);
        }
    }
    let (found, wanted) = (edge.size() - range.first(), range.records());
    if found != wanted {
        bail!(
            "the database has {} of the range, and the log {wanted}: records were removed, or rows were added, so that \
             nothing can be proved (see gatepost audit verify); or records were retired, over which no certificate can be \
             made: begin the range after them",
            plural(found, "record")
        );
    }
    if edge.root() != head.root {
        if unknown > 0 {
            bail!(
                "{} of the range lost on the gateway's disk, with its hash, so that nothing can be proved across it: \
                 choose a range before or after it",
                plural(unknown, "record")
            );
        }
        bail!("the records in the database do not give the signed root: one was changed; see gatepost audit verify");
    }
    output.into_inner()?.sync_all()?;
    Ok(counts)
}

impl Counts {
    fn add(&mut self, shown: Shown, is_lost: bool) {
        *match shown {
            Shown::Whole => &mut self.whole,
            Shown::Who => &mut self.who,
            Shown::Hash => &mut self.hash,
        } += 1;
        self.lost += u64::from(is_lost);
    }
}

fn report(args: &Args, range: &Range, asked: &Asked, counts: &Counts, json: bool) -> anyhow::Result<()> {
    let origin = Checkpoint::parse(range.to.note.text())?.origin().to_owned();
    let file = args.output.display();
    if json {
        return Ok(print(&json_line(&serde_json::json!({
            "origin": origin, "first": range.first(), "records": range.records(), "subject": asked.subject,
            "shown": counts.whole, "of_others": counts.who, "withheld": counts.hash, "lost": counts.lost,
            "refused_before": range.refused_before(), "file": args.output,
        }))?)?);
    }
    let whose = asked.subject.as_ref().map_or_else(String::new, |subject| format!(" of {subject:?}"));
    let begin = match &range.from {
        Some(from) => format!("after what was signed {from}"),
        None => "from the beginning of the log".to_owned(),
    };
    let refused = range.refused_before();
    let refused = refused.map_or_else(String::new, |text| format!("it begins with the log, since {text}\n"));
    Ok(print(&format!(
        "no record{whose} is missing in {origin}, {begin}, up to what was signed {}\n{refused}{} from number {}: {} shown, \
         {} shown to be of others, {} withheld\nwrote {file}\n",
        range.to,
        plural(range.records(), "record"),
        range.first(),
        counts.whole,
        counts.who,
        counts.hash,
    ))?)
}
