//! The open calls of legacy sessions, so that `notifications/cancelled` can cancel one.
//!
//! A call is identified by its session and its JSON-RPC id. Sessions are bound to a principal, so that no caller can
//! cancel another's calls; a client without a session cannot cancel at all.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::mcp::envelope::Id;

type Key = (String, Id);

/// The open calls, each with its cancellation token.
#[derive(Debug, Default)]
pub(crate) struct InFlightCalls(Mutex<HashMap<Key, CancellationToken>>);

/// Keeps a call registered; dropping it removes the call.
#[derive(Debug)]
pub(crate) struct InFlightGuard<'a> {
    calls: &'a InFlightCalls,
    key: Key,
}

impl InFlightCalls {
    /// Registers a call. `None`: the session already has an open call with this id, which stays registered.
    pub(crate) fn register(&self, session: &str, id: &Id, cancel: CancellationToken) -> Option<InFlightGuard<'_>> {
        let key = (session.to_owned(), id.clone());
        let mut calls = self.0.lock();
        if calls.contains_key(&key) {
            return None;
        }
        calls.insert(key.clone(), cancel);
        Some(InFlightGuard { calls: self, key })
    }

    /// Cancels a call, if it is open.
    pub(crate) fn cancel(&self, session: &str, id: &Id) {
        if let Some(cancel) = self.0.lock().get(&(session.to_owned(), id.clone())) {
            cancel.cancel();
        }
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.calls.0.lock().remove(&self.key);
    }
}
