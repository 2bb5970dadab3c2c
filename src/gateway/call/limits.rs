//! How much one principal and one backend may have open, and how often one principal may call.
//!
//! A principal is an issuer and a subject: what the token says, whatever address or session it comes by. The rate is a
//! bucket that is kept as one moment, the one at which it is full again (the generic cell rate algorithm): a call moves it
//! on by one period, and is refused where that would put it more than a burst ahead.
//!
//! What is kept is bounded (I6): a principal with open calls is one of at most `server.calls_max`; one without any, whose
//! bucket is full, is as one that was never seen, and is forgotten first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Principal;
use crate::gateway::call::rules::Rules;
use crate::gateway::message::refusal::Refusal;

/// Principals without open calls whose rate is remembered. *Derived*: as `server.sessions_max` by default, and 2 MiB at
/// 200 bytes each; a caller who is forgotten begins with a full bucket.
const PRINCIPALS_MAX: usize = 10_000;

/// What is open, and who called when.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<State>);

/// One open call. Dropping it makes room.
#[derive(Debug)]
#[must_use = "a place is held as long as the call is open"]
pub(crate) struct Place<'a> {
    limits: &'a Limits,
    who: Who,
    backend: String,
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    /// Of the principal's open calls.
    #[error("{subject} has {max} calls open, the most at once: wait for one to end")]
    Principal {
        /// Whose.
        subject: String,
        /// The limit.
        max: usize,
    },
    /// Of a backend's open calls.
    #[error("{max} calls are open at {backend}, the most at once: try again")]
    Backend {
        /// Which.
        backend: String,
        /// The limit.
        max: usize,
    },
    /// Of the principal's rate.
    #[error("{subject} calls more than {rate} times a second: wait")]
    Rate {
        /// Whose.
        subject: String,
        /// The limit.
        rate: u32,
        /// After which the next call is taken.
        wait: Duration,
    },
}

/// Issuer and subject.
type Who = (String, String);

#[derive(Debug, Default)]
struct State {
    principals: HashMap<Who, Seen>,
    backends: HashMap<String, usize>,
}

#[derive(Debug)]
struct Seen {
    open: usize,
    /// When the bucket is full again.
    full: Instant,
}

impl Exceeded {
    /// After how long it makes sense to call again.
    pub(crate) fn wait(&self) -> Duration {
        match self {
            // Nobody knows when a call ends. *Chosen*: long enough not to be a loop.
            Self::Principal { .. } | Self::Backend { .. } => Duration::from_secs(1),
            Self::Rate { wait, .. } => *wait,
        }
    }
}

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Self {
        Self::rate_limited(exceeded.to_string(), exceeded.wait())
    }
}

impl Limits {
    /// Takes a place for one call of `principal` at `backend`.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing was taken.
    pub(crate) fn enter(&self, principal: &Principal, backend: &str, rules: &Rules) -> Result<Place<'_>, Exceeded> {
        let (limits, now) = (&rules.limits, Instant::now());
        let who = (principal.issuer.clone(), principal.subject.clone());
        let subject = || principal.subject.clone();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let max = limits.calls_per_principal;
        if state.principals.get(&who).is_some_and(|seen| seen.open >= max) {
            return Err(Exceeded::Principal { subject: subject(), max });
        }
        let max = rules.calls_max(backend);
        if state.backends.get(backend).is_some_and(|open| *open >= max) {
            return Err(Exceeded::Backend { backend: backend.to_owned(), max });
        }
        let full = state.next(&who, rules, now)?;
        state.make_room(&who, now);
        let seen = state.principals.entry(who.clone()).or_insert(Seen { open: 0, full });
        (seen.open, seen.full) = (seen.open + 1, full);
        *state.backends.entry(backend.to_owned()).or_insert(0) += 1;
        Ok(Place { limits: self, who, backend: backend.to_owned() })
    }

    /// Counts what is no call, and costs as one, in the rate of `principal`.
    ///
    /// # Errors
    /// [`Exceeded::Rate`]; it was not counted.
    pub(crate) fn pass(&self, principal: &Principal, rules: &Rules) -> Result<(), Exceeded> {
        let (who, now) = ((principal.issuer.clone(), principal.subject.clone()), Instant::now());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = state.next(&who, rules, now)?;
        if full > now {
            state.make_room(&who, now);
            state.principals.entry(who).or_insert(Seen { open: 0, full }).full = full;
        }
        Ok(())
    }
}

impl State {
    /// When the bucket of `who` is full again after one more.
    fn next(&self, who: &Who, rules: &Rules, now: Instant) -> Result<Instant, Exceeded> {
        let (rate, burst) = (rules.limits.rate_per_principal, rules.limits.burst_per_principal);
        if rate == 0 {
            return Ok(now);
        }
        let full = self.principals.get(who).map_or(now, |seen| seen.full.max(now));
        let period = Duration::from_secs(1) / rate;
        let (next, ahead) = (full + period, period * burst);
        if next > now + ahead {
            return Err(Exceeded::Rate { subject: who.1.clone(), rate, wait: next - (now + ahead) });
        }
        Ok(next)
    }

