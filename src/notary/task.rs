//! The notary's task: one look a second, one checkpoint every ten seconds while records come.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::anchor::{Anchor, AnchorClient, Largest};
use super::anchors::{AnchorTask, Contradiction, Published};
use super::database::Database;
use super::memory::{Memory, MemoryError, Signed};
use super::records::Records;
use super::signer::Signer;
use super::status::{Anchored, PlaceState, Status};
use crate::audit::Audit;
use crate::audit::Gate;
use crate::audit::record::{Epoch, GatewayId, Timestamp};
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};
use crate::audit::tree::Tree;
use crate::evidence::tree::TreeHead;

/// The time between two looks. *Chosen*: a fraction of the time between two checkpoints.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two checkpoints while records come. *Spec*: `docs/evidence.md`.
const BUSY_INTERVAL: Duration = Duration::from_secs(10);

/// The longest wait for anchors after the last checkpoint. *Chosen*: a stop is not delayed much, and what they did
/// not confirm then, they confirm after the next start.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The most contradictions that wait for the notary. *Derived*: one of each anchor, of which a gateway has a few.
const CONTRADICTIONS_MAX: usize = 16;

/// The longest wait for the checkpoint that an anchor has at the start. *Chosen*: a bucket is asked some dozen times.
/// An anchor that takes longer is a silent one.
const COMPARE_TIMEOUT: Duration = Duration::from_mins(1);

/// The time after a look for which calls may begin, if they must not continue without evidence. *Derived*: longer than
/// a look that takes what it may: the comparison, a command that signs (20 s), statements of Postgres (30 s each), and
/// twice the longest `audit.store_timeout` that the configuration allows then (1 min).
const LOOK_MAX_AGE: Duration = Duration::from_mins(5);

/// The name of Postgres among the places that get checkpoints.
pub const POSTGRES: &str = "postgres";

/// The settings of the notary.
#[derive(Debug)]
pub struct Settings {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The keys that sign.
    pub signer: Signer,
    /// Its memory of signed checkpoints.
    pub memory: Result<Memory, MemoryError>,
    /// The time after which a checkpoint is published again although no records came.
    pub interval: Duration,
    /// The age of a place's last confirmation that is a reason for an alarm.
    pub anchor_max_age: Duration,
    /// The gate of calls, if they are refused while evidence is missing.
    pub gate: Option<Gate>,
}

/// Signs checkpoints of one gateway's log.
#[derive(Debug)]
pub struct Notary<A, S> {
    settings: Settings,
    tree: StoredTree,
    database: Option<Database<S>>,
    /// Taken by their tasks when the notary runs, but for their clients.
    anchors: Vec<Anchor<A, S>>,
    published: watch::Sender<Published>,
    records: Records,
    status: Status,
    /// The log whose checkpoints were compared with those of others since the start.
    compared: Option<Epoch>,
    /// When the last checkpoint was published.
    published_at: Option<Instant>,
}

impl<A: AnchorClient, S: CheckpointStore> Notary<A, S> {
    /// A notary of the log whose stored records are in `tree`. It records what it does by `audit`, stores
    /// checkpoints in `store`, if there is one, and sends them to `anchors`.
    #[must_use]
    pub fn new(
        settings: Settings,
        audit: Audit,
        tree: StoredTree,
        store: Option<S>,
        anchors: Vec<Anchor<A, S>>,
    ) -> (Self, Status) {
        let records = Records::new(audit);
        let database = store.map(|store| Database::new(store, settings.gateway_id));
        let place = |client: &A| PlaceState::new(Some(client.kind()), client.interval());
        let anchored = anchors.iter().map(|anchor| (anchor.name.as_str(), place(&anchor.client)));
        let places = database.iter().map(|_| (POSTGRES, PlaceState::new(None, Duration::ZERO))).chain(anchored);
        let status = Status::begun(settings.anchor_max_age, places);
        if let Some(gate) = &settings.gate {
            // Until the first checkpoint is signed.
            gate.close();
        }
        let (watched, published) = (status.clone(), watch::Sender::default());
        let (compared, published_at) = (None, None);
        let notary = Self { settings, tree, database, anchors, published, records, status, compared, published_at };
        (notary, watched)
    }

