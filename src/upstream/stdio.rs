//! A stdio backend: a child process that speaks newline-delimited JSON-RPC, started again when it ends.
//!
//! A legacy session of a client has a child of its own, which is greeted as the client greets. All others share one, with
//! which the stateless era is spoken where it knows that; else the gateway greets it without capabilities, so that it has
//! nothing to ask for. Ids are the gateway's own. Results are cut
//! out of a line as text; no tree is built.
//!
//! A child that ends takes its open calls with it, as errors; they are not made again. It is started anew after a pause
//! that doubles up to a limit; a session's is started anew when the session is used. An answer that is too long fails its own call only.
//!
//! Knows nothing of callers, permits or records.

mod child;
mod lines;
mod link;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use child::{End, Hello};
pub(super) use link::Link;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::mcp::protocol::Era;

use super::CallError;
use super::message::{Response, ServerMessageHandler};
use super::wait::Pauses;

/// How long a call waits for a backend that is starting. *Chosen*: a Python server takes 1 to 2 s, npx a few more.
const START_WAIT: Duration = Duration::from_secs(10);

/// A child that all use who have no session, and how children of sessions are started.
#[derive(Debug)]
pub(super) struct Stdio {
    alias: String,
    config: config::Backend,
    /// Written by the supervisor, read by all.
    state: watch::Sender<State>,
    /// Takes what the shared child sends besides responses.
    listener: Arc<dyn ServerMessageHandler>,
    /// Whether the shared child speaks the stateless era, once one has come up.
    modern: Mutex<Option<bool>>,
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    Up(Arc<Link>),
    Down { reason: String },
}

impl Stdio {
    /// Nothing is started yet.
    #[must_use]
    pub(super) fn new(alias: &str, config: &config::Backend, listener: Arc<dyn ServerMessageHandler>) -> Self {
        let state = watch::Sender::new(State::Starting);
        Self { alias: alias.to_owned(), config: config.clone(), state, listener, modern: Mutex::default() }
    }

    /// Whether the shared child speaks the stateless era, as far as is known.
    pub(super) fn is_modern(&self) -> Option<bool> {
        *self.modern.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the shared child answers now.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Runs the shared child, again and again, until `stop`.
    pub(super) async fn supervise(&self, stop: CancellationToken) {
        let mut pauses = Pauses::default();
        let mut survives_probe = true;
        loop {
            self.state.send_replace(State::Starting);
            let mut up_since = None;
            let on_up = |link: Arc<Link>, _| {
                up_since = Some(tokio::time::Instant::now());
                let modern = link.era() == Era::Modern;
                tracing::info!(backend = %self.alias, modern, "backend is up");
                *self.modern.lock().unwrap_or_else(PoisonError::into_inner) = Some(modern);
                self.state.send_replace(State::Up(link));
            };
            let probe = survives_probe && self.is_modern() != Some(false);
            let listener = Some(Arc::clone(&self.listener));
            let end = child::run(&self.alias, &self.config, &Hello::Own { probe }, listener, &stop, on_up).await;
            if probe && up_since.is_none() && matches!(end, End::Closed | End::Pipe(_)) {
                // It may be one that ends at a first message that is not `initialize`.
                survives_probe = false;
                continue;
            }
            if !probe && up_since.is_none() {
                // It may be that this one knows the stateless era only, and ended at the question for another reason.
                survives_probe = true;
                *self.modern.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            let reason = if stop.is_cancelled() { "the gateway is stopping".to_owned() } else { end.to_string() };
            self.state.send_replace(State::Down { reason });
            if stop.is_cancelled() {
                return;
            }
            let pause = pauses.next(up_since);
            tracing::warn!(backend = %self.alias, error = %end, ?pause, "backend is down, starting it again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The link to the shared child; waits for one that is starting.
    pub(super) async fn link(&self) -> Result<Arc<Link>, CallError> {
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

    /// Starts a child for one session, which `params` open; it runs on `tasks` until it ends or `stop`.
    ///
    /// # Errors
    /// [`CallError::Down`]: it did not come up.
    pub(super) async fn open(
        &self,
        params: &str,
        listener: Option<Arc<dyn ServerMessageHandler>>,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<(Arc<Link>, Response), CallError> {
        let (up, mut is_up) = oneshot::channel();
        let (alias, config) = (self.alias.clone(), self.config.clone());
        let initialize_params = Hello::Client(params.to_owned());
        let mut life = tasks.spawn(async move {
            let on_up = |link, answer| {
                // Nobody waits any more: the guard of the session is gone too, and ends the child.
                up.send((link, answer)).ok();
            };
            let end = child::run(&alias, &config, &initialize_params, listener, &stop, on_up).await;
            if !stop.is_cancelled() {
                tracing::warn!(backend = %alias, error = %end, "the backend of a session is down");
            }
            end
        });
        tokio::select! {
            biased;
            up = &mut is_up => if let Ok(up) = up {
                Ok(up)
            } else {
                let reason = life.await.map_or_else(|err| err.to_string(), |end| end.to_string());
                Err(CallError::Down { reason })
            },
            end = &mut life => {
                let reason = end.map_or_else(|err| err.to_string(), |end| end.to_string());
                Err(CallError::Down { reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
