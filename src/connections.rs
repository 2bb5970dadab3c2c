//! The connections of an HTTP listener: how many there are, how long they may take, and how they end.
//!
//! [`serve`] accepts connections for the MCP listener and for the operations listener. Every connection has a place
//! ([`places`]); when places run out, connections whose client is not known give way. Reading a head, writing, and
//! being idle are limited in time ([`stream`]). A connection that ends before all of a request was read stays readable
//! for a moment, so that its client gets the response instead of a reset.

pub mod places;
pub mod stream;

use std::convert::Infallible;
use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use places::{Order, Place, Places, TakenPlace};
use stream::GuardedStream;

/// The longest time for a request's head to arrive once it has begun, and for a connection to be idle. *Chosen*: common
/// clients keep idle connections for 5 to 30 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest buffer for what was read of a connection, and for what is to be written, in bytes. *Derived*: twice the
/// largest headers, so that headers that are too large can be refused and recorded.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The longest time that a connection stays readable after its last response. *Chosen*: a client that sends has the
/// response within a few round trips.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that are read and dropped in that time. *Chosen*: the default limit of a body.
const LINGER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Accepts connections from `listener` until `stop`, then waits until they have their last responses. `service_of`
/// makes the service of one connection.
pub async fn serve<L, S>(
    mut listener: L,
    places: Arc<Places>,
    stop: CancellationToken,
    service_of: impl Fn(L::Addr, Arc<Place>) -> S,
) where
    L: Listener,
    L::Addr: ClientAddress,
    S: HttpService<Incoming, ResBody = Body, Error = Infallible> + Unpin + Send + 'static,
    S::Future: Unpin + Send,
{
    let open = TaskTracker::new();
    loop {
        let accepted = async {
            let (stream, client) = listener.accept().await;
            // I6: the number of connections is bounded. Without a place the next connection waits to be accepted.
            (stream, places.take(client.ip()).await, client)
        };
        let (stream, place, client) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let Some(place) = place else { continue };
        let service = service_of(client, Arc::clone(place.place()));
        open.spawn(run(stream, service, place));
    }
    drop(listener);
    places.stop();
    open.close();
    open.wait().await;
}

/// Serves `router` on `listener`, with at most `max` connections, until `stop`. Each request has its [`Peer`] as an
/// extension.
pub async fn serve_router<L>(listener: L, router: Router, max: usize, stop: CancellationToken)
where
    L: Listener,
    L::Addr: ClientAddress,
{
    let service_of = |client: L::Addr, place: Arc<Place>| {
        let (router, peer) = (router.clone(), Peer(client.socket_address()));
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let in_progress = place.begin_request(request.headers());
            let response = router.clone().call(request.map(Body::new));
            Box::pin(async move {
                let response = response.await;
                drop(in_progress);
                response
            })
        })
    };
    serve(listener, Places::new(max, usize::MAX, Vec::new()), stop, service_of).await;
}

/// The other end of a connection, as an extension of each request on it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The address of a connection's client.
pub trait ClientAddress {
    /// The address, with the port.
    fn socket_address(&self) -> SocketAddr;

    /// The address, without the port.
    fn ip(&self) -> IpAddr {
        self.socket_address().ip()
    }
}

impl ClientAddress for SocketAddr {
    fn socket_address(&self) -> SocketAddr {
        *self
    }
}

/// Serves one connection to its end.
async fn run<I, S>(stream: I, service: S, taken: TakenPlace)
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Body, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    let place = taken.place();
    let mut stream = GuardedStream::new(stream, Arc::clone(place));
    let first = std::future::poll_fn(|cx| {
        place.register(cx.waker());
        if place.order() == Order::Serve { stream.poll_first(cx).map(|read| read.is_ok()) } else { Poll::Ready(false) }
    });
    // I6: the buffers of a connection are made once it has a request.
    if !tokio::time::timeout(HEAD_TIMEOUT, first).await.unwrap_or(false) {
        return;
    }
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut is_stopping = false;
    let ended = std::future::poll_fn(|cx| {
        place.register(cx.waker());
        match place.order() {
            Order::Close => return Poll::Ready(None),
            Order::Finish if !is_stopping => {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Order::Finish | Order::Serve => {}
        }
        connection.poll_without_shutdown(cx).map(Some)
    });
    let Some(ended) = ended.await else { return };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection closed");
        if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) {
            return; // No response can have been sent.
        }
    }
    // The buffers are dropped here.
    let mut stream = connection.into_parts().io.into_inner().into_inner();
    tokio::select! {
        () = linger(&mut stream) => {}
        () = place.closed() => {}
    }
}

/// Ends the sending side of `stream`, and drops what still arrives, for a bounded time. Closing the connection at once
/// would send a reset, which may reach the client before it has read its response.
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let read = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let (mut dropped, mut buffer) = (0, [0; 1024]);
        while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
            dropped += bytes as u64;
            if dropped > LINGER_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is still sending by then gets a reset.
    tokio::time::timeout(LINGER_TIMEOUT, read).await.ok();
}

#[cfg(test)]
mod tests;