    /// Signs until `stop`, and then once more what was stored since.
    pub async fn run(mut self, stop: CancellationToken) {
        let (contradictions, mut found) = mpsc::channel(CONTRADICTIONS_MAX);
        let mut tasks = self.start_anchors(&contradictions);
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            while let Ok(Contradiction { log, text }) = found.try_recv() {
                self.contradict(log, &text);
            }
            let tree = self.tree.get();
            if self.is_due(&tree) {
                self.publish(&tree).await;
            }
            let last = self.settings.memory.as_ref().ok().and_then(|memory| memory.last_of(tree.log));
            self.records.checkpoint(tree.log, last, &self.status.get()).await;
            self.set_gate();
        }
        let tree = self.tree.get();
        if self.is_new(&tree) {
            self.publish(&tree).await;
        }
        // Dropping the sender ends the tasks, once they have submitted the last checkpoint.
        drop(std::mem::take(&mut self.published));
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::time::timeout(LAST_ANSWER_TIMEOUT, all).await.ok();
        while let Ok(Contradiction { log, text }) = found.try_recv() {
            self.contradict(log, &text);
        }
    }

    /// Lets calls through, or not, as the state is now.
    fn set_gate(&self) {
        match &self.settings.gate {
            Some(gate) if self.status.get().is_missing() => gate.close(),
            Some(gate) => gate.open_for(LOOK_MAX_AGE),
            None => {}
        }
    }

    /// Starts a task for each anchor.
    fn start_anchors(&mut self, contradictions: &mpsc::Sender<Contradiction>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if self.anchors.iter().any(|anchor| anchor.client.kind() == AnchorKind::Witness) {
            // For proofs that the log continues.
            self.tree.keep_hashes();
        }
        for Anchor { name, client, store } in &mut self.anchors {
            let task = AnchorTask {
                anchor: Anchor { name: name.clone(), client: client.clone(), store: store.take() },
                gateway_id: self.settings.gateway_id,
                tree: self.tree.clone(),
                published: self.published.subscribe(),
                contradictions: contradictions.clone(),
                status: self.status.clone(),
                next_at: Instant::now(),
                unstored: None,
            };
            tasks.spawn(task.run());
        }
        tasks
    }

    /// True if records came since the last signed checkpoint.
    fn is_new(&self, tree: &Tree) -> bool {
        let last = self.settings.memory.as_ref().ok().and_then(|memory| memory.last_of(tree.log));
        last.is_none_or(|signed| signed.head.size < tree.size())
    }

    fn is_due(&self, tree: &Tree) -> bool {
        let is_new = self.is_new(tree);
        let after = if is_new { BUSY_INTERVAL.min(self.settings.interval) } else { self.settings.interval };
        self.published_at.is_none_or(|at| at.elapsed() >= after)
    }

    /// Signs the checkpoint of `tree`, and sends it to all places.
    async fn publish(&mut self, tree: &Tree) {
        if tree.size() == 0 {
            return;
        }
        self.published_at = Some(Instant::now());
        let signed = match self.signed(tree).await {
            Ok(signed) => signed,
            Err(Refusal::Fault(text)) => {
                tracing::error!(error = text, "cannot sign a checkpoint");
                return self.status.change(|state| state.fault = Some(text));
            }
            Err(Refusal::Contradiction(text)) => return self.contradict(tree.log, &text),
        };
        self.status.change(|state| state.fault = None);
        if self.is_stored(tree, &signed).await {
            let number = self.published.borrow().number + 1;
            self.published.send_replace(Published { number, signed: Some(Arc::new(signed)) });
        }
    }

    /// Stores a checkpoint in the database; false if that contradicts it.
    async fn is_stored(&mut self, tree: &Tree, signed: &Signed) -> bool {
        let Some(database) = &mut self.database else { return true };
        let stored = database.store(tree, &signed.note).await;
        if let Ok(Some(other)) = stored {
            let (own, log) = (signed.head.size, tree.log);
            let text = format!(
                "Postgres has a checkpoint of {} records of log {log} that this gateway did not sign; its own has {own}",
                other.size
            );
            self.contradict(log, &text);
            return false;
        }
        if let Err(error) = &stored {
            tracing::warn!(%error, "Postgres did not take a checkpoint; the next one is tried again");
        }
        self.status.note(POSTGRES, signed.head.size, stored.map(drop).map_err(|error| error.to_string()));
        // A database that is down does not keep it from the anchors.
        true
    }

    /// The signed checkpoint of `tree`, which is in the memory on disk.
    async fn signed(&mut self, tree: &Tree) -> Result<Signed, Refusal> {
        let memory = self.settings.memory.as_mut().map_err(|error| Refusal::Fault(error.to_string()))?;
        memory.check(tree, None).map_err(Refusal::Contradiction)?;
        let name = self.settings.signer.log_name(self.settings.gateway_id, tree.log);
        let keys = self.settings.signer.verifiers(&name).map_err(|error| Refusal::Fault(error.to_string()))?;
        if self.compared != Some(tree.log) {
            // What was signed was stored before: an outbox that had less when it was opened was set back, whatever it
            // has now.
            memory.check(&self.tree.opening(), None).map_err(Refusal::Contradiction)?;
            if let Some(database) = &mut self.database {
                compare(memory, tree, database).await?;
            }
            compare_with_anchors(memory, tree, &self.anchors, &name).await?;
            if !self.records.keys(tree.log, &keys, memory.last_of(tree.log)).await {
                // After the first signature it would count as recorded.
                return Err(Refusal::Fault("nothing is signed before its keys are on record (gateway/key)".to_owned()));
            }
            self.compared = Some(tree.log);
        }
        let head = TreeHead { size: tree.size(), root: tree.root() };
        if let Some(signed) = memory.last_of(tree.log).filter(|signed| signed.head == head) {
            return Ok(signed.clone());
        }
        let note = self.settings.signer.sign(self.settings.gateway_id, tree.log, head).await;
        let note = note.map_err(|error| Refusal::Fault(error.to_string()))?;
        let signed = Signed { log: tree.log, head, note };
        memory.remember(signed.clone(), &keys).map_err(|error| Refusal::Fault(error.to_string()))?;
        self.status.change(|state| state.signed = Some(Anchored { size: head.size, at: Timestamp::now() }));
        Ok(signed)
    }

    /// Ends the signing of this log, also after a restart.
    fn contradict(&mut self, log: Epoch, text: &str) {
        let is_new = self.status.get().contradiction.is_none();
        if is_new {
            tracing::error!(%log, contradiction = text, "a signed checkpoint is contradicted; nothing is signed any more");
        }
        self.status.change(|state| state.contradiction = Some(text.to_owned()));
        if is_new
            && let Ok(memory) = &mut self.settings.memory
            && let Err(error) = memory.remember_contradiction(log, text)
        {
            tracing::error!(%error, "the contradiction is forgotten at the next start");
        }
    }
}

