//! A trial of the database before a gateway starts: what its start would find. Nothing is changed.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::connection::{Options, connect};
use super::database_state::DatabaseState;
use super::delivery::NOT_REGISTERED;
use super::error::{driver_error, for_operator};
use super::migrations::check_version;
use super::transaction::transaction;
use crate::audit::record::GatewayId;
use crate::audit::sink::interface::SinkError;
use crate::audit::sql;

/// The SQLSTATE of a count of months that is out of range. *Spec*: `migrations/0001_audit.sql`, which checks it after
/// the gateway.
const OUT_OF_RANGE: &str = "22023";

/// The state of the database for a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Everything is there.
    Ready,
    /// The schema is missing or too old, and the start will make it.
    Unmigrated,
    /// The start will register the gateway.
    Unregistered,
}

/// Connects as a gateway does, and looks at the schema, the rights of the login and the registration of the gateway.
/// `gateway_id` is `None` if the gateway has no id yet, because it never started.
///
/// # Errors
/// See [`SinkError`]: what would keep the gateway from delivering.
pub async fn try_out(options: &Options, gateway_id: Option<GatewayId>) -> Result<Found, SinkError> {
    let mut connection = connect(options).await?;
    if let Err(error) = check_version(&mut connection).await? {
        return if options.migrate && may_create(&mut connection).await? { Ok(Found::Unmigrated) } else { Err(error) };
    }
    let state = {
        let mut transaction = transaction(&mut connection, options.statement_timeout).await?;
        let state = DatabaseState::read(&mut transaction).await?;
        transaction.rollback().await.map_err(|error| driver_error("look at the database", &error))?;
        state
    };
    state.check_tables()?;
    check_rights(&mut connection).await?;
    check_registration(&mut connection, options, gateway_id).await
}

/// Returns true if the login may make the schema's tables.
async fn may_create(connection: &mut PgConnection) -> Result<bool, SinkError> {
    let may = "SELECT coalesce(pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'CREATE'), false)";
    let may = sql::query_scalar(may).fetch_one(connection).await;
    may.map_err(|error| driver_error("look at the login's rights", &error))
}

/// Fails if the login may not execute a function that a gateway needs.
async fn check_rights(connection: &mut PgConnection) -> Result<(), SinkError> {
    let operation = "look at the login's rights";
    let missing = "SELECT string_agg(f.name, ', ') FROM unnest(ARRAY['gatepost_deliver', 'gatepost_dry_run',
            'gatepost_quarantine', 'gatepost_open_stream', 'gatepost_make_partitions', 'gatepost_renew_lease',
            'gatepost_last_checkpoint', 'gatepost_hashes', 'gatepost_checkpoint', 'gatepost_anchor']) AS f(name)
        WHERE NOT coalesce(has_function_privilege(session_user, to_regproc(f.name)::oid, 'EXECUTE'), false)";
    let missing: Option<String> =
        sql::query_scalar(missing).fetch_one(connection).await.map_err(|error| driver_error(operation, &error))?;
    let Some(missing) = missing else { return Ok(()) };
    let message = format!(
        "the login of postgres.url may not execute {missing}: have the owner of the tables run GRANT gatepost_writer TO \
         the login"
    );
    Err(for_operator(operation, message))
}

/// Asks for partitions of no month: the database refuses that, after it has checked the gateway and the login.
async fn check_registration(
    connection: &mut PgConnection,
    options: &Options,
    gateway_id: Option<GatewayId>,
) -> Result<Found, SinkError> {
    let operation = "ask for the gateway's registration";
    let id = gateway_id.map_or_else(Uuid::new_v4, |id| id.0);
    let mut transaction = transaction(connection, options.statement_timeout).await?;
    let known = sql::query_scalar("SELECT gatepost_make_partitions($1, now(), 0)").bind(id);
    let refused = match known.fetch_one(&mut *transaction).await {
        Ok::<i32, _>(_) => {
            return Err(for_operator(operation, "the schema is not one of this version: run gatepost migrate"));
        }
        Err(error) => driver_error(operation, &error),
    };
    // What the function had done, such as the registration, is undone with its error.
    transaction.rollback().await.map_err(|error| driver_error(operation, &error))?;
    match (refused.sqlstate.as_deref(), gateway_id) {
        (Some(OUT_OF_RANGE), Some(_)) => Ok(Found::Ready),
        (Some(OUT_OF_RANGE), None) => Ok(Found::Unregistered),
        (Some(NOT_REGISTERED), None) => Err(SinkError {
            message: "the gateway has no id before its first start, and this database does not register it by itself: \
                      set audit.gateway_id, and have the owner of the tables run gatepost audit gateways add"
                .to_owned(),
            ..refused
        }),
        _ => Err(refused),
    }
}
