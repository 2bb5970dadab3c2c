//! A stdio backend: a child process that speaks newline-delimited JSON-RPC, started again when it ends.
//!
//! The gateway is its only client, of the legacy era and without capabilities, so that a backend has nothing to ask for.
//! Ids are the gateway's own. Results are cut out of a line as text; no tree is built.
//!
//! A child that ends takes its open calls with it, as errors; they are not made again. It is started anew after a pause
//! that doubles up to a limit. An answer that is too long fails its own call only.
//!
//! Knows nothing of callers, permits or records.

mod child;
mod link;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::gateway::raw;

use link::Link;

/// Longest line of a backend, in bytes. *Chosen*: four times the default request limit; an answer is held in memory.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most pages of a tool list. *Chosen*: the Python SDK's own bound.
const LIST_PAGES_MAX: usize = 100;

/// Most bytes of all tools of a backend. *Chosen*: as for one line.
const LIST_BYTES_MAX: usize = LINE_BYTES_MAX;

/// Longest time for one page of a list. *Chosen*: a list is static in most servers; a client waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a call waits for a backend that is starting. *Chosen*: a Python server takes 1 to 2 s, npx a few more.
const START_WAIT: Duration = Duration::from_secs(10);

/// The first pause before a child is started again; doubles each time. *Chosen*.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause. *Chosen*: an operator who mends a backend waits no longer.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A child that was up this long begins with the first pause again. *Chosen*.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// One backend.
#[derive(Debug)]
pub(super) struct Backend {
    alias: String,
    config: config::Backend,
    /// Written by the supervisor, read by all.
    state: watch::Sender<State>,
}

/// A tool as its backend lists it.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The whole object, as it came.
    pub json: String,
}

/// A backend's response, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// The result.
    Result(String),
    /// The error object.
    Error(String),
}

/// Why a backend gave no response.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It is not running. The call did not reach it.
    #[error("is down: {reason}")]
    Down {
        /// Why.
        reason: String,
    },
    /// It ended while the call was open. Whether the call took effect is unknown.
    #[error("ended before it answered")]
    Died,
    /// It did not answer in time. Whether the call took effect is unknown.
    #[error("did not answer within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// Its answer is too long to be relayed.
    #[error("answered with more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Its answer is no JSON-RPC response.
    #[error("answered with what is no JSON-RPC response")]
    Garbled,
    /// Its tool list breaks a rule.
    #[error("has a tool list that {fault}")]
    List {
        /// The rule.
        fault: &'static str,
    },
    /// The client cancelled the call.
    #[error("did not answer before the client cancelled")]
    Cancelled,
    /// The gateway stopped.
    #[error("did not answer before the gateway stopped")]
    Stopped,
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    Up(Arc<Link>),
    Down { reason: String },
}

impl Backend {
    /// A backend that is not started yet.
    #[must_use]
    pub(super) fn new(alias: &str, config: &config::Backend) -> Self {
        Self { alias: alias.to_owned(), config: config.clone(), state: watch::Sender::new(State::Starting) }
    }

    /// Whether it answers now.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Runs the child, again and again, until `stop`.
    pub(super) async fn supervise(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = PAUSE_MIN;
        loop {
            self.state.send_replace(State::Starting);
            let mut up_since = None;
            let on_up = |link| {
                up_since = Some(tokio::time::Instant::now());
                tracing::info!(backend = %self.alias, "backend is up");
                self.state.send_replace(State::Up(link));
            };
            let end = child::run(&self.alias, &self.config, &stop, on_up).await;
            let reason = if stop.is_cancelled() { "the gateway is stopping".to_owned() } else { end.to_string() };
            self.state.send_replace(State::Down { reason });
            if stop.is_cancelled() {
                return;
            }
            if up_since.is_some_and(|since| since.elapsed() >= STEADY_AFTER) {
                pause = PAUSE_MIN;
            }
            tracing::warn!(backend = %self.alias, error = %end, ?pause, "backend is down, starting it again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    /// Makes one request and waits for its response, at most the backend's `call_timeout`.
    ///
    /// # Errors
    /// [`CallError`]. The backend was told to cancel where it may still be at work.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request at the backend.
    pub(super) async fn call(&self, method: &str, params: Option<&str>) -> Result<Response, CallError> {
        let link = self.link().await?;
        link.request(method, params, self.config.call_timeout).await
    }

    /// Reads all pages of the tool list and remembers them until the backend says that they changed.
    ///
    /// # Errors
    /// [`CallError`]: down, or [`CallError::List`] where pages do not end or a tool has no name.
    pub(super) async fn list_tools(&self) -> Result<Arc<[Tool]>, CallError> {
        let link = self.link().await?;
        let timeout = LIST_TIMEOUT.min(self.config.call_timeout);
        let mut tools = Vec::new();
        let mut bytes = 0_usize;
        let mut cursors: Vec<String> = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            let params = cursors.last().map(|cursor| raw::object([("cursor", raw::quoted(cursor).as_str())]));
            let page = match link.request("tools/list", params.as_deref(), timeout).await? {
                Response::Result(result) => result,
                Response::Error(_) => return Err(CallError::List { fault: "is an error" }),
            };
            bytes = bytes.saturating_add(page.len());
            if bytes > LIST_BYTES_MAX {
                return Err(CallError::List { fault: "is too long" });
            }
            let next = read_page(&page, &mut tools)?;
            let Some(cursor) = next else {
                let tools: Arc<[Tool]> = tools.into();
                link.remember_tools(&tools);
                return Ok(tools);
            };
            if cursors.contains(&cursor) {
                return Err(CallError::List { fault: "comes back to a page it had" });
            }
            cursors.push(cursor);
        }
        Err(CallError::List { fault: "has too many pages" })
    }

    /// The tools that were last listed, if nothing has changed since.
    #[must_use]
    pub(super) fn known_tools(&self) -> Option<Arc<[Tool]>> {
        match &*self.state.borrow() {
            State::Up(link) => link.known_tools(),
            State::Starting | State::Down { .. } => None,
        }
    }

    /// The link to the running child; waits for one that is starting.
    async fn link(&self) -> Result<Arc<Link>, CallError> {
        let mut states = self.state.subscribe();
        let settled = states.wait_for(|state| !matches!(state, State::Starting));
        match tokio::time::timeout(START_WAIT, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(link) => Ok(Arc::clone(link)),
                State::Down { reason } => Err(CallError::Down { reason: reason.clone() }),
                State::Starting => Err(CallError::Down { reason: "still starting".to_owned() }),
            },
            Ok(Err(_)) | Err(_) => Err(CallError::Down { reason: "still starting".to_owned() }),
        }
    }
}

/// Adds a page's tools to `tools` and gives its `nextCursor`.
fn read_page(page: &str, tools: &mut Vec<Tool>) -> Result<Option<String>, CallError> {
    let members = raw::members(page).ok_or(CallError::Garbled)?;
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    let list = find("tools").ok_or(CallError::List { fault: "has no tools member" })?;
    let list: Vec<&serde_json::value::RawValue> =
        serde_json::from_str(list.get()).map_err(|_| CallError::List { fault: "is no list" })?;
    for tool in list {
        let members = raw::members(tool.get()).unwrap_or_default();
        let name = members.iter().find(|member| member.key == "name").and_then(|member| raw::string(member.value));
        let name = name.ok_or(CallError::List { fault: "has a tool without a name" })?;
        tools.push(Tool { name, json: tool.get().to_owned() });
    }
    Ok(find("nextCursor").and_then(raw::string))
}

#[cfg(test)]
mod tests;
