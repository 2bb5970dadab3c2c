//! Limits on the open calls of each principal and backend, and on the rate of requests of each principal.
//!
//! A principal is the issuer and subject of a token, whatever address or session it uses. Each has a [`TokenBucket`].
//! Every request takes a token as soon as its caller is known, before anything else is done for it: a request that is
//! denied costs as much as one that is answered.
//!
//! The state is bounded (I6). At most `server.calls_max` principals have open calls. Of the others, those with a full
//! bucket are evicted first: dropping them changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::auth::Principal;
use crate::gateway::call::rules::Rules;
use crate::gateway::call::token_bucket::{BucketSize, TokenBucket};
use crate::gateway::message::refusal::Refusal;

/// The number of further requests as which the opening of a session counts. *Chosen*: it may start a child process at
/// every backend, and leaves a record when it opens and when it ends.
pub(crate) const SESSION_COST: u32 = 9;

/// The same for a caller that may use nothing. *Chosen*: one session a second at the default rate, so that the records
/// of its sessions take less than 1 MiB in several minutes.
pub(crate) const USELESS_SESSION_COST: u32 = 99;

/// Most principals in the state. *Derived*: the default of `server.sessions_max`; 2 MiB at 200 bytes each. An evicted
/// principal starts again with a full bucket.
const PRINCIPALS_MAX: usize = 10_000;

/// Enforces the limits.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<LimitState>);

/// Counts one call as open until dropped.
#[derive(Debug)]
#[must_use = "the call counts as open as long as the guard lives"]
pub(crate) struct OpenCallGuard<'a> {
    limits: &'a Limits,
    principal: PrincipalKey,
    backend: String,
}

/// A call was refused because it exceeds a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    /// The principal has too many open calls.
    #[error("too many open calls for {subject} (limit {max}): retry when one finishes")]
    Principal {
        /// The principal's subject.
        subject: String,
        /// The limit.
        max: usize,
    },
    /// The backend has too many open calls.
    #[error("too many open calls at {backend} (limit {max}): retry later")]
    Backend {
        /// The backend's alias.
        backend: String,
        /// The limit.
        max: usize,
    },
    /// The principal sends requests too often.
    #[error("too many requests by {subject} (limit {rate} per second): retry later")]
    Rate {
        /// The principal's subject.
        subject: String,
        /// The limit, in requests per second.
        rate: u32,
        /// The time until the next request is accepted.
        retry_after: Duration,
    },
}

/// The issuer and subject of a principal.
type PrincipalKey = (String, String);

#[derive(Debug, Default)]
struct LimitState {
    principals: HashMap<PrincipalKey, PrincipalState>,
    /// The number of open calls of each backend.
    backends: HashMap<String, usize>,
}

#[derive(Debug)]
struct PrincipalState {
    /// The number of open calls.
    open: usize,
    bucket: TokenBucket,
}

impl LimitError {
    /// The time after which the client should retry.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            // The end of a call cannot be predicted. *Chosen*: long enough to prevent a busy loop.
            Self::Principal { .. } | Self::Backend { .. } => Duration::from_secs(1),
            Self::Rate { retry_after, .. } => *retry_after,
        }
    }
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        Self::rate_limited(error.to_string(), error.retry_after())
    }
}

impl Limits {
    /// Counts one more open call of `principal` at `backend`.
    ///
    /// # Errors
    /// [`LimitError`]; the call is not counted.
    pub(crate) fn enter(
        &self,
        principal: &Principal,
        backend: &str,
        rules: &Rules,
    ) -> Result<OpenCallGuard<'_>, LimitError> {
        let (limits, now) = (&rules.limits, Instant::now());
        let key = key(principal);
        let subject = || principal.subject.clone();
        let mut state = self.0.lock();
        let max = limits.calls_per_principal;
        if state.principals.get(&key).is_some_and(|principal| principal.open >= max) {
            return Err(LimitError::Principal { subject: subject(), max });
        }
        let max = rules.calls_max(backend);
        if state.backends.get(backend).is_some_and(|open| *open >= max) {
            return Err(LimitError::Backend { backend: backend.to_owned(), max });
        }
        state.principal(key.clone(), now).open += 1;
        *state.backends.entry(backend.to_owned()).or_insert(0) += 1;
        Ok(OpenCallGuard { limits: self, principal: key, backend: backend.to_owned() })
    }

    /// Counts a request in the rate of `principal`.
    ///
    /// # Errors
    /// [`LimitError::Rate`]; the request was not counted.
    pub(crate) fn count_request(&self, principal: &Principal, rules: &Rules) -> Result<(), LimitError> {
        let Some((rate, size)) = rate(rules) else { return Ok(()) };
        let now = Instant::now();
        let taken = self.0.lock().principal(key(principal), now).bucket.take(size, now);
        taken.map_err(|retry_after| LimitError::Rate { subject: principal.subject.clone(), rate, retry_after })
    }

    /// Counts a request that was accepted as `count` more requests, because it is that expensive.
    pub(crate) fn charge(&self, principal: &Principal, count: u32, rules: &Rules) {
        let Some((_, size)) = rate(rules) else { return };
        let now = Instant::now();
        self.0.lock().principal(key(principal), now).bucket.charge(count, size, now);
    }
}

fn key(principal: &Principal) -> PrincipalKey {
    (principal.issuer.clone(), principal.subject.clone())
}

