//! The notary against a database that is made up, one rule a test.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::audit::chain::Head;
use crate::audit::meter::Meter;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::record::{Digest, DigestKey, Epoch, GatewayId, Seq, StreamPosition};
use crate::audit::ring::{Ring, RingLimits, WorkItem};
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation, HashPage, HashesAfter};
use crate::audit::sink::{ErrorClass, SinkError};
use crate::audit::tree::Tree;
use crate::audit::{Audit, Gate, Timeouts};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::key::{SignatureType, SigningKey};
use crate::evidence::note::Note;
use crate::evidence::tree::TreeHead;
use crate::witness::client::ClientError;

const GATEWAY: GatewayId = GatewayId(uuid::Uuid::from_u128(7));
const LOG: Epoch = Epoch(1);

/// A database that keeps checkpoints in memory, and refuses as the real one does.
#[derive(Clone, Debug, Default)]
struct Store(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    is_down: bool,
    /// What it is told takes effect, and its answer does not come.
    loses_answers: bool,
    /// It takes effect before the next statement that stores.
    late: Option<(Epoch, TreeHead, String)>,
    /// It never answers.
    hangs: bool,
    /// The sizes of the checkpoints with a confirmation.
    confirmed: Vec<u64>,
    checkpoints: Vec<(Epoch, TreeHead, String)>,
}

impl Store {
    fn heads(&self) -> Vec<TreeHead> {
        self.0.lock().checkpoints.iter().map(|(_, head, _)| *head).collect()
    }

    fn error() -> SinkError {
        SinkError { operation: "test", class: ErrorClass::Transient, sqlstate: None, message: "no".to_owned() }
    }
}

impl CheckpointStore for Store {
    async fn last_checkpoint(&mut self, _: GatewayId, log: Epoch) -> Result<Option<TreeHead>, SinkError> {
        let kept = self.0.lock();
        if kept.is_down {
            return Err(Self::error());
        }
        Ok(kept.checkpoints.iter().filter(|(of, ..)| *of == log).map(|(_, head, _)| *head).max_by_key(|head| head.size))
    }

    async fn hashes(&mut self, _: GatewayId, _: Epoch, _: HashesAfter) -> Result<HashPage, SinkError> {
        Err(Self::error())
    }

    async fn store_checkpoint(
        &mut self,
        _: GatewayId,
        tree: &Tree,
        note: &str,
        known: Option<TreeHead>,
    ) -> Result<Option<TreeHead>, SinkError> {
        if self.0.lock().hangs {
            std::future::pending::<()>().await;
        }
        let mut kept = self.0.lock();
        if kept.is_down {
            return Err(Self::error());
        }
        let head = TreeHead { size: tree.size(), root: tree.root() };
        let late = kept.late.take();
        kept.checkpoints.extend(late);
        let of_log = kept.checkpoints.iter().filter(|(log, ..)| *log == tree.log).map(|(_, head, _)| *head);
        let last = of_log.max_by_key(|head| head.size);
        let is_next = last == known && last.is_none_or(|last| head.size > last.size);
        if is_next {
            kept.checkpoints.push((tree.log, head, note.to_owned()));
        }
        if kept.loses_answers { Err(Self::error()) } else { Ok(if is_next { Some(head) } else { last }) }
    }

    async fn confirm(&mut self, _: GatewayId, confirmation: &Confirmation) -> Result<bool, SinkError> {
        let mut kept = self.0.lock();
        if kept.is_down {
            return Err(Self::error());
        }
        let is_stored =
            kept.checkpoints.iter().any(|(log, head, _)| (*log, *head) == (confirmation.log, confirmation.head));
        if is_stored {
            kept.confirmed.push(confirmation.head.size);
        }
        Ok(is_stored)
    }
}

/// A tree of `log` with `size` records, which differ by `variant`.
fn tree(log: Epoch, size: u64, variant: u8) -> Tree {
    let mut tree = Tree::begin(log);
    for seq in 1..=size {
        let hash = Digest::of(&[&seq.to_le_bytes()[..], &[variant]].concat());
        tree.push(&StreamPosition { gateway_id: GATEWAY, epoch: log, seq: Seq(seq), prev_hash: Digest::ZERO, hash });
    }
    tree
}

