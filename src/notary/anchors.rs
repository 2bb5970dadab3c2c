//! The anchors of the log: each has a task of its own, so that none waits for another one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::anchor::{Anchor, AnchorClient, AnchorError, History};
use super::memory::Signed;
use super::status::Status;
use crate::audit::record::{Epoch, GatewayId};
use crate::audit::scribe::StoredTree;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation};

/// The longest time after which an anchor that confirmed nothing is asked again. *Chosen*: an outage of minutes costs
/// an anchor that is asked once an hour no hour, and one that is down gets no request with every checkpoint.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// A checkpoint that is to be confirmed. Another number is another publication, also of the same checkpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) number: u64,
    pub(super) signed: Option<Arc<Signed>>,
}

/// A contradiction that an anchor found.
#[derive(Debug)]
pub(super) struct Contradiction {
    pub(super) log: Epoch,
    pub(super) text: String,
}

/// The task of one anchor.
pub(super) struct AnchorTask<A, S> {
    pub(super) anchor: Anchor<A, S>,
    pub(super) gateway_id: GatewayId,
    pub(super) tree: StoredTree,
    pub(super) published: watch::Receiver<Published>,
    pub(super) contradictions: mpsc::Sender<Contradiction>,
    pub(super) status: Status,
    /// When the next checkpoint is due.
    pub(super) next_at: Instant,
    /// A confirmation that the database has not taken yet.
    pub(super) unstored: Option<Confirmation>,
}

impl<A: AnchorClient, S: CheckpointStore> AnchorTask<A, S> {
    /// Submits each newest checkpoint that is due, until the notary publishes none any more.
    pub(super) async fn run(mut self) {
        while self.published.changed().await.is_ok() {
            let signed = self.published.borrow_and_update().signed.clone();
            if let Some(signed) = signed.filter(|_| self.next_at <= Instant::now()) {
                self.submit(&signed).await;
            }
            self.store_confirmation().await;
        }
    }

    async fn submit(&mut self, signed: &Signed) {
        let Anchor { name, client, store } = &mut self.anchor;
        let (size, kind) = (signed.head.size, client.kind());
        let records = History { gateway_id: self.gateway_id, tree: &self.tree, store: store.as_mut(), signed };
        match client.confirm(signed, records).await {
            Ok(proof) => {
                self.next_at = Instant::now() + client.interval();
                self.status.note(name, size, Ok(()));
                let (log, head, anchor) = (signed.log, signed.head, name.clone());
                self.unstored = Some(Confirmation { log, head, anchor, kind, proof });
            }
            Err(error) => {
                self.next_at = Instant::now() + client.interval().min(RETRY_INTERVAL);
                let text = format!("{} {name}: {error}", noun(kind));
                tracing::warn!(anchor = name, %error, "a checkpoint was not confirmed; the next one is sent again");
                if matches!(error, AnchorError::Contradiction { .. }) {
                    let found = Contradiction { log: signed.log, text: text.clone() };
                    // The notary has ended if this fails.
                    self.contradictions.send(found).await.ok();
                }
                self.status.note(name, size, Err(text));
            }
        }
    }

    async fn store_confirmation(&mut self) {
        let Some((store, confirmation)) = self.anchor.store.as_mut().zip(self.unstored.as_ref()) else { return };
        match store.confirm(self.gateway_id, confirmation).await {
            Ok(true) => self.unstored = None,
            // The database did not take the checkpoint itself, and takes a newer one: this is to be confirmed.
            Ok(false) => self.next_at = self.next_at.min(Instant::now() + RETRY_INTERVAL),
            Err(error) => {
                let anchor = &confirmation.anchor;
                tracing::warn!(anchor, %error, "Postgres did not take a confirmation; it is stored later");
            }
        }
    }
}

/// An anchor's kind, as messages name it.
pub(super) fn noun(kind: AnchorKind) -> &'static str {
    match kind {
        AnchorKind::Witness => "witness",
        AnchorKind::Tsa => "time-stamp authority",
        AnchorKind::S3 => "bucket",
        AnchorKind::Command => "command",
    }
}

#[cfg(test)]
mod tests;
