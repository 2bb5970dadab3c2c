//! The notary against a database that is made up, one rule a test; its anchors and records have tests of their own.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, StreamPosition};
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation, HashPage, HashesAfter};
use crate::audit::sink::{ErrorClass, SinkError};
use crate::audit::tree::Tree;
use crate::audit::{Audit, Gate};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::key::{SignatureType, SigningKey};
use crate::evidence::note::Note;
use crate::evidence::tree::TreeHead;
use crate::witness::client::ClientError;

pub(super) const GATEWAY: GatewayId = GatewayId(uuid::Uuid::from_u128(7));
pub(super) const LOG: Epoch = Epoch(1);

/// A database that keeps checkpoints in memory, and refuses as the real one does.
#[derive(Clone, Debug, Default)]
pub(super) struct Store(pub(super) Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) is_down: bool,
    /// What it is told takes effect, and its answer does not come.
    loses_answers: bool,
    /// It takes effect before the next statement that stores.
    late: Option<(Epoch, TreeHead, String)>,
    /// It never answers.
    hangs: bool,
    /// The sizes of the checkpoints with a confirmation.
    pub(super) confirmed: Vec<u64>,
    checkpoints: Vec<(Epoch, TreeHead, String)>,
}

impl Store {
    pub(super) fn heads(&self) -> Vec<TreeHead> {
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
pub(super) fn tree(log: Epoch, size: u64, variant: u8) -> Tree {
    let mut tree = Tree::begin(log);
    for seq in 1..=size {
        let hash = Digest::of(&[&seq.to_le_bytes()[..], &[variant]].concat());
        tree.push(&StreamPosition { gateway_id: GATEWAY, epoch: log, seq: Seq(seq), prev_hash: Digest::ZERO, hash });
    }
    tree
}

/// A gateway with its memory in `dir`.
pub(super) struct Running {
    pub(super) stored: StoredTree,
    pub(super) status: Status,
    gate: Gate,
    stop: tokio_util::sync::CancellationToken,
    pub(super) task: tokio::task::JoinHandle<()>,
}

const SECRET: &str = "PRIVATE+KEY+example.com/gatepost+";

pub(super) fn secret() -> zeroize::Zeroizing<String> {
    let (_, text) = SigningKey::generate("example.com/gatepost", SignatureType::Ed25519).unwrap();
    assert!(text.starts_with(SECRET));
    text
}

/// An anchor that tells a checkpoint, or does not answer.
#[derive(Clone, Debug)]
pub(super) struct Told(pub(super) Arc<Mutex<Option<Largest>>>);

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

pub(super) fn no_answer() -> AnchorError {
    ClientError::Status { status: 503, answer: "down".to_owned() }.into()
}

impl Running {
    pub(super) fn start(dir: &Path, store: &Store, tree: Tree) -> Self {
        Self::with(dir, store, tree, vec![secret()], Audit::disabled())
    }

    pub(super) fn with(
        dir: &Path,
        store: &Store,
        tree: Tree,
        secrets: Vec<zeroize::Zeroizing<String>>,
        audit: Audit,
    ) -> Self {
        let signer = Signer::new("example.com/gatepost", secrets);
        Self::start_with(dir, store, tree, signer, audit, Vec::<Told>::new())
    }

    pub(super) fn start_with<A: AnchorClient>(
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
    pub(super) async fn after(&self, seconds: u64) -> EvidenceState {
        // The clock is paused: the runtime sets it forward while nothing else can run.
        let seconds = std::time::Duration::from_secs(seconds);
        tokio::time::timeout(seconds, std::future::pending::<()>()).await.unwrap_err();
        self.status.get()
    }

    pub(super) async fn end(self) -> EvidenceState {
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
