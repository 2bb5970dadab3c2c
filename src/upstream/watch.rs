//! Backends are looked at in the background: whether they answer, and what tools they have.
//!
//! So a backend's state is known before anyone calls it, its list is there when a client asks, and clients hear when a
//! backend comes, goes, or lists other tools than before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::audit::record::Digest;
use crate::mcp::methods::List;
use crate::mcp::protocol::Era;

use super::backend::{Backend, Transport};
use super::error::CallError;
use super::list::Items;
use super::list_changes::Change;
use super::message::{DISCOVER, Request, discover_params};

/// Pauses between looks at a backend that does not answer, for the first [`EAGER_LOOKS`] looks and after them.
/// *Chosen*: a client hears of a backend within a second after it has come up; one that is gone for long costs little.
const EAGER_PAUSE: Duration = Duration::from_secs(1);
const PATIENT_PAUSE: Duration = Duration::from_secs(10);
const EAGER_LOOKS: u32 = 300;

/// Longest time of one look. *Chosen*: as for a page of a list.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// A digest of the tools; `None`: the backend offers none.
    tools: Option<Digest>,
    is_whole: bool,
}

impl Backend {
    /// Looks at the backend until it is replaced, or the gateway stops.
    pub(super) async fn watch(self: Arc<Self>) {
        let Some(interval) = self.probe_interval else { return };
        let stop = self.retired();
        let (mut before, mut failures) = (None, 0_u32);
        loop {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = tokio::time::timeout(LOOK_TIMEOUT, self.look()) => looked,
            };
            let seen = looked.unwrap_or(Err(CallError::TimedOut { after: LOOK_TIMEOUT }));
            self.is_unreachable.store(seen.is_err(), Ordering::Relaxed);
            failures = if seen.is_err() { failures.saturating_add(1) } else { 0 };
            if let Err(error) = &seen
                && failures == 1
            {
                tracing::warn!(backend = self.alias, %error, "the backend does not answer; looking at it again until it does");
            }
            let seen = seen.ok();
            if seen.is_none() {
                self.list_changes.set_tools(None);
            }
            if seen != before {
                self.announce();
            }
            before = seen;
            let pause = match seen {
                Some(Seen { is_whole: true, .. }) => interval,
                None if failures <= EAGER_LOOKS => EAGER_PAUSE,
                Some(_) | None => PATIENT_PAUSE.min(interval),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&self) -> Result<Seen, CallError> {
        let Some(Items { items, is_whole }) = self.tools_if_any().await? else {
            return Ok(Seen { tools: None, is_whole: true });
        };
        let text: String = items.iter().map(|item| item.json.as_str()).collect();
        Ok(Seen { tools: Some(Digest::of(text.as_bytes())), is_whole })
    }

    /// Waits until the backend has started or failed to, however long that takes, and asks it for its tools once.
    ///
    /// # Errors
    /// As for [`Backend::list`].
    pub async fn try_out(&self) -> Result<Option<Items>, CallError> {
        if let Transport::Stdio(stdio) = &self.transport {
            stdio.started_or_failed().await;
        }
        self.tools_if_any().await
    }

    /// Asks for the tools, or for a sign of life if there are none.
    async fn tools_if_any(&self) -> Result<Option<Items>, CallError> {
        if let Transport::Http(endpoint) = &self.transport {
            endpoint.complete_greeting().await;
        }
        let connection = self.shared().await?;
        if connection.greeting().offer.has_list(List::Tools) {
            return self.tools().await.map(Some);
        }
        let request = match connection.era() {
            Era::Legacy => Request::new("ping", None),
            Era::Modern => Request::new(DISCOVER, Some(discover_params().into())),
        };
        connection.request(&request).await?;
        Ok(None)
    }

    /// Waits until the shared child starts or ends. An HTTP backend shows no such thing.
    async fn changed(&self) {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.changed().await,
            Transport::Http(_) => std::future::pending().await,
        }
    }

    /// Tells all clients that the lists of this backend have changed.
    pub(super) fn announce(&self) {
        for list in [List::Tools, List::Resources, List::Prompts] {
            let method = list.changed_method().to_owned();
            // Without subscribers there is no receiver.
            self.changes.send(Change { alias: self.alias.clone(), method, is_observed: true }).ok();
        }
    }
}
