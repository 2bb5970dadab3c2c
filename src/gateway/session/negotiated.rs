//! The protocol version that was negotiated in one session.

use std::sync::OnceLock;

use crate::mcp::protocol::LEGACY_LATEST;
use crate::upstream::Response;

/// The protocol version in the answer to the session's `initialize`, once it is known.
#[derive(Debug, Default)]
pub(crate) struct Negotiated(OnceLock<String>);

impl Negotiated {
    /// Remembers the version in the `answer` to the client's `initialize`.
    pub(crate) fn read(&self, answer: &Response) {
        let Response::Result(result) = answer else { return };
        if let Some(version) = result.string("protocolVersion") {
            self.0.set(version).ok();
        }
    }

    /// Returns true if it is `version`.
    pub(crate) fn is(&self, version: &str) -> bool {
        self.0.get().is_some_and(|negotiated| negotiated == version)
    }

    /// Returns true if the client knows events without data. *Spec*: MCP 2025-11-25, "Streamable HTTP".
    pub(crate) fn has_empty_events(&self) -> bool {
        self.is(LEGACY_LATEST)
    }
}