    /// I6: forgets who has nothing open, first those for whom it makes no difference.
    fn make_room(&mut self, who: &Who, now: Instant) {
        if self.principals.len() < PRINCIPALS_MAX || self.principals.contains_key(who) {
            return;
        }
        self.principals.retain(|_, seen| seen.open > 0 || seen.full > now);
        if self.principals.len() >= PRINCIPALS_MAX {
            let idle = self.principals.iter().filter(|(_, seen)| seen.open == 0);
            let fullest = idle.min_by_key(|(_, seen)| seen.full).map(|(who, _)| who.clone());
            fullest.and_then(|who| self.principals.remove(&who));
        }
    }

    fn leave(&mut self, who: &Who, backend: &str) {
        if let Some(seen) = self.principals.get_mut(who) {
            seen.open = seen.open.saturating_sub(1);
            if seen.open == 0 && seen.full <= Instant::now() {
                self.principals.remove(who);
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

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.leave(&self.who, &self.backend);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{self, Config};

    use super::*;

    fn principal(subject: &str) -> Principal {
        Principal { subject: subject.to_owned(), issuer: "i".to_owned(), token_id: None, roles: Vec::new() }
    }

    fn rules(change: impl FnOnce(&mut config::Limits)) -> Rules {
        let mut config = Config::default();
        change(&mut config.limits);
        config.backends.insert("small".to_owned(), config::Backend { calls_max: Some(1), ..Default::default() });
        Rules::new(&config).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn open_calls_are_limited_for_each_principal_and_backend() {
        let (limits, rules) = (Limits::default(), rules(|limits| limits.calls_per_principal = 2));
        let enter = |subject: &str, backend: &str| limits.enter(&principal(subject), backend, &rules);
        let first = enter("ann", "a").unwrap();
        let second = enter("ann", "small").unwrap();
        assert_eq!(enter("ann", "a").unwrap_err(), Exceeded::Principal { subject: "ann".to_owned(), max: 2 });
        let error = enter("bob", "small").unwrap_err();
        assert_eq!(error.to_string(), "1 calls are open at small, the most at once: try again");
        let bobs = enter("bob", "a").unwrap();
        drop(second);
        assert!(enter("bob", "small").is_ok() && enter("ann", "small").is_ok());
        drop((first, bobs));
        let state = limits.0.lock().unwrap();
        assert!(state.principals.is_empty() && state.backends.is_empty(), "{state:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_up_and_a_burst_is_taken_after_a_pause() {
        let rate = rules(|limits| (limits.rate_per_principal, limits.burst_per_principal) = (10, 3));
        let limits = Limits::default();
        let taken = || (0..10).take_while(|_| limits.enter(&principal("ann"), "a", &rate).is_ok()).count();
        assert_eq!(taken(), 3);
        let exceeded = limits.enter(&principal("ann"), "a", &rate).unwrap_err();
        assert_eq!(exceeded.wait(), Duration::from_millis(100));
        assert!(limits.enter(&principal("bob"), "a", &rate).is_ok(), "bob has his own");
        tokio::time::advance(exceeded.wait()).await;
        assert_eq!(taken(), 1);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(taken(), 3, "a longer pause gives no more");
        // A session that is opened counts as a call.
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!((0..3).all(|_| limits.pass(&principal("ann"), &rate).is_ok()));
        assert_eq!(limits.pass(&principal("ann"), &rate).unwrap_err().wait(), Duration::from_millis(100));
        assert_eq!(taken(), 0);
        // A reload takes effect on the next call.
        assert!(limits.enter(&principal("ann"), "a", &rules(|_| ())).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn i6_what_is_remembered_of_principals_is_bounded() {
        let (limits, rate) = (Limits::default(), rules(|limits| limits.rate_per_principal = 1));
        let open = limits.enter(&principal("open"), "a", &rate).unwrap();
        for subject in 0..PRINCIPALS_MAX + 10 {
            drop(limits.enter(&principal(&subject.to_string()), "a", &rate).unwrap());
        }
        assert_eq!(limits.0.lock().unwrap().principals.len(), PRINCIPALS_MAX);
        assert!(limits.0.lock().unwrap().principals.values().any(|seen| seen.open == 1));
        drop(open);
        tokio::time::advance(Duration::from_mins(1)).await;
        drop(limits.enter(&principal("new"), "a", &rate).unwrap());
        assert_eq!(limits.0.lock().unwrap().principals.len(), 1);
    }
}
