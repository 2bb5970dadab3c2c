//! The interface between the notary and the places outside that confirm checkpoints.

use std::future::Future;
use std::time::Duration;

use super::bucket::BucketError;
use super::memory::Signed;
use super::time_stamp::TimeStampAnchorError;
use crate::audit::record::GatewayId;
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, HashesAfter};
use crate::command::RunError;
use crate::evidence::tree::{Hash, TreeHead, WantedNodes, prove};
use crate::in_place::in_place;
use crate::witness::client::{ClientError, Prover};

/// A place outside that confirms checkpoints, with its connection to the database.
#[derive(Clone, Debug)]
pub struct Anchor<A, S> {
    /// Its name in the configuration, unique among the anchors.
    pub name: String,
    /// The connection to it.
    pub client: A,
    /// Keeps its confirmations, and has the hashes that this process does not remember; `None` without a database.
    pub store: Option<S>,
}

/// The largest checkpoint of a log that an anchor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Largest {
    /// The anchor cannot be asked for checkpoints.
    Unknown,
    /// It has none of this log.
    Nothing,
    /// This one.
    Checkpoint(TreeHead),
}

/// The connection to an anchor.
pub trait AnchorClient: Clone + Send + Sync + 'static {
    /// Its kind.
    fn kind(&self) -> AnchorKind;

    /// The shortest time between two confirmations: zero if every checkpoint is sent.
    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    /// The largest checkpoint that it has of the log with this name.
    ///
    /// # Errors
    /// [`AnchorError`]: it did not answer, or its answer does not count.
    fn largest(&self, log: &str) -> impl Future<Output = Result<Largest, AnchorError>> + Send;

    /// Has a checkpoint confirmed, and returns what proves it.
    ///
    /// # Errors
    /// [`AnchorError`]. After [`AnchorError::Contradiction`] nothing may be signed any more.
    fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        records: History<'_, S>,
    ) -> impl Future<Output = Result<Vec<u8>, AnchorError>> + Send;
}

/// An anchor did not confirm a checkpoint, or did not tell its largest one.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The anchor has a tree that this log does not have.
    #[error("it has a tree of {size} records that this log does not have: {cause}")]
    Contradiction {
        /// The size of the anchor's tree.
        size: u64,
        /// The refusal that led to it.
        cause: String,
    },
    /// A witness did not sign.
    #[error(transparent)]
    Witness(#[from] ClientError),
    /// The witness needs a proof that cannot be made.
    #[error("no proof from {old_size} records, which the witness knows: {source}")]
    Proof {
        /// The size from which to prove.
        old_size: u64,
        /// The reason.
        source: ProofError,
    },
    /// A time-stamp authority gave no token that counts.
    #[error(transparent)]
    TimeStamp(#[from] TimeStampAnchorError),
    /// A bucket did not keep the checkpoint.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A command did not end well.
    #[error(transparent)]
    Command(#[from] RunError),
}

/// The reason why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The hashes are in the database only, and it does not have them or does not answer.
    #[error("the hashes of records {from} to {to} are needed from Postgres: {cause}")]
    Hashes {
        /// The size from which to prove.
        from: u64,
        /// The size of the checkpoint.
        to: u64,
        /// The reason why they are missing.
        cause: String,
    },
}

/// The history behind a checkpoint. Makes proofs from their hashes: the last ones from memory, older ones from the
/// database.
#[derive(Debug)]
pub struct History<'a, S> {
    pub(super) gateway_id: GatewayId,
    pub(super) tree: &'a StoredTree,
    pub(super) store: Option<&'a mut S>,
    pub(super) signed: &'a Signed,
}

impl<S> History<'_, S> {
    /// Returns true if the log's tree is known to be another one than that of `head`.
    #[must_use]
    pub fn contradict(&self, head: TreeHead) -> bool {
        let own = self.signed.head;
        match head.size.cmp(&own.size) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => head.root != own.root,
            std::cmp::Ordering::Less => self.tree.root_at(head.size).is_some_and(|root| root != head.root),
        }
    }
}

