//! A stdio backend: a child process that speaks newline-delimited JSON-RPC.
//!
//! The gateway keeps one child running, the shared one. It speaks the stateless era if it can, and then serves all
//! requests without a session. Otherwise the gateway initializes it without capabilities, so that it has no reason to
//! send requests, and each principal without a session has a child of its own, initialized likewise. Each legacy
//! session of a client has a child of its own too, which is initialized with that client's parameters. Request ids are
//! the gateway's own. Results are copied from a line as text; no JSON tree is built.
//!
//! When a child ends, its pending requests fail and are not repeated. The shared child is started again after a pause
//! that doubles up to a limit; other children are started again when they are used. An answer that is too long fails
//! only its own request.

mod child;
mod child_connection;
mod shutdown;
mod write_queue;

use std::sync::Arc;
use std::time::Duration;

use child::{ExitReason, Handshake};
pub(super) use child_connection::ChildConnection;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mcp::protocol::Era;
use crate::mcp::shared_text::SharedText;
use crate::walls::BackendLauncher;

use super::error::CallError;
use super::message::{Response, ServerMessageHandler};
use super::offer::Greeting;
use super::reconnect::ReconnectBackoff;

/// Longest wait of a request for a child that is starting. *Chosen*: a Python server takes 1 to 2 s, npx a few more.
const START_WAIT: Duration = Duration::from_secs(10);

/// The shared child of a backend, and the way in which the children of sessions are started.
#[derive(Debug)]
pub(super) struct StdioBackend {
    alias: String,
    launcher: Arc<BackendLauncher>,
    /// Written by the supervisor only.
    state: watch::Sender<State>,
    /// Handles messages of the shared child that belong to no request.
    listener: Arc<dyn ServerMessageHandler>,
    /// True if the shared child speaks the stateless era. `None`: it has not started yet, or may speak another era now.
    modern: Mutex<Option<bool>>,
}

/// The state of the shared child.
#[derive(Clone, Debug)]
enum State {
    Starting,
    Up(Arc<ChildConnection>),
    Down { reason: String },
}

impl StdioBackend {
    /// A backend whose shared child is not started yet.
    #[must_use]
    pub(super) fn new(alias: &str, launcher: BackendLauncher, listener: Arc<dyn ServerMessageHandler>) -> Self {
        let (state, launcher) = (watch::Sender::new(State::Starting), Arc::new(launcher));
        Self { alias: alias.to_owned(), launcher, state, listener, modern: Mutex::default() }
    }

    /// Returns whether the shared child speaks the stateless era, if that is known.
    pub(super) fn is_modern(&self) -> Option<bool> {
        *self.modern.lock()
    }

    /// Returns whether the shared child is running and has completed its handshake.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// The shared child's answer to its handshake, if it is running.
    pub(super) fn greeting(&self) -> Option<Arc<Greeting>> {
        match &*self.state.borrow() {
            State::Up(connection) => Some(connection.greeting()),
            State::Starting | State::Down { .. } => None,
        }
    }

    /// Waits until the shared child is up or its start has failed.
    pub(super) async fn started_or_failed(&self) {
        // The sender lives as long as `self`.
        self.state.subscribe().wait_for(|state| !matches!(state, State::Starting)).await.ok();
    }

    /// Waits until the shared child has started or ended.
    pub(super) async fn changed(&self) {
        let mut states = self.state.subscribe();
        let was_up = matches!(*states.borrow_and_update(), State::Up(_));
        // The sender lives as long as `self`.
        states.wait_for(|state| matches!(state, State::Up(_)) != was_up).await.ok();
    }

    /// Keeps the shared child running until `stop` is cancelled.
    pub(super) async fn supervise(&self, stop: CancellationToken) {
        self.launcher.log_limits();
        let mut retries = ReconnectBackoff::default();
        let mut survives_probe = true;
        loop {
            self.state.send_replace(State::Starting);
            let mut up_since = None;
            let on_up = |connection: Arc<ChildConnection>, _| {
                up_since = Some(tokio::time::Instant::now());
                let modern = connection.era() == Era::Modern;
                tracing::info!(backend = %self.alias, modern, "backend is up");
                *self.modern.lock() = Some(modern);
                self.state.send_replace(State::Up(connection));
            };
            let probe = survives_probe && self.is_modern() != Some(false);
            let listener = Some(Arc::clone(&self.listener));
            let handshake = Handshake::Gateway { probe };
            let end = child::run(&self.alias, &self.launcher, &handshake, listener, &stop, on_up).await;
            if probe && up_since.is_none() && matches!(end, ExitReason::Closed | ExitReason::Pipe(_)) {
                // Some servers exit if their first message is not `initialize`: try once without the probe.
                survives_probe = false;
                continue;
            }
            if !probe && up_since.is_none() {
                // The server may speak the stateless era only, and have exited during the probe for another reason.
                survives_probe = true;
                *self.modern.lock() = None;
            }
            let reason = if stop.is_cancelled() { "the gateway is stopping".to_owned() } else { end.to_string() };
            self.state.send_replace(State::Down { reason });
            if stop.is_cancelled() {
                return;
            }
            let pause = retries.next_pause(up_since);
            tracing::warn!(backend = %self.alias, error = %end, ?pause, "backend is down; starting it again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The connection to the shared child. Waits for a child that is starting.
    ///
    /// # Errors
    /// [`CallError::Down`].
    pub(super) async fn shared_child(&self) -> Result<Arc<ChildConnection>, CallError> {
        let mut states = self.state.subscribe();
        let started = states.wait_for(|state| !matches!(state, State::Starting));
        match tokio::time::timeout(START_WAIT, started).await {
            Ok(Ok(state)) => match &*state {
                State::Up(connection) => Ok(Arc::clone(connection)),
                State::Down { reason } => Err(CallError::Down { reason: reason.clone() }),
                State::Starting => Err(CallError::Down { reason: "still starting".to_owned() }),
            },
            Ok(Err(_)) | Err(_) => Err(CallError::Down { reason: "still starting".to_owned() }),
        }
    }

    /// Starts the child of one session with the client's `initialize_params`; without them that of one principal, by
    /// the gateway's own handshake of the older era. It runs on `tasks` until it ends or `stop` is cancelled.
    ///
    /// # Errors
    /// [`CallError::Down`]: it ended before it answered `initialize`.
    pub(super) async fn start_own_child(
        &self,
        initialize_params: Option<&SharedText>,
        listener: Option<Arc<dyn ServerMessageHandler>>,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<(Arc<ChildConnection>, Response), CallError> {
        let (sender, mut up) = oneshot::channel();
        let (alias, launcher) = (self.alias.clone(), Arc::clone(&self.launcher));
        let handshake = match initialize_params {
            Some(params) => Handshake::Client(params.clone()),
            None => Handshake::Gateway { probe: false },
        };
        let mut run = tasks.spawn(async move {
            let on_up = |connection, answer| {
                // If the receiver is gone, the session's guard is gone too, and ends the child.
                sender.send((connection, answer)).ok();
            };
            let end = child::run(&alias, &launcher, &handshake, listener, &stop, on_up).await;
            if !stop.is_cancelled() {
                tracing::warn!(backend = %alias, error = %end, "the child of a session or of a caller ended");
            }
            end
        });
        tokio::select! {
            biased;
            up = &mut up => if let Ok(up) = up {
                Ok(up)
            } else {
                let reason = run.await.map_or_else(|err| err.to_string(), |end| end.to_string());
                Err(CallError::Down { reason })
            },
            end = &mut run => {
                let reason = end.map_or_else(|err| err.to_string(), |end| end.to_string());
                Err(CallError::Down { reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
