//! Changes of the definitions of tools, for the alarm.

use parking_lot::Mutex;

use crate::audit::meter::Counter;

/// The changes at all backends, for the alarm.
#[derive(Debug, Default)]
pub(crate) struct CatalogChanges {
    /// The changes at backends whose `pin` asks for an alarm.
    alarmed: Counter,
    /// The messages of the alarm: about the last such change, and about tools that are not as they were accepted.
    messages: Mutex<Messages>,
}

#[derive(Debug, Default)]
struct Messages {
    changed: String,
    unpinned: Option<String>,
}

impl CatalogChanges {
    /// The number of changes that are a reason for an alarm, and what the last one was.
    pub(crate) fn alarmed(&self) -> (u64, String) {
        (self.alarmed.get(), self.messages.lock().changed.clone())
    }

    /// The tools that are not as they were accepted, if there are any.
    pub(crate) fn unpinned(&self) -> Option<String> {
        self.messages.lock().unpinned.clone()
    }

    /// Counts changes that are a reason for an alarm.
    pub(crate) fn add_alarmed(&self, changes: u64, message: String) {
        self.messages.lock().changed = message;
        self.alarmed.add(changes);
    }

    /// Sets the tools that are not as they were accepted.
    pub(crate) fn set_unpinned(&self, message: Option<String>) {
        self.messages.lock().unpinned = message;
    }
}
