//! Random manipulations of a trail, in memory: none of them passes the checks of `gatepost audit verify`.
//!
//! A manipulation deletes, changes, inserts or swaps one to three records, computes the hashes of none, some or all
//! records after them, up to all later epochs of the gateway with the links between these, and moves cursors or not.
//!
//! It cannot make: changes of columns that no hash binds, and of the tables themselves (tests/cli/trials has them);
//! damage records and decisions of its own, and stand-ins that a damage record explains; quarantined records; more than
//! three changes in one trail; hashes that collide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::column::{ColumnType, Value as ColumnValue};
use gatepost::audit::record::{
    AuditRecord, COLUMNS, Call, Entry, Epoch, GatewayId, Outcome, RequestId, Seq, Status, StreamPosition, Timestamp,
};
use gatepost::audit::sink::Sink as _;
use gatepost::audit::verify::{Expect, FaultKind as Kind, HeadSource, Heads, Report, StreamHead, StreamId, Verdict};
use serde_json::{Value, json};

use crate::common::checked;
use crate::common::rng::Rng;
use crate::rig::{Rig, call, delivered, many, ok, stop};

/// Manipulations. *Chosen*: a second of work.
const MANIPULATIONS: u64 = 2_000;

/// The gateway id of the owner's decisions.
const REGISTRAR: GatewayId = GatewayId(uuid::Uuid::from_u128(1));

/// A trail in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub records: Vec<AuditRecord>,
    cursors: BTreeMap<StreamId, Head>,
}

/// Four epochs of a gateway at level `stored` or `queued`: closed, crashed with an open call, crashed, closed.
async fn lives(mut rig: Rig) -> Vec<AuditRecord> {
    let pipeline = rig.start();
    many(&pipeline.audit(), 6).await;
    stop(pipeline).await;
    for open_calls in [1, 0] {
        let pipeline = rig.start();
        many(&pipeline.audit(), 4).await;
        delivered(&pipeline.probe()).await;
        let mut receipts = Vec::new();
        for _ in 0..open_calls {
            receipts.push(pipeline.audit().begin(call("echo")).await.unwrap());
        }
        let crashed = rig.after_crash();
        let before = rig.sink.records();
        for receipt in receipts {
            receipt.finish(ok(), ()).await.unwrap().into_inner();
        }
        stop(pipeline).await;
        // What the crashed process would not have delivered.
        let level = rig.config.about.level;
        rig = crashed;
        rig.config.about.level = level;
        rig.sink = crate::memory_sink::MemorySink::default();
        refill(&mut rig, &before).await;
    }
    let pipeline = rig.start();
    many(&pipeline.audit(), 5).await;
    stop(pipeline).await;
    rig.sink.records()
}

/// Gives the sink of `rig` what another one had.
async fn refill(rig: &mut Rig, records: &[AuditRecord]) {
    let mut streams = BTreeMap::<u64, Vec<AuditRecord>>::new();
    for record in records {
        streams.entry(record.position.epoch.0).or_default().push(record.clone());
    }
    let mut sink = rig.sink.clone();
    for records in streams.values() {
        let position = records[0].position;
        sink.cursor(position.gateway_id, position.epoch).await.unwrap();
        sink.deliver(records).await.unwrap();
    }
}

impl Store {
    pub async fn made() -> Self {
        let mut records = lives(Rig::stored()).await;
        records.extend(lives(Rig::queued(Duration::from_millis(200))).await);
        let mut store = Self { records, cursors: BTreeMap::new() };
        store.sort();
        for stream in store.streams() {
            store.fit_cursor(stream);
        }
        store
    }

    fn sort(&mut self) {
        let key = |record: &AuditRecord| {
            let StreamPosition { gateway_id, epoch, seq, .. } = record.position;
            (gateway_id, epoch, seq)
        };
        self.records.sort_by_key(key);
    }

    fn streams(&self) -> BTreeSet<StreamId> {
        self.records.iter().map(|record| (record.position.gateway_id, record.position.epoch)).collect()
    }

