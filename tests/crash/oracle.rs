//! An outside view of a gateway's lives: the replies that callers received, the records that arrived at the sink, and
//! the checks that compare the two. Each check is independent and has a name, so that a test can show that every one is
//! needed.

use std::collections::{BTreeMap, BTreeSet};

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{AuditRecord, Epoch, RequestId, Seq, Status, Timestamp};
use gatepost::audit::sink::CursorUpdate;
use gatepost::audit::tree::Tree;
use gatepost::audit::verify::{Expect, Heads};

use crate::common::checked;

/// What the caller of one call knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its intent was told to be stored.
    pub begun: bool,
    /// Its record was told to be stored, with this status.
    pub ended: Option<Status>,
}

/// Everything that was seen from outside.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub calls: BTreeMap<RequestId, Seen>,
    /// Epochs that began, in order.
    pub epochs: Vec<Epoch>,
    /// What arrived at the sink, in order.
    pub rows: Vec<AuditRecord>,
    /// The sink's cursors.
    pub cursors: BTreeMap<Epoch, Head>,
    /// What the outbox holds at the end and the sink does not have.
    pub left: Vec<AuditRecord>,
    /// Why the gateway did not start, where it did not.
    pub not_started: Vec<String>,
    /// Files that were taken for damaged.
    pub damaged: Vec<String>,
    /// Files that were written after they had failed.
    pub written_after_failure: Vec<String>,
    /// Records that a gateway gave up which was not killed.
    pub given_up: usize,
    /// The trees of which checkpoints could have been signed, in order.
    pub signed: Vec<Tree>,
    /// How the sink breaks its promises.
    pub sink: SinkLie,
}

/// A promise that the sink breaks. Each is a seeded fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkLie {
    #[default]
    None,
    /// A batch takes effect twice.
    Twice,
    /// The cursor moves, and the first row of the epoch is lost.
    FirstRowLost,
    /// The cursor moves, and the row that closes the epoch is lost.
    LastRowLost,
    /// The cursor moves, and rows of calls are lost.
    RowsLost,
    /// Rows arrive and the cursor stays.
    CursorStays,
    /// A byte of a row changes.
    Changed,
}

