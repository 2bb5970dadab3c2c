//! The registered gateways, and who may register one.

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::error::driver_error;
use super::transaction::{read_transaction, transaction};
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};

/// The logins that may register a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The owner of the tables.
    Owner,
    /// Also the first login that delivers in the gateway's name.
    First,
}

/// The state of a gateway, by its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// It never had one.
    None,
    /// It holds one.
    Live,
    /// It ended: its last record is `gateway/closed`.
    Ended,
    /// It did not end, and no longer renews it.
    Silent,
    /// The owner decided that it will not come back.
    Closed,
}

impl Lease {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Live => "live",
            Self::Ended => "ended",
            Self::Silent => "silent",
            Self::Closed => "closed",
        }
    }
}

/// A row of `audit_gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredGateway {
    /// The gateway.
    pub gateway_id: Uuid,
    /// The role whose members may deliver in its name.
    pub owner_role: String,
    /// When the row was made, as Postgres prints it.
    pub registered_at: String,
    /// The login that made the row.
    pub registered_by: String,
    /// True if the role may execute the functions for delivery.
    pub may_deliver: bool,
    /// Its state, by its lease.
    pub lease: Lease,
    /// The epoch of its lease.
    pub lease_epoch: Option<i64>,
    /// Until when its lease holds, or held, as Postgres prints it.
    pub lease_until: Option<String>,
}

/// Sets who may register a gateway.
///
/// # Errors
/// See [`SinkError`]. Only the owner of the tables may.
pub async fn set_registration(connection: &mut PgConnection, registration: Registration) -> Result<(), SinkError> {
    let word = match registration {
        Registration::Owner => "owner",
        Registration::First => "first",
    };
    let fault = |error| driver_error("set who may register a gateway", &error);
    let mut transaction = transaction(connection, sql::OWNER_TIMEOUT).await?;
    let update = sql::query("UPDATE audit_registrar SET registration = $1").bind(word);
    update.execute(&mut *transaction).await.map_err(fault)?;
    transaction.commit().await.map_err(fault)
}

/// Registers a gateway, or changes its role if `replace` is true.
///
/// # Errors
/// See [`SinkError`]. Nothing changed. The role does not exist, the gateway has another role and `replace` is false, or
/// the id is the registrar's.
pub async fn register(
    connection: &mut PgConnection,
    gateway_id: Uuid,
    role: &str,
    replace: bool,
) -> Result<RegisteredGateway, SinkError> {
    let operation = "register the gateway";
    let fault = |error| driver_error(operation, &error);
    let refused = |message| SinkError { operation, class: ErrorClass::Operator, sqlstate: None, message };
    let found = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
        EXISTS (SELECT FROM audit_registrar WHERE gateway_id = $2)";
    let mut transaction = transaction(connection, sql::OWNER_TIMEOUT).await?;
    let found: (bool, bool) =
        sql::query_as(found).bind(role).bind(gateway_id).fetch_one(&mut *transaction).await.map_err(fault)?;
    match found {
        (false, _) => return Err(refused(format!("role {role:?} does not exist: create it, with LOGIN"))),
        (_, true) => return Err(refused(format!("{gateway_id} is the id of the registrar, not of a gateway"))),
        (true, false) => {}
    }
    let upsert = "INSERT INTO audit_gateway (gateway_id, owner_role) VALUES ($1, $2)
        ON CONFLICT (gateway_id) DO UPDATE
        SET owner_role = excluded.owner_role, registered_at = now(), registered_by = session_user
        WHERE $3 AND audit_gateway.owner_role <> excluded.owner_role";
    sql::query(upsert).bind(gateway_id).bind(role).bind(replace).execute(&mut *transaction).await.map_err(fault)?;
    let gateways = gateways(&mut transaction).await?;
    transaction.commit().await.map_err(fault)?;
    let registered = gateways.into_iter().find(|gateway| gateway.gateway_id == gateway_id);
    let registered = registered.ok_or_else(|| refused("it was removed again by another session".to_owned()))?;
    if registered.owner_role == role {
        return Ok(registered);
    }
    Err(refused(format!("it belongs to role {:?} already: --replace gives it to another", registered.owner_role)))
}

