//! Sessions of signed-in viewers, in memory only: a random id in a cookie represents a principal until the session
//! ends.
//!
//! The token itself is not stored. A session ends with its token, after [`SESSION_MAX`], at sign-out, and with the
//! process. Whether its principal is still accepted is for the caller to ask.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::audit::record::Digest;
use crate::auth::Principal;

/// Most sessions; opening another one closes the session that would end first. *Chosen*: far more than there are
/// auditors.
pub const SESSIONS_MAX: usize = 256;

/// Longest session, even with a token that does not expire. *Chosen*: a shift.
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
    /// Opens a session. Returns its id: 244 random bits.
    pub fn open(&self, principal: Principal) -> String {
        let now = Instant::now();
        let until = now + principal.credential.left().map_or(SESSION_MAX, |left| left.min(SESSION_MAX));
        let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let mut sessions = self.0.lock();
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

    /// The principal of the session with this id, if it has not ended.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Principal> {
        let sessions = self.0.lock();
        sessions.get(&key(id)).filter(|session| session.until > Instant::now()).map(|session| session.principal.clone())
    }

    /// Ends the session with this id.
    pub fn close(&self, id: &str) {
        self.0.lock().remove(&key(id));
    }
}

/// The key of a session: the digest of its id, so that the time of a look-up reveals nothing about the id.
fn key(id: &str) -> [u8; 32] {
    Digest::of(id.as_bytes()).0
}

#[cfg(test)]
mod tests {
    use crate::audit::record::Timestamp;
    use crate::auth::credential::Credential;
    use crate::auth::validity::Validity;

    use super::*;

    /// A principal whose token expires in so many seconds.
    fn principal(subject: &str, seconds: i64) -> Principal {
        let end = Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000);
        let credential = Credential::Token(Validity::until(end), std::sync::Arc::default());
        let (subject, issuer) = (subject.to_owned(), "i".to_owned());
        Principal {
            subject,
            issuer,
            token_id: None,
            roles: Vec::new(),
            no_role: None,
            identity: std::sync::Arc::default(),
            credential,
        }
    }

    #[test]
    fn a_session_ends_with_its_token_or_at_sign_out() {
        let sessions = Sessions::default();
        let id = sessions.open(principal("ann", 60));
        assert_eq!((id.len(), sessions.find(&id).unwrap().subject.as_str()), (64, "ann"));
        assert_eq!(sessions.find("0"), None);
        let ended = sessions.open(principal("bob", -1));
        assert_eq!(sessions.find(&ended), None);
        sessions.close(&id);
        assert_eq!(sessions.find(&id), None);
        let endless = Principal { credential: Credential::default(), ..principal("ann", 0) };
        let endless = sessions.open(endless);
        let until = sessions.0.lock().get(&key(&endless)).unwrap().until;
        assert!(until <= Instant::now() + SESSION_MAX);
    }

    #[test]
    fn i6_one_session_too_many_ends_the_one_with_the_nearest_end() {
        let sessions = Sessions::default();
        let first = sessions.open(principal("first", 30));
        let ids: Vec<_> = (0..SESSIONS_MAX).map(|_| sessions.open(principal("ann", 60))).collect();
        assert_eq!(sessions.find(&first), None);
        assert_eq!(sessions.0.lock().len(), SESSIONS_MAX);
        assert!(ids.iter().all(|id| sessions.find(id).is_some()));
    }
}