/// A check: its name, and what it finds.
pub type Check = (&'static str, fn(&Evidence) -> Vec<String>);

/// The check that is asked after [`CHECKS`]: it finds much of what the others find, and what only other epochs show.
pub const VERIFY: &str = "audit verify finds no fault";

/// The checks that are asked first.
pub const CHECKS: [Check; 11] = [
    ("the gateway starts", |seen| seen.not_started.clone()),
    ("stored records are kept", stored_records_are_kept),
    ("nothing is delivered twice", nothing_is_delivered_twice),
    ("no place is missing", no_place_is_missing),
    ("the chain holds", the_chain_holds),
    ("a begun call has one record", a_begun_call_has_one_record),
    ("the cursor is at the last row", the_cursor_is_at_the_last_row),
    ("epochs rise", epochs_rise),
    ("files stay whole", |seen| seen.damaged.clone()),
    ("a failed file is not written", |seen| seen.written_after_failure.clone()),
    ("nothing is given up", |seen| match seen.given_up {
        0 => Vec::new(),
        count => vec![format!("{count} records")],
    }),
];

/// The checks that are asked after [`VERIFY`]: they find much of what the others find.
pub const LOG_CHECKS: [Check; 2] = [
    ("signed trees hold", signed_trees_hold),
    ("an epoch names its place in the log", an_epoch_names_its_place_in_the_log),
];

impl Evidence {
    /// The sink takes a batch, as it promises to: all and the cursor, or nothing.
    pub fn deliver<R: AsRef<AuditRecord>>(&mut self, batch: &[R]) -> CursorUpdate {
        let (first, last) = (batch[0].as_ref().position, batch[batch.len() - 1].as_ref().position);
        let cursor = self.cursor(first.epoch);
        if cursor.seq.next() != first.seq || cursor.hash != first.prev_hash {
            return CursorUpdate::Unchanged;
        }
        if self.sink != SinkLie::CursorStays {
            self.cursors.insert(first.epoch, Head::after(&last));
        }
        for record in batch {
            let mut taken = record.as_ref().clone();
            let of_call = taken.entry.call.method == "tools/call";
            let is_lost = match self.sink {
                SinkLie::FirstRowLost => taken.position.seq == Seq(1),
                SinkLie::LastRowLost => taken.entry.call.method == "gateway/closed",
                SinkLie::RowsLost => of_call,
                _ => false,
            };
            if self.sink == SinkLie::Changed {
                taken.entry.latency_ms += 1.0;
            }
            if self.sink == SinkLie::Twice {
                self.rows.push(taken.clone());
            }
            if !is_lost {
                self.rows.push(taken);
            }
        }
        CursorUpdate::Moved
    }

    /// How far the sink says that an epoch was delivered.
    pub fn cursor(&self, epoch: Epoch) -> Head {
        self.cursors.get(&epoch).copied().unwrap_or(Head::START)
    }

    /// All records there are, each place once.
    pub fn places(&self) -> BTreeMap<(Epoch, Seq), &AuditRecord> {
        self.rows
            .iter()
            .chain(&self.left)
            .map(|record| ((record.position.epoch, record.position.seq), record))
            .collect()
    }

    /// The records of each call.
    fn of_calls(&self) -> BTreeMap<RequestId, Vec<&AuditRecord>> {
        let mut of_calls: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in self.places().into_values() {
            of_calls.entry(record.entry.call.request_id).or_default().push(record);
        }
        of_calls
    }

    /// What is wrong, with the name of the check that says so.
    pub fn violations(&self) -> Vec<(&'static str, String)> {
        let mut found = self.found_by(&CHECKS);
        if found.is_empty() {
            found.extend(self.faults().into_iter().map(|what| (VERIFY, what)));
        }
        if found.is_empty() {
            found = self.found_by(&LOG_CHECKS);
        }
        found
    }

    fn found_by(&self, checks: &[Check]) -> Vec<(&'static str, String)> {
        checks.iter().flat_map(|(name, check)| check(self).into_iter().map(|what| (*name, what))).collect()
    }

    /// The faults that `audit verify` finds when all that is left is delivered.
    pub fn faults(&self) -> Vec<String> {
        let records: Vec<AuditRecord> = self.places().into_values().cloned().collect();
        // The times of the calls are made up.
        let now = records.iter().map(|record| record.entry.call.timestamp).max().unwrap_or_else(Timestamp::now);
        let options = checked::options(Expect::Nothing, now);
        let report = checked::check(&records, &checked::ends(&records), None, Heads::default(), options);
        report.faults.iter().map(|fault| format!("{fault:?}")).collect()
    }

    /// The sink is as it was before its last `count` rows arrived.
    pub fn go_back(&mut self, count: usize) {
        self.rows.truncate(self.rows.len() - count);
        self.cursors = self.rows.iter().map(|row| (row.position.epoch, Head::after(&row.position))).collect();
    }

    /// The sink loses all of an epoch.
    pub fn forget(&mut self, epoch: Epoch) {
        self.rows.retain(|record| record.position.epoch != epoch);
        self.cursors.remove(&epoch);
    }

    /// The checks that find something.
    pub fn caught_by(&self) -> BTreeSet<&'static str> {
        self.violations().into_iter().map(|(name, _)| name).collect()
    }
}

fn stored_records_are_kept(seen: &Evidence) -> Vec<String> {
    let of_calls = seen.of_calls();
    let told = seen.calls.iter().filter_map(|(id, call)| Some((id, call.ended?)));
    let kept = |id: &RequestId, status: Status| {
        of_calls.get(id).is_some_and(|records| records.iter().any(|record| record.entry.response_status == status))
    };
    told.filter(|(id, status)| !kept(id, *status)).map(|(id, status)| format!("call {id} ended as {status}")).collect()
}

fn nothing_is_delivered_twice(seen: &Evidence) -> Vec<String> {
    let mut places = BTreeSet::new();
    let twice = seen.rows.iter().map(|record| (record.position.epoch, record.position.seq));
    twice.filter(|position| !places.insert(*position)).map(|position| format!("{position:?}")).collect()
}

fn no_place_is_missing(seen: &Evidence) -> Vec<String> {
    let mut last: BTreeMap<Epoch, Seq> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (epoch, seq) in seen.places().into_keys() {
        let before = last.insert(epoch, seq).unwrap_or(Seq::ZERO);
        if before.next() != seq {
            wrong.push(format!("epoch {epoch}: {seq} comes behind {before}"));
        }
    }
    wrong
}