/// All registered gateways, in the order of their ids.
///
/// # Errors
/// See [`SinkError`].
pub async fn registered_gateways(connection: &mut Connection) -> Result<Vec<RegisteredGateway>, SinkError> {
    gateways(&mut *read_transaction(connection).await?).await
}

async fn gateways(connection: &mut PgConnection) -> Result<Vec<RegisteredGateway>, SinkError> {
    let fault = |error| driver_error("read audit_gateway", &error);
    // A role that was dropped may do nothing.
    let sql = "SELECT g.gateway_id, g.owner_role, g.registered_at::text, g.registered_by,
            coalesce(has_function_privilege(r.oid, to_regproc('gatepost_deliver')::oid, 'EXECUTE'), false),
            g.lease_epoch, g.lease_until::text, g.closed_at IS NOT NULL, g.lease_until >= now(), EXISTS (
                SELECT FROM audit_stream s JOIN audit_log l
                    ON l.gateway_id = s.gateway_id AND l.epoch = s.epoch AND l.seq = s.delivered_seq
                WHERE s.gateway_id = g.gateway_id AND s.epoch = g.lease_epoch AND l.method = 'gateway/closed')
        FROM audit_gateway g LEFT JOIN pg_roles r ON r.rolname = g.owner_role ORDER BY g.gateway_id";
    let rows = sql::query(sql).fetch_all(connection).await.map_err(fault)?;
    let gateway = |row: sqlx::postgres::PgRow| {
        Ok(RegisteredGateway {
            gateway_id: row.try_get(0)?,
            owner_role: row.try_get(1)?,
            registered_at: row.try_get(2)?,
            registered_by: row.try_get(3)?,
            may_deliver: row.try_get(4)?,
            lease: lease(row.try_get(7)?, row.try_get(8)?, row.try_get(9)?),
            lease_epoch: row.try_get(5)?,
            lease_until: row.try_get(6)?,
        })
    };
    rows.into_iter().map(gateway).collect::<Result<_, _>>().map_err(fault)
}

fn lease(is_closed: bool, is_live: Option<bool>, has_ended: bool) -> Lease {
    match (is_closed, is_live) {
        (true, _) => Lease::Closed,
        (false, None) => Lease::None,
        (false, _) if has_ended => Lease::Ended,
        (false, Some(true)) => Lease::Live,
        (false, Some(false)) => Lease::Silent,
    }
}

/// Notes that a gateway will not come back, in the transaction of the decision. Returns the last record of its newest
/// epoch, if it has one.
///
/// # Errors
/// See [`SinkError`]. The gateway is not registered, or holds a lease.
pub async fn close(connection: &mut PgConnection, gateway_id: GatewayId) -> Result<Option<(Epoch, Seq)>, SinkError> {
    let operation = "close the gateway";
    let fault = |error| driver_error(operation, &error);
    let refused = |message| SinkError { operation, class: ErrorClass::Operator, sqlstate: None, message };
    let known = gateways(connection).await?.into_iter().find(|gateway| gateway.gateway_id == gateway_id.0);
    match known.map(|gateway| gateway.lease) {
        None => return Err(refused(format!("gateway {gateway_id} is not registered in this database"))),
        Some(Lease::Live) => return Err(refused(format!("gateway {gateway_id} runs: stop it first"))),
        Some(_) => {}
    }
    let set = sql::query("UPDATE audit_gateway SET closed_at = now() WHERE gateway_id = $1").bind(gateway_id.0);
    set.execute(&mut *connection).await.map_err(fault)?;
    let last = "SELECT epoch, delivered_seq FROM audit_stream WHERE gateway_id = $1 ORDER BY epoch DESC LIMIT 1";
    let last = sql::query_as(last).bind(gateway_id.0).fetch_optional(connection).await.map_err(fault)?;
    Ok(last.map(|(epoch, seq): (i64, i64)| (Epoch(epoch.cast_unsigned()), Seq(seq.cast_unsigned()))))
}
