//! The notary on a disk that crashes at every operation, its own and the outbox's: no two signed checkpoints disagree.
//!
//! The oracle is outside and never crashes: a witness, which is the real one, and a database that keeps checkpoints.
//! Both see every note that leaves the gateway.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gatepost::audit::Audit;
use gatepost::audit::outbox::fs::Fs;
use gatepost::audit::record::{Epoch, GatewayId, Seq, Status as CallStatus};
use gatepost::audit::scribe::StoredTree;
use gatepost::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation, HashPage, HashesAfter};
use gatepost::audit::sink::{ErrorClass, SinkError};
use gatepost::audit::tree::Tree;
use gatepost::evidence::add_checkpoint::AddCheckpoint;
use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::{Edge, TreeHead};
use gatepost::notary::{
    Anchor, AnchorClient, AnchorError, History, Largest, Memory, Notary, Settings, Signed, Signer, Status, log_name,
};
use gatepost::witness::Witness;
use gatepost::witness::client::{ClientError, Prover as _};
use gatepost::witness::refusal::Refusal;
use gatepost::witness::store::Store;
use redb::StorageBackend;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::rng::Rng;
use crate::crash_points::{random_life, script};
use crate::oracle::Evidence;
use crate::sim_disk::{Crash, Fault, Lie, SimDisk, percent};
use crate::simulation::{GATEWAY, Life, Simulation, on_two_threads};

/// Random schedules of a short run. *Chosen*: a quarter of a minute in a debug build; `CRASH_SCHEDULES` asks for more.
const SCHEDULES: u64 = 150;

const ORIGIN: &str = "example.com/gatepost";

/// The number of hashes in a page: few, so that proofs need several.
const HASHES_MAX: usize = 3;

/// Everything outside the gateway's machine.
#[derive(Clone)]
pub struct Outside(Arc<Places>);

struct Places {
    secret: String,
    witness: Witness,
    seen: Mutex<Seen>,
    /// What was delivered.
    evidence: Arc<Mutex<Evidence>>,
    /// How the gateway's disk treats the notary's file.
    forgets: bool,
    _dir: tempfile::TempDir,
}

struct Seen {
    rng: Rng,
    /// How often the database and the witness do not answer, in percent.
    silence: u64,
    /// How often the notary has time between two commits, in percent.
    haste: u64,
    stored: Vec<(Epoch, TreeHead)>,
    /// Each note that left the gateway.
    notes: Vec<(Epoch, TreeHead)>,
    witnessed: u64,
    /// The reasons for which a log ended, and the refusals of the witness.
    ended: Vec<String>,
}

