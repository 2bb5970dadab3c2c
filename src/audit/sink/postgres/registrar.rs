//! The registrar: the stream of the owner's decisions about the trail. Only the role that owns the tables extends it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, Row, Transaction};

use super::delivery::{DELIVER, cursor_update};
use super::error::driver_error;
use super::rows::{bigint, insert};
use super::transaction::{check_durable, read_transaction, transaction};
use crate::audit::chain::{self, Head};
use crate::audit::record::{
    AuditRecord, Call, Caller, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Seq, Status,
};
use crate::audit::sink::interface::{CursorUpdate, SinkError};
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};

/// The registrar's only epoch: unlike a gateway it keeps nothing between its records.
pub const EPOCH: Epoch = Epoch(1);

/// The method of a decision that accepts what `verify` reports.
pub const ACCEPTED: &str = "trail/accepted";

/// The method of a decision that keeps records from being retired.
pub const HOLD: &str = "trail/hold";

/// The method of a decision that ends a hold.
pub const LIFTED: &str = "trail/lifted";

/// The method of a decision that a gateway will not come back.
pub const CLOSED: &str = "trail/closed";

/// The method of a decision that ended a fork.
pub const RESOLVED: &str = "trail/resolved";

/// A decision about a part of one stream. *Spec*: docs/trail.md, "Decisions".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The kind of the finding that it is about.
    pub kind: String,
    /// The gateway.
    pub gateway: GatewayId,
    /// The epoch; `None` if the finding is about the gateway.
    pub epoch: Option<Epoch>,
    /// The first record; `None` if the finding is about the whole stream.
    pub first: Option<Seq>,
    /// The last record.
    pub last: Option<Seq>,
    /// Why.
    pub reason: String,
    /// The person who decided.
    pub by: String,
    /// The user of the system who ran the command.
    pub uid: u32,
}

impl Decision {
    /// The decision as the contents of a record.
    ///
    /// # Errors
    /// A decision has no other values than JSON can have; never seen.
    pub fn entry(&self, method: &str) -> serde_json::Result<Entry> {
        entry(method, &self.by, self)
    }
}

/// A decision as the contents of a record.
///
/// # Errors
/// The details are not JSON, or are longer than the arguments of a record may be.
pub fn entry(method: &str, by: &str, details: &impl Serialize) -> serde_json::Result<Entry> {
    let by = Caller { subject: by.to_owned(), ..Caller::anonymous() };
    let call = Call::new(RequestId::new(), method).with_caller(&by).with_details(&serde_json::to_string(details)?);
    if call.request_args.is_none() {
        return Err(serde::ser::Error::custom("the decision is longer than a record may be"));
    }
    Ok(Entry::new(call, Outcome::of(Status::Ok), Duration::ZERO))
}

/// The decisions that accept a fault or an unproven part.
///
/// # Errors
/// See [`SinkError`].
pub async fn accepted(connection: &mut Connection, registrar: GatewayId) -> Result<Vec<Decision>, SinkError> {
    let mut reading = read_transaction(connection).await?;
    let decisions = read(&mut reading, registrar, &[ACCEPTED]).await?;
    Ok(decisions.iter().filter_map(|(_, _, details)| serde_json::from_str(details).ok()).collect())
}

/// The seq, method and details of the decisions with these methods, in their order. `connection` is in a transaction.
pub(super) async fn read(
    connection: &mut PgConnection,
    registrar: GatewayId,
    methods: &[&str],
) -> Result<Vec<(Seq, String, String)>, SinkError> {
    let sql = "SELECT seq, method, request_args::text FROM audit_log
        WHERE gateway_id = $1 AND method = ANY ($2) AND request_args IS NOT NULL ORDER BY epoch, seq";
    let rows: Vec<(i64, String, String)> = sql::query_as(sql)
        .bind(registrar.0)
        .bind(methods)
        .fetch_all(connection)
        .await
        .map_err(|error| driver_error("read the decisions", &error))?;
    Ok(rows.into_iter().map(|(seq, method, details)| (Seq(seq.cast_unsigned()), method, details)).collect())
}

/// The id under which the owner's decisions are recorded.
///
/// # Errors
/// See [`SinkError`].
pub async fn registrar_id(connection: &mut Connection) -> Result<GatewayId, SinkError> {
    read_registrar_id(&mut *read_transaction(connection).await?).await
}

async fn read_registrar_id(connection: &mut PgConnection) -> Result<GatewayId, SinkError> {
    let id = sql::query_scalar("SELECT gateway_id FROM audit_registrar").fetch_one(connection).await;
    id.map(GatewayId).map_err(|error| driver_error("read the registrar's id", &error))
}

