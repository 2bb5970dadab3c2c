//! The conversations with one backend of the older era for callers without a session: one for each principal and, if
//! the backend is called on its behalf, for each of its tokens.
//!
//! A server of that era may keep what a caller has set in a conversation: a login, a log level, subscriptions. Two
//! principals therefore never share one. The number is bounded: to make room, the conversation is ended that was idle
//! longest and has no open request. An idle conversation is ended after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::auth::validity::Validity;

use super::error::CallError;
use super::lazy_connection::LazyConnection;
use super::oauth::CallerToken;

/// The principal that a conversation belongs to, with the roles under which it is used: a token with other roles does
/// not continue it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The issuer of its subject.
    pub issuer: String,
    /// Its subject.
    pub subject: String,
    /// The roles of its token.
    pub roles: Vec<String>,
}

/// The conversations with one backend.
#[derive(Debug)]
pub(super) struct Conversations {
    open: Mutex<HashMap<Key, Conversation>>,
    max: usize,
}

/// The owner, and the digest of its token if the backend is called on its behalf: another token may have other rights.
type Key = (Owner, Option<[u8; 32]>);

fn key(owner: Owner, caller: Option<&Arc<CallerToken>>) -> Key {
    (owner, caller.map(|caller| caller.digest().0))
}

#[derive(Debug)]
struct Conversation {
    connection: Arc<LazyConnection>,
    last_used: Instant,
    /// The end of the caller's token, if the backend is called on its behalf.
    validity: Validity,
}

impl Conversations {
    /// Makes room for `max` conversations.
    pub(super) fn new(max: usize) -> Self {
        Self { open: Mutex::default(), max }
    }

    /// The conversation of `owner`, which is used now. Without one, a place for it. `caller` is the owner's token, if
    /// the backend is called on its behalf.
    ///
    /// # Errors
    /// [`CallError::Conversations`]: there is no room, because all have open requests.
    pub(super) fn enter(
        &self,
        owner: Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<LazyConnection>, CallError> {
        let validity = caller.map_or(Validity::UNLIMITED, |caller| caller.validity());
        let key = key(owner, caller);
        let mut open = self.open.lock();
        let now = Instant::now();
        if let Some(known) = open.get_mut(&key) {
            known.last_used = now;
            return Ok(Arc::clone(&known.connection));
        }
        // I6: the number of conversations is bounded.
        if open.len() >= self.max {
            let idle = open.iter().filter(|(_, known)| !known.is_in_use());
            let longest = idle.min_by_key(|(_, known)| known.last_used).map(|(key, _)| key.clone());
            let longest = longest.ok_or(CallError::Conversations { limit: self.max })?;
            open.remove(&longest);
            tracing::info!(limit = self.max, "ended the conversation that was idle longest, to make room for another");
        }
        let connection = Arc::new(LazyConnection::default());
        open.insert(key, Conversation { connection: Arc::clone(&connection), last_used: now, validity });
        Ok(connection)
    }

    /// The conversation of `owner`, if one is open. Asking does not count as use.
    pub(super) fn get(&self, owner: Owner, caller: Option<&Arc<CallerToken>>) -> Option<Arc<LazyConnection>> {
        self.open.lock().get(&key(owner, caller)).map(|known| Arc::clone(&known.connection))
    }

    /// Ends the conversations that were idle longer than `idle`, or whose caller's token has ended. Returns their
    /// number.
    pub(super) fn end_idle(&self, idle: Duration) -> usize {
        let mut open = self.open.lock();
        let before = open.len();
        open.retain(|_, known| {
            if known.is_in_use() {
                known.last_used = Instant::now();
            }
            known.last_used.elapsed() <= idle && !known.validity.has_ended()
        });
        before - open.len()
    }

    /// Ends the conversations of the owners that `is_ended` selects. Requests that are open on them end first. Returns
    /// their number.
    pub(super) fn end_where(&self, is_ended: impl Fn(&Owner) -> bool) -> usize {
        let mut open = self.open.lock();
        let before = open.len();
        open.retain(|(owner, _), _| !is_ended(owner));
        before - open.len()
    }

    /// The number of conversations.
    pub(super) fn count(&self) -> usize {
        self.open.lock().len()
    }
}

impl Conversation {
    /// Returns whether a request uses the connection, or waits for it.
    fn is_in_use(&self) -> bool {
        let has_request = || self.connection.current().is_some_and(|connection| Arc::strong_count(&connection) > 2);
        Arc::strong_count(&self.connection) > 1 || has_request()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Timestamp;

    fn owner(subject: &str) -> Owner {
        Owner { issuer: "i".to_owned(), subject: subject.to_owned(), roles: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn i6_conversations_are_bounded_and_one_in_use_is_never_ended_for_another() {
        let conversations = Conversations::new(2);
        let ann = conversations.enter(owner("ann"), None).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(conversations.enter(owner("bob"), None).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        let eve = conversations.enter(owner("eve"), None).unwrap();
        assert!(conversations.get(owner("bob"), None).is_none(), "idle, though not longest");
        assert!(Arc::ptr_eq(&ann, &conversations.enter(owner("ann"), None).unwrap()));
        let refused = conversations.enter(owner("bob"), None).unwrap_err();
        assert!(matches!(refused, CallError::Conversations { limit: 2 }), "{refused}");
        drop((ann, eve));
        assert!(conversations.enter(owner("bob"), None).is_ok());
        assert_eq!(conversations.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_conversations_end_and_those_in_use_do_not() {
        let (conversations, idle) = (Conversations::new(9), Duration::from_mins(1));
        let used = conversations.enter(owner("ann"), None).unwrap();
        drop(conversations.enter(owner("bob"), None).unwrap());
        let other = Owner { issuer: "j".to_owned(), ..owner("ann") };
        assert!(!Arc::ptr_eq(&used, &conversations.enter(other, None).unwrap()), "another issuer's ann");
        tokio::time::advance(idle).await;
        assert_eq!(conversations.end_idle(idle), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((conversations.end_idle(idle), conversations.count()), (2, 1));
        drop(used);
        tokio::time::advance(idle).await;
        assert_eq!(conversations.end_idle(idle), 0, "idle only since its last request has ended");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((conversations.end_idle(idle), conversations.count()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn conversations_are_of_the_roles_of_a_token_and_end_with_what_those_may_use() {
        let conversations = Conversations::new(8);
        let of = |role: &str| Owner { roles: vec![role.to_owned()], ..owner("ann") };
        let wide = conversations.enter(of("wide"), None).unwrap();
        assert!(!Arc::ptr_eq(&wide, &conversations.enter(of("narrow"), None).unwrap()));
        assert_eq!(conversations.end_where(|owner| owner.roles == ["wide"]), 1);
        assert!(conversations.get(of("wide"), None).is_none() && conversations.get(of("narrow"), None).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_on_behalf_of_a_caller_is_of_its_token_and_ends_with_it() {
        let (conversations, idle) = (Conversations::new(8), Duration::from_hours(1));
        let end = Timestamp::from_micros(Timestamp::now().micros() + 60_000_000);
        let token = |text: &str| Arc::new(CallerToken::new("i", "ann", text, Validity::until(end)));
        let enter = |caller: &Arc<CallerToken>| conversations.enter(owner("ann"), Some(caller)).unwrap();
        let first = enter(&token("first"));
        assert!(Arc::ptr_eq(&first, &enter(&token("first"))) && !Arc::ptr_eq(&first, &enter(&token("second"))));
        assert!(conversations.get(owner("ann"), None).is_none());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!((conversations.end_idle(idle), conversations.count()), (2, 0));
    }
}
