//! Runs any sequence of commits, deliveries, kills and reopenings: the outbox equals a simple model.
//!
//! Each byte is an operation: its low three bits select it, the others are its size.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use gatepost::audit::chain::Head;
use gatepost::audit::codec;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Commit, Opening, Outbox};
use gatepost::audit::record::{AuditRecord, Epoch, RequestId, Seq};
use tempfile::TempDir;
use uuid::Uuid;

use super::samples::{GATEWAY, call, directory, entry, linked};
use super::segment_open::segment;

/// Most operations of one input that are run. *Chosen*: a commit takes about a millisecond in memory.
const OPERATIONS_MAX: usize = 48;

/// The quota in bytes. *Derived*: a quota is divided into at least eight files, so files have 1 MiB.
const QUOTA: u64 = 8 * 1024 * 1024;

/// The expected contents of the outbox.
#[derive(Default)]
struct Model {
    streams: BTreeMap<Epoch, Vec<AuditRecord>>,
    delivered: BTreeMap<Epoch, Head>,
    open: BTreeSet<RequestId>,
    made: u128,
}

struct Run {
    dir: TempDir,
    outbox: Option<Outbox>,
    epoch: Epoch,
    model: Model,
}

pub fn run(data: &[u8]) {
    let mut run = Run { dir: directory(), outbox: None, epoch: Epoch(0), model: Model::default() };
    run.open();
    for byte in data.iter().take(OPERATIONS_MAX) {
        let much = usize::from(byte >> 3);
        match byte & 7 {
            0 => run.commit(much % 8 + 1, 100, 0, 0),
            1 => run.commit(1, much * 2_000, 0, 0),
            2 => run.commit(0, 0, much % 5 + 1, 0),
            3 => run.commit(much % 3, 50, much % 2, much % 4 + 1),
            4 => run.deliver(much),
            5 => run.kill(),
            6 => run.commit(much, 20_000, 1, 1),
            _ => run.close(),
        }
        run.check();
    }
    run.kill();
    run.check();
}

impl Run {
    /// Opens the directory: a new epoch begins, and open calls are interrupted.
    fn open(&mut self) {
        let opening = Opening::open(Arc::new(DiskFs), self.dir.path(), Some(GATEWAY)).expect("it opens");
        assert!(opening.epoch > self.epoch, "I3: an epoch is not used again");
        assert!(opening.damages.is_empty(), "nothing was damaged: {:?}", opening.damages);
        let interrupted: BTreeSet<_> = opening.interrupted.iter().map(|call| call.request_id).collect();
        assert_eq!(interrupted, self.model.open, "I2: open calls are interrupted");
        self.model.open.clear();
        let last = self.model.streams.get(&self.epoch).and_then(|records| records.last());
        if let Some(previous) = opening.previous.filter(|previous| previous.epoch == self.epoch) {
            assert_eq!(Some(previous.head), last.map(|record| Head::after(&record.position)), "I3: the previous epoch");
        }
        self.epoch = opening.epoch;
        let first = self.next_records(interrupted.into_iter().chain([RequestId(Uuid::nil())]), 10);
        let segment = [segment(&first)];
        let commit = Commit { segments: &segment, head: head_of(&first), ..Commit::default() };
        self.outbox = Some(opening.begin(&commit, QUOTA).expect("an epoch begins"));
        self.model.streams.insert(self.epoch, first);
    }

    fn next_records(&self, ids: impl Iterator<Item = RequestId>, bytes: usize) -> Vec<AuditRecord> {
        let last = self.model.streams.get(&self.epoch).and_then(|records| records.last());
        let mut head = last.map_or(Head::START, |record| Head::after(&record.position));
        let next = |id: RequestId| {
            let record = linked(self.epoch, head, entry(call(id.0.as_u128(), bytes)));
            head = Head::after(&record.position);
            record
        };
        ids.map(next).collect()
    }

    /// Stores `alone` records of refused calls, ends up to `ends` open calls, and begins `begins` calls.
    fn commit(&mut self, alone: usize, bytes: usize, begins: usize, ends: usize) {
        let ended: Vec<_> = self.model.open.iter().take(ends).copied().collect();
        let mut fresh = |count: usize| -> Vec<RequestId> {
            let first = self.model.made + 1;
            self.model.made += count as u128;
            (first..=self.model.made).map(|number| RequestId(Uuid::from_u128(number))).collect()
        };
        let (alone, begun) = (fresh(alone), fresh(begins));
        let records = self.next_records(alone.into_iter().chain(ended.iter().copied()), bytes);
        let segments: Vec<_> = records.chunks(3).map(segment).collect();
        let intents: Vec<_> = begun
            .iter()
            .map(|id| (*id, Arc::from(codec::encode_intent(&call(id.0.as_u128(), bytes)).unwrap())))
            .collect();
        let head = head_of(&records);
        let commit = Commit { segments: &segments, head, begun: &intents, ended: &ended, ..Commit::default() };
        self.outbox.as_mut().unwrap().commit(&commit).expect("a healthy disk stores the commit");
        self.model.streams.entry(self.epoch).or_default().extend(records);
        self.model.open.extend(begun);
        for id in ended {
            self.model.open.remove(&id);
        }
    }

    /// Delivers part of the oldest stream that has undelivered records.
    fn deliver(&mut self, much: usize) {
        let model = &mut self.model;
        let behind = |epoch: &Epoch| model.delivered.get(epoch).map_or(Seq::ZERO, |head| head.seq);
        let undelivered = |(epoch, records): (&Epoch, &Vec<AuditRecord>)| {
            let rest: Vec<_> = records.iter().filter(|record| record.position.seq > behind(epoch)).collect();
            let reached = rest.get(much.min(rest.len().saturating_sub(1)))?;
            Some((*epoch, Head::after(&reached.position)))
        };
        let Some((epoch, head)) = model.streams.iter().find_map(undelivered) else { return };
        let commit = Commit { delivered: &[(epoch, head)], ..Commit::default() };
        self.outbox.as_mut().unwrap().commit(&commit).expect("a healthy disk stores the commit");
        self.model.delivered.insert(epoch, head);
    }

    /// Kills the process: the next one finds the files as they are at that moment.
    fn kill(&mut self) {
        let image = directory();
        copy(self.dir.path(), image.path());
        self.outbox = None;
        self.dir = image;
        self.open();
    }

    /// Ends the process normally.
    fn close(&mut self) {
        self.outbox = None;
        self.open();
    }

    /// Asserts that the outbox has the model's records from the cursor on: nothing undelivered is forgotten.
    fn check(&self) {
        let reader = self.outbox.as_ref().unwrap().reader();
        for (epoch, records) in &self.model.streams {
            let mut after = self.model.delivered.get(epoch).copied().unwrap_or(Head::START);
            let expected: Vec<_> = records.iter().filter(|record| record.position.seq > after.seq).collect();
            let mut found = Vec::new();
            loop {
                let read = reader.read(*epoch, after).expect("it can be read");
                let Some(last) = read.last() else { break };
                after = Head::after(&last.position);
                found.extend(read);
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "I4: epoch {epoch}");
        }
        let open: BTreeSet<_> = reader.intents().unwrap().iter().map(|call| call.request_id).collect();
        assert_eq!(open, self.model.open, "the intents of open calls");
    }
}

fn head_of(records: &[AuditRecord]) -> Option<Head> {
    records.last().map(|record| Head::after(&record.position))
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().ends_with(".redb") {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}
