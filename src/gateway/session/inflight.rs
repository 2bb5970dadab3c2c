//! The open calls of legacy sessions, so that `notifications/cancelled` finds the one it means.
//!
//! A call is known by its session and its JSON-RPC id. Sessions are bound to a principal, so that nobody reaches
//! another's calls; a client without a session cannot cancel.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::mcp::envelope::Id;

type Key = (String, Id);

/// The open calls.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<Key, CancellationToken>>);

/// A call's place; dropping it takes the call out.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    calls: &'a InFlight,
    key: Key,
}

impl InFlight {
    /// Enters a call. An id that is open already in its session is not entered again: the first one keeps it.
    pub(crate) fn enter(&self, session: &str, id: &Id, cancel: CancellationToken) -> Option<Place<'_>> {
        let key = (session.to_owned(), id.clone());
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.contains_key(&key) {
            return None;
        }
        calls.insert(key.clone(), cancel);
        Some(Place { calls: self, key })
    }

    /// Cancels a call, if it is open.
    pub(crate) fn cancel(&self, session: &str, id: &Id) {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cancel) = calls.get(&(session.to_owned(), id.clone())) {
            cancel.cancel();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.calls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
