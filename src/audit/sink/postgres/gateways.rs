//! The registered gateways, and who may register one.

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::error::driver_error;
use super::transaction::{read_transaction, transaction};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql;

/// The logins that may register a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The owner of the tables.
    Owner,
    /// Also the first login that delivers in the gateway's name.
    First,
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
pub async fn registered_gateways(connection: &mut PgConnection) -> Result<Vec<RegisteredGateway>, SinkError> {
    gateways(&mut *read_transaction(connection).await?).await
}

async fn gateways(connection: &mut PgConnection) -> Result<Vec<RegisteredGateway>, SinkError> {
    let fault = |error| driver_error("read audit_gateway", &error);
    // A role that was dropped may do nothing.
    let sql = "SELECT g.gateway_id, g.owner_role, g.registered_at::text, g.registered_by,
            coalesce(has_function_privilege(r.oid, to_regproc('gatepost_deliver')::oid, 'EXECUTE'), false)
        FROM audit_gateway g LEFT JOIN pg_roles r ON r.rolname = g.owner_role ORDER BY g.gateway_id";
    let rows = sql::query(sql).fetch_all(connection).await.map_err(fault)?;
    let gateway = |row: sqlx::postgres::PgRow| {
        Ok(RegisteredGateway {
            gateway_id: row.try_get(0)?,
            owner_role: row.try_get(1)?,
            registered_at: row.try_get(2)?,
            registered_by: row.try_get(3)?,
            may_deliver: row.try_get(4)?,
        })
    };
    rows.into_iter().map(gateway).collect::<Result<_, _>>().map_err(fault)
}
