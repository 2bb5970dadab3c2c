//! A request of a backend to the client of a session: a question, and what became of it.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::audit::record::{Caller, RequestId};
use crate::upstream::{CallerToken, UpstreamConnection};

/// A call of a session that is open at a backend.
#[derive(Debug)]
pub(crate) struct OpenCall {
    /// Its request id.
    pub(crate) request_id: RequestId,
    /// The backend's alias.
    pub(crate) backend: String,
    /// The tool; `None` for a prompt, a resource or a list.
    pub(crate) tool: Option<String>,
}

/// The calls of one session that are open at backends.
#[derive(Debug)]
pub(crate) struct OpenCalls {
    calls: Mutex<Vec<Weak<OpenCall>>>,
    /// A token for each question that is not delivered yet.
    deliveries: TaskTracker,
}

impl Default for OpenCalls {
    fn default() -> Self {
        let deliveries = TaskTracker::new();
        // A closed tracker is only one whose end can be waited for.
        deliveries.close();
        Self { calls: Mutex::default(), deliveries }
    }
}

impl OpenCalls {
    /// Notes that `call` is open until it is dropped.
    pub(crate) fn note(&self, call: OpenCall) -> Arc<OpenCall> {
        let call = Arc::new(call);
        let mut calls = self.calls.lock();
        calls.retain(|call| call.strong_count() > 0);
        calls.push(Arc::downgrade(&call));
        call
    }

    /// The call that is open at `backend`, if there is exactly one. A child process does not say during which call it
    /// asks.
    pub(crate) fn only_at(&self, backend: &str) -> Option<Arc<OpenCall>> {
        let calls = self.calls.lock();
        let mut open = calls.iter().filter_map(Weak::upgrade).filter(|call| call.backend == backend);
        let call = open.next()?;
        open.next().is_none().then_some(call)
    }

    /// A token that is held until a question is delivered.
    pub(crate) fn delivering(&self) -> TaskTrackerToken {
        self.deliveries.token()
    }

    /// Waits until every question that came before is delivered or refused: a client sees a question before the
    /// response to the call during which it was asked.
    pub(crate) async fn delivered(&self) {
        self.deliveries.wait().await;
    }
}

/// A request of a backend to a client.
pub(crate) struct Question {
    /// The principal that opened the session.
    pub(crate) caller: Caller,
    /// The name and version by which the client calls itself.
    pub(crate) client_info: Option<Arc<(String, String)>>,
    /// The session.
    pub(crate) session: String,
    /// The id under which the client gets the request.
    pub(crate) number: u64,
    /// The backend's alias.
    pub(crate) backend: String,
    /// The connection that the request came on.
    pub(crate) connection: Weak<UpstreamConnection>,
    /// The backend's id of the request, as JSON text.
    pub(crate) id: String,
    /// Its method.
    pub(crate) method: String,
    /// Its parameters, JSON text.
    pub(crate) params: Option<String>,
    /// The call during which the backend asks, if it is known.
    pub(crate) during: Option<Arc<OpenCall>>,
    /// Receives the fate of the request. If the sender was dropped, the session has ended, or had too many of them.
    pub(crate) fate: oneshot::Receiver<Fate>,
    /// Hands the request to the client. Returns false if no client takes it.
    pub(crate) deliver: Box<dyn FnOnce() -> bool + Send>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("method", &self.method).field("number", &self.number).finish_non_exhaustive()
    }
}

/// The fate of a question.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The client answered it.
    Answered(ClientAnswer),
    /// The backend cancelled it.
    Cancelled,
}

/// A client's answer to a question.
#[derive(Debug)]
pub(crate) struct ClientAnswer {
    /// The `result` or the `error`, JSON text.
    pub(crate) content: Result<String, String>,
    pub(crate) sender: AnswerSender,
    /// Dropped when the answer is recorded and on its way to the backend, or refused.
    pub(crate) handled: oneshot::Sender<()>,
}

/// The caller that answered a question.
#[derive(Debug)]
pub(crate) struct AnswerSender {
    /// The roles of its token.
    pub(crate) roles: Vec<String>,
    /// The token, if a backend of the session is called on behalf of the caller.
    pub(crate) token: Option<Arc<CallerToken>>,
}

/// Takes the questions of a session's backends: records each, hands it to the client, and hands the answer to the
/// backend.
pub(crate) trait QuestionHandler: fmt::Debug + Send + Sync {
    /// Takes a question, at once.
    fn take(&self, question: Question);
}
