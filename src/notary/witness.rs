//! A witness as an anchor.

use super::anchor::{AnchorClient, AnchorError, History, Largest};
use super::memory::Signed;
use crate::audit::record::Epoch;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};
use crate::evidence::key::VerifierKey;
use crate::evidence::note::Note;
use crate::evidence::tree::TreeHead;
use crate::witness::client::{ClientError, SubmitError, WitnessClient};

/// A witness that gets each checkpoint.
#[derive(Clone, Debug)]
pub struct WitnessAnchor {
    client: WitnessClient,
    /// The keys of the log: a checkpoint that one of them signed counts, also if the witness has another key now.
    log_keys: Vec<VerifierKey>,
    /// The log and the size that the witness signed last, as far as it is known.
    known: Option<(Epoch, u64)>,
}

impl WitnessAnchor {
    /// The witness that `client` reaches, for the log with these keys.
    #[must_use]
    pub fn new(client: WitnessClient, log_keys: Vec<VerifierKey>) -> Self {
        Self { client, log_keys, known: None }
    }

    /// The connection to the witness, which has its keys.
    pub(super) fn client(&self) -> &WitnessClient {
        &self.client
    }

    /// The tree that the witness signed last, if it refused because of that. A status alone ends nothing, since
    /// anything between gateway and witness may have sent it.
    async fn refused_for(&self, error: &ClientError, note: &Note) -> Option<TreeHead> {
        use ClientError::{Ahead, Contradiction, Moving};
        if !matches!(error, Ahead { .. } | Contradiction { .. } | Moving { .. }) {
            return None;
        }
        let (_, checkpoint) = self.client.last(note.text().lines().next()?, &self.log_keys).await.ok()??;
        Some(checkpoint.head())
    }
}

impl AnchorClient for WitnessAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Witness
    }

    async fn largest(&self, log: &str) -> Result<Largest, AnchorError> {
        let last = self.client.last(log, &self.log_keys).await?;
        Ok(last.map_or(Largest::Nothing, |(_, checkpoint)| Largest::Checkpoint(checkpoint.head())))
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        mut records: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        let note = Note::parse(signed.note.as_bytes()).map_err(ClientError::Signature)?;
        let known = self.known.filter(|(log, _)| *log == signed.log).map_or(0, |(_, size)| size);
        let error = match self.client.submit(&note, known, &mut records).await {
            Ok(cosigned) => {
                self.known = Some((signed.log, signed.head.size));
                let lines: Vec<_> = cosigned.signatures.iter().map(|line| format!("{line}\n")).collect();
                return Ok(lines.concat().into_bytes());
            }
            Err(SubmitError::Proof { old_size, source }) => return Err(AnchorError::Proof { old_size, source }),
            Err(SubmitError::Witness(error)) => error,
        };
        let other = self.refused_for(&error, &note).await.filter(|head| records.contradict(*head));
        Err(match other {
            Some(head) => AnchorError::Contradiction { size: head.size, cause: error.to_string() },
            None => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::accept::{AcceptFailures, CountedListener};
    use crate::audit::record::GatewayId;
    use crate::audit::scribe::StoredTree;
    use crate::audit::sink::postgres::PostgresSink;
    use crate::audit::tree::Tree;
    use crate::connections::serve_router;
    use crate::evidence::checkpoint::Checkpoint;
    use crate::evidence::cosignature::{UnixTime, sign};
    use crate::evidence::key::{SignatureType, SigningKey};
    use crate::evidence::tree::{Hash, empty_root};

    const LOG: &str = "example.com/gatepost/log";

    /// Something at the witness's address, which responds so to a checkpoint and to a question for the last one.
    async fn server(status: StatusCode, last: Arc<Mutex<Option<String>>>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = CountedListener { listener, failures: AcceptFailures::default() };
        let last = move || {
            let last = last.lock().clone();
            async move { last.ok_or(StatusCode::NOT_FOUND) }
        };
        let router = Router::new()
            .route("/add-checkpoint", post(move || async move { (status, "7\n") }))
            .route("/{hash}/checkpoint", get(last));
        tokio::spawn(serve_router(listener, router, 8, CancellationToken::new()));
        url
    }

    #[tokio::test]
    async fn a_refusal_ends_a_log_only_if_the_witness_signed_another_tree() {
        let (key, _) = SigningKey::generate(LOG, SignatureType::Ed25519).unwrap();
        let (witness, _) = SigningKey::generate("w.example", SignatureType::CosignatureEd25519).unwrap();
        let time = UnixTime::from_seconds(1).unwrap();
        let note = |head: TreeHead, keys: &[&SigningKey]| {
            let text = Checkpoint::new(LOG, head).unwrap().to_string();
            let signatures = keys.iter().map(|key| sign(key, &text, time).unwrap()).collect();
            Note::new(text, signatures).unwrap().to_string()
        };
        let own = TreeHead { size: 0, root: empty_root() };
        let signed = Signed { log: Epoch(1), head: own, note: note(own, &[&key]) };
        let tree = StoredTree::of(Tree::begin(Epoch(1)));
        let other = TreeHead { size: 7, root: Hash([1; 32]) };
        for status in [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY] {
            let last = Arc::default();
            let url = server(status, Arc::clone(&last)).await;
            let client = WitnessClient::new(&url, vec![witness.verifier().clone()]).unwrap();
            let mut anchor = WitnessAnchor::new(client, Vec::new());
            for (told, ends) in [
                (None, false),
                // Anyone may have made it.
                (Some(note(other, &[&key])), false),
                // It is the same tree.
                (Some(note(own, &[&key, &witness])), false),
                (Some(note(other, &[&key, &witness])), true),
            ] {
                *last.lock() = told;
                let gateway_id = GatewayId(uuid::Uuid::nil());
                let history = History { gateway_id, tree: &tree, store: None::<&mut PostgresSink>, signed: &signed };
                let error = anchor.confirm(&signed, history).await.unwrap_err();
                assert_eq!(matches!(error, AnchorError::Contradiction { size: 7, .. }), ends, "{status}: {error}");
            }
        }
    }
}