    fn fit_cursor(&mut self, stream: StreamId) {
        let last = self.records.iter().rfind(|record| in_stream(record, stream));
        if let Some(last) = last {
            self.cursors.insert(stream, Head::after(&last.position));
        } else {
            self.cursors.remove(&stream);
        }
    }

    /// The heads of all streams.
    fn heads(&self) -> Heads {
        let mut heads = Heads::default();
        for ((gateway, epoch), Head { seq, hash }) in &self.cursors {
            let head = StreamHead { gateway: *gateway, epoch: *epoch, seq: *seq, hash: *hash, time: Timestamp::now() };
            heads.add(&head, HeadSource::File);
        }
        heads
    }

    fn check(&self, heads: Heads, expect: Expect) -> Report {
        checked::check(&self.records, &self.cursors, Some(REGISTRAR), heads, checked::options(expect, Timestamp::now()))
    }

    /// Computes the hashes of `depth` records of a stream from `seq` on, with the count of `gateway/closed`.
    fn rehash(&mut self, stream: StreamId, seq: Seq, depth: usize) {
        let before = self.records.iter().rfind(|record| in_stream(record, stream) && record.position.seq < seq);
        let mut head = before.map_or(Head::START, |record| Head::after(&record.position));
        let from = self.records.iter_mut().filter(|record| in_stream(record, stream) && record.position.seq >= seq);
        for record in from.take(depth) {
            if record.entry.call.method == "gateway/closed" {
                record.entry.call.request_args = Some(json!({ "records": record.position.seq }).to_string());
            }
            let at = Head { seq: Seq(record.position.seq.0 - 1), hash: head.hash };
            record.position = chain::link(stream.0, stream.1, at, &record.entry);
            head = Head::after(&record.position);
        }
    }

    /// Computes the hashes of all later epochs of the gateway, whose opening records name the new ends.
    fn relink(&mut self, (gateway, first): StreamId, fit_cursors: bool) {
        let later: Vec<StreamId> =
            self.streams().into_iter().filter(|(id, epoch)| *id == gateway && *epoch > first).collect();
        let mut before = (gateway, first);
        for stream in later {
            let end = self.records.iter().rfind(|record| in_stream(record, before)).map(|record| record.position);
            let opened = self.records.iter_mut().find(|record| in_stream(record, stream));
            if let (Some(end), Some(opened)) = (end, opened)
                && opened.entry.call.method == "gateway/opened"
            {
                let args = opened.entry.call.request_args.as_ref().unwrap();
                let mut details: Value = serde_json::from_str(args).unwrap();
                details["previous_seq"] = json!(end.seq);
                details["previous_hash"] = json!(end.hash);
                opened.entry.call.request_args = Some(details.to_string());
            }
            self.rehash(stream, Seq(1), usize::MAX);
            if fit_cursors {
                self.fit_cursor(stream);
            }
            before = stream;
        }
    }
}

fn in_stream(record: &AuditRecord, stream: StreamId) -> bool {
    (record.position.gateway_id, record.position.epoch) == stream
}

/// A number below `count`.
fn below(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).unwrap()
}

/// Changes one column of a record.
fn change(record: &mut AuditRecord, rng: &mut Rng) {
    let column = &COLUMNS[below(rng, COLUMNS.len())];
    let number = i64::try_from(rng.below(40)).unwrap() + 1;
    let (bytes, text) = ([u8::try_from(number).unwrap(); 32], format!("{{\"x\":{number}}}"));
    let value = match column.column_type {
        ColumnType::Uuid => ColumnValue::Uuid(uuid::Uuid::from_u128(u128::from(rng.below(1 << 40)))),
        ColumnType::Bigint => ColumnValue::Bigint(number),
        ColumnType::Bytes32 => ColumnValue::Bytes32(&bytes),
        ColumnType::Timestamptz => ColumnValue::Timestamptz(Timestamp::from_micros(number)),
        ColumnType::Text if column.name == "response_status" => ColumnValue::Text("timeout"),
        ColumnType::Text | ColumnType::Json => ColumnValue::Text(&text),
        ColumnType::Double => ColumnValue::Double(f64::from(u8::try_from(number).unwrap())),
    };
    column.set(record, value).unwrap();
}