impl<A, S> Drop for Notary<A, S> {
    /// Also when it panics.
    fn drop(&mut self) {
        if let Some(gate) = &self.settings.gate {
            gate.close();
        }
    }
}

/// The reason why nothing is signed.
enum Refusal {
    /// Something is missing that may come.
    Fault(String),
    /// A signed checkpoint is contradicted.
    Contradiction(String),
}

/// Compares with what the database has of the log of `tree`.
async fn compare(memory: &Memory, tree: &Tree, database: &mut Database<impl CheckpointStore>) -> Result<(), Refusal> {
    let signed = memory.last_of(tree.log).map(|signed| signed.head);
    let last = database.last(tree.log, signed).await;
    let last = last.map_err(|error| {
        Refusal::Fault(format!("nothing is signed before Postgres told which checkpoint it has: {error}"))
    })?;
    memory.check(tree, last.map(|head| ("Postgres", head))).map_err(Refusal::Contradiction)
}

/// Compares with what the anchors have of the log of `tree`, which is called `name`. All are asked at once. One that
/// has a checkpoint of the log must answer; that another one has none says nothing, unless all of them say so. An older
/// one than the last that was signed suffices: after a crash no anchor may have the last one.
async fn compare_with_anchors<A: AnchorClient, S>(
    memory: &Memory,
    tree: &Tree,
    anchors: &[Anchor<A, S>],
    name: &str,
) -> Result<(), Refusal> {
    // Each has its own limit: one that never answers does not keep the answers of the others back.
    let answers = anchors.iter().map(|anchor| tokio::time::timeout(COMPARE_TIMEOUT, anchor.client.largest(name)));
    let answers = join_all(answers).await;
    let (mut is_known, mut errors) = (false, Vec::new());
    for (Anchor { name: anchor, .. }, answer) in anchors.iter().zip(answers) {
        match answer {
            Ok(Ok(Largest::Unknown | Largest::Nothing)) => {}
            Ok(Ok(Largest::Checkpoint(head))) => {
                memory.check(tree, Some((anchor, head))).map_err(Refusal::Contradiction)?;
                is_known = true;
            }
            Ok(Err(error)) => errors.push(format!("{anchor}: {error}")),
            Err(_) => errors.push(format!("{anchor}: no answer in {COMPARE_TIMEOUT:?}")),
        }
    }
    if is_known || errors.is_empty() {
        return Ok(());
    }
    let errors = errors.join("; ");
    Err(Refusal::Fault(format!("nothing is signed before an anchor told which checkpoint it has: {errors}")))
}
