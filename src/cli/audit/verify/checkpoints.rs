//! Comparison of the trail in Postgres with the signed checkpoints of its gateways: those that are stored, and those
//! that were kept elsewhere.
//!
//! The hashes of the rows give the roots again. Whether a row has the hash that it says, the walk over the records
//! checks. After retired rows the tree continues from the edge of the first checkpoint whose last record is there, or
//! is the one before a row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::audit::query::{self, LogReading, StoredCheckpoint, signing_gateways};
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, Timestamp};
use crate::audit::sink::postgres::Connection;
use crate::audit::verify::{FaultKind, HeadSource, Heads, Place, StreamHead, UnprovenKind};

use crate::cli::exit::usage;
use crate::counts::plural;
use crate::evidence::cosignature::UnixTime;
use crate::evidence::note::{NOTE_BYTES_MAX, Note};
use crate::evidence::policy::{CheckError, Policy};
use crate::evidence::tree::{Edge, TreeHead};
use crate::file_access::{FileAccess, FileKind};
use crate::ops::proof::signed_note;
use crate::ops::trail::failed;

/// Rows and checkpoints of one read. *Chosen*: some megabytes.
const PAGE: i64 = 10_000;

/// The findings of the comparison.
#[derive(Debug, Default)]
pub(super) struct CheckpointFindings {
    pub(super) faults: Vec<(FaultKind, Place, String)>,
    pub(super) unproven: Vec<(UnprovenKind, Place, String)>,
    pub(super) mentions: Vec<(UnprovenKind, Place, String)>,
    /// The last records that a checkpoint proves, one for each epoch.
    heads: Vec<StreamHead>,
}

/// A checkpoint that was kept outside of the database.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    origin: String,
    gateway: GatewayId,
    log: Epoch,
    head: TreeHead,
    signed: Signed,
}

/// The judgement of the policy on a checkpoint.
#[derive(Clone, Debug)]
struct Signed {
    origin: String,
    times: Vec<(String, UnixTime)>,
    /// True if its witnesses suffice.
    suffices: bool,
}

/// The last checkpoint of a gateway that the rows agree with and whose witnesses suffice.
#[derive(Debug)]
struct Proven {
    head: TreeHead,
    signed: Signed,
}

/// The walk over the rows of one gateway.
struct Walk<'a> {
    gateway: GatewayId,
    policy: &'a Policy,
    kept: Vec<&'a Kept>,
    /// The first epochs of all logs.
    logs: BTreeSet<Epoch>,
    log: Epoch,
    last: Option<(Epoch, Seq)>,
    /// `None`: rows before are not there.
    edge: Option<Edge>,
    /// The last checkpoint that the walk went by: its log, its last record, and its edge.
    passed: Option<(Epoch, (Epoch, Seq), Edge)>,
    proven: Option<Proven>,
    /// Rows after it.
    later: u64,
    heads: BTreeMap<Epoch, StreamHead>,
    /// Kept checkpoints whose size was reached.
    reached: BTreeSet<PathBuf>,
    /// Origins that the policy does not name.
    unnamed: BTreeSet<String>,
    /// Origins that it names, of which there is a checkpoint.
    seen: BTreeSet<String>,
}

impl Kept {
    /// The checkpoint in a file, which the policy must accept.
    ///
    /// # Errors
    /// The file cannot be read, or the policy does not accept it.
    pub(super) fn read(path: &Path, policy: &Policy) -> anyhow::Result<Self> {
        let text = FileAccess::default().read(path, FileKind::Trusted, NOTE_BYTES_MAX);
        let note = Note::parse(&text.map_err(|error| usage(error.to_string()))?)
            .map_err(|error| usage(format!("{}: {error}", path.display())))?;
        let checked = policy.check(&note).and_then(crate::evidence::policy::Checked::confirmed);
        let checked = checked.with_context(|| format!("the policy does not accept {}", path.display()))?;
        let (origin, head) = (checked.checkpoint.origin().to_owned(), checked.checkpoint.head());
        let (gateway, log) = log_of(&origin)
            .ok_or_else(|| usage(format!("{}: {origin} is not the log of a gateway", path.display())))?;
        let times = checked.witnesses.iter().map(|by| (by.witness.name.clone(), by.time)).collect();
        let signed = Signed { origin: origin.clone(), times, suffices: true };
        Ok(Self { path: path.to_owned(), origin, gateway, log, head, signed })
    }
}

