//! Checkpoints in Postgres.

use std::sync::LazyLock;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::delivery::{Effect, PostgresSink};
use super::error::{driver_error, for_operator};
use super::rows::bigint;
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::sink::checkpoints::{CheckpointStore, Confirmation, HashPage, HashesAfter};
use crate::audit::sink::interface::SinkError;
use crate::audit::sql;
use crate::audit::tree::Tree;
use crate::evidence::tree::{Edge, Hash, TreeHead};

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

    async fn hashes(&mut self, gateway_id: GatewayId, log: Epoch, after: HashesAfter) -> Result<HashPage, SinkError> {
        let operation = "read hashes";
        let (size, place) = match after {
            HashesAfter::Checkpoint(size) => (Some(bigint(size)), None),
            HashesAfter::Record((epoch, seq)) => (None, Some((bigint(epoch.0), bigint(seq.0)))),
        };
        let read = sql::query(
            "SELECT base_size, base_edge, hashes, last_epoch, last_seq FROM gatepost_hashes($1, $2, $3, $4, $5)",
        );
        let read = read.bind(gateway_id.0).bind(bigint(log.0)).bind(size);
        let read = read.bind(place.map(|place| place.0)).bind(place.map(|place| place.1));
        let row = self.fetch(operation, read, Effect::None).await?;
        let column = |error| driver_error(operation, &error);
        let size: Option<i64> = row.try_get(0).map_err(column)?;
        let edge_bytes: Option<Vec<u8>> = row.try_get(1).map_err(column)?;
        let hashes: Option<Vec<Vec<u8>>> = row.try_get(2).map_err(column)?;
        let [epoch, seq] = [row.try_get(3), row.try_get(4)].map(|number: Result<i64, _>| number.map(i64::unsigned_abs));
        let damaged = |_| for_operator(operation, "a row of audit_checkpoint has a damaged edge".to_owned());
        let edge = |(size, edge): (i64, Vec<u8>)| {
            let nodes = edge.as_chunks::<32>().0.iter().map(|hash| Hash(*hash)).collect();
            Edge::from_hashes(size.unsigned_abs(), nodes).map_err(damaged)
        };
        Ok(HashPage {
            before: size.zip(edge_bytes).map(edge).transpose()?,
            hashes: hashes.into_iter().flatten().map_while(|hash| hash.try_into().ok()).collect(),
            last: (Epoch(epoch.map_err(column)?), Seq(seq.map_err(column)?)),
        })
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