impl<S: CheckpointStore> Prover for History<'_, S> {
    type Error = ProofError;

    async fn prove(&mut self, old: u64) -> Result<Vec<Hash>, ProofError> {
        let (log, size) = (self.signed.log, self.signed.head.size);
        // The hashes in memory, or of a page, take tens of milliseconds to hash.
        if let Some(proof) = in_place(|| self.tree.consistency(old, size)) {
            return Ok(proof);
        }
        let failed = |cause: String| ProofError::Hashes { from: old, to: size, cause };
        let Some(store) = &mut self.store else { return Err(failed("there is no database".to_owned())) };
        // Page by page, so that a witness may be any number of records behind.
        let mut after = HashesAfter::Checkpoint(old);
        let mut nodes: Option<WantedNodes> = None;
        loop {
            let page = store.hashes(self.gateway_id, log, after).await.map_err(|error| failed(error.to_string()))?;
            let nodes = match (&mut nodes, page.before) {
                (Some(nodes), _) => nodes,
                (none, before) => {
                    let made = WantedNodes::of_consistency(old, size, before.unwrap_or_default());
                    none.insert(made.map_err(|error| failed(error.to_string()))?)
                }
            };
            in_place(|| nodes.extend(&page.hashes, size));
            if page.hashes.is_empty() || nodes.size() == size {
                break;
            }
            after = HashesAfter::Record(page.last);
        }
        let mut nodes = nodes.ok_or_else(|| failed("it has none".to_owned()))?;
        in_place(|| {
            let Some(recent) = self.tree.recent(nodes.size()) else { return };
            let known = usize::try_from(nodes.size() - recent.base()).unwrap_or(usize::MAX);
            nodes.extend(recent.records().get(known..).unwrap_or_default(), size);
        });
        if nodes.size() < size {
            return Err(failed(format!("it has those of the first {} records", nodes.size())));
        }
        // A wrong proof would look like a contradiction to the witness.
        if nodes.root() != self.signed.head.root {
            return Err(failed("they do not give the signed root: see gatepost audit verify".to_owned()));
        }
        prove::consistency(old, size, &mut nodes).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, Epoch, Seq, StreamPosition};
    use crate::audit::sink::SinkError;
    use crate::audit::sink::checkpoints::{Confirmation, HashPage};
    use crate::audit::tree::Tree;
    use crate::evidence::tree::Edge;

    /// The number of hashes that it gives at once.
    const PAGE: usize = 4;

    /// A database that has these hashes.
    struct Hashes(Vec<[u8; 32]>);

    impl CheckpointStore for Hashes {
        async fn last_checkpoint(&mut self, _: GatewayId, _: Epoch) -> Result<Option<TreeHead>, SinkError> {
            Ok(None)
        }

        async fn hashes(&mut self, _: GatewayId, log: Epoch, after: HashesAfter) -> Result<HashPage, SinkError> {
            let (before, known) = match after {
                HashesAfter::Checkpoint(_) => (Some(Edge::EMPTY), 0),
                HashesAfter::Record((_, Seq(seq))) => (None, seq),
            };
            let rest = self.0.iter().skip(usize::try_from(known).unwrap());
            let hashes: Vec<_> = rest.take(PAGE).copied().collect();
            let last = (log, Seq(known + hashes.len() as u64));
            Ok(HashPage { before, hashes, last })
        }

        async fn store_checkpoint(
            &mut self,
            _: GatewayId,
            _: &Tree,
            _: &str,
            known: Option<TreeHead>,
        ) -> Result<Option<TreeHead>, SinkError> {
            Ok(known)
        }

        async fn confirm(&mut self, _: GatewayId, _: &Confirmation) -> Result<bool, SinkError> {
            Ok(true)
        }
    }

    #[tokio::test]
    async fn no_proof_is_made_from_a_database_that_was_changed() {
        let (gateway_id, mut tree, mut hashes) = (GatewayId(uuid::Uuid::nil()), Tree::begin(Epoch(1)), Vec::new());
        for seq in 1..=9 {
            let (prev_hash, hash) = (Digest::ZERO, Digest([u8::try_from(seq).unwrap(); 32]));
            tree.push(&StreamPosition { gateway_id, epoch: Epoch(1), seq: Seq(seq), prev_hash, hash });
            hashes.push(hash.0);
        }
        let head = TreeHead { size: 9, root: tree.root() };
        let signed = Signed { log: Epoch(1), head, note: String::new() };
        let stored = StoredTree::of(tree);
        let prove = async |hashes: Vec<[u8; 32]>| {
            let mut store = Hashes(hashes);
            let mut history = History { gateway_id, tree: &stored, store: Some(&mut store), signed: &signed };
            history.prove(4).await.map_err(|error| error.to_string())
        };
        assert!(prove(hashes.clone()).await.is_ok());
        let missing = prove(hashes[..7].to_vec()).await.unwrap_err();
        assert!(missing.contains("those of the first 7 records"), "{missing}");
        hashes[6][0] ^= 1;
        let changed = prove(hashes).await.unwrap_err();
        assert!(changed.contains("do not give the signed root"), "{changed}");
    }
}