/// A gateway with its memory in `dir`.
struct Running {
    stored: StoredTree,
    status: Status,
    gate: Gate,
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

const SECRET: &str = "PRIVATE+KEY+example.com/gatepost+";

fn secret() -> zeroize::Zeroizing<String> {
    let (_, text) = SigningKey::generate("example.com/gatepost", SignatureType::Ed25519).unwrap();
    assert!(text.starts_with(SECRET));
    text
}

/// An anchor that tells a checkpoint, or does not answer.
#[derive(Clone, Debug)]
struct Told(Arc<Mutex<Option<Largest>>>);

impl AnchorClient for Told {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Witness
    }

    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        self.0.lock().ok_or_else(no_answer)
    }

    async fn confirm<S: CheckpointStore>(&mut self, _: &Signed, _: History<'_, S>) -> Result<Vec<u8>, AnchorError> {
        Err(no_answer())
    }
}

fn no_answer() -> AnchorError {
    ClientError::Status { status: 503, answer: "down".to_owned() }.into()
}

impl Running {
    fn start(dir: &Path, store: &Store, tree: Tree) -> Self {
        Self::with(dir, store, tree, vec![secret()], Audit::disabled())
    }

    fn with(dir: &Path, store: &Store, tree: Tree, secrets: Vec<zeroize::Zeroizing<String>>, audit: Audit) -> Self {
        let signer = Signer::new("example.com/gatepost", secrets);
        Self::start_with(dir, store, tree, signer, audit, Vec::<Told>::new())
    }

    fn start_with<A: AnchorClient>(
        dir: &Path,
        store: &Store,
        tree: Tree,
        signer: Signer,
        audit: Audit,
        anchors: Vec<A>,
    ) -> Self {
        let (stored, gate) = (StoredTree::of(tree), Gate::default());
        let settings = Settings {
            gateway_id: GATEWAY,
            signer,
            memory: Memory::read(Arc::new(DiskFs), dir),
            interval: std::time::Duration::from_mins(1),
            anchor_max_age: std::time::Duration::from_hours(1),
            gate: Some(gate.clone()),
        };
        let anchor = |(idx, client)| Anchor { name: format!("w{idx}"), client, store: Some(store.clone()) };
        let anchors = anchors.into_iter().enumerate().map(anchor).collect();
        let (notary, status) = Notary::new(settings, audit, stored.clone(), Some(store.clone()), anchors);
        let stop = tokio_util::sync::CancellationToken::new();
        assert!(gate.is_closed(), "before the first look");
        let task = tokio::spawn(notary.run(stop.clone()));
        Self { stored, status, gate, stop, task }
    }

    /// Lets this many seconds pass.
    async fn after(&self, seconds: u64) -> EvidenceState {
        // The clock is paused: the runtime sets it forward while nothing else can run.
        let seconds = std::time::Duration::from_secs(seconds);
        tokio::time::timeout(seconds, std::future::pending::<()>()).await.unwrap_err();
        self.status.get()
    }

    async fn end(self) -> EvidenceState {
        self.stop.cancel();
        self.task.await.unwrap();
        self.status.get()
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_signed_while_records_come_and_published_again_while_none_do() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let running = Running::start(dir.path(), &store, tree(LOG, 3, 0));
    let state = running.after(1).await;
    assert_eq!((state.signed.unwrap().size, state.fault, state.contradiction), (3, None, None));
    running.stored.set(tree(LOG, 5, 0));
    running.after(8).await;
    assert_eq!(store.heads().len(), 1, "not before ten seconds have passed");
    let state = running.after(2).await;
    assert_eq!(state.places[POSTGRES].last.unwrap().size, 5);
    // A database that lost it gets it again, with the same signature.
    let noted = std::mem::take(&mut store.0.lock().checkpoints);
    running.after(61).await;
    assert_eq!(store.0.lock().checkpoints, noted[1..]);
    // The last one covers what came at the end.
    running.stored.set(tree(LOG, 6, 0));
    assert_eq!(running.end().await.signed.unwrap().size, 6);
    let (_, head, note) = store.0.lock().checkpoints.last().cloned().unwrap();
    let note = Note::parse(note.as_bytes()).unwrap();
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!((checkpoint.head(), head), (TreeHead { size: 6, root: tree(LOG, 6, 0).root() }, head));
    assert_eq!(checkpoint.origin(), "example.com/gatepost/00000000-0000-0000-0000-000000000007");
    assert_eq!(note.signatures()[0].name(), checkpoint.origin());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_before_the_database_told_what_it_has() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    store.0.lock().is_down = true;
    let running = Running::start(dir.path(), &store, tree(LOG, 3, 0));
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("before Postgres told"));
    assert!(!dir.path().join("checkpoint.json").exists());
    store.0.lock().is_down = false;
    let state = running.after(30).await;
    assert_eq!((state.signed.unwrap().size, state.fault), (3, None));
    // Once it was compared, an outage of the database does not end the signing.
    store.0.lock().is_down = true;
    running.stored.set(tree(LOG, 9, 0));
    let state = running.after(30).await;
    assert_eq!(state.signed.unwrap().size, 9);
    assert_eq!(state.places[POSTGRES].last.unwrap().size, 3);
    assert!(state.places[POSTGRES].error.is_some());
}

