//! The search for a checkpoint over a record that an anchor of the configuration has confirmed.
//!
//! The rows of `audit_anchor` only name candidates, since the login of a gateway can write them. The keys, certificates
//! and places of the configuration decide, and the record must be in the tree that was confirmed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::audit::query::{LogReading, StoredAnchor, StoredCheckpoint};
use crate::audit::record::{Epoch, GatewayId, Seq, StreamPosition};
use crate::audit::sink::checkpoints::AnchorKind;
use crate::audit::sink::postgres::{Connection, PostgresSink};
use crate::cli::notary;
use crate::config::Config;
use crate::counts::plural;
use crate::escape::escape_hidden;
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::key::VerifierKey;
use crate::evidence::note::Note;
use crate::notary::{Anchor, AnchorClient as _, Client, Signer};
use crate::ops::proof::inclusion;
use crate::ops::trail::failed;

/// Checkpoints of one read. *Chosen*: a megabyte with their signatures.
const PAGE: i64 = 200;

/// The most checkpoints of one log that are looked at. *Derived*: one each 10 s for four weeks.
const CHECKPOINTS_MAX: usize = 250_000;

/// The time for which buckets and programs are asked, in all. *Chosen*: a person waits for it.
const ASKING_MAX: Duration = Duration::from_mins(5);

/// The most refused rows in a message. *Chosen*: a person reads them.
const SHOWN_MAX: usize = 3;

/// The rows that were refused: the first ones, and how many.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    first: Vec<String>,
}

/// A checkpoint that an anchor has confirmed.
struct Confirmed {
    checkpoint: StoredCheckpoint,
    anchor: String,
}

/// The anchors of the configuration, and the names of the logs.
pub(super) struct ConfirmedCheckpoints<'a> {
    config: &'a Config,
    signer: Signer,
    /// Those of one log, since their clients have its keys.
    anchors: BTreeMap<String, Anchor<Client, PostgresSink>>,
    log_keys: Vec<VerifierKey>,
    log_name: String,
    asked: Duration,
    refused: Refused,
}

impl<'a> ConfirmedCheckpoints<'a> {
    /// The anchors of this configuration.
    ///
    /// # Errors
    /// It has no `[evidence]`, or a key cannot be read.
    pub(super) fn new(config: &'a Config) -> anyhow::Result<Self> {
        let signer = notary::signer(config).context("the keys that verify what anchors confirmed")?;
        let Some(signer) = signer else {
            bail!(
                "the gateways sign checkpoints, and the configuration of this command has no [evidence], with which the \
                 confirmations of anchors are verified; nothing was retired. Copy it from the gateways' configuration, or \
                 give --unanchored: then nothing outside of this database shows that these records existed"
            );
        };
        let (anchors, log_keys, log_name) = Default::default();
        let (asked, refused) = (Duration::ZERO, Refused::default());
        Ok(Self { config, signer, anchors, log_keys, log_name, asked, refused })
    }

    /// Checks that an anchor has confirmed a checkpoint over the record, which is the last one of its epoch that is to
    /// be retired.
    ///
    /// # Errors
    /// None has, or the record is not in the tree that was confirmed.
    pub(super) async fn check(&mut self, connection: &mut Connection, record: &StreamPosition) -> anyhow::Result<()> {
        let StreamPosition { gateway_id: gateway, epoch, seq, hash, .. } = *record;
        let error = |error| failed("read the checkpoints", error);
        let mut log = LogReading::begin(connection, gateway).await.map_err(error)?;
        let first = log.logs().await.map_err(error)?.into_iter().rfind(|log| *log <= epoch);
        let place = (epoch, seq);
        let page = match first {
            Some(first) => log.anchored_from(first, place, PAGE).await.map_err(error)?,
            None => Vec::new(),
        };
        log.end().await.map_err(error)?;
        self.set_log(gateway, first.unwrap_or(epoch))?;
        // The nearest one has the shortest way to the record; the largest one is signed by the newest keys.
        let mut found = self.first_confirmed(&page).await;
        if let (None, Some(first)) = (&found, first) {
            self.refused = Refused::default();
            found = self.largest_confirmed(connection, gateway, first).await?;
        }
        let found = match found {
            Some(found) if found.checkpoint.last >= place => found,
            other => return Err(self.none_confirmed(record, other.as_ref())),
        };
        let mut log = LogReading::begin(connection, gateway).await.map_err(error)?;
        let proven = inclusion(&mut log, &found.checkpoint, place, hash).await;
        log.end().await.map_err(error)?;
        proven.map(drop).with_context(|| {
            format!(
                "record {epoch}/{seq} of gateway {gateway} cannot be shown to be in the checkpoint of {} that {} confirmed; \
                 nothing was retired. Run gatepost audit verify, or give --unanchored",
                plural(found.checkpoint.head.size, "record"),
                found.anchor
            )
        })
    }

    /// Prepares for the checkpoints of a log.
    fn set_log(&mut self, gateway: GatewayId, log: Epoch) -> anyhow::Result<()> {
        let name = self.signer.log_name(gateway, log);
        self.refused = Refused::default();
        if name != self.log_name {
            self.log_keys = self.signer.verifiers(&name).context("evidence")?;
            let anchors = notary::anchors(self.config, &self.log_keys)?;
            self.anchors = anchors.into_iter().map(|anchor| (anchor.name.clone(), anchor)).collect();
            self.log_name = name;
        }
        Ok(())
    }

