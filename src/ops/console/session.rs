//! Who is signed in: random ids in cookies, and behind each, in memory only, who that is and until when.
//!
//! The token itself is not kept. A session ends with its token, after [`SESSION_MAX`], when signed out, and with the
//! process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::record::{Digest, Timestamp};
use crate::auth::Principal;

/// Sessions at once; one more ends the one that would end first. *Chosen*: far more than there are auditors.
pub const SESSIONS_MAX: usize = 256;

/// Longest session, also of a token that never ends. *Chosen*: a shift; who was taken off the list of static tokens is out
/// within it.
pub const SESSION_MAX: Duration = Duration::from_hours(8);

/// The sessions of one console.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Debug)]
struct Session {
    principal: Principal,
    until: Instant,
}

impl Sessions {
    /// Opens one for a token that ends at `exp`, seconds since 1970. Gives its id: 244 random bits.
    pub fn open(&self, principal: Principal, exp: Option<u64>) -> String {
        let now = Instant::now();
        let left = exp.map(|exp| {
            let micros = i64::try_from(exp).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let left = micros.saturating_sub(Timestamp::now().micros());
            Duration::from_micros(u64::try_from(left).unwrap_or(0))
        });
        let until = now + left.map_or(SESSION_MAX, |left| left.min(SESSION_MAX));
        let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.until > now);
        // I6: bounded by count; a principal is bounded by the token it came from.
        while sessions.len() >= SESSIONS_MAX {
            let Some(first) = sessions.iter().min_by_key(|(_, session)| session.until).map(|(key, _)| *key) else {
                break;
            };
            sessions.remove(&first);
        }
        sessions.insert(key(&id), Session { principal, until });
        id
    }

    /// Who is behind an id, while the session lasts.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Principal> {
        let sessions = self.lock();
        sessions.get(&key(id)).filter(|session| session.until > Instant::now()).map(|session| session.principal.clone())
    }

    /// Ends one.
    pub fn close(&self, id: &str) {
        self.lock().remove(&key(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looked up by its digest, the time of a look-up tells nothing of an id.
fn key(id: &str) -> [u8; 32] {
    Digest::of(id.as_bytes()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(subject: &str) -> Principal {
        Principal { subject: subject.to_owned(), issuer: "i".to_owned(), token_id: None, roles: Vec::new() }
    }

    fn seconds_from_now(seconds: i64) -> Option<u64> {
        u64::try_from(Timestamp::now().micros() / 1_000_000 + seconds).ok()
    }

    #[test]
    fn a_session_ends_with_its_token_or_when_it_is_closed() {
        let sessions = Sessions::default();
        let id = sessions.open(principal("ann"), seconds_from_now(60));
        assert_eq!((id.len(), sessions.find(&id).unwrap().subject.as_str()), (64, "ann"));
        assert_eq!(sessions.find("0"), None);
        let ended = sessions.open(principal("bob"), seconds_from_now(-1));
        assert_eq!(sessions.find(&ended), None);
        sessions.close(&id);
        assert_eq!(sessions.find(&id), None);
        let endless = sessions.open(principal("ann"), Some(u64::MAX));
        let until = sessions.lock().get(&key(&endless)).unwrap().until;
        assert!(until <= Instant::now() + SESSION_MAX);
    }

    #[test]
    fn i6_the_session_that_would_end_first_makes_room() {
        let sessions = Sessions::default();
        let first = sessions.open(principal("first"), seconds_from_now(30));
        let ids: Vec<_> = (0..SESSIONS_MAX).map(|_| sessions.open(principal("ann"), seconds_from_now(60))).collect();
        assert_eq!(sessions.find(&first), None);
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
        assert!(ids.iter().all(|id| sessions.find(id).is_some()));
    }
}
