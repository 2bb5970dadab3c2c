//! The one interface between the shipper and a database.

use std::future::Future;
use std::time::Duration;

use super::sqlstate::ErrorClass;
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Epoch, GatewayId};

/// A destination that keeps one cursor per stream and moves it together with the records.
pub trait Sink: Send + 'static {
    /// Makes the sink ready for a gateway: schema, registration and partitions. Called before the first delivery until
    /// it succeeds, and at intervals afterwards.
    ///
    /// # Errors
    /// See [`SinkError`]. May be called again.
    fn prepare(&mut self, gateway_id: GatewayId) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The last delivered position of a stream. An unknown stream begins at [`Head::START`].
    ///
    /// # Errors
    /// See [`SinkError`].
    fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> impl Future<Output = Result<Head, SinkError>> + Send;

    /// Says that the gateway runs and writes this epoch, for `length`. Returns the gateways that no longer say so
    /// although their streams are open: to one gateway only, and empty to all others.
    ///
    /// # Errors
    /// See [`SinkError`]. Delivery does not depend on it.
    fn renew_lease(
        &mut self,
        _gateway_id: GatewayId,
        _epoch: Epoch,
        _length: Duration,
    ) -> impl Future<Output = Result<Vec<GatewayId>, SinkError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Delivers `batch` and moves the cursor, or does neither. The batch is at least one record, and its records are
    /// consecutive in one stream. If the database silently leaves out a record, the batch fails with class `Row`.
    ///
    /// # Errors
    /// See [`SinkError`]. Nothing took effect if the class is `Row` or `Operator`. Otherwise the outcome is unknown;
    /// read the cursor to find out.
    ///
    /// # Durability
    /// *Delivered* on [`CursorUpdate::Moved`].
    fn deliver<R>(&mut self, batch: &[R]) -> impl Future<Output = Result<CursorUpdate, SinkError>> + Send
    where
        R: AsRef<AuditRecord> + Sync;

    /// Checks whether the database would accept `record`, at any cursor. Nothing takes effect.
    ///
    /// # Errors
    /// See [`SinkError`]. Class `Row` means that the record would be refused.
    fn dry_run(&mut self, record: &AuditRecord) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Delivers one record to quarantine, with its bytes and the reason, and moves the cursor past it.
    ///
    /// # Errors
    /// See [`Sink::deliver`].
    fn quarantine(
        &mut self,
        record: &AuditRecord,
        reason: &SinkError,
    ) -> impl Future<Output = Result<CursorUpdate, SinkError>> + Send;
}

/// The effect of a delivery on the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorUpdate {
    /// The cursor was at the start of the batch and is now at its end.
    Moved,
    /// The cursor was elsewhere; nothing took effect.
    Unchanged,
}

/// The reason why a sink did not deliver.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}{}", .sqlstate.as_ref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default())]
pub struct SinkError {
    /// The operation that failed.
    pub operation: &'static str,
    /// The reaction that the error requires.
    pub class: ErrorClass,
    /// The five characters of the SQLSTATE, if the server answered.
    pub sqlstate: Option<String>,
    /// The message of the server or the driver. Contains no password.
    pub message: String,
}
