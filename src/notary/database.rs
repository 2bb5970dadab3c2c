//! The checkpoints of the log in Postgres, where each follows the one before it.

use std::collections::VecDeque;

use crate::audit::record::{Epoch, GatewayId};
use crate::audit::sink::SinkError;
use crate::audit::sink::checkpoints::CheckpointStore;
use crate::audit::tree::Tree;
use crate::evidence::tree::TreeHead;

/// The most checkpoints whose fate is remembered while Postgres does not answer. *Chosen*: those of a week.
const SENT_MAX: usize = 1 << 16;

/// The database, and what this gateway knows of its checkpoints.
#[derive(Debug)]
pub(super) struct Database<S> {
    store: S,
    gateway_id: GatewayId,
    /// The last checkpoint of the log there, as it was told last.
    last: Option<TreeHead>,
    /// The last checkpoint that was signed before this process. Postgres may take one of those late, when the statement
    /// of the process before this one takes effect.
    signed_before: Option<TreeHead>,
    /// The checkpoints that were sent since. Postgres may have taken any of them, if its answer was lost.
    sent: VecDeque<TreeHead>,
}

impl<S: CheckpointStore> Database<S> {
    pub(super) fn new(store: S, gateway_id: GatewayId) -> Self {
        Self { store, gateway_id, last: None, signed_before: None, sent: VecDeque::new() }
    }

    /// Asks for the last checkpoint of the log, of which `signed` was signed last.
    pub(super) async fn last(&mut self, log: Epoch, signed: Option<TreeHead>) -> Result<Option<TreeHead>, SinkError> {
        self.signed_before = signed;
        self.last = self.store.last_checkpoint(self.gateway_id, log).await?;
        Ok(self.last)
    }

    /// The same rule as that of the memory: of what was signed before this process, only the last one is known.
    fn is_own(&self, head: TreeHead) -> bool {
        let is_before = self.signed_before.is_some_and(|signed| head.size < signed.size || head == signed);
        is_before || self.sent.contains(&head)
    }

    /// Stores the checkpoint of `tree`, whose note is `note`. Returns another one if the log has it there and this
    /// gateway has not sent it: then another gateway writes this log.
    pub(super) async fn store(&mut self, tree: &Tree, note: &str) -> Result<Option<TreeHead>, SinkError> {
        let head = TreeHead { size: tree.size(), root: tree.root() };
        if self.sent.back() != Some(&head) {
            self.sent.push_back(head);
        }
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        loop {
            let found = self.store.store_checkpoint(self.gateway_id, tree, note, self.last).await?;
            let (before, last) = (std::mem::replace(&mut self.last, found), found);
            if last == Some(head) {
                self.sent.clear();
                return Ok(None);
            }
            // Another one, although the known one was right: this one is not larger.
            let went_back = last.map(|last| last.size) < before.map(|before| before.size);
            let is_own = last.is_none_or(|last| self.is_own(last));
            if last == before || !is_own && !went_back {
                return Ok(last);
            }
            tracing::warn!(?before, ?last, "Postgres has another last checkpoint than it told; continuing from there");
        }
    }
}