/// One manipulation: what was done, in words.
pub fn manipulate(store: &mut Store, rng: &mut Rng) -> String {
    let count = 1 + below(rng, 3);
    let at = below(rng, store.records.len());
    let position = store.records[at].position;
    let stream = (position.gateway_id, position.epoch);
    let mut places = Vec::new();
    for nth in 0..count {
        let near = (at + nth).min(store.records.len() - 1);
        match rng.below(5) {
            0 => drop(store.records.remove(near)),
            1 => change(&mut store.records[near], rng),
            2 => {
                let mut row = store.records[below(rng, store.records.len())].clone();
                row.entry.call.request_id = RequestId::new();
                row.position = store.records[near].position;
                // Either at the place of another one, or after the end, or between, with the later ones moved.
                for later in store.records.iter_mut().filter(|_| rng.below(2) == 0) {
                    if in_stream(later, stream) && later.position.seq >= row.position.seq {
                        later.position.seq = later.position.seq.next();
                    }
                }
                store.records.push(row);
            }
            3 => {
                let other = below(rng, store.records.len());
                let (one, two) = (store.records[near].position.seq, store.records[other].position.seq);
                store.records[near].position.seq = two;
                store.records[other].position.seq = one;
            }
            _ => {
                let other = store.records[below(rng, store.records.len())].entry.clone();
                store.records[near].entry = other;
            }
        }
        store.sort();
        places.push(near);
    }
    let depth = [0, 1, 2, 5, usize::MAX, usize::MAX][below(rng, 6)];
    let (fit, across) = (rng.below(2) == 0, rng.below(3) == 0);
    if rng.below(3) > 0 {
        renumber(store, stream);
    }
    store.rehash(stream, position.seq, depth);
    if fit {
        store.fit_cursor(stream);
    }
    if across && depth == usize::MAX {
        store.relink(stream, fit);
    }
    format!("{places:?} of {stream:?}, depth {depth}, cursors {fit}, later epochs {across}")
}

/// Closes holes in the numbers of a stream.
fn renumber(store: &mut Store, stream: StreamId) {
    let of_stream = store.records.iter_mut().filter(|record| in_stream(record, stream));
    for (record, seq) in of_stream.zip(1..) {
        record.position.seq = Seq(seq);
    }
}

/// True if everything that was there is there, and what is new is after the end of its stream. At level `queued` a
/// gateway may not know that end, and then only the database vouches for such records.
fn only_adds(before: &Store, after: &Store) -> bool {
    let all = before.records.iter().all(|record| after.records.contains(record));
    let is_after = |record: &&AuditRecord| {
        let StreamPosition { gateway_id, epoch, seq, .. } = record.position;
        before.cursors.get(&(gateway_id, epoch)).is_none_or(|head| seq > head.seq)
    };
    let new = after.records.iter().filter(|record| !before.records.contains(record));
    all && new.clone().count() > 0 && new.filter(|record| !is_after(record)).count() == 0
}

