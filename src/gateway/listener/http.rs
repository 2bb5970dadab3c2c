//! MCP over HTTP: the routes, the checks of a request's head, the accept loop, and event streams.
//!
//! Each request is handled in a task of its own from its head on: hyper drops the future of a request as soon as the
//! client disconnects, but a request that arrived completely is a call and must be recorded. A request becomes an
//! [`InboundRequest`]. This module then waits for the reply, or for the first message before it, which makes the
//! response an event stream. Callers, tools and records are unknown here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, Request, Uri, header};
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

/// The longest time for a body to arrive. *Chosen*: the default limit of 4 MiB at 140 KB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest headers, in bytes. *Chosen*: twice the longest token that is verified.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The interval of heartbeats on a stream without messages. *Chosen*: below the idle limits of common proxies (30 s
/// and 60 s).
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The longest time for a request's head to arrive, and for a connection to be idle. *Chosen*: common clients keep idle
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
    let slots = Arc::clone(&core.connections);
    let mut listener = ClientListener::new(listener, tls, core.accept_failures.clone());
    let (router, connections) = (router(Arc::clone(&core)), GracefulShutdown::new());
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, (stream, connection)) = tokio::select! {
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
            let (request_id, hang_up_guard) = (client.request_id, client.hung_up.clone().drop_guard());
            request.extensions_mut().insert(client.clone());
            let head = RequestHead::of(&request);
            // I2: the request has a task of its own, because the connection's task ends when the client disconnects.
            // The request must be read, decided and recorded even then.
            let response = router.clone().call(request.map(Body::new));
            let response = core.tasks.spawn(record_router_refusal(Arc::clone(&core), client, head, response));
            async move {
                let response = response.await;
                hang_up_guard.disarm();
                Ok::<_, Infallible>(response.unwrap_or_else(|error| {
                    tracing::error!(%request_id, %error, "request handler panicked; replying with an internal error");
                    Reply::internal_error().with_request_id(request_id).into_response()
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
                tracing::debug!(%error, "connection closed");
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

/// Records a refusal by the router, which is for the path or the HTTP method, and makes its reply as for other
/// refusals.
async fn record_router_refusal(
    core: Arc<Core>,
    client: Client,
    head: RequestHead,
    response: impl Future<Output = Result<Response, Infallible>>,
) -> Response {
    let Ok(response) = response.await;
    if !response.status().is_client_error() || response.headers().contains_key(crate::mcp::protocol::REQUEST_ID_HEADER)
    {
        return response;
    }
    let (scope, headers) = (head.scope(&core), head.headers());
    let inbound = inbound(client, scope, headers, String::new(), Ok(Bytes::new()));
    let mut refused = Box::pin(session_http::refuse(&core, &inbound, response.status())).await.into_response();
    refused.headers_mut().extend(response.headers().get(header::ALLOW).map(|methods| (header::ALLOW, methods.clone())));
    refused
}

/// The parts of a request's head that the record of a refusal by the router needs.
struct RequestHead {
    uri: Uri,
    /// The first two values of `Authorization`: two are one too many.
    authorization: [Option<HeaderValue>; 2],
}

impl RequestHead {
    fn of<B>(request: &Request<B>) -> Self {
        let mut values = request.headers().get_all(header::AUTHORIZATION).iter().cloned();
        Self { uri: request.uri().clone(), authorization: [values.next(), values.next()] }
    }

    /// The endpoint that the path names, if it names a configured backend.
    fn scope(&self, core: &Core) -> Scope {
        let backend = self.uri.path().strip_prefix("/mcp/").filter(|backend| core.upstreams.contains(backend));
        backend.map_or(Scope::All, |backend| Scope::One(backend.to_owned()))
    }

    fn headers(self) -> HeaderMap {
        self.authorization.into_iter().flatten().map(|value| (header::AUTHORIZATION, value)).collect()
    }
}

fn router(core: Arc<Core>) -> Router {
    // The router answers other methods with 405 and Allow.
    Router::new()
        .route("/mcp", post(post_all).get(get_all).delete(delete_all))
        .route("/mcp/{backend}", post(post_one).get(get_one).delete(delete_one))
        .route("/.well-known/oauth-protected-resource", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp/{backend}", get(metadata_one))
        .with_state(core)
}

/// The client of one request, as far as the connection identifies it.
#[derive(Clone)]
struct Client {
    connection: ClientIdentity,
    request_id: RequestId,
    /// Cancelled if the client disconnects before it has its response.
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

/// The metadata of the endpoint. The document exists for every path, so that it does not reveal which backends exist.
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
enum HttpMethod {
    Post,
    Get,
    Delete,
}

/// Reads one request. The guard cancels its `hung_up` token when it is dropped, together with the response.
async fn receive(
    core: &Core,
    client: Client,
    scope: Scope,
    request: Request<Body>,
    method: HttpMethod,
) -> (InboundRequest, DropGuard) {
    let (parts, body) = request.into_parts();
    let host = headers::single(&parts.headers, header::HOST.as_str()).unwrap_or_default();
    // A request line may have a whole URL, which overrides Host (RFC 9112 3.2.2). If they differ, neither is allowed.
    let is_unambiguous = parts.uri.authority().is_none_or(|authority| authority.as_str() == host);
    let host = if is_unambiguous { host.to_owned() } else { String::new() };
    let body = match (check(core, &parts.headers, &host, method), method) {
        (Err(fault), _) => Err(fault),
        (Ok(()), HttpMethod::Get | HttpMethod::Delete) => Ok(Bytes::new()),
        (Ok(()), HttpMethod::Post) => read(body, core.body_bytes_max).await,
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
        cancelled: CancellationToken::new(),
        body,
    }
}

async fn message(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    // The guard is dropped with this future, or with the body of the response. The server drops both if the client
    // disconnects.
    let (inbound, hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Post).await;
    let request_id = inbound.request_id;
    let span = tracing::info_span!("request", %request_id);
    let (offer, mut offered) = oneshot::channel();
    let (tasks, stopping) = (core.tasks.clone(), core.stopping.clone());
    let mut handled = Box::pin(dispatch::serve(core, inbound, offer).instrument(span));
    let mut opened = None;
    let first_message = async {
        if let Ok(stream) = (&mut offered).await {
            opened.insert(stream).stream.used().await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let reply = tokio::select! {
        biased;
        () = first_message => None,
        reply = &mut handled => Some(reply),
    };
    let was_used = |opened: &OpenedStream| !opened.stream.is_unused();
    if let Some(opened) = opened.filter(was_used)
        && let Some(reader) = opened.stream.read_from(0)
    {
        if reply.is_none() {
            tasks.spawn(handled);
        }
        let number = opened.is_kept.then_some(opened.stream.number);
        return stream(ResponseStream { reader, number }, Some(hang_up_guard), stopping, request_id);
    }
    let reply = match reply {
        Some(reply) => reply,
        None => handled.await,
    };
    reply.into_response()
}

async fn listen(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    let (inbound, _hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Get).await;
    let request_id = inbound.request_id;
    let (span, stopping) = (tracing::info_span!("request", %request_id), core.stopping.clone());
    match session_http::listen(core, inbound).instrument(span).await {
        Ok(opened) => stream(opened, None, stopping, request_id),
        Err(reply) => reply.into_response(),
    }
}

async fn close(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Reply {
    let (inbound, _hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Delete).await;
    let span = tracing::info_span!("request", request_id = %inbound.request_id);
    session_http::close(core, inbound).instrument(span).await
}

/// A response that is an event stream. `hang_up_guard` is dropped with it.
fn stream(
    source: ResponseStream,
    hang_up_guard: Option<DropGuard>,
    stopping: CancellationToken,
    request_id: RequestId,
) -> Response {
    let ResponseStream { reader, number } = source;
    let is_general = number == Some(0);
    let state = (reader, hang_up_guard, stopping);
    let events = futures_util::stream::unfold(Some(state), move |state| async move {
        let (mut reader, hang_up_guard, stopping) = state?;
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
            // Only a session's general stream ends when the gateway stops; a request's stream ends with its response.
            () = stopping.cancelled(), if is_general => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), Some((reader, hang_up_guard, stopping))))
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

/// Checks the head of a request.
fn check(core: &Core, headers: &HeaderMap, host: &str, method: HttpMethod) -> Result<(), HeadError> {
    if !headers::is_host_allowed(host, &core.allowed_hosts) {
        return Err(HeadError::Host);
    }
    let origin_count = headers.get_all(header::ORIGIN).iter().count();
    let origin = headers::single(headers, header::ORIGIN.as_str());
    if origin_count != usize::from(origin.is_some()) || !headers::is_origin_allowed(origin, host, &core.allowed_origins)
    {
        return Err(HeadError::Origin);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(HeadError::Headers { limit: HEADER_BYTES_MAX }); // I6: headers are bounded.
    }
    if method == HttpMethod::Post && !headers::is_json(headers) {
        return Err(HeadError::ContentType);
    }
    Ok(())
}

/// Reads the body, at most `limit` bytes of it.
async fn read(body: Body, limit: usize) -> Result<Bytes, HeadError> {
    tokio::time::timeout(BODY_TIMEOUT, collect(body, limit)).await.unwrap_or(Err(HeadError::Incomplete))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, HeadError> {
    let too_large = HeadError::TooLarge { limit };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large); // Content-Length is enough to refuse the body unread.
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