/// What a gateway with this memory says about this outbox and this database; it must sign nothing.
async fn contradiction(dir: &Path, store: &Store, tree: Tree) -> String {
    let before = (store.heads(), std::fs::read_to_string(dir.join("checkpoint.json")).ok());
    let running = Running::start(dir, store, tree.clone());
    let state = running.after(30).await;
    let found = state.contradiction.unwrap();
    assert!(state.signed.is_none(), "{found}");
    running.end().await;
    assert_eq!(store.heads(), before.0, "{found}");
    // It is remembered, whatever the outbox and the database are then.
    let again = Running::start(dir, &Store::default(), tree);
    assert_eq!(again.after(30).await.contradiction.as_ref(), Some(&found));
    again.end().await;
    found
}

#[tokio::test(start_paused = true)]
async fn what_contradicts_a_signed_checkpoint_ends_the_signing() {
    let signed_at = async |size| {
        let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
        let running = Running::start(dir.path(), &store, tree(LOG, size, 0));
        running.after(1).await;
        running.end().await;
        (dir, store)
    };
    // The outbox was restored from a copy.
    let (dir, store) = signed_at(5).await;
    let found = contradiction(dir.path(), &store, tree(LOG, 4, 0)).await;
    assert!(found.contains("only 4 records"), "{found}");
    // It has other records.
    let (dir, store) = signed_at(5).await;
    let found = contradiction(dir.path(), &store, tree(LOG, 5, 1)).await;
    assert!(found.contains("other records"), "{found}");
    // It was restored from a copy, and has grown beyond what was signed before the notary looked.
    let (dir, store) = signed_at(5).await;
    let running = Running::start(dir.path(), &store, tree(LOG, 4, 0));
    running.stored.set(tree(LOG, 20, 1));
    let found = running.after(30).await.contradiction.unwrap();
    assert!(found.contains("only 4 records") && store.heads().len() == 1, "{found}");
    // The whole disk was set back, and the outbox has grown since.
    let (_dir, store) = signed_at(9).await;
    let (older, _) = signed_at(5).await;
    let found = contradiction(older.path(), &store, tree(LOG, 20, 0)).await;
    assert!(found.contains("checkpoint of 9 records") && found.contains("signed has 5"), "{found}");
    // The memory is lost.
    let (_dir, store) = signed_at(5).await;
    let empty = tempfile::tempdir().unwrap();
    let found = contradiction(empty.path(), &store, tree(LOG, 20, 0)).await;
    assert!(found.contains("does not remember"), "{found}");
    // Another gateway with the same id signed as many records.
    let (dir, _) = signed_at(5).await;
    let store = Store::default();
    let other = TreeHead { size: 5, root: tree(LOG, 5, 1).root() };
    store.0.lock().checkpoints.push((LOG, other, String::new()));
    let found = contradiction(dir.path(), &store, tree(LOG, 20, 0)).await;
    assert!(found.contains("another root"), "{found}");
}

#[tokio::test(start_paused = true)]
async fn two_gateways_with_one_memory_do_not_both_continue() {
    let (one, two, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Store::default());
    let first = Running::start(one.path(), &store, tree(LOG, 5, 0));
    first.after(1).await;
    std::fs::copy(one.path().join("checkpoint.json"), two.path().join("checkpoint.json")).unwrap();
    let second = Running::start(two.path(), &store, tree(LOG, 5, 0));
    second.after(1).await;
    first.stored.set(tree(LOG, 8, 0));
    first.after(11).await;
    second.stored.set(tree(LOG, 8, 1));
    let state = second.after(11).await;
    assert!(state.contradiction.unwrap().contains("that this gateway did not sign"));
    assert_eq!(store.heads().len(), 2);
    assert_eq!(first.end().await.contradiction, None);
}