/// Links are looked at where both records are there.
fn the_chain_holds(seen: &Evidence) -> Vec<String> {
    let places = seen.places();
    let mut wrong = Vec::new();
    for ((epoch, seq), record) in &places {
        let before = Seq(seq.0 - 1);
        let linked = match places.get(&(*epoch, before)) {
            Some(before) => before.position.hash == record.position.prev_hash,
            None => before != Seq::ZERO || record.position.prev_hash == Head::START.hash,
        };
        if !linked || !chain::hash_matches(&record.position, &record.entry) {
            wrong.push(format!("epoch {epoch} at {seq}"));
        }
    }
    wrong
}

fn a_begun_call_has_one_record(seen: &Evidence) -> Vec<String> {
    let of_calls = seen.of_calls();
    let count = |id: &RequestId| of_calls.get(id).map_or(0, Vec::len);
    // Where its record was told to be stored, another check says that it is gone.
    let none = seen.calls.iter().filter(|(id, call)| call.begun && call.ended.is_none() && count(id) == 0);
    let none = none.map(|(id, _)| format!("call {id} has none"));
    let many = of_calls.iter().filter(|(_, records)| records.len() > 1);
    none.chain(many.map(|(id, records)| format!("call {id} has {}", records.len()))).collect()
}

fn the_cursor_is_at_the_last_row(seen: &Evidence) -> Vec<String> {
    let mut last: BTreeMap<Epoch, Seq> = seen.cursors.keys().map(|epoch| (*epoch, Seq::ZERO)).collect();
    for record in &seen.rows {
        let seq = last.entry(record.position.epoch).or_insert(Seq::ZERO);
        *seq = record.position.seq.max(*seq);
    }
    let apart = last.into_iter().filter(|(epoch, seq)| seen.cursor(*epoch).seq != *seq);
    apart.map(|(epoch, seq)| format!("epoch {epoch}: cursor {}, row {seq}", seen.cursor(epoch).seq)).collect()
}

fn epochs_rise(seen: &Evidence) -> Vec<String> {
    let fall = seen.epochs.windows(2).filter(|pair| pair[1] <= pair[0]);
    fall.map(|pair| format!("{} comes behind {}", pair[1], pair[0])).collect()
}

/// Each signed tree can be computed again from the records. Not where records are lost: of some, the hash is too.
fn signed_trees_hold(seen: &Evidence) -> Vec<String> {
    let places = seen.places();
    let mut grown: BTreeMap<Epoch, Vec<Tree>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for tree in seen.signed.iter().filter(|_| seen.damaged.is_empty()) {
        let sizes = grown.entry(tree.log).or_insert_with(|| {
            let mut tree = Tree::begin(tree.log);
            let mut sizes = vec![tree.clone()];
            for (_, record) in places.range((tree.log, Seq::ZERO)..) {
                tree.push(&record.position);
                sizes.push(tree.clone());
            }
            sizes
        });
        if usize::try_from(tree.size()).ok().and_then(|size| sizes.get(size)) != Some(tree) {
            wrong.push(format!("log {} at {:?}, size {}", tree.log, tree.last, tree.size()));
        }
    }
    wrong
}

/// `gateway/opened` says at which index of which log the epoch begins, and a log does not end without need.
fn an_epoch_names_its_place_in_the_log(seen: &Evidence) -> Vec<String> {
    let places = seen.places();
    let mut wrong = Vec::new();
    let mut before_it: Option<(Epoch, bool)> = None;
    for ((epoch, _), record) in places.iter().filter(|(_, record)| record.entry.call.method == "gateway/opened") {
        let context = record.entry.call.request_args.as_deref().unwrap_or_default();
        let details: serde_json::Value = serde_json::from_str(context).unwrap_or_default();
        let stated = details["log"].as_u64().map(Epoch).zip(details["first_index"].as_u64());
        let Some((of, index)) = stated else {
            wrong.push(format!("epoch {epoch} names no place"));
            continue;
        };
        let before = places.range((of, Seq::ZERO)..(*epoch, Seq::ZERO)).count() as u64;
        if index != before && seen.damaged.is_empty() {
            wrong.push(format!("epoch {epoch} begins at {before} of log {of}, and says {index}"));
        }
        // Of an epoch at level `queued` that crashed, the sink may have more than the outbox knows.
        if before_it.is_some_and(|(log, is_queued)| log != of && !is_queued) && seen.damaged.is_empty() {
            wrong.push(format!("epoch {epoch} begins a new log"));
        }
        before_it = Some((of, details["level"] == "queued"));
    }
    wrong
}
