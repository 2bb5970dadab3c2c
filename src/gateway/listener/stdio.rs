//! The gateway as a stdio server, for clients that start their servers themselves.
//!
//! Each line is handled as a POST is, with the token that the gateway was started with: parsed, authenticated, authorized,
//! recorded. What HTTP says in headers is taken from the message itself, or kept here: the session of the older era. A
//! stateless client cancels by a notification, since it cannot close a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::audit::record::RequestId;
use crate::auth::Principal;
use crate::gateway::call::core::Core;
use crate::gateway::dispatch::stream_offer::OpenedStream;
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::message::scope::Scope;
use crate::gateway::session::stream::Next;
use crate::gateway::{Drained, Gateway, dispatch};
use crate::mcp::envelope::{self, Id};
use crate::mcp::json::{self, Object};
use crate::mcp::lines::{Line, next_line};
use crate::mcp::protocol::{META_VERSION, METHOD_HEADER, NAME_HEADER, SESSION_HEADER, VERSION_HEADER, header_text};

/// Most lines that wait to be written. *Chosen*: a client that does not read holds back its own calls.
const LINES_MAX: usize = 64;

/// Serves one client.
struct Serving {
    core: Arc<Core>,
    scope: Scope,
    authorization: HeaderValue,
    principal: Principal,
    lines: mpsc::Sender<String>,
    /// The session, once the client has initialized one.
    session: Mutex<Option<HeaderValue>>,
    /// Requests that are open, so that a notification can cancel them.
    open: Mutex<HashMap<Id, CancellationToken>>,
}

/// The gateway cannot serve with this token or at this place.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The token.
    #[error("the token is refused: {0}")]
    Token(String),
    /// The backend.
    #[error("no backend {0:?} is configured: name one, or all")]
    Backend(String),
}

impl Gateway {
    /// Serves the client on `input` and `output` until it closes its end, or `stop`; then drains as [`Gateway::run`] does.
    ///
    /// # Errors
    /// [`Refused`], before anything was read.
    pub async fn run_stdio(
        self,
        backend: &str,
        token: &str,
        input: impl AsyncBufRead + Unpin,
        output: impl AsyncWrite + Unpin,
        stop: CancellationToken,
    ) -> Result<Drained, Refused> {
        let core = Arc::clone(&self.core);
        let scope = match backend {
            "all" => Scope::All,
            name if core.upstreams.contains(name) => Scope::One(name.to_owned()),
            name => return Err(Refused::Backend(name.to_owned())),
        };
        let value = format!("Bearer {}", token.trim());
        let principal = core
            .auth
            .authenticate(Some(value.as_bytes()), None)
            .await
            .map_err(|err| Refused::Token(err.to_string()))?;
        // I8: never shown, whatever is logged of the headers.
        let mut authorization =
            HeaderValue::from_str(&value).map_err(|_| Refused::Token("it holds what no header may".to_owned()))?;
        authorization.set_sensitive(true);
        let (lines, to_write) = mpsc::channel(LINES_MAX);
        let serving = Arc::new(Serving {
            core: Arc::clone(&core),
            scope,
            authorization,
            principal,
            lines,
            session: Mutex::default(),
            open: Mutex::default(),
        });
        let reading = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = Arc::clone(&serving).read(input) => {}
            }
            let drained = self.drain(std::future::ready(Ok(()))).await;
            drop(serving);
            drained
        };
        let (drained, ()) = tokio::join!(reading, write(output, to_write));
        Ok(drained.unwrap_or(Drained { finished: 0, given_up: 0, left: 0 }))
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<String>) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        if output.write_all(line.as_bytes()).await.is_err() || output.flush().await.is_err() {
            // The client is gone. Its calls go on, and are recorded.
            lines.close();
        }
    }
}

