//! Lives of a gateway's pipeline on a simulated disk, one after another, on one thread.
//!
//! The real scribe runs on the calling thread. At the beginning of each commit the outbox inspects its directory. At
//! that point the simulation takes the next steps of the script: calls begin and end in the ring, records are delivered
//! from it, and the replies since the last commit are noted. So everything that is appended during one commit goes into
//! the next, as under load, and a run can be repeated exactly. If the outbox ever stops inspecting its directory, a run
//! hangs and nextest ends it.
//!
//! Delivery follows the shipper's rule: it begins at the sink's cursor, and reads this epoch from the ring and earlier
//! epochs from the outbox.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gatepost::audit::chain::Head;
use gatepost::audit::outbox::fs::Fs;
use gatepost::audit::outbox::{Keep, Opening, Reader};
use gatepost::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Seq, Status, StreamPosition, Timestamp,
};
use gatepost::audit::ring::{Phase, Reservation, Ring, RingLimits, StoredReceiver, StoredSender, WindowRead};
use gatepost::audit::scribe::{ConfigSummary, Mode, Scribe, StoredTree};
use gatepost::audit::sink::CursorUpdate;
use gatepost::audit::tree::Tree;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::common::rng::Rng;
use crate::notary::{Outside, RunningNotary};
use crate::oracle::{Evidence, Seen};
use crate::sim_disk::{Crash, Fault, Lie, Moment, SimDisk, percent};

/// Quota of the outbox: a generation file takes an eighth of it in segments.
pub const QUOTA_BYTES: u64 = 1024 * 1024;

/// What is kept of delivered records where a life keeps any: no more than a quarter of the quota.
pub const KEEP: Keep = Keep { age: Duration::from_hours(1), bytes: QUOTA_BYTES / 4 };

/// Arguments of this length make a call whose record a sink may be told to refuse, see `tests/crash/model.rs`.
pub const POISON_BYTES: usize = 333;

/// Arguments of which three calls fill a generation file.
pub const LARGE_BYTES: usize = 50_000;

/// One step of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A call begins, with so many bytes of arguments.
    Begin(usize),
    /// One of the open calls ends, with its place among them.
    End(usize, Status),
    /// A call is refused.
    Refuse,
    /// At most so many records of this epoch are delivered.
    Ship(usize),
    /// The same, but the reply is lost.
    ShipUnheard(usize),
}

/// One life.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Life {
    pub steps: Vec<Step>,
    /// Level `queued`: nothing is told to be stored, and everything is spilled that is not delivered at once.
    pub queued: bool,
    /// The quota of the outbox, where it is not [`QUOTA_BYTES`].
    pub quota_bytes: Option<u64>,
    /// Delivered records are kept, as many as fit.
    pub keeps: bool,
    /// Batches of earlier epochs that are delivered at its begin.
    pub old_batches: usize,
    /// Whether all is delivered before it ends.
    pub ships_all: bool,
    pub crash_at: Option<u64>,
    pub fault: Fault,
    pub capacity: Option<u64>,
    /// Whether the shell gives up when an operation fails, instead of waiting for the disk to heal.
    pub gives_up: bool,
    pub lie: Lie,
    pub seeded_fault: SeededFault,
}

/// Faults of the gateway itself, put in from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeededFault {
    #[default]
    None,
    /// Records are told to be stored as soon as they are queued.
    ToldEarly,
    /// Intents of an earlier life are not found at the start.
    IntentsDropped,
    /// The lock outlives the gateway.
    LockKept,
    /// What is signed has another record than what is stored.
    TreeChanged,
    /// The tree of the earlier lives is not found at the start.
    LogForgotten,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Closed,
    /// The disk froze.
    Crashed,
    /// It could not begin, or gave up, since the disk fails.
    Failed,
}

