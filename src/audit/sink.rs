//! Where records are delivered: the one interface between the shipper and a database.

pub mod postgres;
mod sqlstate;

use std::future::Future;

use super::chain::Head;
use super::record::{AuditRecord, Epoch, GatewayId};

pub use sqlstate::{ErrorClass, classify};

/// A place that keeps one cursor a stream and moves it together with the records.
pub trait Sink: Send + 'static {
    /// Makes the sink ready: schema and partitions. Called before the first delivery until it succeeds, and now and then
    /// after it.
    ///
    /// # Errors
    /// See [`SinkError`]; may be called again.
    fn prepare(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// How far a stream was delivered. A stream that is not known begins at [`Head::START`].
    ///
    /// # Errors
    /// See [`SinkError`].
    fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> impl Future<Output = Result<Head, SinkError>> + Send;

    /// Delivers `batch`, consecutive records of one stream, at least one: all of them and the cursor, or nothing. Records
    /// that the sink would leave out without a word are refused, with class `Row`.
    ///
    /// # Errors
    /// See [`SinkError`]. Nothing took effect where the class is `Row` or `Operator`; otherwise that is unknown, and the
    /// cursor tells.
    ///
    /// # Durability
    /// *Delivered* on [`CursorUpdate::Moved`].
    fn deliver<R>(&mut self, batch: &[R]) -> impl Future<Output = Result<CursorUpdate, SinkError>> + Send
    where
        R: AsRef<AuditRecord> + Sync;

    /// Asks whether `record` would be taken, wherever its stream's cursor stands. Nothing takes effect.
    ///
    /// # Errors
    /// See [`SinkError`]; class `Row` says that it would be refused.
    fn dry_run(&mut self, record: &AuditRecord) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Delivers one record to quarantine, with its bytes and the reason, and moves the cursor past it.
    ///
    /// # Errors
    /// As for [`Sink::deliver`].
    fn quarantine(
        &mut self,
        record: &AuditRecord,
        reason: &SinkError,
    ) -> impl Future<Output = Result<CursorUpdate, SinkError>> + Send;
}

/// Whether the cursor stood where the batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorUpdate {
    /// It did, and now stands at its end.
    Yes,
    /// It did not; nothing took effect.
    No,
}

/// Why a sink did not deliver.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}{}", .sqlstate.as_ref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default())]
pub struct SinkError {
    /// What was tried.
    pub operation: &'static str,
    /// What to do about it.
    pub class: ErrorClass,
    /// The five characters, where the server answered.
    pub sqlstate: Option<String>,
    /// The server's or driver's words. They hold no password.
    pub message: String,
}
