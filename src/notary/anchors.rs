//! Witnesses of the log: each has a task of its own, so that none waits for another one.

use std::cmp::Ordering;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::memory::Signed;
use super::status::Status;
use crate::audit::record::{Epoch, GatewayId};
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation};
use crate::evidence::note::{Note, NoteError};
use crate::evidence::tree::{Hash, KnownNodes, prove};
use crate::witness::client::{ClientError, Cosigned, Prover, SubmitError, WitnessClient};

/// A witness that gets each checkpoint.
#[derive(Debug)]
pub struct Witness<S> {
    /// The name in its key.
    pub name: String,
    /// The connection to it.
    pub client: WitnessClient,
    /// Keeps its signatures, and has the hashes that this process does not remember; `None` without a database.
    pub store: Option<S>,
}

impl<S> Witness<S> {
    /// The same witness without the database.
    pub(super) fn without_store(&self) -> Self {
        Self { name: self.name.clone(), client: self.client.clone(), store: None }
    }
}

/// A checkpoint that is to be confirmed. Another number is another publication, also of the same checkpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) number: u64,
    pub(super) signed: Option<Arc<Signed>>,
}

/// A contradiction that a witness found.
#[derive(Debug)]
pub(super) struct Contradiction {
    pub(super) log: Epoch,
    pub(super) text: String,
}

/// The reason why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
enum ProofError {
    /// The hashes are in the database only, and it does not have them or does not answer.
    #[error("the hashes of records {from} to {to} are needed from Postgres: {cause}")]
    Hashes { from: u64, to: u64, cause: String },
}

/// The task of one witness.
pub(super) struct Anchor<S> {
    pub(super) witness: Witness<S>,
    pub(super) gateway_id: GatewayId,
    pub(super) tree: StoredTree,
    pub(super) published: watch::Receiver<Published>,
    pub(super) contradictions: mpsc::Sender<Contradiction>,
    pub(super) status: Status,
    /// The log and the size that the witness signed last, as far as it is known.
    pub(super) known: (Epoch, u64),
    /// A signature that the database has not taken yet.
    pub(super) unstored: Option<Confirmation>,
}

impl<S: CheckpointStore> Anchor<S> {
    /// Submits each newest checkpoint, until the notary publishes none any more.
    pub(super) async fn run(mut self) {
        while self.published.changed().await.is_ok() {
            let signed = self.published.borrow_and_update().signed.clone();
            if let Some(signed) = signed {
                self.submit(&signed).await;
            }
        }
    }

    async fn submit(&mut self, signed: &Signed) {
        let result = self.cosigned(signed).await;
        let (name, size) = (self.witness.name.clone(), signed.head.size);
        match result {
            Ok(cosigned) => {
                self.known = (signed.log, size);
                self.status.note(&name, size, Ok(()));
                let lines: Vec<_> = cosigned.signatures.iter().map(|line| format!("{line}\n")).collect();
                let (log, head, kind, proof) = (signed.log, signed.head, AnchorKind::Witness, lines.concat());
                self.unstored = Some(Confirmation { log, head, anchor: name, kind, proof: proof.into_bytes() });
            }
            Err(error) => {
                let text = format!("witness {name}: {error}");
                tracing::warn!(witness = name, %error, "a witness did not sign; the next checkpoint is sent again");
                if let Some(text) = self.contradiction(signed, &error).await {
                    // The notary has ended if this fails.
                    self.contradictions.send(Contradiction { log: signed.log, text }).await.ok();
                }
                self.status.note(&name, size, Err(text));
            }
        }
        self.store_signature().await;
    }

    async fn cosigned(&mut self, signed: &Signed) -> Result<Cosigned, SubmitError<ProofError>> {
        let note = Note::parse(signed.note.as_bytes()).map_err(damaged)?;
        let (log, known) = self.known;
        let known = if log == signed.log { known } else { 0 };
        let Witness { client, store, .. } = &mut self.witness;
        let prover = RecordProver { gateway_id: self.gateway_id, tree: &self.tree, store: store.as_mut(), signed };
        client.submit(&note, known, prover).await
    }

    /// The contradiction behind a refusal. A status alone ends nothing, since anything between gateway and witness may
    /// have sent it: the witness must have signed another tree.
    async fn contradiction(&mut self, signed: &Signed, error: &SubmitError<ProofError>) -> Option<String> {
        use ClientError::{Ahead, Contradiction, Moving};
        if !matches!(error, SubmitError::Witness(Ahead { .. } | Contradiction { .. } | Moving { .. })) {
            return None;
        }
        let note = Note::parse(signed.note.as_bytes()).ok()?;
        let origin = note.text().lines().next()?;
        let (_, checkpoint) = self.witness.client.last(origin).await.ok()??;
        let (other, own) = (checkpoint.head(), signed.head);
        let is_other = match other.size.cmp(&own.size) {
            Ordering::Greater => true,
            Ordering::Equal => other.root != own.root,
            Ordering::Less => self.tree.root_at(other.size).is_some_and(|root| root != other.root),
        };
        let name = &self.witness.name;
        is_other.then(|| format!("{name} signed a tree of {} records that this log does not have: {error}", other.size))
    }

    async fn store_signature(&mut self) {
        let Some((store, confirmation)) = self.witness.store.as_mut().zip(self.unstored.as_ref()) else { return };
        match store.confirm(self.gateway_id, confirmation).await {
            Ok(true) => self.unstored = None,
            // The checkpoint itself is stored later, or a newer one.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "Postgres did not take the signature of a witness; it is stored later");
            }
        }
    }
}

/// Makes proofs from the hashes of records: the last ones from memory, older ones from the database.
struct RecordProver<'a, S> {
    gateway_id: GatewayId,
    tree: &'a StoredTree,
    store: Option<&'a mut S>,
    signed: &'a Signed,
}

impl<S: CheckpointStore> Prover for RecordProver<'_, S> {
    type Error = ProofError;

    async fn prove(&mut self, old: u64) -> Result<Vec<Hash>, ProofError> {
        let (log, size) = (self.signed.log, self.signed.head.size);
        if let Some(proof) = self.tree.consistency(old, size) {
            return Ok(proof);
        }
        let failed = |cause: String| ProofError::Hashes { from: old, to: size, cause };
        let Some(store) = &mut self.store else { return Err(failed("there is no database".to_owned())) };
        let nodes = store.known_nodes(self.gateway_id, log, old).await;
        let mut nodes = nodes.map_err(|error| failed(error.to_string()))?;
        if let Some(recent) = self.tree.recent(nodes.size()) {
            extend(&mut nodes, &recent);
        }
        if nodes.size() < size {
            return Err(failed(format!("it has those of the first {} records", nodes.size())));
        }
        // A wrong proof would look like a contradiction to the witness.
        if prove::root(size, &mut nodes) != Ok(self.signed.head.root) {
            return Err(failed("they do not give the signed root: see gatepost audit verify".to_owned()));
        }
        prove::consistency(old, size, &mut nodes).map_err(|error| failed(error.to_string()))
    }
}

/// Adds the records of `recent` that come after `nodes`.
fn extend(nodes: &mut KnownNodes, recent: &KnownNodes) {
    let known = usize::try_from(nodes.size().saturating_sub(recent.base())).unwrap_or(usize::MAX);
    recent.records().iter().skip(known).for_each(|hash| nodes.push(*hash));
}

fn damaged(error: NoteError) -> SubmitError<ProofError> {
    ClientError::Signature(error).into()
}
