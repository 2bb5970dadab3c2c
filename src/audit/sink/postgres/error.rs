//! Conversion of driver errors into [`SinkError`].

use std::time::Duration;

use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::{ErrorClass, classify, classify_pooler};

/// The error of an operation without a reply within `limit`.
pub(super) fn timed_out(operation: &'static str, limit: Duration, class: ErrorClass) -> SinkError {
    let message = format!("no reply within {limit:?}; the connection was closed");
    SinkError { operation, class, sqlstate: None, message }
}

/// An error that an operator has to fix.
pub(super) fn for_operator(operation: &'static str, message: impl Into<String>) -> SinkError {
    SinkError { operation, class: ErrorClass::Operator, sqlstate: None, message: message.into() }
}

/// The class, code and message of an sqlx error. I8: sqlx's messages name host and user, never the password.
pub(super) fn driver_error(operation: &'static str, error: &sqlx::Error) -> SinkError {
    let (class, sqlstate, message) = match error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(std::borrow::Cow::into_owned);
            let class = match code.as_deref() {
                None => ErrorClass::Operator,
                Some("08P01") => classify_pooler(database.message()),
                // A failed CHECK names its constraint, a trigger names no table: no partition takes the row.
                Some("23514") if database.constraint().is_none() && database.table() == Some("audit_log") => {
                    ErrorClass::Operator
                }
                Some(code) => classify(code),
            };
            (class, code, database.message().to_owned())
        }
        // A row that the driver cannot encode would fail on every retry.
        sqlx::Error::Encode(_) => (ErrorClass::Row, None, error.to_string()),
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => (ErrorClass::Operator, None, error.to_string()),
        _ => (ErrorClass::Transient, None, error.to_string()),
    };
    SinkError { operation, class, sqlstate, message }
}
