//! Gateways that did not end and no longer renew their leases: their outboxes may have records that no table has.

use uuid::Uuid;

use super::reading::Reading;
use crate::audit::record::GatewayId;
use crate::audit::sql;
use crate::audit::verify::{Place, UnprovenKind};

/// As `gatepost_silent_gateways` in the schema, which a reader may not execute.
const SILENT: &str = "SELECT g.gateway_id, g.lease_until::text FROM {gateway} g
    WHERE g.lease_until < now() AND g.closed_at IS NULL AND NOT EXISTS (
        SELECT FROM {stream} s JOIN {log} l
            ON l.gateway_id = s.gateway_id AND l.epoch = s.epoch AND l.seq = s.delivered_seq
        WHERE s.gateway_id = g.gateway_id AND s.epoch = g.lease_epoch AND l.method = 'gateway/closed')
    ORDER BY g.gateway_id LIMIT 1000";

/// A sentence about each of them.
pub(super) async fn silent_gateways(
    reading: &mut Reading<'_>,
) -> Result<Vec<(UnprovenKind, Place, String)>, sqlx::Error> {
    let table = reading.table("audit_gateway");
    let exists = sql::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table);
    if !exists.fetch_one(&mut *reading.transaction).await? {
        return Ok(Vec::new());
    }
    let statement = reading.sql(SILENT);
    let silent: Vec<(Uuid, String)> = sql::query_as(statement).fetch_all(&mut *reading.transaction).await?;
    let sentence = |(gateway, until): (Uuid, String)| {
        let what = format!(
            "did not end, and its lease expired at {until}: it is down or cut off, and records may wait in its outbox"
        );
        (UnprovenKind::Silent, Place::gateway(GatewayId(gateway)), what)
    };
    Ok(silent.into_iter().map(sentence).collect())
}
