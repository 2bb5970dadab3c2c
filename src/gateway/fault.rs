//! The faults that the gateway finds in a configuration, and the reasons why a reload fails.

use crate::audit::UnavailableError;
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

/// The reason why a new configuration did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration has faults.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<Fault>),
    /// The change could not be recorded.
    #[error(transparent)]
    Unrecorded(#[from] UnavailableError),
}