impl Serving {
    async fn read(self: Arc<Self>, mut input: impl AsyncBufRead + Unpin) {
        let mut line = Vec::new();
        loop {
            let limit = self.core.body_bytes_max;
            let body = match next_line(&mut input, &mut line, limit).await {
                Ok(Line::Whole) if line.trim_ascii().is_empty() => continue,
                Ok(Line::Whole) => Ok(Bytes::copy_from_slice(&line)),
                Ok(Line::Cut) => Err(HeadError::TooLarge { limit }),
                Ok(Line::End) => return,
                Err(error) => {
                    tracing::warn!(%error, "the client cannot be read any more");
                    return;
                }
            };
            let (id, method) = {
                let hint = envelope::hint(&line, limit);
                (hint.id, hint.method.unwrap_or_default())
            };
            if method == "notifications/cancelled" {
                self.cancel(&line);
            }
            let inbound = self.inbound(&line, body);
            if let Some(id) = &id {
                // Known before the next line is read, which may give it up.
                let given_up = inbound.given_up.clone();
                self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), given_up);
            }
            let handled = Arc::clone(&self).handle(inbound, id.clone());
            // In order, where the order matters: what follows needs the session, or what was notified.
            if id.is_none() || method == "initialize" {
                handled.await;
            } else {
                tokio::spawn(handled);
            }
        }
    }

    /// The line as a request. What HTTP has in headers is what the message says itself.
    fn inbound(&self, line: &[u8], body: Result<Bytes, HeadError>) -> InboundRequest {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let text = std::str::from_utf8(line).unwrap_or_default();
        let message = Object::parse_path(text, &["params", "_meta"]).unwrap_or_default();
        let params = message.object("params").unwrap_or_default();
        let version = params.object("_meta").and_then(|meta| meta.string(META_VERSION));
        if let Some(version) = version {
            let name = params.string("name").or_else(|| params.string("uri"));
            let said =
                [(VERSION_HEADER, Some(version)), (METHOD_HEADER, message.string("method")), (NAME_HEADER, name)];
            for (header, value) in said {
                let value = value.and_then(|value| HeaderValue::from_str(&header_text(&value)).ok());
                headers.extend(value.map(|value| (HeaderName::from_static(header), value)));
            }
        } else if let Some(session) = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            headers.insert(SESSION_HEADER, session);
        }
        let given_up = CancellationToken::new();
        InboundRequest {
            request_id: RequestId::new(),
            addr: None,
            certificate: None,
            scope: self.scope.clone(),
            headers,
            host: "localhost".to_owned(),
            hung_up: given_up.clone(),
            given_up,
            body,
        }
    }

    async fn handle(self: Arc<Self>, inbound: InboundRequest, id: Option<Id>) {
        let span = tracing::info_span!("request", request_id = %inbound.request_id);
        let (offer, offered) = oneshot::channel::<OpenedStream>();
        let core = Arc::clone(&self.core);
        let mut handled = self.core.tasks.spawn(dispatch::serve(core, inbound, offer).instrument(span));
        let (mut opened, mut was_used) = (None, false);
        if let Ok(stream) = offered.await {
            let stream = opened.insert(stream);
            tokio::select! {
                biased;
                () = stream.stream.used() => was_used = true,
                reply = &mut handled => {
                    // Both may be there; what the stream has ends with the reply.
                    was_used = !stream.stream.is_unused();
                    if !was_used {
                        self.reply(reply.ok()).await;
                    }
                }
            }
        } else {
            let reply = handled.await;
            self.reply(reply.ok()).await;
        }
        if let Some(mut reading) = opened.filter(|_| was_used).and_then(|opened| opened.stream.read_from(0)) {
            while let Next::Message(_, json) = reading.next().await {
                // A client that is gone needs nothing any more.
                self.lines.send(json.to_string()).await.ok();
            }
        }
        if let Some(id) = &id {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
    }

    async fn reply(&self, reply: Option<crate::gateway::message::reply::Reply>) {
        let Some(reply) = reply else { return };
        if let Some(session) = reply.header(SESSION_HEADER) {
            self.take_up(session.clone());
        }
        if let Some(body) = reply.body() {
            self.lines.send(json::one_line(body)).await.ok();
        }
    }

    /// The session that the client has opened: what belongs to no request of it is written as it comes.
    fn take_up(&self, id: HeaderValue) {
        let session = id.to_str().ok().and_then(|id| self.core.sessions.touch(id, &self.principal, &self.scope).ok());
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        let Some(mut reading) = session.and_then(|session| session.general().read_from(0)) else { return };
        let lines = self.lines.downgrade();
        tokio::spawn(async move {
            while let Next::Message(_, json) = reading.next().await {
                let Some(lines) = lines.upgrade() else { return };
                lines.send(json.to_string()).await.ok();
            }
        });
    }

    fn cancel(&self, line: &[u8]) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let message = Object::parse_path(text, &["params"]).unwrap_or_default();
        let id = message.object("params").and_then(|params| Id::new(params.get("requestId")?).ok());
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(given_up) = id.and_then(|id| open.get(&id)) {
            given_up.cancel();
        }
    }
}
