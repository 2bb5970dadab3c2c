//! Checkpoints in Postgres.

use std::sync::LazyLock;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::delivery::{Effect, PostgresSink};
use super::error::{driver_error, for_operator};
use super::rows::bigint;
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::sink::checkpoints::{CheckpointStore, Confirmation};
use crate::audit::sink::interface::SinkError;
use crate::audit::sql;
use crate::audit::tree::Tree;
use crate::evidence::tree::{Edge, Hash, KnownNodes, TreeHead};

/// Stores a checkpoint. The last two columns are those of [`sql::DURABILITY`].
static STORE: LazyLock<String> = LazyLock::new(|| {
    let last = "gatepost_checkpoint($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    format!("SELECT last_size, last_root, {} FROM {last}", sql::DURABILITY)
});

/// The checkpoint in the first two columns, if there is one.
fn head(operation: &'static str, row: &PgRow) -> Result<Option<TreeHead>, SinkError> {
    let size: Option<i64> = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
    let root: Option<Vec<u8>> = row.try_get(1).map_err(|error| driver_error(operation, &error))?;
    let root = root.and_then(|root| root.try_into().ok()).map(Hash);
    Ok(size.zip(root).map(|(size, root)| TreeHead { size: size.unsigned_abs(), root }))
}

impl CheckpointStore for PostgresSink {
    async fn last_checkpoint(&mut self, gateway_id: GatewayId, log: Epoch) -> Result<Option<TreeHead>, SinkError> {
        let operation = "read the last checkpoint";
        let last = sql::query("SELECT last_size, last_root FROM gatepost_last_checkpoint($1, $2)");
        let row = self.fetch(operation, last.bind(gateway_id.0).bind(bigint(log.0)), Effect::None).await?;
        head(operation, &row)
    }

    async fn known_nodes(&mut self, gateway_id: GatewayId, log: Epoch, size: u64) -> Result<KnownNodes, SinkError> {
        let operation = "read hashes";
        let read = sql::query("SELECT base_size, base_edge, hashes FROM gatepost_hashes($1, $2, $3)");
        let read = read.bind(gateway_id.0).bind(bigint(log.0)).bind(bigint(size));
        let row = self.fetch(operation, read, Effect::None).await?;
        let column = |error| driver_error(operation, &error);
        let size: i64 = row.try_get(0).map_err(column)?;
        let edge: Vec<u8> = row.try_get(1).map_err(column)?;
        let hashes: Vec<Vec<u8>> = row.try_get(2).map_err(column)?;
        let nodes = edge.as_chunks::<32>().0.iter().map(|hash| Hash(*hash)).collect();
        let damaged = |_| for_operator(operation, "a row of audit_checkpoint has a damaged edge".to_owned());
        let edge = Edge::from_hashes(size.unsigned_abs(), nodes).map_err(damaged)?;
        let records = hashes.into_iter().map_while(|hash| hash.try_into().ok()).collect();
        Ok(KnownNodes::new(edge, records))
    }

    async fn store_checkpoint(
        &mut self,
        gateway_id: GatewayId,
        tree: &Tree,
        note: &str,
        known: Option<TreeHead>,
    ) -> Result<Option<TreeHead>, SinkError> {
        let operation = "store a checkpoint";
        let (epoch, seq) = tree.last.unwrap_or((tree.log, Seq::ZERO));
        let edge: Vec<u8> = tree.edge().hashes().iter().flat_map(|hash| hash.0).collect();
        let store = sql::query(STORE.as_str())
            .bind(gateway_id.0)
            .bind(bigint(tree.log.0))
            .bind(bigint(tree.size()))
            .bind(bigint(epoch.0))
            .bind(bigint(seq.0))
            .bind(tree.root().0.to_vec())
            .bind(edge)
            .bind(note)
            .bind(known.map(|known| bigint(known.size)))
            .bind(known.map(|known| known.root.0.to_vec()));
        let row = self.fetch(operation, store, Effect::Delivery).await?;
        head(operation, &row)
    }

    async fn confirm(&mut self, gateway_id: GatewayId, confirmation: &Confirmation) -> Result<bool, SinkError> {
        let operation = "store a confirmation";
        let Confirmation { log, head, anchor, kind, proof } = confirmation;
        let store = sql::query("SELECT gatepost_anchor($1, $2, $3, $4, $5, $6, $7)")
            .bind(gateway_id.0)
            .bind(bigint(log.0))
            .bind(bigint(head.size))
            .bind(head.root.0.to_vec())
            .bind(anchor)
            .bind(kind.name())
            .bind(proof);
        let row = self.fetch(operation, store, Effect::None).await?;
        row.try_get(0).map_err(|error| driver_error(operation, &error))
    }
}
