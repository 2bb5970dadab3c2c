//! The names in a backend's lists, as far as a refusal needs them: its record has only names that exist.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::mcp::methods::List;

use super::list::Item;

/// The time for which names are remembered. *Chosen*: many refusals in a row cost one list, and a tool that was just
/// added is soon recorded by its name.
const KEPT: Duration = Duration::from_secs(10);

/// The longest time to read a list for the record of a refusal, whose reply waits. *Chosen*: a list takes milliseconds;
/// a backend that is down delays one refusal in [`KEPT`].
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The names that were listed last.
#[derive(Debug, Default)]
pub(super) struct KnownNames(Mutex<HashMap<List, Known>>);

#[derive(Debug)]
struct Known {
    read_at: Instant,
    names: HashSet<String>,
}

impl KnownNames {
    /// Returns whether `name` was in the `list`. `None`: the list was not read recently.
    pub(super) fn has(&self, list: List, name: &str) -> Option<bool> {
        let known = self.0.lock();
        let known = known.get(&list).filter(|known| known.read_at.elapsed() < KEPT)?;
        Some(known.names.contains(name))
    }

    /// Remembers the `items` of the `list`; `None` if it could not be read.
    pub(super) fn set(&self, list: List, items: Option<&[Item]>) {
        let names = items.unwrap_or_default().iter().map(|item| item.name.clone()).collect();
        self.0.lock().insert(list, Known { read_at: Instant::now(), names });
    }
}
