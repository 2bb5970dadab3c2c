//! The open sessions.
//!
//! Their number is bounded, per principal and in total. To make room, expired sessions are removed first, then the one
//! that was idle longest; a principal's own limit removes its own sessions only. The removed session's client must
//! initialize again, as the protocol says. Sessions that end without a request of their client are returned to the
//! caller with the reason, to be ended and recorded.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::auth::{Authenticator, Principal};
use crate::gateway::call::rules::Rules;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::Session;
use crate::gateway::session::ending::{EndReason, UnknownSessionError};
use crate::gateway::session::question::QuestionHandler;
use crate::gateway::session::replay::ReplayBudget;
use crate::rbac::Policy;

/// Most bytes of the `initialize` parameters of all sessions. *Derived*: with 12 KiB of other state in each of 10,000
/// sessions, less than 256 MiB.
const INITIALIZE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The open sessions.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<OpenSessions>,
    max: usize,
    /// Time after which an unused session expires.
    pub(crate) idle_timeout: Duration,
    policy: watch::Receiver<Arc<Policy>>,
    questions: Arc<dyn QuestionHandler>,
    /// The room for the messages of all streams.
    pub(crate) replay: Arc<ReplayBudget>,
}

#[derive(Debug, Default)]
struct OpenSessions {
    by_id: HashMap<String, Arc<Session>>,
    /// Bytes of their `initialize` parameters.
    bytes: usize,
}

/// Sessions that were removed, each with the reason.
pub type EndedSessions = Vec<(Arc<Session>, EndReason)>;

