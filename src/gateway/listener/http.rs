//! MCP over HTTP: the routes, the checks of a request's head, and event streams.
//!
//! Each request is handled in a task of its own from its head on: hyper drops the future of a request as soon as the
//! client disconnects, but a request that arrived completely is a call and must be recorded. A request becomes an
//! [`InboundRequest`] and a body that [`dispatch`] reads once the caller is known. This module then waits for the
//! reply, or for the first message before it, which makes the response an event stream. Callers, tools and records are
//! unknown here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_service::Service as _;
use tracing::Instrument as _;

use crate::audit::record::RequestId;
use crate::config::PublicUrl;
use crate::connections;
use crate::connections::places::{Place, RequestInProgress};
use crate::gateway::call::core::Core;
use crate::gateway::call::stream_rights::{EndOfRights, StreamRights};
use crate::gateway::dispatch::stream_offer::{OpenedStream, StreamKind};
use crate::gateway::dispatch::{self, session_http};
use crate::gateway::listener::client::Client;
use crate::gateway::listener::tls::{Acceptor, ClientIdentity, ClientListener};
use crate::gateway::listener::{cors, metadata};
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::message::resource;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::stream::{Next, ResponseStream};
use crate::mcp::envelope::Id;
use crate::mcp::protocol::{DENIED, SESSION_HEADER, UNAUTHENTICATED};

/// The largest headers, in bytes. *Chosen*: twice the longest token that is verified.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The interval of heartbeats on a stream without messages, and the time after which a reply becomes a stream because
/// it has not come yet. *Chosen*: below 10 s, the shortest idle limit of common proxies.
const HEARTBEAT: Duration = Duration::from_secs(8);

/// A heartbeat: a comment, which clients ignore.
const ALIVE: &str = ": alive\n\n";

/// Serves until `stop`, then until the open connections have their replies.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, tls: Option<Acceptor>, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        core.names.port.get_or_init(|| address.port());
    }
    let router = router(Arc::clone(&core));
    let places = Arc::clone(&core.places);
    let service_of = |connection: ClientIdentity, place: Arc<Place>| {
        let (router, core) = (router.clone(), Arc::clone(&core));
        service_fn(move |mut request: Request<Incoming>| {
            let is_from_proxy = core.proxies.contains(connection.addr.ip());
            let client = Client {
                addr: core.proxies.client(connection.addr, request.headers()),
                is_https: resource::is_https(request.headers(), core.is_tls, is_from_proxy),
                certificate: connection.certificate.clone(),
                place: Arc::clone(&place),
                request_id: RequestId::new(),
                hung_up: CancellationToken::new(),
            };
            let (request_id, in_progress) = (client.request_id, place.begin_request(request.headers()));
            let hang_up_guard = Some(client.hung_up.clone().drop_guard());
            request.extensions_mut().insert(client.clone());
            let head = RequestHead::of(&request);
            // I2: the request has a task of its own, because the connection's task ends when the client disconnects.
            // The request must be read, decided and recorded even then.
            let response = router.clone().call(request.map(Body::new));
            let task = core.tasks.spawn(record_router_refusal(Arc::clone(&core), client, head, response));
            PendingResponse { task, request_id, hang_up_guard, _in_progress: in_progress }
        })
    };
    let listener = ClientListener::new(listener, tls, core.accept_failures.clone());
    connections::serve(listener, places, stop, service_of).await;
}

/// The response to a request, which is made in a task of its own.
struct PendingResponse {
    task: JoinHandle<Response>,
    request_id: RequestId,
    /// Dropped, if the client disconnects, before the response is there.
    hang_up_guard: Option<DropGuard>,
    _in_progress: RequestInProgress,
}

impl Future for PendingResponse {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.task).poll(cx));
        self.hang_up_guard.take().map(DropGuard::disarm);
        let request_id = self.request_id;
        Poll::Ready(Ok(response.unwrap_or_else(|error| {
            tracing::error!(%request_id, %error, "request handler panicked; replying with an internal error");
            Reply::internal_error().with_request_id(request_id).into_response()
        })))
    }
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
    let scope = head.scope(&core);
    let inbound = inbound(client, scope, head.headers, head.host, Ok(()));
    let mut refused = Box::pin(session_http::refuse(&core, &inbound, response.status())).await.into_response();
    refused.headers_mut().extend(response.headers().get(header::ALLOW).map(|methods| (header::ALLOW, methods.clone())));
    cors::copied(response.headers(), refused.headers_mut());
    refused
}

/// The parts of a request's head that the record of a refusal by the router needs.
struct RequestHead {
    uri: Uri,
    host: String,
    /// The first two values of `Authorization`: two are one too many.
    headers: HeaderMap,
}

impl RequestHead {
    fn of<B>(request: &Request<B>) -> Self {
        let values = request.headers().get_all(header::AUTHORIZATION).iter().take(2).cloned();
        Self {
            uri: request.uri().clone(),
            host: headers::single(request.headers(), header::HOST.as_str()).unwrap_or_default().to_owned(),
            headers: values.map(|value| (header::AUTHORIZATION, value)).collect(),
        }
    }

