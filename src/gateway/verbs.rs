//! The other verbs of a legacy session: GET opens its stream or takes one up, DELETE closes it. Each is authenticated as a
//! message is, and recorded where it is refused; a session's end is recorded always.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::upstream::Answer;

use super::arrival::{Arrival, Fault};
use super::closing::SESSION_CLOSE;
use super::dispatch::{authenticate, session};
use super::envelope::Hint;
use super::protocol::{INVALID_REQUEST, MODERN_VERSION, SESSION_HEADER, VERSION_HEADER};
use super::reply::Reply;
use super::session::Session;
use super::stream::{Listening, Stream};
use super::trail::{Refusal, Trail};
use super::{Core, headers};

/// Opens the stream that a GET asks for, or takes up one that broke.
///
/// # Errors
/// The refusal, recorded.
pub(super) async fn listen(core: Arc<Core>, arrival: Arrival) -> Result<Listening, Reply> {
    let mut trail = Trail::new(core.live(), &arrival, Hint::default());
    "session/listen".clone_into(&mut trail.method);
    let found = listening(&core, &arrival, &mut trail).await;
    let (session, stream, after) = match found {
        Ok(found) => found,
        Err(refusal) => return Err(trail.refuse(&core, refusal).await.with_request_id(arrival.request_id)),
    };
    let reading = match after {
        Some(after) => Some(stream.take_over(after)),
        None => stream.read_from(0),
    };
    let Some(reading) = reading else {
        let message = "this stream is read already: come back for it by Last-Event-ID";
        let refusal = Refusal::malformed(StatusCode::CONFLICT, INVALID_REQUEST, message);
        return Err(trail.refuse(&core, refusal).await.with_request_id(arrival.request_id));
    };
    if stream.number == 0 {
        for peer in session.peers() {
            peer.listen();
        }
    }
    Ok(Listening { reading, number: Some(stream.number) })
}

/// Refuses what no path or no verb of the gateway's is for.
pub(super) async fn refuse(core: &Core, arrival: &Arrival, http: StatusCode) -> Reply {
    let refusal = match http {
        StatusCode::FORBIDDEN => Fault::Host.into(),
        StatusCode::NOT_FOUND => Refusal::malformed(http, INVALID_REQUEST, "no such path: /mcp or /mcp/BACKEND"),
        StatusCode::METHOD_NOT_ALLOWED => Refusal::malformed(http, INVALID_REQUEST, "the path does not take this verb"),
        _ => Refusal::malformed(http, INVALID_REQUEST, "the path cannot be read"),
    };
    let trail = Trail::new(core.live(), arrival, Hint::default());
    trail.refuse(core, refusal).await.with_request_id(arrival.request_id)
}

async fn listening(
    core: &Core,
    arrival: &Arrival,
    trail: &mut Trail<'_>,
) -> Result<(Arc<Session>, Arc<Stream>, Option<u64>), Refusal> {
    if let Err(fault) = &arrival.body {
        return Err((*fault).into());
    }
    let principal = authenticate(core, arrival, trail).await?;
    let bad = |message: &str| Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_REQUEST, message);
    if !headers::takes_stream(&arrival.headers) {
        let message = "a GET must accept text/event-stream";
        return Err(Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message));
    }
    if headers::single(&arrival.headers, VERSION_HEADER) == Some(MODERN_VERSION) {
        let message = "this protocol has no stream to open by GET";
        return Err(Refusal::malformed(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, message));
    }
    let session = session(core, arrival, &principal)?.ok_or_else(|| bad("no Mcp-Session-Id: initialize first"))?;
    match headers::single(&arrival.headers, "last-event-id") {
        None => Ok((Arc::clone(&session), session.general(), None)),
        Some(last) => {
            let found = session.stream_of(last).ok_or_else(|| bad("Last-Event-ID names no stream of this session"))?;
            Ok((session, found.0, Some(found.1)))
        }
    }
}

/// Closes a legacy session.
pub(super) async fn close(core: Arc<Core>, arrival: Arrival) -> Reply {
    let mut trail = Trail::new(core.live(), &arrival, Hint::default());
    SESSION_CLOSE.clone_into(&mut trail.method);
    let reply = match close_session(&core, &arrival, &mut trail).await {
        Ok(()) => {
            let recorded = trail.record(&core, Answer::of_result("{}")).await;
            if recorded.is_error() { recorded } else { Reply::local_unaudited_empty(StatusCode::NO_CONTENT) }
        }
        Err(refusal) => trail.refuse(&core, refusal).await,
    };
    reply.with_request_id(arrival.request_id)
}

async fn close_session(core: &Core, arrival: &Arrival, trail: &mut Trail<'_>) -> Result<(), Refusal> {
    if let Err(fault) = &arrival.body {
        return Err((*fault).into());
    }
    let principal = authenticate(core, arrival, trail).await?;
    let Some(session) = headers::single(&arrival.headers, SESSION_HEADER) else {
        let message = "no Mcp-Session-Id to close";
        return Err(Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_REQUEST, message));
    };
    let closed = core.sessions.close(session, &principal, &arrival.scope);
    closed.map(drop).map_err(|unknown| Refusal::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, unknown.to_string()))
}