impl Sessions {
    /// The number of open sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.lock().by_id.len()
    }

    /// Makes room for `max` sessions, at least one, and for `replay_bytes_max` bytes of messages of all their streams.
    /// An unused session expires after `idle_timeout`. `policy` is the policy in force; `questions` takes the requests
    /// of backends to clients.
    #[must_use]
    pub(crate) fn new(
        max: usize,
        idle_timeout: Duration,
        replay_bytes_max: usize,
        policy: watch::Receiver<Arc<Policy>>,
        questions: Arc<dyn QuestionHandler>,
    ) -> Self {
        let replay = ReplayBudget::new(replay_bytes_max);
        Self { open: Mutex::default(), max: max.max(1), idle_timeout, replay, policy, questions }
    }

    /// Opens a session for `principal`, which may have `own_max`, and returns it with the sessions that were removed to
    /// make room. `initialize_params` are the parameters of the client's `initialize`.
    #[must_use]
    pub fn open(
        &self,
        principal: &Principal,
        scope: &Scope,
        initialize_params: &str,
        own_max: usize,
    ) -> (Arc<Session>, EndedSessions) {
        let session = Session::new(
            principal,
            scope,
            initialize_params,
            &self.replay,
            self.policy.clone(),
            Arc::clone(&self.questions),
        );
        let mut open = self.open.lock();
        let mut removed = Vec::new();
        // I6: the number of sessions is bounded, per principal and in total.
        let own = open.by_id.values().filter(|session| session.belongs_to(principal)).count();
        for _ in own_max.max(1)..=own {
            let oldest = open.remove_longest_idle(|session| session.belongs_to(principal));
            removed.extend(oldest.map(|session| (session, EndReason::OwnLimit)));
        }
        // I6: so is what they keep.
        let is_full = |open: &OpenSessions| {
            open.by_id.len() >= self.max || open.bytes + initialize_params.len() > INITIALIZE_BYTES_MAX
        };
        if is_full(&open) {
            removed.extend(open.remove_expired(self.idle_timeout));
        }
        while is_full(&open)
            && let Some(oldest) = open.remove_longest_idle(|_| true)
        {
            removed.push((oldest, EndReason::NoRoom));
        }
        open.insert(Arc::clone(&session));
        (session, removed)
    }

    /// Returns true if the session is open.
    #[must_use]
    pub fn is_open(&self, id: &str) -> bool {
        self.open.lock().by_id.contains_key(id)
    }

    /// Removes the expired sessions and returns them.
    #[must_use]
    pub fn remove_expired(&self) -> EndedSessions {
        self.open.lock().remove_expired(self.idle_timeout)
    }

    /// Finds a session and restarts its idle time.
    ///
    /// # Errors
    /// [`UnknownSessionError`]: the session expired, was closed, belongs to another principal or endpoint, or never
    /// existed.
    pub fn touch(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let open = self.open.lock();
        let session = open.by_id.get(id).filter(|session| session.belongs_to(principal) && session.scope == *scope);
        // An expired session stays in the map until its end is recorded.
        let session =
            session.filter(|session| !session.has_expired(self.idle_timeout)).cloned().ok_or(UnknownSessionError)?;
        session.touch(principal);
        Ok(session)
    }

    /// Removes a session and ends it. Its connections close when their last use ends.
    ///
    /// # Errors
    /// [`UnknownSessionError`], as for [`Sessions::touch`].
    pub fn close(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let session = self.touch(id, principal, scope)?;
        self.open.lock().remove(id);
        session.end();
        Ok(session)
    }

    /// Removes the sessions that these rules do not allow, as [`Sessions::remove_withdrawn`] and
    /// [`Sessions::remove_unreachable`] do.
    #[must_use]
    pub(crate) fn remove_lost(&self, rules: &Rules) -> EndedSessions {
        let mut ended = self.remove_withdrawn(&rules.auth);
        ended.extend(self.remove_unreachable(&rules.policy));
        ended
    }

    /// Drops the connections to backends that the roles of their sessions do not reach any more, and removes the
    /// sessions at the endpoints of such backends.
    #[must_use]
    pub fn remove_unreachable(&self, policy: &Policy) -> EndedSessions {
        self.remove_where(
            |roles, backend| (!policy.reaches(roles, backend)).then_some(EndReason::Unreachable),
            |roles, backend| policy.reaches(roles, backend),
        )
    }

    /// Drops the connections to the backends `changed`, and removes the sessions at the endpoints of those that are not
    /// among `configured` any more. A session at the endpoint of a changed one continues, with a new connection.
    #[must_use]
    pub fn replace_backends(&self, changed: &BTreeSet<String>, configured: &[String]) -> EndedSessions {
        let is_gone = |backend: &str| changed.contains(backend) && !configured.iter().any(|known| known == backend);
        self.remove_where(
            |_, backend| is_gone(backend).then_some(EndReason::Removed),
            |_, backend| !changed.contains(backend),
        )
    }

    /// Removes the sessions whose principals these rules do not accept by the credential that was used last.
    #[must_use]
    pub fn remove_withdrawn(&self, auth: &Authenticator) -> EndedSessions {
        let mut open = self.open.lock();
        let withdrawn = open.by_id.values().filter_map(|session| {
            let withdrawal = auth.check(&session.principal()).err()?;
            Some((session.id.clone(), EndReason::Withdrawn(withdrawal)))
        });
        let withdrawn: Vec<_> = withdrawn.collect();
        withdrawn.into_iter().filter_map(|(id, reason)| Some((open.remove(&id)?, reason))).collect()
    }

    /// Removes the sessions at the endpoints of backends for which `end_of` has a reason; of the others, drops the
    /// connections to backends for which `is_kept` is false. Both get the roles of the session.
    fn remove_where(
        &self,
        end_of: impl Fn(&[String], &str) -> Option<EndReason>,
        is_kept: impl Fn(&[String], &str) -> bool,
    ) -> EndedSessions {
        let mut open = self.open.lock();
        let mut ended = Vec::new();
        for session in open.by_id.values().cloned().collect::<Vec<_>>() {
            let roles = session.roles();
            if let Some(reason) = session.scope.backend().and_then(|backend| end_of(&roles, backend)) {
                ended.extend(open.remove(&session.id).map(|session| (session, reason)));
            } else {
                session.connections.retain(|backend| is_kept(&roles, backend));
            }
        }
        ended
    }

    /// Forgets the tokens of callers that connections keep for what belongs to no message.
    pub(crate) fn forget_callers(&self) {
        for session in self.all() {
            session.connections.all().iter().for_each(|connection| connection.forget_caller());
        }
    }

    /// The open sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.open.lock().by_id.values().cloned().collect()
    }

    /// Removes all sessions, because the gateway stops, and returns them.
    #[must_use]
    pub fn remove_all(&self) -> EndedSessions {
        let open = std::mem::take(&mut *self.open.lock());
        open.by_id.into_values().map(|session| (session, EndReason::Stopped)).collect()
    }
}

