//! Lost records: what replaces them, and what proves that they were lost.
//!
//! If bytes of the outbox are damaged, a `gateway/gap` record, the **stand-in**, takes the place of each lost record.
//! Nothing in a stand-in proves anything: its hash may be that of the lost record, and then its own contents are in no
//! hash. The proof is a `gateway/damage` record in the epoch in which the loss was found, which is hashed like any
//! other. It names the lost [runs](LostRun), and is stored before the first stand-in is delivered. A stand-in that no
//! run explains, or that differs from the one stand-in that can be there, is a record that was changed.
//!
//! Everything that has to tell a stand-in from a changed record asks [`LostRuns::explains`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chain::{self, Head};
use super::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Salt, Salts, Seq, Status, StreamPosition,
    Timestamp,
};

/// The method of the record that names lost runs.
pub const DAMAGE_METHOD: &str = "gateway/damage";

/// The method of the record that fixes the end of an earlier epoch, see [`takeover`].
pub const TAKEOVER_METHOD: &str = "gateway/takeover";

/// The method of a stand-in.
const STAND_IN_METHOD: &str = "gateway/gap";

/// Most runs in one damage record; the others are in further records. *Chosen*: some 60 KiB of JSON.
pub const RUNS_PER_RECORD: usize = 256;

/// Most runs in a [`LostRuns`] by default. *Chosen*: about 10 MB, and more runs than a disk that anyone still uses
/// leaves.
const RUNS_MAX: usize = 65_536;

/// Consecutive lost records of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRun {
    /// The epoch of the records.
    pub epoch: Epoch,
    /// The seq of the first lost record.
    pub first: Seq,
    /// The seq of the last lost record.
    pub last: Seq,
    /// The hash of the record before the first, if it is known.
    pub prev_hash: Option<Digest>,
    /// The hash of the last lost record, if the next record or the head of the stream contains it.
    pub hash: Option<Digest>,
    /// The time of the stand-ins: that of the record before the run, else of the one after it, else 1970.
    pub timestamp: Timestamp,
}

