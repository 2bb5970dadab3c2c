//! MCP over standard input and output, for clients that start their server themselves.
//!
//! Each line is handled like the body of a POST with the client's token ([`identity`]): it is parsed, authenticated,
//! authorized and recorded. The headers of an HTTP request are derived from the message itself; the session of a legacy
//! client is kept here. A modern client cancels with a notification, since it has no connection to close.

mod error;
mod identity;
mod token_source;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::audit::record::RequestId;
use crate::gateway::call::core::Core;
use crate::gateway::dispatch;
use crate::gateway::dispatch::stream_offer::OpenedStream;
use crate::gateway::drain::DrainReport;
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::stream::Next;
use crate::mcp::envelope::Id;
use crate::mcp::json::{self, Object};
use crate::mcp::lines::{Line, next_line};
use crate::mcp::methods::{self, MethodSpec};
use crate::mcp::protocol::{META_VERSION, METHOD_HEADER, NAME_HEADER, SESSION_HEADER, VERSION_HEADER, header_text};
pub use error::Error;
use identity::{HOST, Identities, Identity};
pub use token_source::{TokenError, TokenSource};

/// The most lines that wait to be written. *Chosen*: enough for a burst; a client that does not read delays its own
/// calls only.
const LINES_MAX: usize = 64;

/// The client and the endpoint that it uses.
pub(crate) struct Client {
    core: Arc<Core>,
    scope: Scope,
    identities: Identities,
}

impl Client {
    /// The client with a token of `source` at the endpoint of `backend`, or at that of all backends if `backend` is
    /// `all`.
    ///
    /// # Errors
    /// [`Error`]: the backend does not exist, or there is no valid token.
    pub(crate) async fn new(core: &Arc<Core>, backend: &str, source: TokenSource) -> Result<Self, Error> {
        let scope = match backend {
            "all" => Scope::All,
            name if core.upstreams.contains(name) => Scope::One(name.to_owned()),
            name => return Err(Error::Backend(name.to_owned())),
        };
        let identities = Identities::new(core, scope.clone(), source).await?;
        Ok(Self { core: Arc::clone(core), scope, identities })
    }
}

/// Serves `client` until `input` ends, `stop`, or the end of its last token, then waits for `drain`, which ends the
/// open calls.
///
/// # Errors
/// The reason why the token has ended and there is no other. Open calls were drained all the same.
pub(crate) async fn serve(
    client: Client,
    input: impl AsyncBufRead + Unpin,
    output: impl AsyncWrite + Unpin,
    stop: CancellationToken,
    drain: impl Future<Output = DrainReport>,
) -> Result<DrainReport, Error> {
    let (lines, to_write) = mpsc::channel(LINES_MAX);
    let connection = Arc::new(Connection { client, lines, session: Mutex::default(), open: Mutex::default() });
    let reading = async {
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            () = Arc::clone(&connection).read(input) => None,
            reason = connection.client.identities.ended() => Some(reason),
        };
        let report = drain.await;
        drop(connection); // The writer ends with the last sender of lines.
        ended.map_or(Ok(report), Err)
    };
    tokio::join!(reading, write(output, to_write)).0
}

async fn write(mut output: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<String>) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        if output.write_all(line.as_bytes()).await.is_err() || output.flush().await.is_err() {
            // The client is gone. Its calls continue, and are recorded.
            lines.close();
        }
    }
}

/// A client's standard input and output, and the requests that are open on them.
struct Connection {
    client: Client,
    lines: mpsc::Sender<String>,
    /// The session, once the client has initialized one.
    session: Mutex<Option<HeaderValue>>,
    /// The tokens that cancel open requests, by id: a notification may cancel them.
    open: Mutex<HashMap<Id, CancellationToken>>,
}

impl Connection {
    async fn read(self: Arc<Self>, mut input: impl AsyncBufRead + Unpin) {
        let mut line = Vec::new();
        loop {
            let core = &self.client.core;
            let body = match next_line(&mut input, &mut line, core.body_bytes_max).await {
                Ok(Line::Whole) if line.trim_ascii().is_empty() => continue,
                Ok(Line::Whole) => {
                    // I6: lines that wait are bounded: the next one is read after there was room for this one.
                    let room = core.bodies.reserve(&self.client.identities.current().principal, line.len()).await;
                    UnreadBody::line(line.clone(), room)
                }
                Ok(Line::Cut) => UnreadBody::cut_line(&line),
                Ok(Line::End) => return,
                Err(error) => {
                    tracing::warn!(%error, "reading from the client failed; closing the connection");
                    return;
                }
            };
            let text = std::str::from_utf8(&line).unwrap_or_default();
            let message = Object::parse_path(text, &["params", "_meta"]).unwrap_or_default();
            let id = message.get("id").and_then(|id| Id::new(id).ok());
            let method = message.string("method").unwrap_or_default();
            if method == "notifications/cancelled" {
                self.cancel(&message);
            }
            let identity = self.client.identities.for_message().await;
            let inbound = self.inbound(&message, &method, &identity);
            if let Some(id) = &id {
                // Registered before the next line is read, because that line may cancel the request.
                let cancelled = inbound.cancelled.clone();
                self.open.lock().insert(id.clone(), cancelled);
            }
            // A notification has no reply, whether or not it is accepted.
            let is_notification = message.get("id").is_none() && method.starts_with("notifications/");
            let handled = Arc::clone(&self).handle(inbound, body, id.clone(), is_notification);
            // The next line may depend on the session that `initialize` opens, or on a notification: these are awaited.
            if id.is_none() || method == "initialize" {
                handled.await;
            } else {
                tokio::spawn(handled);
            }
        }
    }

