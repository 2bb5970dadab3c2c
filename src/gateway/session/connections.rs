//! The connections of one session to backends, and the lists that its client got without a backend that was late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::upstream::{LazyConnection, UpstreamConnection};

/// The connections of one session, by backend.
#[derive(Debug, Default)]
pub(crate) struct SessionConnections {
    open: Mutex<BTreeMap<String, Arc<LazyConnection>>>,
    /// The `list_changed` methods of the lists that the client got without the items of a backend, by backend.
    missed: Mutex<BTreeMap<String, BTreeSet<&'static str>>>,
}

impl SessionConnections {
    /// The place of the connection to `backend`.
    pub(crate) fn place(&self, backend: &str) -> Arc<LazyConnection> {
        Arc::clone(self.open.lock().entry(backend.to_owned()).or_default())
    }

    /// The open connections, without those that are being opened.
    pub(crate) fn all(&self) -> Vec<Arc<UpstreamConnection>> {
        self.open.lock().values().filter_map(|lazy| lazy.current()).collect()
    }

    /// Keeps only the connections to backends for which `is_kept`.
    pub(crate) fn retain(&self, is_kept: impl Fn(&str) -> bool) {
        self.open.lock().retain(|backend, _| is_kept(backend));
    }

    /// Remembers that the client got a list without the items of `backend`: `method` is the notification of its change.
    /// Returns true if the client can be told at once, because the connection was opened in the meantime. A backend
    /// that is connected, and does not answer or not well, is not late.
    pub(crate) fn miss(&self, backend: &str, method: &'static str) -> bool {
        if self.is_connected(backend) {
            return false;
        }
        self.missed.lock().entry(backend.to_owned()).or_default().insert(method);
        self.is_connected(backend)
    }

    /// Takes the methods of the lists that the client got without the items of `backend`.
    pub(crate) fn take_missed(&self, backend: &str) -> BTreeSet<&'static str> {
        self.missed.lock().remove(backend).unwrap_or_default()
    }

    fn is_connected(&self, backend: &str) -> bool {
        self.open.lock().get(backend).is_some_and(|lazy| lazy.usable().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_once_of_what_it_missed() {
        let connections = SessionConnections::default();
        assert!(
            !connections.miss("a", "tools") && !connections.miss("a", "prompts") && !connections.miss("b", "tools")
        );
        assert_eq!(connections.take_missed("a"), BTreeSet::from(["prompts", "tools"]));
        assert!(connections.take_missed("a").is_empty() && !connections.take_missed("b").is_empty());
    }

    #[test]
    fn connections_are_kept_for_backends_that_may_be_used() {
        let connections = SessionConnections::default();
        let place = connections.place("a");
        connections.place("b");
        connections.retain(|backend| backend == "a");
        assert!(Arc::ptr_eq(&place, &connections.place("a")));
        assert_eq!(connections.open.lock().len(), 1);
    }
}
