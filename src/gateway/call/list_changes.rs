//! Changes of lists that the clients with sessions are told of: those that follow from a new policy, and those that the
//! gateway itself sees at backends.

use std::sync::Weak;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::gateway::call::core::Core;
use crate::gateway::sessions::Sessions;
use crate::rbac::{LIST_CHANGED_METHODS, Policy};
use crate::upstream::Change;

/// Tells each listening client of each of its lists that may differ between the policies `before` and `now`.
pub(crate) fn tell_policy(sessions: &Sessions, before: &Policy, now: &Policy) {
    for session in sessions.all().iter().filter(|session| session.general().has_reader()) {
        let roles = session.roles();
        let changed = LIST_CHANGED_METHODS.into_iter().filter(|(kind, _)| now.lists_differ(before, &roles, *kind));
        session.tell_changed(changed.map(|(_, method)| method));
    }
}

/// Tells clients of each observed change until the gateway is gone. What a backend itself tells reaches them on their
/// own connections.
pub(crate) async fn tell(core: Weak<Core>, mut changes: broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                let Some(core) = core.upgrade() else { return };
                if change.is_observed {
                    tell_backend(&core.sessions, &core.rules().policy, &change);
                }
            }
            // The clients that were not told list again when they call what is not there any more.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Tells the listening clients whose endpoint has the backend, and whose roles reach it.
fn tell_backend(sessions: &Sessions, policy: &Policy, change: &Change) {
    let backend = change.alias.as_str();
    for session in sessions.all().iter().filter(|session| session.general().has_reader()) {
        let has_backend = session.scope.backend().is_none_or(|own| own == backend);
        if has_backend && policy.reaches(&session.roles(), backend) {
            session.tell_changed([change.method.as_str()]);
        }
    }
}
