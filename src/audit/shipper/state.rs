//! The shipper's state.

/// The activity of the shipper, for operators and for readiness.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ShipperState {
    /// No database is configured: records stay in the outbox.
    StoreOnly,
    /// The first delivery has not succeeded yet.
    Starting,
    /// The last delivery succeeded.
    Delivering,
    /// The last delivery failed with a transient error and is retried.
    Retrying {
        /// The error's text.
        error: String,
    },
    /// The last delivery failed with an error that an operator has to fix, and is retried slowly.
    Held {
        /// The error's text.
        error: String,
    },
    /// Another process writes under this gateway's id, and nothing is shipped; or records of an older epoch are
    /// missing, and only that epoch is not shipped.
    Forked {
        /// The forked streams, what was found, and what to do.
        error: String,
    },
}