/// A gateway's directory, its sink, and what was seen.
pub struct Simulation {
    dir: TempDir,
    pub disk: SimDisk,
    pub rng: Rng,
    evidence: Arc<Mutex<Evidence>>,
    next_id: Arc<Mutex<u128>>,
    lock: Option<File>,
    /// Called at the begin of every commit but the first.
    pub inspect: Option<Inspect>,
    /// The witness and the database of a gateway that signs.
    pub outside: Option<Outside>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Simulation").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The driver of one life of the gateway; the disk calls it.
struct Driver {
    ring: Arc<Ring>,
    runtime: Runtime,
    epoch: Epoch,
    steps: VecDeque<Step>,
    ships_all: bool,
    gives_up: bool,
    seeded_fault: SeededFault,
    queued: bool,
    open: Vec<(Call, Reservation)>,
    /// What was appended at level `queued` and is stored when the epoch is closed.
    unheard: Vec<(RequestId, Status)>,
    /// Called after every commit that was begun.
    inspect: Option<Inspect>,
    disk: SimDisk,
    /// What might be signed at any moment.
    stored_tree: StoredTree,
    notary: Option<RunningNotary>,
    waiting: Vec<(StoredReceiver, RequestId, Option<Status>)>,
    evidence: Arc<Mutex<Evidence>>,
    next_id: Arc<Mutex<u128>>,
}

/// Runs `one` for each number, on two threads; a failure of either fails the test.
pub fn on_two_threads(numbers: impl Iterator<Item = u64>, one: impl Fn(u64) + Sync) {
    let numbers: Vec<u64> = numbers.collect();
    let half = |half: usize| numbers.iter().skip(half).step_by(2).for_each(|number| one(*number));
    std::thread::scope(|scope| {
        scope.spawn(|| half(1));
        half(0);
    });
}

/// A closure that inspects a simulation while its gateway runs.
pub type Inspect = Arc<dyn Fn(&Evidence, &SimDisk) + Send + Sync>;

pub const GATEWAY: GatewayId = GatewayId(uuid::Uuid::from_u128(0x6761_7465));

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(dir.path(), rng.any());
        let (evidence, next_id) = Default::default();
        Self { dir, disk, rng, evidence, next_id, lock: None, inspect: None, outside: None }
    }

    /// What would be if the gateway died now: the same past and another future, in a directory of its own.
    pub fn after(past: &Evidence, disk: &SimDisk, crash: Crash, seed: u64) -> Self {
        let mut simulation = Self::new(seed);
        simulation.disk = disk.crashed(crash, seed).moved_to(simulation.dir.path());
        *simulation.evidence.lock().unwrap() = past.clone();
        simulation
    }

    pub fn outbox_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("outbox")
    }

    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap()
    }

    /// The evidence, for a sink that outlives a borrow.
    pub fn shared_evidence(&self) -> Arc<Mutex<Evidence>> {
        Arc::clone(&self.evidence)
    }

    /// One life, from start to end.
    pub fn live(&mut self, life: &Life) -> Ending {
        let disk = self.disk.clone();
        if let Some(operation) = life.crash_at {
            disk.crash_at(operation);
        }
        disk.fail(life.fault);
        disk.set_capacity(life.capacity);
        disk.lie(life.lie);
        let ending = self.run(life);
        disk.unwatch();
        let mut evidence = self.evidence();
        evidence.written_after_failure.extend(disk.written_after_failure());
        if ending == Ending::Failed && disk.failures() == 0 {
            evidence.not_started.push("the last life ended though nothing failed".to_owned());
        }
        drop(evidence);
        if life.seeded_fault == SeededFault::LockKept {
            let file = File::open(self.outbox_dir().join("lock")).unwrap();
            file.lock().unwrap();
            self.lock = Some(file);
        }
        ending
    }

    /// Ends [`SeededFault::LockKept`].
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    fn run(&mut self, life: &Life) -> Ending {
        let failed = |simulation: &Self, what: &str, error: &gatepost::audit::outbox::OutboxError| {
            if simulation.disk.is_frozen() {
                return Ending::Crashed;
            }
            if simulation.disk.failures() == 0 {
                simulation.evidence().not_started.push(format!("{what}: {error}"));
            }
            Ending::Failed
        };
        let fs: Arc<dyn Fs> = Arc::new(self.disk.clone());
        let mut opening = match Opening::open(fs, &self.outbox_dir(), Some(GATEWAY)) {
            Ok(opening) => opening,
            Err(error) => return failed(self, "open", &error),
        };
        self.evidence().damaged.extend(opening.damages.iter().map(|damage| format!("{damage:?}")));
        if life.seeded_fault == SeededFault::IntentsDropped {
            opening.interrupted.clear();
        }
        if life.seeded_fault == SeededFault::LogForgotten {
            opening.tree = Tree::begin(opening.epoch);
        }
        opening.keep = life.keeps.then_some(KEEP);
        let limits = RingLimits { records: 4096, bytes: 16 * 1024 * 1024 };
        let about = ConfigSummary {
            level: if life.queued { "queued" } else { "stored" },
            config_digest: Digest::of(b"config"),
            digest_key: gatepost::audit::record::DigestKey::from_bytes([0; 32]),
            policy: gatepost::audit::record::PolicyText::default(),
        };
        let mode = if life.queued { Mode::Queued { spill_after: Duration::ZERO } } else { Mode::Stored };
        let scribe = match Scribe::begin(opening, limits, life.quota_bytes.unwrap_or(QUOTA_BYTES), mode, &about) {
            Ok(scribe) => scribe,
            Err(error) => return failed(self, "begin", &error),
        };
        let (ring, (_, epoch)) = (scribe.ring(), scribe.stream());
        self.evidence().epochs.push(epoch);
        let reader = scribe.reader();
        self.ship_old(&reader, &ring, epoch, life.old_batches);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let start = |outside: &Outside| outside.start(&runtime, &self.disk, &self.outbox_dir(), scribe.stored_tree());
        let notary = self.outside.as_ref().map(start);
        let driver = Arc::new(Mutex::new(Driver {
            ring: Arc::clone(&ring),
            runtime,
            epoch,
            steps: life.steps.iter().copied().collect(),
            ships_all: life.ships_all,
            gives_up: life.gives_up || matches!(life.fault, Fault::From(_)),
            seeded_fault: life.seeded_fault,
            queued: life.queued,
            unheard: Vec::new(),
            inspect: self.inspect.clone(),
            disk: self.disk.clone(),
            stored_tree: scribe.stored_tree(),
            notary,
            open: Vec::new(),
            waiting: Vec::new(),
            evidence: Arc::clone(&self.evidence),
            next_id: Arc::clone(&self.next_id),
        }));
        let gives_up = driver.lock().unwrap().gives_up;
        driver.lock().unwrap().advance();
        let watching = Arc::clone(&driver);
        self.disk.watch(move |moment| watching.lock().unwrap().notice(moment));
        if self.disk.is_frozen() {
            ring.advance_phase(Phase::Finished);
        }
        let report = scribe.run();
        self.disk.unwatch();
        driver.lock().unwrap().hear();
        driver.lock().unwrap().sign();
        driver.lock().unwrap().stop_notary();
        match report.lost {
            _ if self.disk.is_frozen() => Ending::Crashed,
            // One failure is no reason to give anything up.
            lost if lost > 0 && gives_up && !matches!(life.fault, Fault::Once(_)) => Ending::Failed,
            lost => {
                self.evidence().given_up += lost;
                if lost == 0 {
                    driver.lock().unwrap().hear_all();
                }
                // A file that is damaged beyond recognition is removed once its damage is recorded.
                if life.old_batches > 0 {
                    self.ship_old(&reader, &ring, epoch, life.old_batches);
                }
                Ending::Closed
            }
        }
    }

    /// Delivers earlier epochs, oldest first, at most `batches` of them.
    fn ship_old(&self, reader: &Reader, ring: &Ring, current: Epoch, mut batches: usize) {
        let mut after = None;
        while let Ok(Some(epoch)) = reader.next_epoch(after) {
            if epoch >= current {
                return;
            }
            loop {
                let cursor = self.evidence().cursor(epoch);
                let batch = match reader.read(epoch, cursor) {
                    Ok(batch) if !batch.is_empty() => batch,
                    Ok(_) => break,
                    Err(_) if self.disk.failures() > 0 || self.disk.is_frozen() => return,
                    Err(error) => return self.evidence().not_started.push(format!("read: {error}")),
                };
                if batches == 0 {
                    return;
                }
                batches -= 1;
                let moved = self.evidence().deliver(&batch);
                let now = self.evidence().cursor(epoch);
                if moved == CursorUpdate::Unchanged || now == cursor {
                    break;
                }
                ring.mark_delivered(epoch, now, false);
            }
            ring.mark_delivered(epoch, self.evidence().cursor(epoch), false);
            after = Some(epoch);
        }
    }

    /// What the next life finds after a crash. A power loss may also cost the lock file, which nobody syncs.
    pub fn crash(&mut self, crash: Crash) {
        let seed = self.rng.any();
        self.disk = self.disk.crashed(crash, seed);
        if crash == Crash::PowerLoss && percent(&mut self.rng, 50) {
            std::fs::remove_file(self.outbox_dir().join("lock")).ok();
        }
    }

    /// Lives on a healthy disk until all is delivered, and looks at what the outbox holds then.
    pub fn settle(&mut self) {
        self.settle_keeping(false);
    }

    /// The same, with delivered records kept or not.
    pub fn settle_keeping(&mut self, keeps: bool) {
        let life = Life { old_batches: usize::MAX, ships_all: true, keeps, ..Life::default() };
        for _ in 0..2 {
            if self.live(&life) != Ending::Closed {
                return;
            }
            let seed = self.rng.any();
            self.disk = self.disk.crashed(Crash::Kill, seed);
        }
        let left = self.left();
        self.evidence().left = left;
    }

    /// The sink goes back as far as the outbox of the dead gateway can make up for: everything that it forgets is kept.
    /// Returns the number of rows that it forgets.
    pub fn restore_the_sink(&self) -> usize {
        let reader = Reader::offline(Arc::new(self.disk.clone()), &self.outbox_dir()).unwrap();
        let (mut kept, mut after) = (BTreeSet::new(), None);
        while let Some(epoch) = reader.next_epoch(after).unwrap() {
            let mut head = Head::START;
            loop {
                let batch = reader.read(epoch, head).unwrap();
                let Some(last) = batch.last() else { break };
                head = Head::after(&last.position);
                kept.extend(batch.iter().map(|record| record.position.hash.0));
            }
            after = Some(epoch);
        }
        let mut evidence = self.evidence();
        let forgotten = evidence.rows.iter().rev().take_while(|row| kept.contains(&row.position.hash.0)).count();
        evidence.go_back(forgotten);
        forgotten
    }

    /// What the outbox of a dead gateway holds and the sink does not have.
    pub fn left(&self) -> Vec<AuditRecord> {
        let reader = Reader::offline(Arc::new(self.disk.clone()), &self.outbox_dir()).unwrap();
        let (mut left, mut after) = (Vec::new(), None);
        while let Some(epoch) = reader.next_epoch(after).unwrap() {
            let mut head = self.evidence().cursor(epoch);
            loop {
                let batch = reader.read(epoch, head).unwrap();
                let Some(last) = batch.last() else { break };
                head = Head::after(&last.position);
                left.extend(batch);
            }
            after = Some(epoch);
        }
        left
    }
}

