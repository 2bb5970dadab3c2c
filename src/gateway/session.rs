//! Legacy sessions: an id that a client got at `initialize`, bound to who it was.
//!
//! A session holds no state but its binding; it is correlation, never identity. Another principal's id is as unknown as
//! one that never was. Sessions are bounded in number: where there is no room, expired ones go first, then the one that
//! was idle longest, whose client begins anew, as the protocol says.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::auth::Principal;

/// How long a session may be idle. *Chosen*: longer than a working day's pauses.
const IDLE_MAX: Duration = Duration::from_hours(8);

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    max: usize,
}

/// No such session for this principal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown session: initialize again")]
pub struct Unknown;

#[derive(Debug)]
struct Session {
    issuer: String,
    subject: String,
    last_used: Instant,
}

impl Session {
    fn belongs_to(&self, principal: &Principal) -> bool {
        self.issuer == principal.issuer && self.subject == principal.subject
    }

    fn has_expired(&self) -> bool {
        self.last_used.elapsed() > IDLE_MAX
    }
}

impl Sessions {
    /// Room for `max` sessions, at least one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Mutex::default(), max: max.max(1) }
    }

    /// Opens a session for `principal` and gives its id: 122 random bits.
    #[must_use]
    pub fn open(&self, principal: &Principal) -> String {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.max {
            open.retain(|_, session| !session.has_expired());
        }
        if open.len() >= self.max {
            // I6: the number of sessions is bounded.
            let oldest = open.iter().min_by_key(|(_, session)| session.last_used).map(|(id, _)| id.clone());
            oldest.and_then(|id| open.remove(&id));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (issuer, subject) = (principal.issuer.clone(), principal.subject.clone());
        open.insert(id.clone(), Session { issuer, subject, last_used: Instant::now() });
        id
    }

    /// Uses a session.
    ///
    /// # Errors
    /// [`Unknown`]: expired, closed, another principal's, or never there.
    pub fn touch(&self, id: &str, principal: &Principal) -> Result<(), Unknown> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get_mut(id).filter(|session| session.belongs_to(principal)).ok_or(Unknown)?;
        if session.has_expired() {
            open.remove(id);
            return Err(Unknown);
        }
        session.last_used = Instant::now();
        Ok(())
    }

    /// Closes a session.
    ///
    /// # Errors
    /// [`Unknown`], as for [`Sessions::touch`].
    pub fn close(&self, id: &str, principal: &Principal) -> Result<(), Unknown> {
        self.touch(id, principal)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(subject: &str, issuer: &str) -> Principal {
        Principal { subject: subject.to_owned(), issuer: issuer.to_owned(), token_id: None, roles: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_its_principals_alone() {
        let (sessions, ann) = (Sessions::new(4), principal("ann", "a"));
        let id = sessions.open(&ann);
        assert_eq!(sessions.touch(&id, &ann), Ok(()));
        for other in [principal("bob", "a"), principal("ann", "b")] {
            assert_eq!(sessions.touch(&id, &other), Err(Unknown));
            assert_eq!(sessions.close(&id, &other), Err(Unknown));
        }
        assert_eq!(sessions.close(&id, &ann), Ok(()));
        assert_eq!(sessions.touch(&id, &ann), Err(Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_expire_and_used_ones_do_not() {
        let (sessions, ann) = (Sessions::new(4), principal("ann", "a"));
        let (used, idle) = (sessions.open(&ann), sessions.open(&ann));
        tokio::time::advance(IDLE_MAX / 2).await;
        sessions.touch(&used, &ann).unwrap();
        tokio::time::advance(IDLE_MAX / 2 + Duration::from_secs(1)).await;
        assert_eq!(sessions.touch(&used, &ann), Ok(()));
        assert_eq!(sessions.touch(&idle, &ann), Err(Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_are_bounded_and_the_longest_idle_one_makes_room() {
        let (sessions, ann) = (Sessions::new(2), principal("ann", "a"));
        let first = sessions.open(&ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = sessions.open(&ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let third = sessions.open(&ann);
        assert_eq!(sessions.touch(&first, &ann), Err(Unknown));
        assert_eq!((sessions.touch(&second, &ann), sessions.touch(&third, &ann)), (Ok(()), Ok(())));
    }
}