    /// The largest checkpoint of the log that an anchor has confirmed, page after page from the largest one down.
    async fn largest_confirmed(
        &mut self,
        connection: &mut Connection,
        gateway: GatewayId,
        log: Epoch,
    ) -> anyhow::Result<Option<Confirmed>> {
        let error = |error| failed("read the checkpoints", error);
        let (mut below, mut seen) = (u64::MAX, 0);
        while seen < CHECKPOINTS_MAX {
            // A snapshot for each page: a bucket or a program may take its time.
            let mut reading = LogReading::begin(connection, gateway).await.map_err(error)?;
            let page = reading.anchored_below(log, below, PAGE).await.map_err(error)?;
            reading.end().await.map_err(error)?;
            let Some(last) = page.last() else { return Ok(None) };
            (below, seen) = (last.head.size, seen + page.len());
            if let Some(found) = self.first_confirmed(&page).await {
                return Ok(Some(found));
            }
        }
        bail!(
            "none of the {CHECKPOINTS_MAX} largest checkpoints of {} is confirmed{}; nothing was retired. Find out who wrote \
             these rows of audit_anchor, or give --unanchored",
            self.log_name,
            self.refused.text()
        )
    }

    /// The first of these checkpoints that an anchor has confirmed.
    async fn first_confirmed(&mut self, page: &[StoredCheckpoint]) -> Option<Confirmed> {
        for checkpoint in page {
            for row in &checkpoint.anchors {
                match self.recheck(checkpoint, row).await {
                    Ok(()) => return Some(Confirmed { checkpoint: checkpoint.clone(), anchor: row.name.clone() }),
                    Err(reason) => self.refused.add(checkpoint, row, &reason),
                }
            }
        }
        None
    }

    /// Checks a row of `audit_anchor`; the reason why it does not count.
    async fn recheck(&mut self, stored: &StoredCheckpoint, row: &StoredAnchor) -> Result<(), String> {
        let Some(anchor) = self.anchors.get(&row.name) else {
            return Err("the configuration has no anchor of this name".to_owned());
        };
        let note = Note::parse(stored.note.as_bytes()).map_err(|error| format!("the stored note: {error}"))?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|error| format!("the stored note: {error}"))?;
        if checkpoint.origin() != self.log_name {
            return Err(format!("the note is of the log {:?}, and this one is {}", checkpoint.origin(), self.log_name));
        }
        if checkpoint.head() != stored.head {
            return Err("the note is of another tree than its row in audit_checkpoint".to_owned());
        }
        let kind = anchor.client.kind();
        // A witness signs only what the log has signed. Others confirm whatever they get.
        if kind != AnchorKind::Witness {
            note.verify(&self.log_keys).map_err(|error| format!("the log's own signature: {error}"))?;
        }
        let is_asked = matches!(kind, AnchorKind::S3 | AnchorKind::Command);
        if is_asked && self.asked >= ASKING_MAX {
            return Err(format!("it was not asked, since others took {} s", ASKING_MAX.as_secs()));
        }
        let begin = Instant::now();
        // The answers to an earlier and to the last publication: one suffices.
        let mut checked = anchor.client.recheck(&note, &row.first.0).await;
        if checked.is_err() && !is_asked && row.last.0 != row.first.0 {
            checked = anchor.client.recheck(&note, &row.last.0).await;
        }
        if is_asked {
            self.asked += begin.elapsed();
        }
        checked.map_err(|error| error.to_string())
    }

    fn none_confirmed(&self, record: &StreamPosition, last: Option<&Confirmed>) -> anyhow::Error {
        let StreamPosition { gateway_id: gateway, epoch, seq, .. } = record;
        let place = |(epoch, seq): (Epoch, Seq)| format!("{epoch}/{seq}");
        let last = last.map_or_else(|| "none".to_owned(), |last| place(last.checkpoint.last));
        anyhow::anyhow!(
            "no witness or other anchor of the configuration has confirmed a checkpoint over record {epoch}/{seq} of gateway \
             {gateway}, which would be retired (the last one that is confirmed: {last}){}; nothing was retired. Wait until \
             the anchors have signed (alarm evidence_unanchored), name an earlier month, or give --unanchored: then nothing \
             outside of this database shows that these records existed",
            self.refused.text()
        )
    }
}

impl Refused {
    fn add(&mut self, checkpoint: &StoredCheckpoint, row: &StoredAnchor, reason: &str) {
        self.count += 1;
        if self.first.len() < SHOWN_MAX {
            let (kind, name) = (escape_hidden(&row.kind), escape_hidden(&row.name));
            let size = plural(checkpoint.head.size, "record");
            self.first.push(format!("{kind} {name} of {size}: {}", escape_hidden(reason)));
        }
    }

    /// The refused rows in words; empty without any.
    fn text(&self) -> String {
        if self.count == 0 {
            return String::new();
        }
        let more = if self.count > self.first.len() as u64 { ", ..." } else { "" };
        format!(
            "; {} of audit_anchor refused, find out who wrote them ({}{more})",
            plural(self.count, "row"),
            self.first.join("; ")
        )
    }
}
