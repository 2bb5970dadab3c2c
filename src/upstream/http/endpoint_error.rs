//! The error in a setting of an HTTP backend.

/// A setting of a backend that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct EndpointError {
    key: String,
    message: String,
}

impl EndpointError {
    /// The error in a setting `key` of the backend `alias`.
    pub(in crate::upstream) fn new(alias: &str, key: &str, message: String) -> Self {
        Self { key: format!("backends.{alias}.{key}"), message }
    }

    /// The setting.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The error.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}
