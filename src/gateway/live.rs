//! What can change while the gateway runs: who may do what, what is redacted, what goes on unaudited, the limits.
//!
//! All of it changes at once. A message is decided by what held when it arrived, to its end.

use std::collections::BTreeMap;

use crate::audit::redact::Redaction;
use crate::config::{self, Config, OnFailure};

use super::Fault;
use super::rbac::{Patterns, Policy};

/// One state of it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) policy: Policy,
    pub(super) redaction: Redaction,
    /// Which calls go on where they cannot be audited.
    pub(super) continue_for: Patterns,
    pub(super) limits: config::Limits,
    /// Most open calls of the backends that have a limit of their own.
    calls_max: BTreeMap<String, usize>,
}

impl Live {
    /// Compiles it.
    ///
    /// # Errors
    /// Every fault.
    pub(super) fn new(config: &Config) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let policy = Policy::new(&config.roles).map_err(|errors| faults.extend(errors.into_iter().map(Fault::Pattern)));
        let continued = match config.audit.on_failure {
            OnFailure::Refuse => &[],
            OnFailure::Continue => config.audit.continue_for.as_slice(),
        };
        let continue_for = Patterns::new("audit.continue_for", continued)
            .map_err(|errors| faults.extend(errors.into_iter().map(Fault::Pattern)));
        let redaction = Redaction::new(&config.audit.redact).map_err(|err| faults.push(Fault::Redact(err)));
        let own = |(alias, backend): (&String, &config::Backend)| Some((alias.clone(), backend.calls_max?));
        match (policy, redaction, continue_for) {
            (Ok(policy), Ok(redaction), Ok(continue_for)) => Ok(Self {
                policy,
                redaction,
                continue_for,
                limits: config.limits.clone(),
                calls_max: config.backends.iter().filter_map(own).collect(),
            }),
            _ => Err(faults),
        }
    }

    /// Most calls that are open at `backend` at once.
    pub(super) fn calls_max(&self, backend: &str) -> usize {
        self.calls_max.get(backend).copied().unwrap_or(self.limits.calls_per_backend)
    }
}