#[tokio::test(start_paused = true)]
async fn two_gateways_whose_sizes_leap_over_each_other_do_not_both_continue() {
    for sizes in [(7, 8), (8, 7)] {
        let (one, two, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Store::default());
        let first = Running::start(one.path(), &store, tree(LOG, 5, 0));
        first.after(1).await;
        std::fs::copy(one.path().join("checkpoint.json"), two.path().join("checkpoint.json")).unwrap();
        let second = Running::start(two.path(), &store, tree(LOG, 5, 0));
        second.after(1).await;
        first.stored.set(tree(LOG, sizes.0, 0));
        first.after(11).await;
        second.stored.set(tree(LOG, sizes.1, 1));
        let found = second.after(11).await.contradiction.unwrap();
        assert!(found.contains(&format!("a checkpoint of {} records of log 1", sizes.0)), "{found}");
        assert_eq!(store.heads().last().unwrap().root, tree(LOG, sizes.0, 0).root());
        first.stored.set(tree(LOG, 20, 0));
        assert_eq!(first.end().await.contradiction, None);
        assert_eq!(store.heads().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_answer_was_lost_is_its_own() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let running = Running::start(dir.path(), &store, tree(LOG, 3, 0));
    running.after(1).await;
    store.0.lock().loses_answers = true;
    for size in [4, 6] {
        running.stored.set(tree(LOG, size, 0));
        assert!(running.after(11).await.places[POSTGRES].error.is_some());
    }
    // It took the first of them, and did not know the one before the second.
    assert_eq!(store.heads().len(), 2);
    store.0.lock().loses_answers = false;
    running.stored.set(tree(LOG, 9, 0));
    let state = running.after(11).await;
    assert_eq!((state.contradiction, state.places[POSTGRES].last.unwrap().size), (None, 9));
    // What the process before this one sent takes effect only now.
    running.end().await;
    let late = { store.0.lock().checkpoints.pop() };
    store.0.lock().late = late;
    let running = Running::start(dir.path(), &store, tree(LOG, 11, 0));
    let state = running.after(11).await;
    assert_eq!((state.contradiction, state.places[POSTGRES].last.unwrap().size), (None, 11));
    // It lost some, as after a restore.
    store.0.lock().checkpoints.truncate(1);
    running.stored.set(tree(LOG, 12, 0));
    let state = running.after(11).await;
    assert_eq!((state.contradiction, state.places[POSTGRES].last.unwrap().size), (None, 12));
    assert_eq!(store.heads().iter().map(|head| head.size).collect::<Vec<_>>(), [3, 12]);
}

#[tokio::test(start_paused = true)]
async fn a_new_log_begins_without_the_old_one() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    Running::start(dir.path(), &store, tree(LOG, 5, 0)).end().await;
    contradiction(dir.path(), &store, tree(LOG, 4, 0)).await;
    let running = Running::start(dir.path(), &store, tree(Epoch(3), 2, 0));
    let state = running.after(1).await;
    assert_eq!((state.signed.unwrap().size, state.contradiction), (2, None));
    let note = store.0.lock().checkpoints.last().cloned().unwrap().2;
    assert!(note.starts_with("example.com/gatepost/00000000-0000-0000-0000-000000000007/3\n2\n"), "{note}");
    // An outbox from before the new log.
    let dir = tempfile::tempdir().unwrap();
    Running::start(dir.path(), &Store::default(), tree(Epoch(3), 2, 0)).end().await;
    let running = Running::start(dir.path(), &Store::default(), tree(LOG, 9, 0));
    let found = running.after(1).await.contradiction.unwrap();
    assert!(found.contains("continues the older log 1"), "{found}");
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_of_a_new_log_does_not_let_the_old_one_continue() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    Running::start(dir.path(), &store, tree(LOG, 5, 0)).end().await;
    let ended = contradiction(dir.path(), &store, tree(LOG, 4, 0)).await;
    // Of the new log nothing is signed before it ends.
    let unknown = TreeHead { size: 2, root: tree(Epoch(3), 2, 1).root() };
    store.0.lock().checkpoints.push((Epoch(3), unknown, String::new()));
    let newer = contradiction(dir.path(), &store, tree(Epoch(3), 4, 0)).await;
    assert!(newer.contains("log 3") && newer != ended, "{newer}");
    // The outbox is one from before, and fits to what was signed; and the newer contradiction is not forgotten then.
    assert_eq!(contradiction(dir.path(), &store, tree(LOG, 9, 0)).await, newer);
    assert_eq!(contradiction(dir.path(), &Store::default(), tree(Epoch(3), 4, 0)).await, newer);
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_cannot_be_read_or_written_signs_nothing() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    Running::start(dir.path(), &store, tree(LOG, 5, 0)).end().await;
    let path = dir.path().join("checkpoint.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for damaged in ["", "{}", &text[..text.len() / 2], &text.replacen("\"root\":\"", "\"root\":\"A", 1)] {
        std::fs::write(&path, damaged).unwrap();
        let running = Running::start(dir.path(), &store, tree(LOG, 9, 0));
        let state = running.after(30).await;
        assert!(state.signed.is_none() && state.fault.unwrap().contains("is damaged"), "{damaged}");
        running.end().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
    std::fs::write(&path, &text).unwrap();
    // A directory in the place of the new file: it cannot be written, for root neither.
    std::fs::create_dir(dir.path().join("checkpoint.new")).unwrap();
    let running = Running::start(dir.path(), &store, tree(LOG, 9, 0));
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("cannot write"));
    assert_eq!(store.heads().len(), 1, "what is not remembered is not published");
}

