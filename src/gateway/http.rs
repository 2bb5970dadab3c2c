//! HTTP: the routes, what a request must be before its body is read, and the listener.
//!
//! Each request becomes an [`Arrival`], handled in a task of its own; this module waits for the reply. It knows nothing of
//! callers, tools or records.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, Request, header};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::audit::record::RequestId;

use super::arrival::{Arrival, Fault};
use super::catalog::Scope;
use super::dispatch;
use super::reply::Reply;
use super::tls::{Edge, Peer};
use super::{Core, headers, local};

/// Longest time for a body to arrive. *Chosen*: the default limit of 4 MiB at 140 KB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest headers, in bytes. *Chosen*: twice the longest token that is looked at.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// Serves until `stop`, then until the open connections have their replies.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let listener = Edge::new(listener, core.tls.clone());
    let service = router(core).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(core: Arc<Core>) -> Router {
    // A GET or any other method gets 405 with Allow from the router: there is no stream to open.
    Router::new()
        .route("/mcp", post(post_all).delete(delete_all))
        .route("/mcp/{backend}", post(post_one).delete(delete_one))
        .route("/.well-known/oauth-protected-resource", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata_all))
        .route("/.well-known/oauth-protected-resource/mcp/{backend}", get(metadata_one))
        .with_state(core)
}

type Connection = ConnectInfo<Peer>;

async fn post_all(State(core): State<Arc<Core>>, ConnectInfo(peer): Connection, request: Request<Body>) -> Reply {
    handle(core, peer, Scope::All, request, Verb::Post).await
}

async fn post_one(
    State(core): State<Arc<Core>>,
    ConnectInfo(peer): Connection,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Reply {
    handle(core, peer, Scope::One(backend), request, Verb::Post).await
}

async fn delete_all(State(core): State<Arc<Core>>, ConnectInfo(peer): Connection, request: Request<Body>) -> Reply {
    handle(core, peer, Scope::All, request, Verb::Delete).await
}

async fn delete_one(
    State(core): State<Arc<Core>>,
    ConnectInfo(peer): Connection,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Reply {
    handle(core, peer, Scope::One(backend), request, Verb::Delete).await
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
        let message = Fault::Host.to_string();
        let status = axum::http::StatusCode::FORBIDDEN;
        return Reply::local_unaudited_error(status, None, super::protocol::INVALID_REQUEST, &message);
    }
    local::resource_metadata(
        core,
        &headers::base_url(headers, host, core.tls.is_some()),
        &headers::resource_path(scope),
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Post,
    Delete,
}

async fn handle(core: Arc<Core>, peer: Peer, scope: Scope, request: Request<Body>, verb: Verb) -> Reply {
    let (parts, body) = request.into_parts();
    let host = headers::single(&parts.headers, header::HOST.as_str()).unwrap_or_default().to_owned();
    let body = match (check(&core, &parts.headers, &host, verb), verb) {
        (Err(fault), _) => Err(fault),
        (Ok(()), Verb::Delete) => Ok(Bytes::new()),
        (Ok(()), Verb::Post) => read(body, core.body_bytes_max).await,
    };
    let (request_id, hung_up) = (RequestId::new(), CancellationToken::new());
    // Dropped with this future, which the server drops when the client's connection is gone.
    let _hang_up = hung_up.clone().drop_guard();
    let arrival = Arrival {
        request_id,
        addr: peer.addr,
        certificate: peer.certificate,
        scope,
        headers: parts.headers,
        host,
        hung_up,
        body,
    };
    let span = tracing::info_span!("request", %request_id);
    let tasks = core.tasks.clone();
    let handled = match verb {
        Verb::Post => tasks.spawn(dispatch::serve(core, arrival).instrument(span)),
        Verb::Delete => tasks.spawn(dispatch::close(core, arrival).instrument(span)),
    };
    handled.await.unwrap_or_else(|err| {
        tracing::error!(%request_id, error = %err, "the task of a request broke");
        Reply::broken().with_request_id(request_id)
    })
}

fn check(core: &Core, headers: &HeaderMap, host: &str, verb: Verb) -> Result<(), Fault> {
    if !headers::is_host_allowed(host, &core.allowed_hosts) {
        return Err(Fault::Host);
    }
    let origins = headers.get_all(header::ORIGIN).iter().count();
    let origin = headers::single(headers, header::ORIGIN.as_str());
    if origins != usize::from(origin.is_some()) || !headers::is_origin_allowed(origin, host, &core.allowed_origins) {
        return Err(Fault::Origin);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(Fault::Headers { limit: HEADER_BYTES_MAX }); // I6: headers are bounded.
    }
    if verb == Verb::Post && !headers::is_json(headers) {
        return Err(Fault::ContentType);
    }
    Ok(())
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Fault> {
    tokio::time::timeout(BODY_TIMEOUT, collect(body, limit)).await.unwrap_or(Err(Fault::Incomplete))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Fault> {
    let too_large = Fault::TooLarge { limit };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large); // A length that was announced is not read first.
    }
    let mut whole = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let data = frame.map_err(|_| Fault::Incomplete)?.into_data().unwrap_or_default();
        if whole.len() + data.len() > limit {
            return Err(too_large); // I6: the body is bounded.
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}