/// The gateway and the log that an origin names: `NAME/GATEWAY-ID` or `NAME/GATEWAY-ID/EPOCH`.
fn log_of(origin: &str) -> Option<(GatewayId, Epoch)> {
    let (before, last) = origin.rsplit_once('/')?;
    if let Ok(id) = last.parse() {
        return Some((GatewayId(id), Epoch(1)));
    }
    let (_, id) = before.rsplit_once('/')?;
    Some((GatewayId(id.parse().ok()?), Epoch(last.parse().ok()?)))
}

impl CheckpointFindings {
    /// Compares all rows with all checkpoints, those of one gateway or of all.
    ///
    /// # Errors
    /// Postgres fails.
    pub(super) async fn compare(
        connection: &mut Connection,
        policy: &Policy,
        kept: &[Kept],
        only: Option<GatewayId>,
    ) -> anyhow::Result<Self> {
        let error = |error| failed("read the checkpoints", error);
        let mut found = Self::default();
        let mut gateways: BTreeSet<_> = signing_gateways(connection).await.map_err(error)?.into_iter().collect();
        gateways.extend(kept.iter().map(|kept| kept.gateway));
        gateways.retain(|gateway| only.is_none_or(|only| only == *gateway));
        let mut seen = BTreeSet::new();
        for gateway in gateways {
            let kept = kept.iter().filter(|kept| kept.gateway == gateway).collect();
            let mut walk = Walk::new(gateway, policy, kept);
            let mut log = LogReading::begin(connection, gateway).await.map_err(error)?;
            walk.run(&mut log, &mut found).await.map_err(error)?;
            log.end().await.map_err(error)?;
            seen.append(&mut walk.seen);
        }
        let names: BTreeSet<_> = policy.logs().iter().map(|log| log.name.clone()).collect();
        for name in names.difference(&seen) {
            let gateway = log_of(name).map(|(gateway, _)| gateway);
            if only.is_none() || gateway == only {
                let what = format!("the policy names the log {name}, and there is no checkpoint of it here");
                let place = gateway.map_or(Place::ALL, Place::gateway);
                found.unproven.push((UnprovenKind::Unsigned, place, what));
            }
        }
        Ok(found)
    }

    /// Adds the proven heads.
    pub(super) fn confirm(&self, heads: &mut Heads) {
        self.heads.iter().for_each(|head| heads.add(head, HeadSource::Checkpoint));
    }
}