    /// The line as a request. Its headers are derived from the message.
    fn inbound(&self, message: &Object<'_>, method: &str, identity: &Identity) -> InboundRequest {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, identity.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let params = message.object("params").unwrap_or_default();
        let version = params.object("_meta").and_then(|meta| meta.string(META_VERSION));
        if let Some(version) = version {
            let named = methods::find(method).and_then(MethodSpec::header_member);
            let name = named.and_then(|member| params.string(member));
            let repeated =
                [(VERSION_HEADER, Some(version)), (METHOD_HEADER, Some(method.to_owned())), (NAME_HEADER, name)];
            for (header, value) in repeated {
                let value = value.and_then(|value| HeaderValue::from_str(&header_text(&value)).ok());
                headers.extend(value.map(|value| (HeaderName::from_static(header), value)));
            }
        } else if let Some(session) = self.session.lock().clone() {
            headers.insert(SESSION_HEADER, session);
        }
        let cancelled = CancellationToken::new();
        InboundRequest {
            request_id: RequestId::new(),
            addr: None,
            certificate: None,
            place: None,
            scope: self.client.scope.clone(),
            headers,
            host: HOST.to_owned(),
            is_https: false,
            hung_up: cancelled.clone(),
            cancelled,
            head: Ok(()),
            body: OnceLock::new(),
        }
    }

    /// Handles one message and writes its reply, or the messages of its stream, which end with the reply. The task that
    /// handles it has begun when this returns, so that a drain waits for it although the input has ended.
    fn handle(
        self: Arc<Self>,
        inbound: InboundRequest,
        body: UnreadBody,
        id: Option<Id>,
        is_notification: bool,
    ) -> impl Future<Output = ()> {
        let span = tracing::info_span!("request", request_id = %inbound.request_id);
        let (offer, offered) = oneshot::channel::<OpenedStream>();
        let core = &self.client.core;
        let handled = dispatch::serve(Arc::clone(core), inbound, body, offer).instrument(span);
        let mut handled = core.tasks.spawn(handled);
        async move {
            let (mut opened, mut was_used) = (None, false);
            if let Ok(stream) = offered.await {
                let stream = opened.insert(stream);
                tokio::select! {
                    biased;
                    () = stream.stream.used() => was_used = true,
                    reply = &mut handled => {
                        // If the stream was used in the meantime, the reply is its last message.
                        was_used = !stream.stream.is_unused();
                        if !was_used {
                            self.reply(reply.ok()).await;
                        }
                    }
                }
            } else {
                let reply = handled.await;
                self.reply(reply.ok().filter(|_| !is_notification)).await;
            }
            if let Some(mut reader) = opened.filter(|_| was_used).and_then(|opened| opened.stream.read_from(0)) {
                while let Next::Message(_, json) = reader.next().await {
                    // An error means that the client is gone and needs no more messages.
                    self.lines.send(json.to_string()).await.ok();
                }
            }
            if let Some(id) = &id {
                self.open.lock().remove(id);
            }
        }
    }

    async fn reply(&self, reply: Option<Reply>) {
        let Some(reply) = reply else { return };
        if let Some(session) = reply.header(SESSION_HEADER) {
            self.use_session(session.clone());
        }
        if let Some(body) = reply.body() {
            self.lines.send(json::one_line(body).into_owned()).await.ok();
        }
    }

    /// Uses the session that the client has opened for its next requests, and writes the messages of the session's
    /// general stream as they come.
    fn use_session(&self, id: HeaderValue) {
        let Client { core, scope, identities } = &self.client;
        let principal = &identities.current().principal;
        let session = id.to_str().ok().and_then(|id| core.sessions.touch(id, principal, scope).ok());
        *self.session.lock() = Some(id);
        let Some(mut reader) = session.and_then(|session| session.general().read_from(0)) else { return };
        let lines = self.lines.downgrade();
        tokio::spawn(async move {
            while let Next::Message(_, json) = reader.next().await {
                let Some(lines) = lines.upgrade() else { return };
                lines.send(json.to_string()).await.ok();
            }
        });
    }

    /// Cancels the open request that the notification on `line` names.
    fn cancel(&self, message: &Object<'_>) {
        let id = message.object("params").and_then(|params| Id::new(params.get("requestId")?).ok());
        let open = self.open.lock();
        if let Some(cancelled) = id.and_then(|id| open.get(&id)) {
            cancelled.cancel();
        }
    }
}