impl LostRun {
    /// The stand-in at `seq`, after a record with the hash `prev_hash`. There is only one: it has the same bytes
    /// whenever it is made. The last stand-in of the run has the hash of the lost record, if that is known, so that the
    /// chain continues; all others have the hash of their own contents.
    #[must_use]
    pub fn stand_in(&self, gateway_id: GatewayId, seq: Seq, prev_hash: Digest) -> AuditRecord {
        let epoch = self.epoch;
        let hash = self.hash.filter(|_| seq == self.last);
        // Its text is compared byte for byte.
        let quoted = hash.map_or_else(|| "null".to_owned(), |hash| format!("\"{hash}\""));
        let details = format!(r#"{{"lost":1,"epoch":{epoch},"seq":{seq},"hash":{quoted}}}"#);
        let mut call = Call::gateway_event("gap", &serde_json::Value::Null).with_details(&details);
        let derived = position_digest(gateway_id, epoch, seq);
        // A UUID v8, always the same for one position.
        let id = derived.0.first_chunk().copied().unwrap_or_default();
        call.request_id = RequestId(uuid::Builder::from_custom_bytes(id).into_uuid());
        call.timestamp = self.timestamp;
        let message = "the record at this place is lost: its bytes in the outbox are damaged";
        let mut entry = Entry::new(call, Outcome::failed(Status::Error, message), Duration::ZERO);
        // Nothing in a stand-in has to be hidden.
        let salt = Salt(derived.0);
        entry.salts = Salts { who: salt, circumstances: salt, content: salt };
        let before = Head { seq: Seq(seq.0.saturating_sub(1)), hash: prev_hash };
        let position = chain::link(gateway_id, epoch, before, &entry);
        AuditRecord { position: StreamPosition { hash: hash.unwrap_or(position.hash), ..position }, entry }
    }

    /// Returns true if `record` is exactly the stand-in at its place in this run.
    fn replaces(&self, record: &AuditRecord) -> bool {
        let StreamPosition { gateway_id, seq, prev_hash, .. } = record.position;
        let is_linked = seq != self.first || self.prev_hash.is_none_or(|known| known == prev_hash);
        // -0.0 equals 0.0, but has other bytes.
        let latency = record.entry.latency_ms.to_bits();
        is_linked && latency == 0 && self.stand_in(gateway_id, seq, prev_hash) == *record
    }

    fn contains(&self, seq: Seq) -> bool {
        (self.first..=self.last).contains(&seq)
    }
}

/// Returns true if `record` says that it replaces a lost record. Whether that is true, [`LostRuns::explains`] says.
#[must_use]
pub fn is_stand_in(record: &AuditRecord) -> bool {
    let call = &record.entry.call;
    let details = || serde_json::from_str::<serde_json::Value>(call.request_args.as_deref()?).ok();
    call.method == STAND_IN_METHOD && details().is_some_and(|details| details.get("lost").is_some())
}

/// The end of an earlier epoch, according to a `gateway/takeover` record: from this record on, that epoch ends there.
/// `None` for any other record.
#[must_use]
pub fn takeover(record: &AuditRecord) -> Option<(Epoch, Head)> {
    #[derive(Deserialize)]
    struct Details {
        epoch: Epoch,
        seq: Seq,
        hash: Digest,
    }
    let call = &record.entry.call;
    let Details { epoch, seq, hash } =
        serde_json::from_str(call.request_args.as_deref().filter(|_| call.method == TAKEOVER_METHOD)?).ok()?;
    Some((epoch, Head { seq, hash }))
}

/// The losses that damage records name. It holds at most a given number of runs.
#[derive(Clone, Debug)]
pub struct LostRuns {
    gateways: BTreeMap<GatewayId, Losses>,
    count: usize,
    count_max: usize,
    is_complete: bool,
}

/// The losses of one gateway.
#[derive(Clone, Debug, Default)]
struct Losses {
    runs: BTreeMap<Epoch, Vec<ListedRun>>,
    /// Ranges of epochs of which a damaged file may have contained everything.
    epochs: Vec<(Epoch, Epoch)>,
    /// Epochs whose end is not known.
    open_ends: BTreeSet<Epoch>,
}

/// A run in the list of a stream, which is ordered by the first seq.
#[derive(Clone, Copy, Debug)]
struct ListedRun {
    run: LostRun,
    /// The highest seq of this run and all before it in the list.
    reach: Seq,
}

/// The part of a damage record's details that says what was lost.
#[derive(Deserialize)]
struct DamageDetails {
    epoch: Option<Epoch>,
    #[serde(default)]
    epochs: Option<(Epoch, Epoch)>,
    end_known: bool,
    runs: Vec<LostRun>,
}

impl Default for LostRuns {
    fn default() -> Self {
        Self::with_limit(RUNS_MAX)
    }
}

impl LostRuns {
    /// An empty set that takes at most `count_max` runs.
    #[must_use]
    pub fn with_limit(count_max: usize) -> Self {
        Self { gateways: BTreeMap::new(), count: 0, count_max, is_complete: true }
    }

    /// Adds what `record` says if it is a damage record whose contents match its hash; otherwise does nothing. Whether
    /// the record itself is at its place in the chain, the caller checks.
    pub fn add_record(&mut self, record: &AuditRecord) {
        let AuditRecord { position, entry } = record;
        if entry.call.method != DAMAGE_METHOD || !chain::hash_matches(position, entry) {
            return;
        }
        let details = entry.call.request_args.as_deref().and_then(|json| serde_json::from_str(json).ok());
        let Some(DamageDetails { epoch, epochs, end_known, runs }) = details else { return };
        self.add_damage(position.gateway_id, (epoch.filter(|_| !end_known), epochs), &runs);
    }

    /// Adds a damage: the epoch whose end it leaves unknown, the range of epochs that may have lost everything, and the
    /// runs.
    pub fn add_damage(
        &mut self,
        gateway_id: GatewayId,
        (open_end, epochs): (Option<Epoch>, Option<(Epoch, Epoch)>),
        runs: &[LostRun],
    ) {
        let losses = self.gateways.entry(gateway_id).or_default();
        losses.epochs.extend(epochs);
        losses.open_ends.extend(open_end);
        for run in runs {
            self.add(gateway_id, *run);
        }
    }

