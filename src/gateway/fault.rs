//! The faults that the gateway finds in a configuration.

use crate::upstream::EndpointError;

use super::call::request_state::StateKeyError;
use super::call::rules::RulesError;
use super::listener::tls;

/// A fault of the configuration that the gateway finds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The listener's certificate or key.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A key, an issuer, a pattern or a path of the rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The key of request states.
    #[error(transparent)]
    StateKey(#[from] StateKeyError),
    /// A backend's alias.
    #[error("backends.{alias}: {reason}")]
    Alias {
        /// The alias.
        alias: String,
        /// The rule that the alias breaks, and what to do.
        reason: String,
    },
    /// A backend that cannot be reached as it is configured.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}
