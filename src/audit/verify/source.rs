//! The source of a report: the store, the time and the reader, so that a report can be filed.

use serde::{Deserialize, Serialize};

use super::selection::Selection;
use crate::audit::record::Timestamp;

/// The source of a report. Members that do not apply to the store are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The time of the snapshot, by the clock of the server or of the machine with the directory.
    pub checked_at: Timestamp,
    /// The version of Gatepost that checked.
    pub version: String,
    /// `postgres` or `outbox`.
    pub store: String,
    /// Address and port of the server, or how it was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The version of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// True if the server is a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<bool>,
    /// The database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The schema of the tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The owner of `audit_log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The role that read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The snapshot, in the notation of `pg_current_snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The directory of the outbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The part that was checked.
    pub selection: Selection,
}

impl Source {
    /// A source of which only the store is known.
    #[must_use]
    pub fn new(store: &str, checked_at: Timestamp, selection: Selection) -> Self {
        Self {
            checked_at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: store.to_owned(),
            server: None,
            server_version: None,
            replica: None,
            database: None,
            schema: None,
            owner: None,
            role: None,
            snapshot: None,
            directory: None,
            selection,
        }
    }
}
