//! The rules that a reload replaces: authentication, policy, redaction, calls that may continue without an audit
//! record, limits, and the role for the console.
//!
//! A reload replaces them as one value. A message is handled by the rules that were in force when it arrived.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::record::{Digest, PolicyText};
use crate::audit::redact::{PathError, Redaction, ShortenedPath};
use crate::auth::{Authenticator, LoadError};
use crate::config::{self, Config, OnFailure, Pin, Pins};
use crate::rbac::{PatternError, Patterns, Policy};
use crate::upstream::Owner;

/// One compiled set of rules.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) auth: Authenticator,
    pub(crate) policy: Arc<Policy>,
    /// The policy as the trail states it: these rules, and what only a restart changes.
    pub(crate) policy_text: PolicyText,
    policy_json: serde_json::Value,
    pub(crate) redaction: Redaction,
    /// The values that are shortened in records: those at the path, of the tools and prompts that the pattern matches.
    pub(crate) shortened: Vec<(Patterns, ShortenedPath)>,
    /// The tools and prompts whose answers are recorded.
    pub(crate) recorded_responses: Patterns,
    /// The calls that are forwarded even if they cannot be audited.
    pub(crate) continue_for: Patterns,
    pub(crate) limits: config::Limits,
    /// The role that a token needs for the console.
    pub(crate) console_role: String,
    /// For each backend, what follows if a definition is not the accepted one, and those that are accepted.
    pins: BTreeMap<String, (Pin, Option<Pins>)>,
    /// The limits of open calls of those backends that have their own.
    calls_max: BTreeMap<String, usize>,
}

/// An error in the configuration of the rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Tokens cannot be verified with these keys or settings.
    #[error(transparent)]
    Auth(LoadError),
    /// A pattern of a role or of `audit.continue_for` cannot be compiled.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A path of `audit.redact` cannot be compiled.
    #[error("audit.redact: {0}")]
    Redact(PathError),
    /// A file of pins cannot be read.
    #[error("backends.{0}.pins_file: {1}")]
    Pins(String, String),
    /// A path of `audit.shorten` cannot be compiled.
    #[error("audit.shorten: {0}")]
    Shorten(PathError),
}

impl Rules {
    /// Compiles the rules of `config`. Key files are read.
    ///
    /// # Errors
    /// Every [`RulesError`] of the configuration.
    pub(crate) fn new(config: &Config) -> Result<Self, Vec<RulesError>> {
        let mut errors = Vec::new();
        let auth = Authenticator::from_config(&config.auth)
            .map_err(|found| errors.extend(found.into_iter().map(RulesError::Auth)));
        let policy = Policy::new(&config.roles)
            .and_then(|policy| policy.with_tools(&config.backends))
            .map_err(|found| errors.extend(found.into_iter().map(RulesError::Pattern)));
        let continued = match config.audit.on_failure {
            OnFailure::Refuse => &[],
            OnFailure::Continue => config.audit.continue_for.as_slice(),
        };
        let continue_for = Patterns::new("audit.continue_for", continued)
            .map_err(|found| errors.extend(found.into_iter().map(RulesError::Pattern)));
        let redaction = Redaction::new(&config.audit.redact).map_err(|err| errors.push(RulesError::Redact(err)));
        let recorded_responses = Patterns::new("audit.record_responses", &config.audit.record_responses)
            .map_err(|found| errors.extend(found.into_iter().map(RulesError::Pattern)));
        let mut shortened = Vec::new();
        for entry in &config.audit.shorten {
            let (tools, path) = entry.split_at(entry.find(":/").unwrap_or(entry.len()));
            match (
                Patterns::new("audit.shorten", &[tools.to_owned()]),
                ShortenedPath::new(path.trim_start_matches(':')),
            ) {
                (Ok(tools), Ok(path)) => shortened.push((tools, path)),
                (Err(found), _) => errors.extend(found.into_iter().map(RulesError::Pattern)),
                (_, Err(error)) => errors.push(RulesError::Shorten(error)),
            }
        }
        let policy_json = config.policy();
        let pins = pins(config, &mut errors);
        let own = |(alias, backend): (&String, &config::Backend)| Some((alias.clone(), backend.calls_max?));
        match (auth, policy, redaction, continue_for, recorded_responses) {
            (Ok(auth), Ok(policy), Ok(redaction), Ok(continue_for), Ok(recorded_responses)) if errors.is_empty() => {
                Ok(Self {
                    auth,
                    policy: Arc::new(policy),
                    policy_text: PolicyText::new(&policy_json),
                    policy_json,
                    pins,
                    redaction,
                    shortened,
                    recorded_responses,
                    continue_for,
                    limits: config.limits.clone(),
                    console_role: config.ops.console_role.clone(),
                    calls_max: config.backends.iter().filter_map(own).collect(),
                })
            }
            _ => Err(errors),
        }
    }

    /// These rules of `config`, in force after `old` by a reload.
    #[must_use]
    pub(crate) fn reloaded(mut self, config: &Config, old: &Self) -> Self {
        self.auth.replace(&old.auth);
        self.policy_json = config.reloaded_policy(&old.policy_json);
        self.policy_text = PolicyText::new(&self.policy_json);
        self
    }

    /// The consequence if the definition of a tool of `backend` is not the accepted one.
    pub(crate) fn pin(&self, backend: &str) -> Pin {
        self.pins.get(backend).map_or(Pin::Record, |(pin, _)| *pin)
    }

    /// The accepted definitions of the tools of `backend`, if it has a file of them and `pin` is not `record`.
    pub(crate) fn pins(&self, backend: &str) -> Option<&Pins> {
        self.pins.get(backend).filter(|(pin, _)| *pin != Pin::Record).and_then(|(_, pins)| pins.as_ref())
    }

    /// Returns true if a tool of `backend` with this definition may be used: it is as it was accepted, or need not be.
    pub(crate) fn is_accepted(&self, backend: &str, tool: &str, definition: Option<Digest>) -> bool {
        self.pin(backend) != Pin::Refuse
            || definition.is_some_and(|digest| self.pins(backend).and_then(|pins| pins.get(tool)) == Some(&digest))
    }

    /// Returns true if a conversation of `owner` with `backend` may continue.
    pub(crate) fn keeps(&self, owner: &Owner, backend: &str) -> bool {
        self.policy.reaches(&owner.roles, backend)
    }

    /// Returns true if `old` rules state another `[auth]`. The contents of key files are not part of it.
    pub(crate) fn states_other_auth(&self, old: &Self) -> bool {
        self.policy_json.get("auth") != old.policy_json.get("auth")
    }

    /// The most calls that may be open at `backend` at once.
    pub(crate) fn calls_max(&self, backend: &str) -> usize {
        self.calls_max.get(backend).copied().unwrap_or(self.limits.calls_per_backend)
    }
}

/// The pins of each backend.
fn pins(config: &Config, errors: &mut Vec<RulesError>) -> BTreeMap<String, (Pin, Option<Pins>)> {
    let mut all = BTreeMap::new();
    for (alias, backend) in &config.backends {
        match &backend.pins {
            Ok(pins) => {
                let pins = backend.pins_file.is_some().then(|| pins.clone());
                all.insert(alias.clone(), (backend.pin, pins));
            }
            Err(error) => errors.push(RulesError::Pins(alias.clone(), error.clone())),
        }
    }
    all
}
