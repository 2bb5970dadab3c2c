//! Conversion of driver errors into [`SinkError`].

use std::time::Duration;

use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::{ErrorClass, classify};

/// The error of an operation without a reply within `limit`.
pub(super) fn timed_out(operation: &'static str, limit: Duration, class: ErrorClass) -> SinkError {
    let message = format!("no reply within {limit:?}; the connection was closed");
    SinkError { operation, class, sqlstate: None, message }
}

/// The class, code and message of an sqlx error. I8: sqlx's messages name host and user, never the password.
pub(super) fn driver_error(operation: &'static str, error: &sqlx::Error) -> SinkError {
    let (class, sqlstate, message) = match error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(std::borrow::Cow::into_owned);
            let class = code.as_deref().map_or(ErrorClass::Operator, classify);
            (class, code, database.message().to_owned())
        }
        // A row that the driver cannot encode would fail on every retry.
        sqlx::Error::Encode(_) => (ErrorClass::Row, None, error.to_string()),
        sqlx::Error::Configuration(_) => (ErrorClass::Operator, None, error.to_string()),
        _ => (ErrorClass::Transient, None, error.to_string()),
    };
    SinkError { operation, class, sqlstate, message }
}