#[tokio::test(start_paused = true)]
async fn an_anchor_without_a_checkpoint_says_nothing_while_another_one_is_silent() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let head = TreeHead { size: 9, root: tree(LOG, 9, 0).root() };
    let [new, silent] = [Some(Largest::Nothing), None].map(|told| Told(Arc::new(Mutex::new(told))));
    // An anchor that keeps nothing is no answer either.
    let keeps_nothing = Told(Arc::new(Mutex::new(Some(Largest::Unknown))));
    let anchors = || vec![new.clone(), silent.clone(), keeps_nothing.clone()];
    let start = |dir: &Path, store: &Store, size| {
        let signer = Signer::new("example.com/gatepost", vec![secret()]);
        Running::start_with(dir, store, tree(LOG, size, 0), signer, Audit::disabled(), anchors())
    };
    // The memory is lost, and only the anchor that does not answer knows what was signed.
    let running = start(dir.path(), &store, 20);
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("before an anchor told"), "{:?}", store.heads());
    *silent.0.lock() = Some(Largest::Checkpoint(head));
    let found = running.after(30).await.contradiction.unwrap();
    assert!(found.contains("w1 has a checkpoint of 9"), "{found}");
    running.end().await;
    assert_eq!(store.heads(), []);
    // In a new log all of them have nothing; after that, one that has the last one suffices.
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    *silent.0.lock() = Some(Largest::Nothing);
    let running = start(dir.path(), &store, 9);
    assert_eq!(running.after(1).await.signed.unwrap().size, 9);
    running.end().await;
    (*new.0.lock(), *silent.0.lock()) = (Some(Largest::Checkpoint(head)), None);
    let running = start(dir.path(), &store, 20);
    assert_eq!(running.after(1).await.signed.unwrap().size, 20);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_begin_only_while_there_is_evidence_if_they_must_not_continue_without() {
    assert!(!Gate::default().is_closed(), "the gate of a gateway whose calls continue");
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    store.0.lock().is_down = true;
    let running = Running::start(dir.path(), &store, tree(LOG, 3, 0));
    running.after(30).await;
    assert!(running.gate.is_closed(), "before Postgres told what it has");
    store.0.lock().is_down = false;
    running.after(30).await;
    assert!(!running.gate.is_closed());
    // It waits for an answer that never comes.
    store.0.lock().hangs = true;
    running.stored.set(tree(LOG, 4, 0));
    running.after(60).await;
    assert!(!running.gate.is_closed(), "an answer may take its time");
    running.after(300).await;
    assert!(running.gate.is_closed());
    running.task.abort();
    // The end of its task, however it ends.
    store.0.lock().hangs = false;
    let running = Running::start(dir.path(), &store, tree(LOG, 5, 0));
    running.after(11).await;
    assert!(!running.gate.is_closed());
    running.task.abort();
    running.task.await.unwrap_err();
    assert!(running.gate.is_closed());
    // A contradiction.
    let running = Running::start(dir.path(), &store, tree(LOG, 2, 0));
    let state = running.after(30).await;
    assert!(state.contradiction.is_some() && running.gate.is_closed());
    running.end().await;
}