impl Driver {
    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap()
    }

    fn notice(&mut self, moment: Moment) {
        let over = self.ring.phase() == Phase::Finished;
        match moment {
            Moment::Looked if over => {}
            Moment::Looked => {
                self.hear();
                self.sign();
                if let Some(inspect) = self.inspect.clone() {
                    inspect(&self.evidence(), &self.disk);
                }
                if let Some(notary) = &self.notary {
                    notary.look(&self.runtime);
                }
                // The notary's operations are not watched.
                if self.disk.is_frozen() {
                    return self.ring.advance_phase(Phase::Finished);
                }
                self.advance();
            }
            // The process is dead: nothing that the scribe still does reaches anything.
            Moment::Crashed => self.ring.advance_phase(Phase::Finished),
            Moment::Failed if self.gives_up => self.ring.advance_phase(Phase::Finished),
            Moment::Failed => {}
        }
    }

    /// Takes steps until something is appended; closes the epoch after the last one.
    fn advance(&mut self) {
        while let Some(step) = self.steps.pop_front() {
            // At level `queued` nothing is stored for an intent alone, and this is called when something is stored.
            if self.take(step) && !(self.queued && matches!(step, Step::Begin(_))) {
                return;
            }
        }
        if self.ring.phase() == Phase::Open {
            self.ring.advance_phase(Phase::Closing);
            return;
        }
        if self.ships_all {
            while self.ship(usize::MAX, true) {}
        }
        self.ring.advance_phase(Phase::Finished);
    }

    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Begin(bytes) => self.begin(bytes),
            Step::End(idx, status) if !self.open.is_empty() => {
                let (call, reservation) = self.open.remove(idx % self.open.len());
                let id = call.request_id;
                let entry = Entry::new(
                    call,
                    Outcome::answered(status, None, b"{}", &gatepost::audit::record::RecordKey::from_bytes([0; 32])),
                    Duration::from_millis(3),
                );
                self.append(id, Some(status), |ring, told| ring.end(reservation, entry, true, Some(told)).is_ok())
            }
            Step::Refuse => {
                let call = self.call(10);
                let id = call.request_id;
                let entry = Entry::new(call, Outcome::failed(Status::Denied, "no"), Duration::ZERO);
                let reserved = self.runtime.block_on(self.ring.reserve_event(&entry, Duration::ZERO));
                let Ok(reservation) = reserved else { return false };
                self.append(id, Some(Status::Denied), |ring, told| {
                    ring.end(reservation, entry, false, Some(told)).is_ok()
                })
            }
            Step::End(..) => false,
            Step::Ship(count) => {
                self.ship(count, true);
                false
            }
            Step::ShipUnheard(count) => {
                self.ship(count, false);
                false
            }
        }
    }

    fn begin(&mut self, bytes: usize) -> bool {
        let call = self.call(bytes);
        let reserved = self.runtime.block_on(self.ring.reserve_call(&call, Duration::ZERO));
        let Ok(mut reservation) = reserved else { return false };
        let id = call.request_id;
        let begun = self.append(id, None, |ring, told| ring.begin(&mut reservation, &call, Some(told)).is_ok());
        if begun {
            self.open.push((call, reservation));
        }
        begun
    }

    fn append(
        &mut self,
        id: RequestId,
        status: Option<Status>,
        append: impl FnOnce(&Ring, StoredSender) -> bool,
    ) -> bool {
        let (sender, receiver) = oneshot::channel();
        if !append(&self.ring, sender) {
            return false;
        }
        if self.queued {
            self.unheard.extend(status.map(|status| (id, status)));
            return true;
        }
        if self.seeded_fault == SeededFault::ToldEarly && status.is_some() {
            self.note(id, status);
        }
        self.waiting.push((receiver, id, status));
        true
    }

    /// Writes down what was told.
    fn hear(&mut self) {
        for (mut receiver, id, status) in std::mem::take(&mut self.waiting) {
            match receiver.try_recv() {
                Ok(_) => self.note(id, status),
                Err(oneshot::error::TryRecvError::Empty) => self.waiting.push((receiver, id, status)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
    }

    /// Writes down the tree that a checkpoint could be signed of now.
    fn sign(&self) {
        let mut tree = self.stored_tree.get();
        if self.seeded_fault == SeededFault::TreeChanged {
            let (epoch, seq) = tree.last.unwrap_or((self.epoch, Seq::ZERO));
            let (prev_hash, hash) = (Digest::ZERO, Digest::of(b"another record"));
            tree.push(&StreamPosition { gateway_id: GATEWAY, epoch, seq: seq.next(), prev_hash, hash });
        }
        let mut evidence = self.evidence();
        if evidence.signed.last() != Some(&tree) {
            evidence.signed.push(tree);
        }
    }

    /// The notary of a gateway that did not crash signs once more.
    fn stop_notary(&mut self) {
        let notary = self.notary.take().filter(|_| !self.disk.is_frozen());
        if let Some(notary) = notary {
            notary.stop(&self.runtime);
        }
    }

    /// The epoch is closed: what was queued in it is stored.
    fn hear_all(&mut self) {
        for (id, status) in std::mem::take(&mut self.unheard) {
            self.note(id, Some(status));
        }
    }

    fn note(&self, id: RequestId, status: Option<Status>) {
        let mut evidence = self.evidence();
        let seen: &mut Seen = evidence.calls.entry(id).or_default();
        match status {
            None => seen.begun = true,
            ended => seen.ended = ended,
        }
    }

    fn call(&self, bytes: usize) -> Call {
        let mut next = self.next_id.lock().unwrap();
        *next += 1;
        let json = format!("\"{}\"", "x".repeat(bytes));
        let mut call = Call::new(RequestId(uuid::Uuid::from_u128(*next)), "tools/call")
            .with_target(Some("example"), Some(if bytes == POISON_BYTES { "poison" } else { "echo" }))
            .with_arguments(
                Some(json.clone()),
                Some(gatepost::audit::record::RecordKey::from_bytes([0; 32]).digest(json.as_bytes())),
            );
        call.timestamp = Timestamp::from_micros(1_800_000_000_000_000 + i64::try_from(*next).unwrap());
        call
    }

    /// Delivers up to `count` records of this epoch from the ring; says whether there were any.
    fn ship(&mut self, count: usize, heard: bool) -> bool {
        let cursor = self.evidence().cursor(self.epoch);
        let WindowRead::Records(batch) = self.ring.read_from(cursor.seq.next(), count, usize::MAX) else {
            return false;
        };
        if batch.is_empty() {
            return false;
        }
        let moved = self.evidence().deliver(&batch);
        if heard && moved == CursorUpdate::Moved {
            let now = self.evidence().cursor(self.epoch);
            self.ring.mark_delivered(self.epoch, now, true);
        }
        moved == CursorUpdate::Moved && self.evidence().cursor(self.epoch).seq > cursor.seq.max(Seq::ZERO)
    }
}