#[tokio::test]
async fn no_random_manipulation_passes_the_checks() {
    let store = Store::made().await;
    let untouched = store.check(store.heads(), Expect::OnlyHeads);
    assert_eq!(untouched.verdict, Verdict::Proven, "{untouched:#?}");
    assert_eq!(store.check(Heads::default(), Expect::Nothing).verdict, Verdict::NotProven);
    let mut found = BTreeSet::<Kind>::new();
    for seed in 0..MANIPULATIONS {
        let mut rng = Rng::new(seed);
        let mut changed = store.clone();
        let did = manipulate(&mut changed, &mut rng);
        if changed == store {
            continue;
        }
        let strict = changed.check(store.heads(), Expect::OnlyHeads);
        let plain = changed.check(Heads::default(), Expect::Nothing);
        let least = if only_adds(&store, &changed) { Verdict::NotProven } else { Verdict::Faulty };
        let is_right = strict.verdict == Verdict::Faulty || strict.verdict == least;
        assert!(is_right, "seed {seed}: {did}: {:?}, {:?}", strict.verdict, strict.unproven);
        assert_ne!(plain.verdict, Verdict::Proven, "seed {seed}: {did}");
        found.extend(strict.faults.iter().chain(&plain.faults).map(|fault| fault.kind));
    }
    let all = [
        Kind::Gap,
        Kind::Duplicate,
        Kind::Link,
        Kind::Changed,
        Kind::Tail,
        Kind::Cursor,
        Kind::End,
        Kind::Epoch,
        Kind::Event,
        Kind::Count,
        Kind::Time,
        Kind::Repeated,
        Kind::Expected,
    ];
    let never: Vec<_> = all.into_iter().filter(|kind| !found.contains(kind)).collect();
    assert!(never.is_empty(), "no manipulation is found by these checks: {never:?}");
}

impl Store {
    /// Appends a decision to the registrar's stream.
    fn accept(&mut self, kind: &str, (gateway, epoch): StreamId, seq: Seq) {
        let details = json!({
            "kind": kind, "gateway": gateway, "epoch": epoch, "first": seq, "last": seq, "reason": "known", "by": "ann",
        });
        let call = Call::new(RequestId::new(), "trail/accepted").with_details(&details.to_string());
        let entry = Entry::new(call, Outcome::of(Status::Ok), Duration::ZERO);
        let stream = (REGISTRAR, Epoch(1));
        let head = self.cursors.get(&stream).copied().unwrap_or(Head::START);
        self.records.push(AuditRecord { position: chain::link(REGISTRAR, Epoch(1), head, &entry), entry });
        self.sort();
        self.fit_cursor(stream);
    }
}

#[tokio::test]
async fn a_head_confirms_nothing_before_an_accepted_break() {
    let store = Store::made().await;
    let first = store.records.iter().find(|record| record.position.seq == Seq(4)).unwrap().position;
    let stream = (first.gateway_id, first.epoch);
    for kind in ["gap", "changed"] {
        let mut broken = store.clone();
        let at = broken.records.iter().position(|record| record.position == first).unwrap();
        if kind == "gap" {
            broken.records.remove(at);
        } else {
            broken.records[at].entry.call.client_subject = "eve".into();
        }
        // A decision that nobody confirmed excuses nothing.
        let before = broken.heads();
        broken.accept(kind, stream, first.seq);
        assert_eq!(broken.check(before, Expect::OnlyHeads).verdict, Verdict::Faulty, "{kind}");
        // Reviewed, and heads taken after it: the records before the break are not bound to any head.
        let unbound = broken.check(broken.heads(), Expect::OnlyHeads);
        let sentence =
            |report: &Report| report.unproven.iter().any(|it| it.what.contains("before a break in the chain"));
        assert!(unbound.verdict == Verdict::NotProven && sentence(&unbound), "{kind}: {unbound:#?}");
        // `gatepost audit heads` also prints the record before the break.
        let mut heads = broken.heads();
        let last =
            broken.records.iter().find(|it| in_stream(it, stream) && it.position.seq == Seq(3)).unwrap().position;
        let (gateway, epoch) = stream;
        let kept = StreamHead { gateway, epoch, seq: last.seq, hash: last.hash, time: Timestamp::now() };
        heads.add(&kept, HeadSource::File);
        let proven = broken.check(heads.clone(), Expect::OnlyHeads);
        assert_eq!(proven.verdict, Verdict::Proven, "{kind}: {proven:#?}");
        assert!(proven.decisions[0].confirmed && proven.decisions[0].excuses == 1);
        // Then the records before the break are rewritten up to it.
        broken.records.iter_mut().find(|it| in_stream(it, stream)).unwrap().entry.call.client_subject = "eve".into();
        broken.rehash(stream, Seq(1), 3);
        assert_eq!(broken.check(heads, Expect::OnlyHeads).verdict, Verdict::Faulty, "{kind}");
    }
}