/// The registrar's stream, locked: nothing else extends it until the transaction ends. Dropping it rolls back.
#[derive(Debug)]
pub struct LockedRegistrar<'a> {
    transaction: Transaction<'a, Postgres>,
    gateway_id: GatewayId,
    head: Head,
}

const OPERATION: &str = "record the decision";

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn fault(error: sqlx::Error) -> SinkError {
    driver_error(OPERATION, &error)
}

impl<'a> LockedRegistrar<'a> {
    /// Begins a transaction and locks the stream.
    ///
    /// # Errors
    /// See [`SinkError`]; 42501 if the login is not the owner's.
    pub async fn lock(connection: &'a mut PgConnection) -> Result<Self, SinkError> {
        let mut transaction = transaction(connection, sql::OWNER_TIMEOUT).await?;
        let gateway_id = read_registrar_id(&mut transaction).await?;
        let open = sql::query("SELECT seq FROM gatepost_open_stream($1, $2)").bind(gateway_id.0).bind(bigint(EPOCH.0));
        open.fetch_one(&mut *transaction).await.map_err(fault)?;
        let head = lock_stream(&mut transaction, gateway_id, EPOCH).await?.unwrap_or(Head::START);
        Ok(Self { transaction, gateway_id, head })
    }

    /// The registrar's id.
    #[must_use]
    pub fn gateway_id(&self) -> GatewayId {
        self.gateway_id
    }

    /// The end of the stream.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The transaction, for changes that the decision is about.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Appends a record with these contents. It takes effect with [`commit`](Self::commit).
    ///
    /// # Errors
    /// See [`SinkError`].
    pub async fn append(&mut self, entry: Entry) -> Result<AuditRecord, SinkError> {
        let position = chain::link(self.gateway_id, EPOCH, self.head, &entry);
        let record = AuditRecord { position, entry };
        self.restore(&record).await?;
        Ok(record)
    }

    /// Appends a record that has its position already.
    ///
    /// # Errors
    /// See [`SinkError`]. It does not follow the end of the stream.
    pub async fn restore(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        let batch = [record];
        let row = insert(&DELIVER, record.position, &batch).fetch_one(&mut *self.transaction).await.map_err(fault)?;
        check_durable(OPERATION, &row)?;
        if cursor_update(OPERATION, &row)? == CursorUpdate::Unchanged {
            let message =
                format!("record {} does not follow the registrar's head at {}", record.position.seq, self.head.seq);
            return Err(SinkError { operation: OPERATION, class: ErrorClass::Operator, sqlstate: None, message });
        }
        self.head = Head::after(&record.position);
        Ok(())
    }

    /// The hash of the record at `seq`; `None` if there is none.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub async fn hash_at(&mut self, seq: Seq) -> Result<Option<Digest>, SinkError> {
        let sql = "SELECT hash FROM audit_log WHERE gateway_id = $1 AND epoch = $2 AND seq = $3";
        let query = sql::query_scalar(sql).bind(self.gateway_id.0).bind(bigint(EPOCH.0)).bind(bigint(seq.0));
        let hash: Option<Vec<u8>> = query.fetch_optional(&mut *self.transaction).await.map_err(fault)?;
        Ok(hash.map(digest))
    }

    /// Undoes everything. Dropping does so too, but only when the connection is used again: until then all locks are
    /// held.
    ///
    /// # Errors
    /// See [`SinkError`]. Close the connection then.
    pub async fn rollback(self) -> Result<(), SinkError> {
        self.transaction.rollback().await.map_err(fault)
    }

    /// Commits.
    ///
    /// # Errors
    /// See [`SinkError`]. Whether the transaction took effect is then unknown.
    pub async fn commit(self) -> Result<(), SinkError> {
        self.transaction.commit().await.map_err(fault)
    }
}

/// Locks the cursor of a stream until the transaction ends, and returns it; `None` if there is no such stream.
pub(super) async fn lock_stream(
    connection: &mut PgConnection,
    gateway_id: GatewayId,
    epoch: Epoch,
) -> Result<Option<Head>, SinkError> {
    let sql = "SELECT delivered_seq, head_hash FROM audit_stream WHERE gateway_id = $1 AND epoch = $2 FOR UPDATE";
    let row = sql::query(sql).bind(gateway_id.0).bind(bigint(epoch.0)).fetch_optional(connection).await;
    row.map_err(fault)?.map(|row| head(&row)).transpose().map_err(fault)
}

/// A seq and a hash.
pub(super) fn head(row: &PgRow) -> Result<Head, sqlx::Error> {
    Ok(Head { seq: Seq(row.try_get::<i64, _>(0)?.cast_unsigned()), hash: digest(row.try_get(1)?) })
}

fn digest(hash: Vec<u8>) -> Digest {
    hash.try_into().map_or(Digest::ZERO, Digest)
}