/// The requests per second that a principal may send, and its bucket; `None` if the rate is unlimited.
fn rate(rules: &Rules) -> Option<(u32, BucketSize)> {
    let (rate, burst) = (rules.limits.rate_per_principal, rules.limits.burst_per_principal);
    (rate > 0).then(|| (rate, BucketSize { tokens: burst, period: Duration::from_secs(1) / rate }))
}

impl LimitState {
    /// The state of the principal `key`.
    fn principal(&mut self, key: PrincipalKey, now: Instant) -> &mut PrincipalState {
        self.make_room(&key, now);
        self.principals.entry(key).or_insert(PrincipalState { open: 0, bucket: TokenBucket::full(now) })
    }

    /// I6: evicts principals without open calls to make room for `key`, those with a full bucket first.
    fn make_room(&mut self, key: &PrincipalKey, now: Instant) {
        if self.principals.len() < PRINCIPALS_MAX || self.principals.contains_key(key) {
            return;
        }
        self.principals.retain(|_, principal| principal.open > 0 || !principal.bucket.is_full(now));
        if self.principals.len() >= PRINCIPALS_MAX {
            let idle = self.principals.iter().filter(|(_, principal)| principal.open == 0);
            let fullest = idle.min_by_key(|(_, principal)| principal.bucket.full_at()).map(|(key, _)| key.clone());
            fullest.and_then(|key| self.principals.remove(&key));
        }
    }

    fn end_call(&mut self, key: &PrincipalKey, backend: &str) {
        if let Some(principal) = self.principals.get_mut(key) {
            principal.open = principal.open.saturating_sub(1);
            if principal.open == 0 && principal.bucket.is_full(Instant::now()) {
                self.principals.remove(key);
            }
        }
        if let Some(open) = self.backends.get_mut(backend) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.backends.remove(backend);
            }
        }
    }
}

impl Drop for OpenCallGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.0.lock();
        state.end_call(&self.principal, &self.backend);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{self, Config};

    use super::*;
    use crate::auth::credential::Credential;

    fn principal(subject: &str) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles: Vec::new(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        }
    }

    fn rules(change: impl FnOnce(&mut config::Limits)) -> Rules {
        let mut config = Config::default();
        change(&mut config.limits);
        config.backends.insert("small".to_owned(), config::Backend { calls_max: Some(1), ..Default::default() });
        Rules::new(&config).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn open_calls_are_limited_per_principal_and_per_backend() {
        let (limits, rules) = (Limits::default(), rules(|limits| limits.calls_per_principal = 2));
        let enter = |subject: &str, backend: &str| limits.enter(&principal(subject), backend, &rules);
        let first = enter("ann", "a").unwrap();
        let second = enter("ann", "small").unwrap();
        assert_eq!(enter("ann", "a").unwrap_err(), LimitError::Principal { subject: "ann".to_owned(), max: 2 });
        let error = enter("bob", "small").unwrap_err();
        assert_eq!(error.to_string(), "too many open calls at small (limit 1): retry later");
        let bobs = enter("bob", "a").unwrap();
        drop(second);
        assert!(enter("bob", "small").is_ok() && enter("ann", "small").is_ok());
        drop((first, bobs));
        let state = limits.0.lock();
        assert!(state.principals.is_empty() && state.backends.is_empty(), "{state:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_the_rate_are_accepted_and_a_burst_after_a_pause() {
        let rate = rules(|limits| (limits.rate_per_principal, limits.burst_per_principal) = (10, 3));
        let limits = Limits::default();
        let count = |subject: &str, rules: &Rules| limits.count_request(&principal(subject), rules);
        let accepted = || (0..10).take_while(|_| count("ann", &rate).is_ok()).count();
        assert_eq!(accepted(), 3);
        let error = count("ann", &rate).unwrap_err();
        assert_eq!(error.retry_after(), Duration::from_millis(100));
        assert!(count("bob", &rate).is_ok(), "bob has a rate of his own");
        tokio::time::advance(error.retry_after()).await;
        assert_eq!(accepted(), 1);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(accepted(), 3, "a longer pause does not allow a larger burst");
        tokio::time::advance(Duration::from_hours(1)).await;
        limits.charge(&principal("ann"), SESSION_COST, &rate);
        assert_eq!(count("ann", &rate).unwrap_err().retry_after(), Duration::from_millis(700));
        // A reload takes effect on the next request.
        assert!(count("ann", &rules(|limits| limits.rate_per_principal = 0)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn i6_the_number_of_remembered_principals_is_bounded() {
        let (limits, rate) = (Limits::default(), rules(|limits| limits.rate_per_principal = 1));
        let open = limits.enter(&principal("open"), "a", &rate).unwrap();
        limits.count_request(&principal("open"), &rate).unwrap();
        for subject in 0..PRINCIPALS_MAX + 10 {
            limits.count_request(&principal(&subject.to_string()), &rate).unwrap();
        }
        assert_eq!(limits.0.lock().principals.len(), PRINCIPALS_MAX);
        assert!(limits.0.lock().principals.values().any(|principal| principal.open == 1));
        drop(open);
        tokio::time::advance(Duration::from_mins(1)).await;
        limits.count_request(&principal("new"), &rate).unwrap();
        assert_eq!(limits.0.lock().principals.len(), 1);
    }
}
