//! GET and DELETE on a legacy session: GET opens or resumes a stream of its messages, DELETE closes the session.
//!
//! Both pass the first two stages of a message. Refusals and the end of a session are recorded.

use std::sync::Arc;

use axum::http::{StatusCode, header};

use crate::audit::record::Status;
use crate::auth::Principal;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::caller_token;
use crate::gateway::call::core::Core;
use crate::gateway::call::session_end::SESSION_CLOSE;
use crate::gateway::call::stream_counts::OpenStreamGuard;
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::headers;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::session::Session;
use crate::gateway::session::stream::{ResponseStream, Stream};
use crate::mcp::protocol::{INVALID_REQUEST, MODERN_VERSION, SESSION_HEADER, VERSION_HEADER};
use crate::upstream::Answer;

use super::identified::Identified;
use super::received::Received;
use super::routed::session;

/// The recorded method of a refused GET.
const SESSION_LISTEN: &str = "session/listen";

/// Opens the stream that a GET requests, or resumes one that broke. Returns it with the caller, whose rights may end
/// while the stream is open.
///
/// # Errors
/// The reply to a refused request; the refusal is recorded.
pub(crate) async fn listen(
    core: Arc<Core>,
    inbound: InboundRequest,
) -> Result<(ResponseStream, Principal, OpenStreamGuard), Reply> {
    let mut entry = AuditEntry::of_method(core.rules(), &inbound, SESSION_LISTEN);
    match open_stream(&core, &inbound, &mut entry).await {
        Ok(listening) => Ok(listening),
        Err(refusal) => Err(entry.conclude(&core, Err(refusal)).await.with_request_id(inbound.request_id)),
    }
}

/// Closes the session that a DELETE names.
pub(crate) async fn close(core: Arc<Core>, inbound: InboundRequest) -> Reply {
    let mut entry = AuditEntry::of_method(core.rules(), &inbound, SESSION_CLOSE);
    let result = close_session(&core, &inbound, &mut entry).await;
    entry.conclude(&core, result).await.with_request_id(inbound.request_id)
}

/// Refuses a request whose path or HTTP method the router does not serve; `http` is the router's status. The record
/// has the principal, if the request has a valid token or certificate.
pub(crate) async fn refuse(core: &Core, inbound: &InboundRequest, http: StatusCode) -> Reply {
    let refusal = match http {
        StatusCode::FORBIDDEN => HeadError::Host.into(),
        StatusCode::NOT_FOUND => Refusal::malformed(http, INVALID_REQUEST, "no such path; use /mcp or /mcp/BACKEND"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::malformed(http, INVALID_REQUEST, "this path does not support the HTTP method")
        }
        _ => Refusal::malformed(http, INVALID_REQUEST, "the path is not valid"),
    };
    let mut entry = AuditEntry::new(core.rules(), inbound);
    let refusal = match identify(core, inbound, &mut entry).await {
        Err(limited) if limited.status == Status::RateLimited => limited,
        // A client that looks for an authorization server here, because its token is refused, shows this message.
        Err(unidentified) if inbound.headers.contains_key(header::AUTHORIZATION) => {
            Refusal { message: format!("{}; {}", refusal.message, unidentified.message), ..refusal }
        }
        _ => refusal,
    };
    entry.conclude(core, Err(refusal)).await.with_request_id(inbound.request_id)
}

/// Takes a request through the first two stages.
async fn identify<'a>(
    core: &'a Core,
    inbound: &'a InboundRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<Identified<'a>, Refusal> {
    let identified = Received::new(core, inbound, UnreadBody::none())?.identify(entry).await?;
    inbound.head?;
    Ok(identified)
}

async fn open_stream(
    core: &Core,
    inbound: &InboundRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<(ResponseStream, Principal, OpenStreamGuard), Refusal> {
    let Identified { principal, .. } = identify(core, inbound, entry).await?;
    let policy = &entry.rules.policy;
    if let Some(backend) = inbound.scope.backend()
        && !policy.reaches(&principal.roles, backend)
    {
        return Err(Refusal::invisible(policy, &principal, backend, SESSION_LISTEN));
    }
    if !headers::accepts_stream(&inbound.headers) {
        let message = "a GET must accept text/event-stream";
        return Err(Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message));
    }
    if headers::single(&inbound.headers, VERSION_HEADER) == Some(MODERN_VERSION) {
        let message = "this protocol version does not support GET";
        return Err(Refusal::malformed(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, message));
    }
    let session = session(core, inbound, &principal)?;
    let session =
        session.ok_or_else(|| Refusal::bad_request("Mcp-Session-Id is missing; initialize a session first"))?;
    let (stream, after) = stream_of(&session, inbound, &principal)?;
    let own_max = entry.rules.limits.streams_per_principal;
    let counted = core.streams.open(&principal, own_max, core.connections_max)?;
    // The newest request reads the stream: the one before it may be dead, although nothing here shows it yet.
    let reader = stream.take_over(after.unwrap_or(0));
    if stream.number == 0 {
        let caller = caller_token::in_session(&session, &principal, inbound);
        for connection in session.connections.all() {
            connection.listen(caller.as_ref());
        }
    }
    Ok((ResponseStream { reader, number: Some(stream.number) }, principal, counted))
}

/// The stream that a GET requests, and the number of the last message that the client received on it. A request's
/// stream is resumed only with a token that has the roles under which the stream was written.
fn stream_of(
    session: &Session,
    inbound: &InboundRequest,
    principal: &Principal,
) -> Result<(Arc<Stream>, Option<u64>), Refusal> {
    let found = session.streams.to_read(headers::single(&inbound.headers, "last-event-id"), &principal.roles);
    found.ok_or_else(|| {
        Refusal::bad_request("Last-Event-ID does not name a stream of this session that a token with these roles reads")
    })
}

async fn close_session(core: &Core, inbound: &InboundRequest, entry: &mut AuditEntry<'_>) -> Result<Reply, Refusal> {
    let Identified { principal, .. } = identify(core, inbound, entry).await?;
    let session = headers::single(&inbound.headers, SESSION_HEADER);
    let session =
        session.ok_or_else(|| Refusal::bad_request("Mcp-Session-Id is missing; name the session to close"))?;
    core.sessions.close(session, &principal, &inbound.scope)?;
    Ok(match entry.record(core, Answer::of_result("{}")).await {
        Ok(_) => Reply::local_unaudited_empty(StatusCode::NO_CONTENT),
        Err(unavailable) => Reply::unavailable(None, &unavailable),
    })
}
