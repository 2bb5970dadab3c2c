//! The `list_changed` notifications of a backend, and the tools that it listed before the last one.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::list::Item;
use super::message::{Event, ServerMessageHandler};

/// A change of one of a backend's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The backend's alias.
    pub alias: String,
    /// The notification's method.
    pub method: String,
    /// True if the gateway has seen it itself; false if the backend told it.
    pub is_observed: bool,
}

/// The listener of a backend's shared connection.
///
/// It remembers the tools until the backend reports that they have changed, and passes on every `list_changed`
/// notification.
#[derive(Debug)]
pub(super) struct ListChangeHandler {
    alias: String,
    tools: Mutex<Option<Arc<[Item]>>>,
    changes: broadcast::Sender<Change>,
}

impl ListChangeHandler {
    pub(super) fn new(alias: &str, changes: broadcast::Sender<Change>) -> Self {
        Self { alias: alias.to_owned(), tools: Mutex::default(), changes }
    }

    /// The tools that were listed last, unless they have changed since.
    pub(super) fn tools(&self) -> Option<Arc<[Item]>> {
        self.tools.lock().clone()
    }

    /// Remembers the tools. `None` forgets them.
    pub(super) fn set_tools(&self, tools: Option<Arc<[Item]>>) {
        *self.tools.lock() = tools;
    }
}

impl ServerMessageHandler for ListChangeHandler {
    fn on_event(&self, event: Event) -> bool {
        if event.method == "notifications/tools/list_changed" {
            self.set_tools(None);
        }
        let is_notification = event.id.is_none();
        if is_notification && event.method.ends_with("/list_changed") {
            // Without subscribers there is no receiver.
            self.changes.send(Change { alias: self.alias.clone(), method: event.method, is_observed: false }).ok();
        }
        is_notification
    }
}