impl<'a> Walk<'a> {
    fn new(gateway: GatewayId, policy: &'a Policy, kept: Vec<&'a Kept>) -> Self {
        let logs = kept.iter().map(|kept| kept.log).chain([Epoch(1)]).collect();
        Self {
            gateway,
            policy,
            kept,
            logs,
            log: Epoch(0),
            last: None,
            edge: None,
            passed: None,
            proven: None,
            later: 0,
            heads: BTreeMap::new(),
            reached: BTreeSet::new(),
            unnamed: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    async fn run(&mut self, log: &mut LogReading<'_>, found: &mut CheckpointFindings) -> Result<(), query::Error> {
        self.logs.extend(log.logs().await?);
        let mut checkpoints = log.checkpoints_after((Epoch(0), 0), PAGE).await?.into_iter();
        let mut next = checkpoints.next();
        let mut place = (Epoch(0), Seq::ZERO);
        loop {
            let rows = log.hashes_after(place, PAGE).await?;
            let Some((last, _)) = rows.last() else { break };
            place = *last;
            for (at, hash) in rows {
                let mut is_in_tree = false;
                loop {
                    // Those before this row, then the row, and then those that end with it.
                    if !is_in_tree && next.as_ref().is_none_or(|stored| stored.last >= at) {
                        self.step(at, hash, found);
                        is_in_tree = true;
                    }
                    let Some(stored) = next.take_if(|stored| stored.last <= at) else { break };
                    self.compare(&stored, (at, hash), found);
                    next = checkpoints.next();
                    if next.is_none() {
                        checkpoints = log.checkpoints_after((stored.log, stored.head.size), PAGE).await?.into_iter();
                        next = checkpoints.next();
                    }
                }
            }
        }
        if let Some(stored) = next
            && let Some(signed) = self.signed(&stored, found)
        {
            let what = format!(
                "{} signed a checkpoint of {} at {}, and its last one, {}/{}, is not here: not delivered, or removed",
                signed.origin,
                plural(stored.head.size, "record"),
                stored.stored_at,
                stored.last.0,
                stored.last.1
            );
            found.unproven.push((UnprovenKind::Unsigned, Place::gateway(self.gateway), what));
        }
        self.end(found);
        Ok(())
    }

    /// Adds a row to the tree.
    fn step(&mut self, (epoch, seq): (Epoch, Seq), hash: Digest, found: &mut CheckpointFindings) {
        let log = self.logs.range(..=epoch).next_back().copied().unwrap_or(epoch);
        let follows =
            self.last.is_some_and(|(before, last)| if before == epoch { last.next() == seq } else { seq == Seq(1) });
        let passed = self.passed.take().filter(|(of, last, _)| (*of, last.0, last.1.next()) == (log, epoch, seq));
        let passed = passed.map(|(_, _, edge)| edge);
        if log != self.log {
            self.edge = if (epoch, seq) == (log, Seq(1)) { Some(Edge::default()) } else { passed };
            self.log = log;
        } else if !follows {
            self.edge = passed;
        }
        self.last = Some((epoch, seq));
        self.later += 1;
        let Some(edge) = &mut self.edge else { return };
        // Full only after more records than seqs have numbers.
        edge.push(&hash.0, |_, _, _| {}).ok();
        let head = TreeHead { size: edge.size(), root: edge.root() };
        for kept in self.kept.iter().filter(|kept| kept.log == log && kept.head.size == head.size) {
            self.reached.insert(kept.path.clone());
            self.seen.insert(kept.origin.clone());
            if kept.head.root == head.root {
                self.proven = Some(Proven { head, signed: kept.signed.clone() });
                self.later = 0;
                let time = Timestamp::now();
                self.heads.insert(epoch, StreamHead { gateway: self.gateway, epoch, seq, hash, time });
            } else {
                let what = other_root(&format!("{} in {}", kept.origin, kept.path.display()), head.size);
                found.faults.push((FaultKind::Checkpoint, Place::seqs((self.gateway, epoch), seq, seq), what));
            }
        }
    }

    /// Compares a stored checkpoint with the tree, when its last record was added.
    fn compare(
        &mut self,
        stored: &StoredCheckpoint,
        (at, hash): ((Epoch, Seq), Digest),
        found: &mut CheckpointFindings,
    ) {
        let Some(signed) = self.signed(stored, found) else { return };
        let (epoch, seq) = at;
        if stored.last != at {
            // Its last record was retired.
            self.passed = Some((stored.log, stored.last, stored.edge.clone()));
            return;
        }
        if stored.log != self.log {
            return;
        }
        let Some(edge) = &self.edge else {
            self.edge = Some(stored.edge.clone());
            return;
        };
        if (edge.size(), edge.root()) != (stored.head.size, stored.head.root) {
            let what = other_root(&signed.origin, stored.head.size);
            found.faults.push((FaultKind::Checkpoint, Place::seqs((self.gateway, epoch), seq, seq), what));
            self.edge = Some(stored.edge.clone());
        } else if signed.suffices {
            self.proven = Some(Proven { head: stored.head, signed });
            self.later = 0;
            let time = stored.stored_at;
            self.heads.insert(epoch, StreamHead { gateway: self.gateway, epoch, seq, hash, time });
        }
    }

    /// The signatures of a stored checkpoint; `None` if it cannot be used.
    fn signed(&mut self, stored: &StoredCheckpoint, found: &mut CheckpointFindings) -> Option<Signed> {
        let place = Place::stream((self.gateway, stored.last.0));
        let wrong = |reason: String| {
            let what = format!("the stored checkpoint of {} was changed: {reason}", plural(stored.head.size, "record"));
            (FaultKind::Checkpoint, place, what)
        };
        let note = match signed_note(stored, |_| true) {
            Ok((note, _)) => note,
            Err(error) => {
                found.faults.push(wrong(format!("{error:#}")));
                return None;
            }
        };
        match self.policy.check(&note) {
            Ok(checked) if log_of(checked.checkpoint.origin()) == Some((self.gateway, stored.log)) => {
                let origin = checked.checkpoint.origin().to_owned();
                self.seen.insert(origin.clone());
                let times = checked.witnesses.iter().map(|by| (by.witness.name.clone(), by.time)).collect();
                Some(Signed { origin, times, suffices: checked.quorum_is_met })
            }
            Ok(checked) => {
                found.faults.push(wrong(format!("it is of {}, another log", checked.checkpoint.origin())));
                None
            }
            Err(CheckError::Origin { origin }) => {
                self.unnamed.insert(origin);
                None
            }
            Err(error) => {
                found.faults.push(wrong(error.to_string()));
                None
            }
        }
    }

    /// Says what is proven.
    fn end(&mut self, found: &mut CheckpointFindings) {
        let place = Place::gateway(self.gateway);
        for kept in self.kept.iter().filter(|kept| !self.reached.contains(&kept.path)) {
            self.seen.insert(kept.origin.clone());
            let size = self.edge.as_ref().filter(|_| kept.log == self.log).map(Edge::size);
            let (path, records) = (kept.path.display(), plural(kept.head.size, "record"));
            if kept.log >= self.log && size.is_none_or(|size| size < kept.head.size) {
                let what =
                    format!("{path} is of {records} of {}, and these are not all here: some were removed", kept.origin);
                found.faults.push((FaultKind::Checkpoint, place, what));
            } else {
                let what = format!("{path} is of {records} of {}, of which some were retired", kept.origin);
                found.unproven.push((UnprovenKind::Unsigned, place, what));
            }
        }
        for origin in &self.unnamed {
            let what = format!("the policy does not name the log {origin}: nothing of it was compared");
            found.unproven.push((UnprovenKind::Unsigned, place, what));
        }
        let later = plural(self.later, "record");
        let Some(Proven { head, signed }) = &self.proven else {
            let what = format!("no checkpoint that the policy accepts covers the gateway's {later}");
            found.unproven.push((UnprovenKind::Unsigned, place, what));
            return;
        };
        let time =
            |when: &UnixTime| Timestamp::from_micros(i64::try_from(when.seconds() * 1_000_000).unwrap_or(i64::MAX));
        let times: Vec<_> = signed.times.iter().map(|(by, when)| format!("at {} by {by}", time(when))).collect();
        let signed_at = if times.is_empty() { "by no witness".to_owned() } else { times.join(" and ") };
        let what = format!(
            "proven to index {} in {}, witnessed {signed_at}; {later} behind it {} not proven by it",
            head.size.saturating_sub(1),
            signed.origin,
            if self.later == 1 { "is" } else { "are" }
        );
        found.mentions.push((UnprovenKind::Witnessed, place, what));
        found.heads.extend(self.heads.values());
    }
}

fn other_root(signed: &str, size: u64) -> String {
    format!(
        "the rows up to here do not give the root that {signed} signed for {}: some were changed, added or removed",
        plural(size, "record")
    )
}
