//! The other verbs of a legacy session: GET opens its stream or takes one up, DELETE closes it. Each is authenticated as a
//! message is, and recorded where it is refused; a session's end is recorded always.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::gateway::call::audit_entry::{AuditEntry, Refusal};
use crate::gateway::call::core::Core;
use crate::gateway::call::session_end::SESSION_CLOSE;
use crate::gateway::dispatch::{authenticate, session};
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::session::Session;
use crate::gateway::session::stream::{ResponseStream, Stream};
use crate::mcp::envelope::Hint;
use crate::mcp::protocol::{INVALID_REQUEST, MODERN_VERSION, SESSION_HEADER, VERSION_HEADER};
use crate::upstream::Answer;

/// Opens the stream that a GET asks for, or takes up one that broke.
///
/// # Errors
/// The refusal, recorded.
pub(crate) async fn listen(core: Arc<Core>, inbound: InboundRequest) -> Result<ResponseStream, Reply> {
    let mut entry = AuditEntry::new(core.rules(), &inbound, Hint::default());
    "session/listen".clone_into(&mut entry.method);
    let found = listening(&core, &inbound, &mut entry).await;
    let (session, stream, after) = match found {
        Ok(found) => found,
        Err(refusal) => return Err(entry.refuse(&core, refusal).await.with_request_id(inbound.request_id)),
    };
    let reader = match after {
        Some(after) => Some(stream.take_over(after)),
        None => stream.read_from(0),
    };
    let Some(reader) = reader else {
        let message = "this stream is read already: come back for it by Last-Event-ID";
        let refusal = Refusal::malformed(StatusCode::CONFLICT, INVALID_REQUEST, message);
        return Err(entry.refuse(&core, refusal).await.with_request_id(inbound.request_id));
    };
    if stream.number == 0 {
        for connection in session.connections() {
            connection.listen();
        }
    }
    Ok(ResponseStream { reader, number: Some(stream.number) })
}

/// Refuses what no path or no verb of the gateway's is for.
pub(crate) async fn refuse(core: &Core, inbound: &InboundRequest, http: StatusCode) -> Reply {
    let refusal = match http {
        StatusCode::FORBIDDEN => HeadError::Host.into(),
        StatusCode::NOT_FOUND => Refusal::malformed(http, INVALID_REQUEST, "no such path: /mcp or /mcp/BACKEND"),
        StatusCode::METHOD_NOT_ALLOWED => Refusal::malformed(http, INVALID_REQUEST, "the path does not take this verb"),
        _ => Refusal::malformed(http, INVALID_REQUEST, "the path cannot be read"),
    };
    let entry = AuditEntry::new(core.rules(), inbound, Hint::default());
    entry.refuse(core, refusal).await.with_request_id(inbound.request_id)
}

async fn listening(
    core: &Core,
    inbound: &InboundRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<(Arc<Session>, Arc<Stream>, Option<u64>), Refusal> {
    if let Err(fault) = &inbound.body {
        return Err((*fault).into());
    }
    let principal = authenticate(core, inbound, entry).await?;
    let bad = |message: &str| Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_REQUEST, message);
    if !headers::takes_stream(&inbound.headers) {
        let message = "a GET must accept text/event-stream";
        return Err(Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message));
    }
    if headers::single(&inbound.headers, VERSION_HEADER) == Some(MODERN_VERSION) {
        let message = "this protocol has no stream to open by GET";
        return Err(Refusal::malformed(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, message));
    }
    let session = session(core, inbound, &principal)?.ok_or_else(|| bad("no Mcp-Session-Id: initialize first"))?;
    match headers::single(&inbound.headers, "last-event-id") {
        None => Ok((Arc::clone(&session), session.general(), None)),
        Some(last) => {
            let found =
                session.stream_of_event(last).ok_or_else(|| bad("Last-Event-ID names no stream of this session"))?;
            Ok((session, found.0, Some(found.1)))
        }
    }
}

/// Closes a legacy session.
pub(crate) async fn close(core: Arc<Core>, inbound: InboundRequest) -> Reply {
    let mut entry = AuditEntry::new(core.rules(), &inbound, Hint::default());
    SESSION_CLOSE.clone_into(&mut entry.method);
    let reply = match close_session(&core, &inbound, &mut entry).await {
        Ok(()) => {
            let recorded = entry.record(&core, Answer::of_result("{}")).await;
            if recorded.is_error() { recorded } else { Reply::local_unaudited_empty(StatusCode::NO_CONTENT) }
        }
        Err(refusal) => entry.refuse(&core, refusal).await,
    };
    reply.with_request_id(inbound.request_id)
}

async fn close_session(core: &Core, inbound: &InboundRequest, entry: &mut AuditEntry<'_>) -> Result<(), Refusal> {
    if let Err(fault) = &inbound.body {
        return Err((*fault).into());
    }
    let principal = authenticate(core, inbound, entry).await?;
    let Some(session) = headers::single(&inbound.headers, SESSION_HEADER) else {
        let message = "no Mcp-Session-Id to close";
        return Err(Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_REQUEST, message));
    };
    let closed = core.sessions.close(session, &principal, &inbound.scope);
    closed.map(drop).map_err(|unknown| Refusal::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, unknown.to_string()))
}