    /// The endpoint that the path names, if it names a configured backend.
    fn scope(&self, core: &Core) -> Scope {
        let backend = self
            .uri
            .path()
            .rsplit_once("/mcp/")
            .map(|(_, backend)| backend)
            .filter(|backend| core.upstreams.contains(backend));
        backend.map_or(Scope::All, |backend| Scope::One(backend.to_owned()))
    }
}

fn router(core: Arc<Core>) -> Router {
    // The router answers other methods with 405 and Allow.
    let endpoints = Router::new()
        .route("/mcp", post(post_all).get(get_all).delete(delete_all))
        .route("/mcp/{backend}", post(post_one).get(get_one).delete(delete_one))
        .layer(from_fn_with_state(Arc::clone(&core), cors::of_endpoints));
    let routes = endpoints.merge(metadata::routes("")).merge(metadata::root());
    let routes = match core.names.public_url.as_ref().map(PublicUrl::path).filter(|path| !path.is_empty()) {
        // A proxy may pass on the path as it came; and a client looks for the metadata below the host (RFC 9728 3.1).
        Some(prefix) => Router::new().nest(prefix, routes.clone()).merge(metadata::routes(prefix)).merge(routes),
        None => routes,
    };
    routes.with_state(core)
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum HttpMethod {
    Post,
    Get,
    Delete,
}

/// Judges the head of one request. Nothing of its body is read. The guard cancels its `hung_up` token when it is
/// dropped, together with the response.
fn receive(
    core: &Core,
    client: Client,
    scope: Scope,
    request: Request<Body>,
    method: HttpMethod,
) -> (InboundRequest, UnreadBody, DropGuard) {
    let (parts, body) = request.into_parts();
    let host = headers::single(&parts.headers, header::HOST.as_str()).unwrap_or_default();
    // A request line may have a whole URL, which overrides Host (RFC 9112 3.2.2). If they differ, neither is allowed.
    let is_unambiguous = parts.uri.authority().is_none_or(|authority| authority.as_str() == host);
    let host = if is_unambiguous { host.to_owned() } else { String::new() };
    let has_hidden_length = client.place.has_hidden_length();
    let head = check(core, &parts.headers, &host, method, has_hidden_length);
    let body = match method {
        HttpMethod::Get | HttpMethod::Delete => UnreadBody::none(),
        HttpMethod::Post => UnreadBody::http(body, parts.headers.contains_key(header::EXPECT)),
    };
    let inbound = inbound(client, scope, parts.headers, host, head);
    let guard = inbound.hung_up.clone().drop_guard();
    (inbound, body, guard)
}

fn inbound(
    client: Client,
    scope: Scope,
    headers: HeaderMap,
    host: String,
    head: Result<(), HeadError>,
) -> InboundRequest {
    InboundRequest {
        request_id: client.request_id,
        addr: Some(client.addr),
        certificate: client.certificate,
        place: Some(client.place),
        scope,
        headers,
        host,
        is_https: client.is_https,
        hung_up: client.hung_up.child_token(),
        cancelled: CancellationToken::new(),
        head,
        body: OnceLock::new(),
    }
}

async fn message(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    // The guard is dropped with this future, or with the body of the response. The server drops both if the client
    // disconnects.
    let place = Arc::clone(&client.place);
    let (inbound, body, hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Post);
    let request_id = inbound.request_id;
    let head = inbound.head;
    let span = tracing::info_span!("request", %request_id);
    let (offer, mut offered) = oneshot::channel();
    let (tasks, stopping) = (core.tasks.clone(), core.stopping.clone());
    let (rights_core, scope) = (Arc::clone(&core), inbound.scope.clone());
    let mut handled = Box::pin(dispatch::serve(core, inbound, body, offer).instrument(span));
    let (mut opened, mut is_overdue) = (None, false);
    let first_message = async {
        if let Ok(stream) = (&mut offered).await {
            is_overdue = opened.insert(stream).used_or_overdue(HEARTBEAT).await;
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
        let OpenedStream { stream, is_kept, is_primed, principal, id, kind } = opened;
        let number = is_kept.then_some(stream.number);
        let session = stream.new_session().and_then(|session| HeaderValue::from_str(session).ok());
        // The first bytes go out at once: a client that can resume learns from them from where.
        let primer = is_primed.then(|| format!("id: {}-0\ndata: \n\n", stream.number));
        let first = primer.or_else(|| is_overdue.then(|| ALIVE.to_owned()));
        let rights = if kind == StreamKind::Subscription { StreamRights::new } else { StreamRights::of_call };
        let rights = rights(rights_core, principal, scope);
        let guards = (hang_up_guard, place.continue_request());
        // A client that can resume the stream gets the response then.
        let id = (!is_kept).then_some(id);
        let source = ResponseStream { reader, number };
        let mut response = stream_response(source, first, rights, id, guards, stopping, request_id);
        response.headers_mut().extend(session.map(|session| (HeaderName::from_static(SESSION_HEADER), session)));
        return response;
    }
    let reply = match reply {
        Some(reply) => reply,
        None => handled.await,
    };
    closing_if_ambiguous(reply, head).into_response()
}

async fn listen(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Response {
    let place = Arc::clone(&client.place);
    let (inbound, _, _hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Get);
    let (request_id, head) = (inbound.request_id, inbound.head);
    let (span, stopping) = (tracing::info_span!("request", %request_id), core.stopping.clone());
    let scope = inbound.scope.clone();
    match session_http::listen(Arc::clone(&core), inbound).instrument(span).await {
        Ok((opened, principal, counted)) => {
            let rights = StreamRights::new(core, principal, scope);
            let guards = (counted, place.continue_request());
            stream_response(opened, None, rights, None, guards, stopping, request_id)
        }
        Err(reply) => closing_if_ambiguous(reply, head).into_response(),
    }
}

async fn close(core: Arc<Core>, client: Client, scope: Scope, request: Request<Body>) -> Reply {
    let (inbound, _, _hang_up_guard) = receive(&core, client, scope, request, HttpMethod::Delete);
    let head = inbound.head;
    let span = tracing::info_span!("request", request_id = %inbound.request_id);
    closing_if_ambiguous(session_http::close(core, inbound).instrument(span).await, head)
}

/// The reply, after which the connection ends if it is doubtful where the next request on it begins.
fn closing_if_ambiguous(reply: Reply, head: Result<(), HeadError>) -> Reply {
    match head {
        Err(HeadError::TransferEncoding | HeadError::TwoLengths) => reply.with_header(header::CONNECTION, "close"),
        _ => reply,
    }
}

/// A response that is an event stream, with the text `first` at its beginning. `guards` are dropped with it.
///
/// The stream ends with its last message, or when the `rights` of its reader end. A client that could not resume it
/// gets an error for the request `id` in the latter case.
fn stream_response(
    source: ResponseStream,
    first: Option<String>,
    rights: StreamRights,
    id: Option<Id>,
    guards: impl Send + 'static,
    stopping: CancellationToken,
    request_id: RequestId,
) -> Response {
    let ResponseStream { reader, number } = source;
    let is_general = number == Some(0);
    let ended = Box::pin(async move {
        let end = rights.ended().await;
        tracing::info!(%request_id, subject = rights.subject(), reason = %end, "stream ended; the client must come again");
        end
    });
    let state = (reader, ended, guards, stopping);
    let events = futures_util::stream::unfold(Some(state), move |state| {
        let id = id.clone();
        async move {
            let (mut reader, mut ended, guards, stopping) = state?;
            let next = async {
                match tokio::time::timeout(HEARTBEAT, reader.next()).await {
                    Err(_) => Some(ALIVE.to_owned()),
                    Ok(Next::Done) => None,
                    Ok(Next::Message(at, json)) => Some(match number {
                        Some(number) => format!("id: {number}-{at}\nevent: message\ndata: {json}\n\n"),
                        None => format!("event: message\ndata: {json}\n\n"),
                    }),
                }
            };
            let event = tokio::select! {
                biased;
                end = &mut ended => {
                    let event = format!("event: message\ndata: {}\n\n", end_of_rights(&id?, end));
                    return Some((Ok(Bytes::from(event)), None));
                }
                event = next => event?,
                // Only a session's general stream ends when the gateway stops; a request's stream ends with its
                // response.
                () = stopping.cancelled(), if is_general => return None,
            };
            Some((Ok::<_, Infallible>(Bytes::from(event)), Some((reader, ended, guards, stopping))))
        }
    });
    let first = futures_util::stream::iter(first.map(|text| Ok(Bytes::from(text))));
    let mut response = Body::from_stream(first.chain(events)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(crate::mcp::protocol::REQUEST_ID_HEADER, id);
    }
    response
}

/// The error that ends the stream of the request `id`, because the rights of its caller have ended.
fn end_of_rights(id: &Id, end: EndOfRights) -> String {
    let (http, code) = match end {
        EndOfRights::Credential | EndOfRights::Withdrawn(_) => (StatusCode::UNAUTHORIZED, UNAUTHENTICATED),
        EndOfRights::Policy => (StatusCode::FORBIDDEN, DENIED),
    };
    let reply = Reply::local_unaudited_error(http, Some(id), code, &end.to_string());
    reply.body().unwrap_or_default().to_owned()
}

/// Checks the head of a request.
fn check(
    core: &Core,
    headers: &HeaderMap,
    host: &str,
    method: HttpMethod,
    has_hidden_length: bool,
) -> Result<(), HeadError> {
    if !headers::is_host_allowed(host, &core.names.allowed_hosts) {
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
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if !headers::is_chunked(headers) {
            return Err(HeadError::TransferEncoding);
        }
        if has_hidden_length {
            return Err(HeadError::TwoLengths);
        }
    }
    if headers.contains_key(header::CONTENT_ENCODING) && !headers::is_identity(headers) {
        return Err(HeadError::ContentEncoding);
    }
    if method == HttpMethod::Post && !headers::is_json(headers) {
        return Err(HeadError::ContentType);
    }
    Ok(())
}