impl OpenSessions {
    fn insert(&mut self, session: Arc<Session>) {
        self.bytes += session.initialize_bytes();
        self.by_id.insert(session.id.clone(), session);
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Session>> {
        let session = self.by_id.remove(id)?;
        self.bytes -= session.initialize_bytes();
        Some(session)
    }

    fn remove_expired(&mut self, idle_timeout: Duration) -> EndedSessions {
        let expired: Vec<_> = self.by_id.extract_if(|_, session| session.has_expired(idle_timeout)).collect();
        self.bytes -= expired.iter().map(|(_, session)| session.initialize_bytes()).sum::<usize>();
        expired.into_iter().map(|(_, session)| (session, EndReason::Idle)).collect()
    }

    /// Removes and returns the longest idle of the sessions that `is_candidate` selects.
    fn remove_longest_idle(&mut self, is_candidate: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let candidates = self.by_id.values().filter(|session| is_candidate(session));
        let id = candidates.min_by_key(|session| session.last_used())?.id.clone();
        self.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use crate::gateway::session::sample::{AtOnce, policy, principal};

    use super::*;

    const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

    fn sessions(max: usize) -> Sessions {
        Sessions::new(max, IDLE_TIMEOUT, 1 << 20, watch::channel(policy(&["b"])).1, Arc::new(AtOnce))
    }

    fn open(sessions: &Sessions, principal: &Principal) -> Arc<Session> {
        sessions.open(principal, &Scope::All, "{}", usize::MAX).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_valid_only_for_its_principal_and_endpoint() {
        let (sessions, ann) = (sessions(4), principal("ann", "a"));
        let id = open(&sessions, &ann).id.clone();
        assert!(sessions.touch(&id, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&id, &ann, &Scope::One("x".to_owned())).err(), Some(UnknownSessionError));
        for other in [principal("bob", "a"), principal("ann", "b")] {
            assert_eq!(sessions.touch(&id, &other, &Scope::All).err(), Some(UnknownSessionError));
            assert_eq!(sessions.close(&id, &other, &Scope::All).err(), Some(UnknownSessionError));
        }
        assert!(sessions.close(&id, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&id, &ann, &Scope::All).err(), Some(UnknownSessionError));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_expire_and_sessions_in_use_do_not() {
        let (sessions, ann) = (sessions(4), principal("ann", "a"));
        let (used, idle) = (open(&sessions, &ann).id.clone(), open(&sessions, &ann).id.clone());
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        sessions.touch(&used, &ann, &Scope::All).unwrap();
        tokio::time::advance(IDLE_TIMEOUT / 2 + Duration::from_secs(1)).await;
        assert!(sessions.touch(&used, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&idle, &ann, &Scope::All).err(), Some(UnknownSessionError));
        let read = open(&sessions, &ann);
        let reader = read.general().read_from(0).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let removed = sessions.remove_expired();
        assert_eq!(
            removed.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
            [(&idle, EndReason::Idle)]
        );
        assert_eq!((sessions.remove_expired().len(), sessions.count()), (0, 2));
        tokio::time::advance(IDLE_TIMEOUT + Duration::from_secs(1)).await;
        let removed: Vec<_> = sessions.remove_expired().into_iter().map(|(session, _)| session.id.clone()).collect();
        assert_eq!(removed, [used], "a session whose client reads is in use");
        drop(reader);
        assert_eq!((sessions.remove_expired().len(), sessions.count()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_per_principal_are_bounded_and_other_principals_lose_none() {
        let (sessions, ann, bob) = (sessions(3), principal("ann", "a"), principal("bob", "a"));
        let bobs = open(&sessions, &bob);
        let mut anns = Vec::<String>::new();
        for round in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let (session, removed) = sessions.open(&ann, &Scope::All, "{}", 2);
            let removed: Vec<_> = removed.iter().map(|(session, why)| (session.id.clone(), *why)).collect();
            let want = anns.len().checked_sub(2).map(|oldest: usize| (anns[oldest].clone(), EndReason::OwnLimit));
            assert_eq!(removed, Vec::from_iter(want), "round {round}");
            anns.push(session.id.clone());
        }
        assert!(sessions.touch(&bobs.id, &bob, &Scope::All).is_ok());
        // A lowered limit takes effect when the next session is opened.
        assert_eq!(sessions.open(&ann, &Scope::All, "{}", 1).1.len(), 2);
        assert_eq!(sessions.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_are_bounded_and_the_longest_idle_one_is_removed() {
        let (sessions, ann) = (sessions(2), principal("ann", "a"));
        let first = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (third, removed) = sessions.open(&ann, &Scope::All, "{}", usize::MAX);
        assert_eq!(
            removed.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
            [(&first.id, EndReason::NoRoom)]
        );
        assert_eq!(sessions.touch(&first.id, &ann, &Scope::All).err(), Some(UnknownSessionError));
        assert!(sessions.touch(&second.id, &ann, &Scope::All).is_ok());
        assert!(sessions.touch(&third.id, &ann, &Scope::All).is_ok());
    }

    #[tokio::test]
    async fn sessions_of_a_backend_end_when_the_roles_do_not_reach_it_any_more() {
        let ann = Principal { roles: vec!["all".to_owned()], ..principal("ann", "a") };
        let sessions = sessions(8);
        let [all, b, c] = [Scope::All, Scope::One("b".to_owned()), Scope::One("c".to_owned())]
            .map(|scope| sessions.open(&ann, &scope, "{}", usize::MAX).0);
        let [of_b, of_c] = ["b", "c"].map(|backend| all.connections.place(backend));
        let ended = sessions.remove_unreachable(&policy(&["c"]));
        let ended: Vec<_> = ended.iter().map(|(session, reason)| (session.id.as_str(), *reason)).collect();
        assert_eq!(ended, [(b.id.as_str(), EndReason::Unreachable)]);
        assert!(sessions.touch(&c.id, &ann, &c.scope).is_ok() && sessions.touch(&b.id, &ann, &b.scope).is_err());
        let is_kept = |backend, before| Arc::ptr_eq(&all.connections.place(backend), before);
        assert!(is_kept("c", &of_c) && !is_kept("b", &of_b), "its connection to b is closed");
    }
}