    /// Adds a run of the streams of `gateway_id`.
    pub fn add(&mut self, gateway_id: GatewayId, run: LostRun) {
        let list = self.gateways.entry(gateway_id).or_default().runs.entry(run.epoch).or_default();
        let at = list.partition_point(|listed| (listed.run.first, listed.run.last) <= (run.first, run.last));
        let is_known = list.iter().take(at).rev().take_while(|listed| listed.run.first == run.first);
        if run.first > run.last || is_known.into_iter().any(|listed| listed.run == run) {
            return;
        }
        // I6: the memory of a verification does not grow with what a trail claims.
        if self.count >= self.count_max {
            self.is_complete = false;
            return;
        }
        self.count += 1;
        list.insert(at, ListedRun { run, reach: run.last });
        let mut reach = at.checked_sub(1).and_then(|before| list.get(before)).map_or(Seq::ZERO, |listed| listed.reach);
        for listed in list.iter_mut().skip(at) {
            reach = reach.max(listed.run.last);
            listed.reach = reach;
        }
    }

    /// Returns true if `record` is in a run, and exactly the stand-in that belongs there, linked as the run says. Its
    /// link to the record before it, in the middle of a run, is the caller's to check, as for every record.
    #[must_use]
    pub fn explains(&self, record: &AuditRecord) -> bool {
        let StreamPosition { gateway_id, epoch, seq, .. } = record.position;
        is_stand_in(record) && self.at(gateway_id, epoch, seq).any(|run| run.replaces(record))
    }

    /// Returns true if the records before the stand-in `record` are bound to it: only a run whose `prev_hash` is not
    /// known leaves open what was before its first record.
    #[must_use]
    pub fn binds(&self, record: &AuditRecord) -> bool {
        let StreamPosition { gateway_id, epoch, seq, .. } = record.position;
        let is_bound = |run: &LostRun| seq != run.first || run.prev_hash.is_some();
        self.at(gateway_id, epoch, seq).any(|run| run.replaces(record) && is_bound(run))
    }

    /// Returns true if the place is in a run that leaves open what the hash of its record was.
    #[must_use]
    pub fn has_unknown_hash(&self, gateway_id: GatewayId, epoch: Epoch, seq: Seq) -> bool {
        self.at(gateway_id, epoch, seq).any(|run| seq < run.last || run.hash.is_none())
    }

    /// Returns true if damage explains that the epochs from `first` to `last` have no record that names their ends, or
    /// no record at all: a file of which nothing could be read was in one of them.
    #[must_use]
    pub fn explains_epochs(&self, gateway_id: GatewayId, first: Epoch, last: Epoch) -> bool {
        let Some(losses) = self.gateways.get(&gateway_id) else { return false };
        let mut ranges = losses.epochs.clone();
        ranges.sort_unstable();
        let mut next = first;
        for (begin, end) in ranges {
            if begin <= next && end >= next {
                next = Epoch(end.0.saturating_add(1));
            }
        }
        next > last
    }

    /// Returns true if damage explains that the end of `epoch` is not known: more records may have been lost after the
    /// last one that was kept.
    #[must_use]
    pub fn has_unknown_end(&self, gateway_id: GatewayId, epoch: Epoch) -> bool {
        let is_open = self.gateways.get(&gateway_id).is_some_and(|losses| losses.open_ends.contains(&epoch));
        is_open || self.explains_epochs(gateway_id, epoch, epoch)
    }