/// An anchor that never answers, or has this checkpoint.
#[derive(Clone, Debug)]
struct Hanging(Option<TreeHead>);

impl AnchorClient for Hanging {
    fn kind(&self) -> AnchorKind {
        AnchorKind::S3
    }

    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        match self.0 {
            Some(head) => Ok(Largest::Checkpoint(head)),
            None => std::future::pending().await,
        }
    }

    async fn confirm<S: CheckpointStore>(&mut self, _: &Signed, _: History<'_, S>) -> Result<Vec<u8>, AnchorError> {
        Err(no_answer())
    }
}

#[tokio::test(start_paused = true)]
async fn an_anchor_that_never_answers_does_not_keep_back_the_answer_of_another_one() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    Running::start(dir.path(), &store, tree(LOG, 9, 0)).end().await;
    let start = |size, anchors| {
        let signer = Signer::new("example.com/gatepost", vec![secret()]);
        Running::start_with(dir.path(), &store, tree(LOG, size, 0), signer, Audit::disabled(), anchors)
    };
    let running = start(20, vec![Hanging(None)]);
    let state = running.after(90).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("w0: no answer in 60s"));
    running.task.abort();
    // After a crash it may have an older one than the last that was signed.
    let older = TreeHead { size: 5, root: tree(LOG, 5, 0).root() };
    let running = start(20, vec![Hanging(None), Hanging(Some(older))]);
    assert_eq!(running.after(90).await.signed.unwrap().size, 20);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_before_its_keys_are_on_record() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let wait = std::time::Duration::from_secs(1);
    let audit = || {
        let ring = Ring::new(RingLimits { records: 10, bytes: 1 << 20 }, Head::START);
        let (timeouts, key) = (Timeouts { admission: wait, store: wait }, DigestKey::from_bytes([1; 32]));
        (Arc::clone(&ring), Audit::enabled(ring, Arc::new(Meter::default()), false, timeouts, key))
    };
    let (_, full) = audit();
    let event = || crate::audit::record::Call::gateway_event("test", &serde_json::json!({}));
    while full.record_event(event()).await.is_ok() {}
    let running = Running::with(dir.path(), &store, tree(LOG, 5, 0), vec![secret()], full);
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("on record"), "{:?}", store.heads());
    assert!(running.end().await.signed.is_none());
    let (ring, audit) = audit();
    let running = Running::with(dir.path(), &store, tree(LOG, 5, 0), vec![secret()], audit);
    assert_eq!(running.after(11).await.signed.unwrap().size, 5);
    assert_eq!(events(&ring).pop().unwrap().0, "gateway/key");
    running.end().await;
}

/// An anchor that is asked once an hour.
#[derive(Clone, Debug, Default)]
struct Hourly(Arc<Mutex<(bool, u32)>>);

impl AnchorClient for Hourly {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Tsa
    }

    fn interval(&self) -> std::time::Duration {
        std::time::Duration::from_hours(1)
    }

    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        Ok(Largest::Unknown)
    }

    async fn confirm<S: CheckpointStore>(&mut self, _: &Signed, _: History<'_, S>) -> Result<Vec<u8>, AnchorError> {
        let mut state = self.0.lock();
        state.1 += 1;
        if state.0 { Ok(Vec::new()) } else { Err(no_answer()) }
    }
}

