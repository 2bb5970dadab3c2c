//! HTTP: the routes, what a request must be before its body is read, and the listener.
//!
//! Each request is handled in a task of its own, from its head on: hyper drops what it made for a request as soon as it
//! sees that the client is gone, and a request that arrived whole is a call all the same. It becomes an [`InboundRequest`]; this
//! module waits for the reply, or for the first message before it, which makes the reply an event stream. It knows nothing
//! of callers, tools or records.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::Listener as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_service::Service as _;
use tracing::Instrument as _;

use crate::audit::record::RequestId;
use crate::gateway::answer::handshake;
use crate::gateway::call::core::Core;
use crate::gateway::dispatch::stream_offer::OpenedStream;
use crate::gateway::dispatch::{self, session_http};
use crate::gateway::listener::tls::{Acceptor, ClientIdentity, ClientListener};
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::message::scope::Scope;
use crate::gateway::session::stream::{Next, ResponseStream};

/// Longest time for a body to arrive. *Chosen*: the default limit of 4 MiB at 140 KB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest headers, in bytes. *Chosen*: twice the longest token that is looked at.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// How often a stream without messages says that it is alive. *Chosen*: below the idle limits of common proxies (30 s
/// and 60 s).
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Longest time for a request's head to arrive, and for a connection to be idle. *Chosen*: common clients keep idle
/// connections for 5 to 30 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `stop`, then until the open connections have their replies.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    tls: Option<Acceptor>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    // I6: the number of connections is bounded; others wait to be accepted.
    let room = Arc::clone(&core.connections);
    let mut listener = ClientListener::new(listener, tls);
    let (router, connections) = (router(Arc::clone(&core)), GracefulShutdown::new());
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, (stream, connection)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let (router, core) = (router.clone(), Arc::clone(&core));
        let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let client = Client {
                connection: connection.clone(),
                request_id: RequestId::new(),
                hung_up: CancellationToken::new(),
            };
            let (request_id, hang_up) = (client.request_id, client.hung_up.clone().drop_guard());
            request.extensions_mut().insert(client.clone());
            // I2: not in the connection's own task, which ends with the connection: whatever became of the client, what
            // it asked for is read, decided and recorded.
            let answered = router.clone().call(request.map(Body::new));
            let response = core.tasks.spawn(recorded(Arc::clone(&core), client, answered));
            async move {
                let response = response.await;
                hang_up.disarm();
                Ok::<_, Infallible>(response.unwrap_or_else(|error| {
                    tracing::error!(%request_id, %error, "the task of a request broke");
                    Reply::broken().with_request_id(request_id).into_response()
                }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

/// What the router itself refuses, for its path or its verb, is recorded as every refusal is.
async fn recorded(
    core: Arc<Core>,
    client: Client,
    answered: impl Future<Output = Result<Response, Infallible>>,
) -> Response {
    let Ok(response) = answered.await;
    if !response.status().is_client_error() || response.headers().contains_key(crate::mcp::protocol::REQUEST_ID_HEADER)
    {
        return response;
    }
    let inbound = inbound(client, Scope::All, HeaderMap::new(), String::new(), Ok(Bytes::new()));
    let mut refused = Box::pin(session_http::refuse(&core, &inbound, response.status())).await.into_response();
    refused.headers_mut().extend(response.headers().get(header::ALLOW).map(|verbs| (header::ALLOW, verbs.clone())));
    refused
}

fn router(core: Arc<Core>) -> Router {
    // Any other method gets 405 with Allow from the router.
    Router::new()
        .route("/mcp", post(post_all).get(get_all).delete(delete_all))
        .route("/mcp/{backend}", post(post_one).get(get_one).delete(delete_one))
        .route("/.well-known/oauth-protected-resource", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp/{backend}", get(metadata_one))
        .with_state(core)
}

/// Whose request it is, as far as the connection tells.
#[derive(Clone)]
struct Client {
    connection: ClientIdentity,
    request_id: RequestId,
    /// Cancelled where the client is gone before it has its response.
    hung_up: CancellationToken,
}

async fn post_all(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    message(core, client, Scope::All, request).await
}

async fn post_one(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Response {
    message(core, client, Scope::One(backend), request).await
}

async fn get_all(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    listen(core, client, Scope::All, request).await
}

async fn get_one(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Response {
    listen(core, client, Scope::One(backend), request).await
}

async fn delete_all(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Reply {
    close(core, client, Scope::All, request).await
}

async fn delete_one(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Reply {
    close(core, client, Scope::One(backend), request).await
}

async fn metadata_all(State(core): State<Arc<Core>>, headers: HeaderMap) -> Reply {
    metadata(&core, &headers, &Scope::All)
}

async fn metadata_one(State(core): State<Arc<Core>>, Path(backend): Path<String>, headers: HeaderMap) -> Reply {
    metadata(&core, &headers, &Scope::One(backend))
}

/// The same for every path, so that it does not tell which backends there are.
fn metadata(core: &Core, headers: &HeaderMap, scope: &Scope) -> Reply {
    let host = headers::single(headers, header::HOST.as_str()).unwrap_or_default();
    if !headers::is_host_allowed(host, &core.allowed_hosts) {
        let message = HeadError::Host.to_string();
        let status = axum::http::StatusCode::FORBIDDEN;
        return Reply::local_unaudited_error(status, None, crate::mcp::protocol::INVALID_REQUEST, &message);
    }
    let base = headers::base_url(headers, host, core.is_tls);
    handshake::resource_metadata(core, &base, &headers::resource_path(scope))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Post,
    Get,
    Delete,
}

/// One request, and what tells whoever handles it that the client is gone: dropped with the response.
async fn arrive(
    core: &Core,
    client: Client,
    scope: Scope,
    request: Request<Body>,
    verb: Verb,
) -> (InboundRequest, DropGuard) {
    let (parts, body) = request.into_parts();
    let host = headers::single(&parts.headers, header::HOST.as_str()).unwrap_or_default();
    // A request line may hold a whole address, which stands above Host (RFC 9112 3.2.2): where they differ neither counts.
    let is_one = parts.uri.authority().is_none_or(|authority| authority.as_str() == host);
    let host = if is_one { host.to_owned() } else { String::new() };
    let body = match (check(core, &parts.headers, &host, verb), verb) {
        (Err(fault), _) => Err(fault),
        (Ok(()), Verb::Get | Verb::Delete) => Ok(Bytes::new()),
        (Ok(()), Verb::Post) => read(body, core.body_bytes_max).await,
    };
    let inbound = inbound(client, scope, parts.headers, host, body);
    let guard = inbound.hung_up.clone().drop_guard();
    (inbound, guard)
}

fn inbound(
    client: Client,
    scope: Scope,
    headers: HeaderMap,
    host: String,
    body: Result<Bytes, HeadError>,
) -> InboundRequest {
    InboundRequest {
        request_id: client.request_id,
        addr: Some(client.connection.addr),
        certificate: client.connection.certificate,
        scope,
        headers,
        host,
        hung_up: client.hung_up.child_token(),
        given_up: CancellationToken::new(),
        body,
    }
}

async fn message(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    // Dropped with this future, or with the body of the response, which the server drops when the client is gone.
    let (inbound, hang_up) = arrive(&core, client, scope, request, Verb::Post).await;
    let request_id = inbound.request_id;
    let span = tracing::info_span!("request", %request_id);
    let (offer, mut offered) = oneshot::channel();
    let (tasks, stopping) = (core.tasks.clone(), core.stopping.clone());
    let mut handled = Box::pin(dispatch::serve(core, inbound, offer).instrument(span));
    let mut opened = None;
    let begun = async {
        if let Ok(stream) = (&mut offered).await {
            opened.insert(stream).stream.used().await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let reply = tokio::select! {
        biased;
        () = begun => None,
        reply = &mut handled => Some(reply),
    };
    let used = |opened: &OpenedStream| !opened.stream.is_unused();
    if let Some(opened) = opened.filter(used)
        && let Some(reader) = opened.stream.read_from(0)
    {
        if reply.is_none() {
            tasks.spawn(handled);
        }
        let number = opened.is_kept.then_some(opened.stream.number);
        return stream(ResponseStream { reader, number }, Some(hang_up), stopping, request_id);
    }
    let reply = match reply {
        Some(reply) => reply,
        None => handled.await,
    };
    reply.into_response()
}

async fn listen(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    let (inbound, _hang_up) = arrive(&core, client, scope, request, Verb::Get).await;
    let request_id = inbound.request_id;
    let (span, stopping) = (tracing::info_span!("request", %request_id), core.stopping.clone());
    match session_http::listen(core, inbound).instrument(span).await {
        Ok(listening) => stream(listening, None, stopping, request_id),
        Err(reply) => reply.into_response(),
    }
}

async fn close(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Reply {
    let (inbound, _hang_up) = arrive(&core, client, scope, request, Verb::Delete).await;
    let span = tracing::info_span!("request", request_id = %inbound.request_id);
    session_http::close(core, inbound).instrument(span).await
}

/// An event stream. `hang_up` is dropped with it.
fn stream(
    listening: ResponseStream,
    hang_up: Option<DropGuard>,
    stopping: CancellationToken,
    request_id: RequestId,
) -> Response {
    let ResponseStream { reader, number } = listening;
    let is_general = number == Some(0);
    let state = (reader, hang_up, stopping);
    let events = futures_util::stream::unfold(Some(state), move |state| async move {
        let (mut reader, hang_up, stopping) = state?;
        let next = async {
            match tokio::time::timeout(HEARTBEAT, reader.next()).await {
                Err(_) => Some(": alive\n\n".to_owned()),
                Ok(Next::Done) => None,
                Ok(Next::Message(at, json)) => Some(match number {
                    Some(number) => format!("id: {number}-{at}\nevent: message\ndata: {json}\n\n"),
                    None => format!("event: message\ndata: {json}\n\n"),
                }),
            }
        };
        let event = tokio::select! {
            event = next => event?,
            // A stream of a request ends with its response, also while the gateway stops.
            () = stopping.cancelled(), if is_general => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), Some((reader, hang_up, stopping))))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(crate::mcp::protocol::REQUEST_ID_HEADER, id);
    }
    response
}

fn check(core: &Core, headers: &HeaderMap, host: &str, verb: Verb) -> Result<(), HeadError> {
    if !headers::is_host_allowed(host, &core.allowed_hosts) {
        return Err(HeadError::Host);
    }
    let origins = headers.get_all(header::ORIGIN).iter().count();
    let origin = headers::single(headers, header::ORIGIN.as_str());
    if origins != usize::from(origin.is_some()) || !headers::is_origin_allowed(origin, host, &core.allowed_origins) {
        return Err(HeadError::Origin);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(HeadError::Headers { limit: HEADER_BYTES_MAX }); // I6: headers are bounded.
    }
    if verb == Verb::Post && !headers::is_json(headers) {
        return Err(HeadError::ContentType);
    }
    Ok(())
}

async fn read(body: Body, limit: usize) -> Result<Bytes, HeadError> {
    tokio::time::timeout(BODY_TIMEOUT, collect(body, limit)).await.unwrap_or(Err(HeadError::Incomplete))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, HeadError> {
    let too_large = HeadError::TooLarge { limit };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large); // A length that was announced is not read first.
    }
    let mut whole = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let data = frame.map_err(|_| HeadError::Incomplete)?.into_data().unwrap_or_default();
        if whole.len() + data.len() > limit {
            return Err(too_large); // I6: the body is bounded.
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}