    /// The number of runs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// False if there were more runs than the limit allows, so that a stand-in may be unexplained for this reason only.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The runs that contain this place.
    fn at(&self, gateway_id: GatewayId, epoch: Epoch, seq: Seq) -> impl Iterator<Item = &LostRun> {
        let list = self.gateways.get(&gateway_id).and_then(|losses| losses.runs.get(&epoch));
        let list = list.map(Vec::as_slice).unwrap_or_default();
        let (begun, _) = list.split_at(list.partition_point(|listed| listed.run.first <= seq));
        let near = begun.iter().rev().take_while(move |listed| listed.reach >= seq);
        near.map(|listed| &listed.run).filter(move |run| run.contains(seq))
    }
}

/// SHA-256 of a position: what is random in other records comes from it in a stand-in.
fn position_digest(gateway_id: GatewayId, epoch: Epoch, seq: Seq) -> Digest {
    let mut name = gateway_id.0.as_bytes().to_vec();
    name.extend_from_slice(&epoch.0.to_le_bytes());
    name.extend_from_slice(&seq.0.to_le_bytes());
    Digest::of(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: GatewayId = GatewayId(uuid::Uuid::from_u128(7));

    fn run(first: u64, last: u64) -> LostRun {
        let (prev_hash, hash) = (Some(Digest::of(b"before")), Some(Digest::of(b"last")));
        let timestamp = Timestamp::from_micros(1_700_000_000_000_000);
        LostRun { epoch: Epoch(3), first: Seq(first), last: Seq(last), prev_hash, hash, timestamp }
    }

    /// A damage record of the epoch after with these members.
    fn record(details: &serde_json::Value) -> AuditRecord {
        let entry = Entry::new(Call::gateway_event("damage", details), Outcome::of(Status::Error), Duration::ZERO);
        AuditRecord { position: chain::link(GATEWAY, Epoch(4), Head::START, &entry), entry }
    }

    fn damage(runs: &[LostRun]) -> AuditRecord {
        record(&serde_json::json!({ "file": "x", "epoch": 3, "kept": 1, "lost": 1, "end_known": true, "runs": runs }))
    }

    fn of(runs: &[LostRun]) -> LostRuns {
        let mut lost = LostRuns::default();
        lost.add_record(&damage(runs));
        lost
    }

    /// The stand-ins of a run, linked.
    fn stand_ins(run: &LostRun) -> Vec<AuditRecord> {
        let mut prev_hash = run.prev_hash.unwrap_or(Digest::ZERO);
        let seqs = run.first.0..=run.last.0;
        seqs.map(|seq| {
            let record = run.stand_in(GATEWAY, Seq(seq), prev_hash);
            prev_hash = record.position.hash;
            record
        })
        .collect()
    }

    #[test]
    fn stand_ins_of_a_run_are_explained_and_others_are_not() {
        let lost = of(&[run(5, 7)]);
        let explained = stand_ins(&run(5, 7));
        assert!(explained.iter().all(|record| lost.explains(record)));
        assert_eq!(explained[2].position.hash, Digest::of(b"last"));
        assert!(chain::hash_matches(&explained[1].position, &explained[1].entry));
        for (first, last) in [(4, 4), (8, 8), (5, 6), (6, 6), (5, 8)] {
            let records = stand_ins(&run(first, last));
            assert!(!records.iter().all(|record| lost.explains(record)), "{first} to {last}");
        }
        assert!(!LostRuns::default().explains(&explained[0]));
    }

    type Change = fn(&mut AuditRecord);

    #[test]
    fn a_stand_in_is_explained_with_exactly_its_own_columns() {
        let lost = of(&[run(5, 5)]);
        let good = &stand_ins(&run(5, 5))[0];
        let cases: [(&str, Change); 14] = [
            ("gateway_id", |it| it.position.gateway_id = GatewayId(uuid::Uuid::from_u128(8))),
            ("epoch", |it| it.position.epoch = Epoch(4)),
            ("seq", |it| it.position.seq = Seq(6)),
            ("prev_hash", |it| it.position.prev_hash = Digest::of(b"another")),
            ("hash", |it| it.position.hash = Digest::of(b"another")),
            ("request_id", |it| it.entry.call.request_id = RequestId::new()),
            ("timestamp", |it| it.entry.call.timestamp = Timestamp::from_micros(1)),
            ("method", |it| it.entry.call.method = "tools/call".into()),
            ("client_subject", |it| it.entry.call.client_subject = "bob".into()),
            ("tool_name", |it| it.entry.call.tool_name = Some("x".into())),
            ("request_args", |it| it.entry.call.request_args.as_mut().unwrap().push(' ')),
            ("response_status", |it| it.entry.response_status = Status::Ok),
            ("latency_ms", |it| it.entry.latency_ms = -0.0),
            ("salt_who", |it| it.entry.salts.who = Salt([0; 32])),
        ];
        assert!(lost.explains(good));
        for (column, change) in cases {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(!lost.explains(&changed), "{column}");
        }
        let text = good.entry.call.request_args.as_ref().unwrap().to_uppercase();
        let mut changed = good.clone();
        changed.entry.call.request_args = Some(text);
        assert!(!lost.explains(&changed), "another spelling of the hash");
    }

    #[test]
    fn a_hash_that_was_not_known_is_that_of_the_contents() {
        let unknown = LostRun { prev_hash: None, hash: None, ..run(5, 6) };
        let lost = of(&[unknown]);
        for prev_hash in [Digest::ZERO, Digest::of(b"any")] {
            let first = unknown.stand_in(GATEWAY, Seq(5), prev_hash);
            assert!(!lost.binds(&first), "nothing says what was before it");
            let mut second = unknown.stand_in(GATEWAY, Seq(6), first.position.hash);
            assert!(lost.explains(&first) && lost.explains(&second));
            second.position.hash = Digest::of(b"chosen");
            assert!(!lost.explains(&second));
        }
        assert!(lost.has_unknown_hash(GATEWAY, Epoch(3), Seq(6)));
        let lost = of(&[run(5, 6)]);
        assert!(lost.has_unknown_hash(GATEWAY, Epoch(3), Seq(5)));
        assert!(!lost.has_unknown_hash(GATEWAY, Epoch(3), Seq(6)) && !lost.has_unknown_hash(GATEWAY, Epoch(3), Seq(7)));
    }

    #[test]
    fn a_changed_damage_record_explains_nothing() {
        let mut changed = damage(&[run(5, 5)]);
        changed.entry.call.request_args = damage(&[run(5, 6)]).entry.call.request_args;
        let mut lost = LostRuns::default();
        lost.add_record(&changed);
        assert_eq!(lost.count(), 0);
        let mut other = damage(&[run(5, 5)]);
        other.entry.call.method = "gateway/read".into();
        other.position = chain::link(GATEWAY, Epoch(4), Head::START, &other.entry);
        lost.add_record(&other);
        assert_eq!(lost.count(), 0);
    }

    #[test]
    fn runs_that_overlap_are_all_found() {
        let runs = [run(5, 5), run(1, 100), run(50, 60), run(55, 56), run(5, 5)];
        let lost = of(&runs);
        assert_eq!(lost.count(), 4);
        for run in &runs {
            assert!(stand_ins(run).iter().all(|record| lost.explains(record)), "{run:?}");
        }
    }

    #[test]
    fn i6_no_more_runs_are_held_than_the_limit() {
        let mut lost = LostRuns::with_limit(2);
        for first in 1..=3 {
            lost.add(GATEWAY, run(first * 10, first * 10));
            lost.add(GATEWAY, run(first * 10, first * 10));
            assert_eq!(lost.is_complete(), first < 3);
        }
        assert_eq!(lost.count(), 2);
        lost.add(GATEWAY, LostRun { last: Seq(1), ..run(5, 5) });
        assert_eq!(lost.count(), 2, "a run ends after its beginning");
    }

    #[test]
    fn missing_epochs_and_unknown_ends_are_explained_by_damage() {
        let mut lost = LostRuns::default();
        let details = |epoch: Option<u64>, epochs: Option<(u64, u64)>, end_known: bool| {
            record(&serde_json::json!({ "epoch": epoch, "epochs": epochs, "end_known": end_known, "runs": [] }))
        };
        for record in [details(None, Some((4, 5)), false), details(None, Some((6, 6)), false)] {
            lost.add_record(&record);
        }
        lost.add_record(&details(Some(9), None, false));
        lost.add_record(&details(Some(10), None, true));
        let explains = |first, last| lost.explains_epochs(GATEWAY, Epoch(first), Epoch(last));
        assert!(explains(4, 6) && explains(5, 5) && explains(6, 6));
        assert!(!explains(3, 4) && !explains(6, 7) && !explains(9, 9));
        let unknown = |epoch| lost.has_unknown_end(GATEWAY, Epoch(epoch));
        assert!(unknown(4) && unknown(9) && !unknown(10) && !unknown(3));
    }

    #[test]
    fn takeover_is_read_from_its_record_only() {
        let details = serde_json::json!({ "epoch": 3, "seq": 9, "hash": Digest::of(b"x") });
        let record = |event: &str| {
            let entry = Entry::new(Call::gateway_event(event, &details), Outcome::of(Status::Ok), Duration::ZERO);
            AuditRecord { position: chain::link(GATEWAY, Epoch(4), Head::START, &entry), entry }
        };
        assert_eq!(takeover(&record("takeover")), Some((Epoch(3), Head { seq: Seq(9), hash: Digest::of(b"x") })));
        assert_eq!(takeover(&record("read")), None);
    }
}
