//! The changes of backends' lists that the gateway itself has seen, told to the clients with sessions.

use std::sync::Weak;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::gateway::call::core::Core;
use crate::upstream::Change;

/// Tells sessions of each observed change until the gateway is gone. What a backend itself tells reaches them on their
/// own connections.
pub(crate) async fn tell(core: Weak<Core>, mut changes: broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                let Some(core) = core.upgrade() else { return };
                if change.is_observed {
                    core.sessions.tell_changed(&change.alias, &change.method);
                }
            }
            // The clients that were not told list again when they call what is not there any more.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