/// The notary of one life.
pub struct RunningNotary {
    outside: Outside,
    status: Status,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Outside {
    /// A witness that knows the log of the gateway whose records are `evidence`.
    pub fn new(simulation: &Simulation, seed: u64, forgets: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
        let log = SigningKey::parse_named(&secret, &log_name(ORIGIN, GATEWAY, Epoch(1))).unwrap();
        let (key, _) = SigningKey::generate("witness.example/w", SignatureType::CosignatureEd25519).unwrap();
        let (disk, path) = (SimDisk::new(dir.path(), 0), dir.path().join("witness"));
        Store::create(&disk, &path, &[key.verifier()]).unwrap();
        let store = Store::open(Arc::new(disk), &path, &[key.verifier()]).unwrap();
        let witness = Witness::new(vec![key], [log.verifier().clone()], store);
        let (stored, notes, ended) = (Vec::new(), Vec::new(), Vec::new());
        let (rng, silence, haste) = (Rng::new(seed), 0, 100);
        let known = Mutex::new(Seen { rng, silence, haste, stored, notes, witnessed: 0, ended });
        let evidence = simulation.shared_evidence();
        Self(Arc::new(Places { secret: secret.to_string(), witness, seen: known, evidence, forgets, _dir: dir }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap()
    }

    /// Starts the notary of a gateway whose stored records are in `tree`.
    pub fn start(&self, runtime: &Runtime, disk: &SimDisk, dir: &Path, tree: StoredTree) -> RunningNotary {
        let fs: Arc<dyn Fs> = if self.0.forgets { Arc::new(Forgetful(disk.clone())) } else { Arc::new(disk.clone()) };
        let settings = Settings {
            gateway_id: GATEWAY,
            signer: Signer::new(ORIGIN, vec![self.0.secret.clone().into()]),
            memory: Memory::read(fs, dir),
            interval: Duration::from_mins(1),
            anchor_max_age: Duration::from_hours(1),
            gate: None,
        };
        let anchor = Anchor { name: "w".to_owned(), client: self.clone(), store: Some(self.clone()) };
        let (notary, status) = Notary::new(settings, Audit::disabled(), tree, Some(self.clone()), vec![anchor]);
        let stop = CancellationToken::new();
        let task = runtime.spawn(notary.run(stop.clone()));
        RunningNotary { outside: self.clone(), status, stop, task }
    }

    /// Whether an answer is lost.
    fn is_silent(&self) -> bool {
        let seen = &mut *self.seen();
        percent(&mut seen.rng, seen.silence)
    }

    /// What is wrong with all that was signed, once everything is delivered.
    fn violations(&self) -> Vec<String> {
        let (seen, evidence) = (self.seen(), self.0.evidence.lock().unwrap());
        let mut found: Vec<String> = seen.ended.iter().map(|text| format!("ended: {text}")).collect();
        // Of each log, the roots of all sizes.
        let mut roots: BTreeMap<Epoch, BTreeMap<u64, TreeHead>> = BTreeMap::new();
        for (log, head) in &seen.notes {
            let roots = roots.entry(*log).or_insert_with(|| {
                let mut tree = Tree::begin(*log);
                let records = evidence.places();
                let records = records.range((*log, Seq::ZERO)..).map(|(_, record)| {
                    tree.push(&record.position);
                    (tree.size(), TreeHead { size: tree.size(), root: tree.root() })
                });
                records.collect()
            });
            if roots.get(&head.size) != Some(head) {
                found.push(format!("disagrees: {} records of log {log} were signed, which are not there", head.size));
            }
        }
        let mut first: BTreeMap<(Epoch, u64), TreeHead> = BTreeMap::new();
        for (log, head) in &seen.notes {
            if first.entry((*log, head.size)).or_insert(*head) != head {
                found.push(format!("disagrees: two trees of {} records of log {log} were signed", head.size));
            }
        }
        let count = evidence.places().len() as u64;
        if seen.witnessed != count {
            found.push(format!("late: the witness signed {} of {count} records", seen.witnessed));
        }
        found
    }

    fn error() -> SinkError {
        SinkError { operation: "test", class: ErrorClass::Transient, sqlstate: None, message: "no".to_owned() }
    }
}

impl RunningNotary {
    /// Lets the notary look at the stored records, if it has the time.
    pub fn look(&self, runtime: &Runtime) {
        let has_time = {
            let seen = &mut *self.outside.seen();
            percent(&mut seen.rng, seen.haste)
        };
        if has_time {
            // Longer than the time between two checkpoints, on a clock that is set forward.
            let time = async { tokio::time::timeout(Duration::from_secs(11), std::future::pending::<()>()).await };
            runtime.block_on(time).unwrap_err();
        }
        self.hear();
    }

    /// The last checkpoint of a gateway that stops in order.
    pub fn stop(mut self, runtime: &Runtime) {
        self.stop.cancel();
        runtime.block_on(&mut self.task).unwrap();
        self.hear();
    }

    fn hear(&self) {
        self.outside.seen().ended.extend(self.status.get().contradiction);
    }
}

impl CheckpointStore for Outside {
    async fn last_checkpoint(&mut self, _: GatewayId, log: Epoch) -> Result<Option<TreeHead>, SinkError> {
        if self.is_silent() {
            return Err(Self::error());
        }
        let seen = self.seen();
        let of_log = seen.stored.iter().filter(|(of, _)| *of == log).map(|(_, head)| *head);
        Ok(of_log.max_by_key(|head| head.size))
    }

    async fn hashes(&mut self, _: GatewayId, log: Epoch, after: HashesAfter) -> Result<HashPage, SinkError> {
        let evidence = self.0.evidence.lock().unwrap();
        let (before, after) = match after {
            HashesAfter::Checkpoint(_) => (Some(Edge::EMPTY), (log, Seq::ZERO)),
            HashesAfter::Record(place) => (None, place),
        };
        let mut positions: Vec<_> = evidence.rows.iter().map(|row| row.position).collect();
        positions.sort_by_key(|position| (position.epoch, position.seq));
        positions.retain(|position| (position.epoch, position.seq) > after);
        positions.truncate(HASHES_MAX);
        let last = positions.last().map_or(after, |last| (last.epoch, last.seq));
        Ok(HashPage { before, hashes: positions.iter().map(|position| position.hash.0).collect(), last })
    }

    async fn store_checkpoint(
        &mut self,
        _: GatewayId,
        tree: &Tree,
        _: &str,
        known: Option<TreeHead>,
    ) -> Result<Option<TreeHead>, SinkError> {
        let head = TreeHead { size: tree.size(), root: tree.root() };
        self.seen().notes.push((tree.log, head));
        if self.is_silent() {
            return Err(Self::error());
        }
        let is_answer_lost = self.is_silent();
        let mut seen = self.seen();
        let of_log = seen.stored.iter().filter(|(log, _)| *log == tree.log).map(|(_, head)| *head);
        let last = of_log.max_by_key(|head| head.size);
        let is_next = last == known && last.is_none_or(|last| head.size > last.size);
        if is_next {
            seen.stored.push((tree.log, head));
        }
        if is_answer_lost { Err(Self::error()) } else { Ok(if is_next { Some(head) } else { last }) }
    }

    async fn confirm(&mut self, _: GatewayId, _: &Confirmation) -> Result<bool, SinkError> {
        Ok(true)
    }
}

impl AnchorClient for Outside {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Witness
    }

    async fn largest(&self, log: &str) -> Result<Largest, AnchorError> {
        if self.is_silent() {
            return Err(silent());
        }
        let hash = gatepost::witness::store::origin_hash(log);
        let Some(note) = self.0.witness.last_note(&hash) else { return Ok(Largest::Nothing) };
        let note = Note::parse(note.as_bytes()).unwrap();
        Ok(Largest::Checkpoint(Checkpoint::parse(note.text()).unwrap().head()))
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        mut records: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        self.seen().notes.push((signed.log, signed.head));
        if self.is_silent() {
            return Err(silent());
        }
        let note = Note::parse(signed.note.as_bytes()).unwrap();
        let mut old_size = 0;
        for _ in 0..2 {
            let proof = records.prove(old_size).await;
            let proof = proof.map_err(|source| AnchorError::Proof { old_size, source })?;
            let request = AddCheckpoint { old_size, proof, note: note.clone() };
            match self.0.witness.add_checkpoint(request.to_string().as_bytes(), 1_800_000_000) {
                Ok(lines) => {
                    self.seen().witnessed = signed.head.size;
                    return Ok(lines.into_bytes());
                }
                Err(Refusal::OldSize { known, .. }) if known <= signed.head.size => old_size = known,
                Err(refusal) => {
                    self.seen().ended.push(format!("the witness refused: {refusal}"));
                    break;
                }
            }
        }
        Err(AnchorError::Contradiction { size: 0, cause: "see above".to_owned() })
    }
}

fn silent() -> AnchorError {
    ClientError::Status { status: 500, answer: String::new() }.into()
}

/// A disk that does not keep the names of files before it has the time: what the notary writes is not durable when it
/// is published.
#[derive(Debug)]
struct Forgetful(SimDisk);

impl Fs for Forgetful {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.0.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.0.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.0.identity(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// A gateway with a notary.
fn signing(seed: u64, forgets: bool) -> (Simulation, Outside) {
    let mut simulation = Simulation::new(seed);
    let outside = Outside::new(&simulation, seed, forgets);
    simulation.outside = Some(outside.clone());
    (simulation, outside)
}

/// Calls that fill a file, deliveries, and an end in order.
fn scripted() -> Life {
    Life { steps: script(), ships_all: true, ..Life::default() }
}

/// What is wrong after these lives, each with what ends it, and two more on a healthy disk.
fn violations(seed: u64, lives: &[(Life, Crash)], forgets: bool) -> Vec<String> {
    let (mut simulation, outside) = signing(seed, forgets);
    for (life, crash) in lives {
        simulation.live(life);
        simulation.crash(*crash);
    }
    simulation.settle();
    let of_trail = simulation.evidence().violations();
    let of_trail = of_trail.into_iter().map(|(check, what)| format!("{check}: {what}"));
    of_trail.chain(outside.violations()).collect()
}

#[test]
fn no_two_signed_checkpoints_disagree_after_a_crash_at_every_operation() {
    let (mut simulation, outside) = signing(1, false);
    simulation.disk.keep_trace();
    simulation.live(&scripted());
    let (operations, syncs, trace) = (simulation.disk.operations(), simulation.disk.syncs(), simulation.disk.trace());
    let replaced = trace.iter().filter(|line| *line == "sync checkpoint.new").count();
    assert!(replaced >= 8, "the notary signs {replaced} times");
    assert!(outside.seen().witnessed > 7, "{} records are witnessed", outside.seen().witnessed);
    on_two_threads(1..=operations, |operation| {
        let crashed = |crash| (Life { crash_at: Some(operation), ..scripted() }, crash);
        for crash in [Crash::PowerLoss, Crash::Kill] {
            if crash == Crash::PowerLoss || syncs.contains(&operation) {
                let found = violations(operation, &[crashed(crash)], false);
                assert!(found.is_empty(), "{crash:?} at {operation}:\n{found:#?}");
            }
        }
    });
}

/// Up to five lives, most of which end by a crash; some with an operation that fails; a database and a witness that do
/// not always answer.
fn schedule(seed: u64) {
    let (mut simulation, outside) = signing(seed, false);
    let mut rng = Rng::new(seed ^ 0x516e);
    for _ in 0..=rng.below(5) {
        (outside.seen().silence, outside.seen().haste) = ([0, 30, 70][rng.index(3)], [30, 100][rng.index(2)]);
        let operations = if percent(&mut rng, 30) { 60 } else { 260 };
        let life = random_life(&mut rng, operations);
        let fault = if percent(&mut rng, 20) { Fault::Once(1 + rng.below(operations)) } else { Fault::None };
        simulation.live(&Life { fault, ..life });
        simulation.crash(if percent(&mut rng, 25) { Crash::Kill } else { Crash::PowerLoss });
    }
    (outside.seen().silence, outside.seen().haste) = (0, 100);
    simulation.settle();
    let found = outside.violations();
    let again = format!("CRASH_SEED={seed} cargo nextest run --test crash notary");
    assert!(found.is_empty(), "seed {seed}; again: {again}\n{found:#?}");
}

#[test]
fn no_two_signed_checkpoints_disagree_after_random_crashes() {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap());
    match number("CRASH_SEED") {
        Some(seed) => schedule(seed),
        None => on_two_threads(0..number("CRASH_SCHEDULES").unwrap_or(SCHEDULES), schedule),
    }
}

/// The kinds of violations that a fault leads to, over crashes at many operations.
fn noticed(lie: Lie, forgets: bool) -> Vec<String> {
    let mut kinds = Vec::new();
    for operation in (10..160).step_by(3) {
        use crate::simulation::Step::{Begin, End};
        let steps = vec![Begin(10), Begin(20), End(0, CallStatus::Ok), Begin(30), End(0, CallStatus::Ok)];
        let crashed = Life { steps, lie, crash_at: Some(operation), ..Life::default() };
        let found = violations(operation, &[(crashed, Crash::PowerLoss)], forgets);
        kinds.extend(found.iter().filter_map(|text| Some(text.split_once(':')?.0.to_owned())));
    }
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn a_checkpoint_that_is_signed_too_early_is_noticed() {
    let has = |kinds: &[String], kind: &str| kinds.iter().any(|found| found == kind);
    // Before its records are stored: the disk lies about that.
    for lie in [Lie::FileSync, Lie::LateFileSync] {
        let kinds = noticed(lie, false);
        assert!(has(&kinds, "disagrees"), "{lie:?}: {kinds:?}");
    }
    // Before it is remembered: a gateway that forgot it ends the log without need.
    assert_eq!(noticed(Lie::None, true), ["ended", "late"]);
    assert!(noticed(Lie::None, false).is_empty());
}