#[tokio::test(start_paused = true)]
async fn an_anchor_that_is_asked_once_an_hour_is_asked_once_a_minute_until_its_confirmation_is_stored() {
    let (dir, store, anchor) = (tempfile::tempdir().unwrap(), Store::default(), Hourly::default());
    let signer = Signer::new("example.com/gatepost", vec![secret()]);
    let anchors = vec![anchor.clone()];
    let running = Running::start_with(dir.path(), &store, tree(LOG, 1, 0), signer, Audit::disabled(), anchors);
    // A checkpoint comes each ten seconds.
    let mut size = 1;
    let mut minutes = async |count: u64| {
        for _ in 0..6 * count {
            size += 1;
            running.stored.set(tree(LOG, size, 0));
            running.after(10).await;
        }
        (std::mem::take(&mut anchor.0.lock().1), running.status.get())
    };
    let (asked, state) = minutes(10).await;
    assert!((9..=11).contains(&asked), "asked {asked} times in ten minutes");
    assert_eq!(state.unanchored(), None);
    // Its age counts by the time that passes: the clock of this process stands still.
    let (asked, state) = minutes(120).await;
    assert!((110..=121).contains(&asked), "asked {asked} times in two hours");
    let late = state.unanchored().unwrap();
    assert!(late.starts_with("w0 has not confirmed a checkpoint for 7"), "{late}");
    anchor.0.lock().0 = true;
    let (asked, state) = minutes(59).await;
    assert_eq!((asked, state.unanchored(), store.0.lock().confirmed.len()), (1, None, 1));
    // It confirms a checkpoint that Postgres does not get: a later one is confirmed, and stored.
    store.0.lock().is_down = true;
    assert_eq!(minutes(2).await.0, 1);
    store.0.lock().is_down = false;
    assert_eq!(minutes(3).await.0, 1);
    assert_eq!(store.0.lock().confirmed.len(), 2);
    assert_eq!(minutes(50).await.0, 0);
    running.end().await;
}

/// The events in a ring: their method and their details.
fn events(ring: &Ring) -> Vec<(String, serde_json::Value)> {
    let items = ring.take(Some(std::time::Duration::ZERO)).items;
    let event = |item| {
        let WorkItem::End { record, .. } = item else { return None };
        let call = &record.entry().call;
        Some((call.method.to_string(), serde_json::from_str(call.request_args.as_deref()?).unwrap()))
    };
    items.into_iter().filter_map(event).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_and_checkpoints_are_on_record() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let ring = Ring::new(RingLimits { records: 100, bytes: 1 << 20 }, Head::START);
    let (wait, key) = (std::time::Duration::from_secs(1), DigestKey::from_bytes([1; 32]));
    let timeouts = Timeouts { admission: wait, store: wait };
    let audit = Audit::enabled(Arc::clone(&ring), Arc::new(Meter::default()), false, timeouts, key);
    let (one, two) = (secret(), secret());
    let start = |secrets: &[&zeroize::Zeroizing<String>], size| {
        let secrets = secrets.iter().map(|secret| (*secret).clone()).collect();
        Running::with(dir.path(), &store, tree(LOG, size, 0), secrets, audit.clone())
    };
    let running = start(&[&one], 5);
    running.after(1).await;
    let (method, details) = events(&ring).pop().unwrap();
    let name = "example.com/gatepost/00000000-0000-0000-0000-000000000007";
    let verifier = |secret| SigningKey::parse_named(secret, name).unwrap().verifier().to_string();
    assert_eq!((method.as_str(), &details["log"]), ("gateway/key", &serde_json::json!(1)));
    assert_eq!(details["keys"], serde_json::json!([verifier(&one)]));
    // Silence is on record too.
    running.after(595).await;
    assert_eq!(events(&ring), []);
    running.after(10).await;
    let [(method, details)] = <[_; 1]>::try_from(events(&ring)).unwrap();
    assert_eq!((method.as_str(), &details["size"]), ("gateway/checkpoint", &serde_json::json!(5)));
    assert_eq!(details["places"][POSTGRES]["size"], 5);
    assert_eq!(details["fault"], serde_json::Value::Null);
    let root = tree(LOG, 5, 0).root();
    assert_eq!(details["root"], base64::Engine::encode(&base64::prelude::BASE64_STANDARD, root.0));
    running.end().await;
    // The same keys are not recorded again; others are, and so is why nothing is signed.
    let running = start(&[&one], 6);
    running.after(11).await;
    running.end().await;
    assert_eq!(events(&ring), []);
    let running = start(&[&one, &two], 7);
    running.after(11).await;
    running.end().await;
    assert_eq!(events(&ring).pop().unwrap().1["keys"], serde_json::json!([verifier(&one), verifier(&two)]));
    let running = start(&[&two], 3);
    running.after(605).await;
    running.end().await;
    let [(_, details)] = <[_; 1]>::try_from(events(&ring)).unwrap();
    assert!(details["fault"].as_str().unwrap().contains("only 3 records") && details["size"] == 7, "{details}");
}
