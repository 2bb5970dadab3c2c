//! Connections in memory, whose time limits pass at once, and on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::places::HEAD_BYTES_FREE;
use super::*;

/// A listener in memory.
struct MemoryListener(mpsc::Receiver<(DuplexStream, SocketAddr)>);

impl Listener for MemoryListener {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(client(1))
    }
}

/// A server in memory. `/known` answers and makes its client known, `/slow` never answers.
struct Server {
    connect: mpsc::Sender<(DuplexStream, SocketAddr)>,
    places: Arc<Places>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn client(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 1))
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

impl Server {
    fn start(max: usize, per_address_max: usize) -> Self {
        let (connect, accepted) = mpsc::channel(16);
        let (places, stop) =
            (Places::new(max, per_address_max, vec!["10.0.0.9/32".parse().unwrap()]), CancellationToken::new());
        let service_of = |_, place: Arc<Place>| {
            service_fn(move |request: Request<Incoming>| {
                let (place, in_progress) = (Arc::clone(&place), place.begin_request(request.headers()));
                Box::pin(async move {
                    assert_eq!(request.method(), "GET"); // The first byte is there.
                    match request.uri().path() {
                        "/known" => place.mark_known(),
                        "/slow" => std::future::pending().await,
                        _ => {}
                    }
                    drop(in_progress);
                    Ok(axum::response::Response::new(Body::from("answer")))
                })
            })
        };
        let serving = Arc::clone(&places);
        let (listener, until) = (MemoryListener(accepted), stop.clone());
        let task = tokio::spawn(async move { serve(listener, serving, until, service_of).await });
        Self { connect, places, stop, task }
    }

    async fn connect(&self, number: u8) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1024);
        self.connect.send((theirs, client(number))).await.unwrap();
        ours
    }

    /// A connection that has made one request.
    async fn connect_and_get(&self, number: u8, path: &str) -> DuplexStream {
        let mut stream = self.connect(number).await;
        get_on(&mut stream, path).await;
        stream
    }
}

async fn get_on(stream: &mut DuplexStream, path: &str) {
    stream.write_all(request(path).as_bytes()).await.unwrap();
    answered(stream).await;
}

/// Reads a response.
async fn answered(stream: &mut DuplexStream) {
    let mut read = String::new();
    while !read.ends_with("answer") {
        let mut buffer = [0; 256];
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "closed after {read:?}");
        read.push_str(std::str::from_utf8(&buffer[..bytes]).unwrap());
    }
}

/// Lets some of the paused time pass.
async fn pass(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>()).await.ok();
}

async fn a_second() {
    pass(Duration::from_secs(1)).await;
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut DuplexStream) {
    while let Ok(1..) = stream.read(&mut [0; 256]).await {}
}

#[tokio::test(start_paused = true)]
async fn client_that_never_reads_is_given_up() {
    let server = Server::start(8, 8);
    let mut stream = server.connect(1).await;
    let begun = tokio::time::Instant::now();
    // The write fails when the server gives up.
    while stream.write_all(request("/").as_bytes()).await.is_ok() {}
    assert_eq!(begun.elapsed().as_secs(), stream::WRITE_TIMEOUT.as_secs());
    while server.places.open() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connection_and_slow_head_are_closed() {
    let server = Server::start(8, 8);
    let (mut idle, mut slow) = (server.connect_and_get(1, "/known").await, server.connect(1).await);
    let begun = tokio::time::Instant::now();
    let drip = async {
        while slow.write_all(b"GET /").await.is_ok() {
            a_second().await;
        }
    };
    tokio::join!(closed(&mut idle), drip);
    let took = begun.elapsed();
    assert!(took >= HEAD_TIMEOUT && took < HEAD_TIMEOUT + 2 * LINGER_TIMEOUT, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn connection_on_which_nothing_arrives_is_closed() {
    let server = Server::start(8, 8);
    let mut silent = server.connect(1).await;
    let begun = tokio::time::Instant::now();
    closed(&mut silent).await;
    assert_eq!(begun.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    // One whose client closes it before is none.
    let mut gone = server.connect(1).await;
    gone.shutdown().await.unwrap();
    closed(&mut gone).await;
    assert_eq!(begun.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn head_may_arrive_byte_by_byte() {
    let server = Server::start(8, 8);
    let mut stream = server.connect(1).await;
    let head = request("/");
    for byte in &head.as_bytes()[..head.len() - 1] {
        stream.write_all(&[*byte]).await.unwrap();
        pass(Duration::from_millis(10)).await;
    }
    stream.write_all(b"\n").await.unwrap();
    answered(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn oldest_connection_of_an_unknown_client_gives_way_first() {
    let server = Server::start(3, 3);
    let mut known = server.connect_and_get(1, "/known").await;
    let mut strangers = [server.connect_and_get(2, "/").await, server.connect_and_get(3, "/").await];
    a_second().await;
    let mut new = server.connect_and_get(4, "/").await;
    closed(&mut strangers[0]).await;
    for stream in [&mut strangers[1], &mut known, &mut new] {
        get_on(stream, "/").await;
    }
    assert_eq!((server.places.open(), server.places.evicted()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn unknown_clients_that_connect_again_and_again_do_not_keep_others_from_authenticating() {
    let server = Arc::new(Server::start(4, 4));
    let floods: Vec<_> = (0..16)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                loop {
                    closed(&mut server.connect(number).await).await;
                    pass(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for number in 0..8 {
        let mut slow = server.connect(100 + number).await;
        pass(Duration::from_millis(200)).await;
        get_on(&mut slow, "/known").await;
    }
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(server.places.evicted() > 0, "there was no flood");
}

#[tokio::test(start_paused = true)]
async fn unknown_client_whose_request_is_handled_has_more_time() {
    let server = Server::start(1, 1);
    let mut handled = server.connect(1).await;
    handled.write_all(request("/slow").as_bytes()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut new = server.connect(2).await;
    get_on(&mut new, "/").await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    closed(&mut handled).await;
}

#[tokio::test(start_paused = true)]
async fn new_connection_waits_no_longer_for_a_client_that_became_known() {
    let places = Places::new(2, 2, Vec::new());
    let take = || places.take(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (idle, authenticating) = (take().await.unwrap(), places.take(client(2).ip()).await.unwrap());
    idle.place().mark_known();
    let _request = authenticating.place().begin_request(&axum::http::HeaderMap::new());
    let begun = tokio::time::Instant::now();
    let known = async { authenticating.place().mark_known() };
    let (new, ()) = tokio::join!(take(), known);
    assert!(new.is_some());
    assert_eq!((begun.elapsed(), idle.place().order()), (Duration::ZERO, Order::Finish));
}

#[tokio::test(start_paused = true)]
async fn without_unknown_clients_the_longest_idle_connection_ends_and_busy_ones_stay() {
    let server = Server::start(2, 2);
    let mut busy = server.connect_and_get(1, "/known").await;
    busy.write_all(request("/slow").as_bytes()).await.unwrap();
    a_second().await;
    let mut idle = server.connect_and_get(2, "/known").await;
    let mut new = server.connect_and_get(3, "/known").await;
    closed(&mut idle).await;
    new.write_all(request("/slow").as_bytes()).await.unwrap();
    a_second().await;
    // Both are busy: the next one waits until one ends.
    let mut waiting = server.connect(4).await;
    let answered = get_on(&mut waiting, "/");
    tokio::pin!(answered);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut answered).await.is_err());
    drop(busy);
    answered.await;
}

#[tokio::test(start_paused = true)]
async fn i6_a_known_client_that_is_late_with_a_body_gives_way() {
    let places = Places::new(2, 2, Vec::new());
    let known = async |number: u8| {
        let taken = places.take(client(number).ip()).await.unwrap();
        taken.place().mark_known();
        let in_progress = taken.place().begin_request(&axum::http::HeaderMap::new());
        (taken, in_progress)
    };
    let (late, busy) = (known(1).await, known(2).await);
    let begun = tokio::time::Instant::now();
    let awaited = late.0.place().await_body();
    drop(busy.0.place().await_body());
    let _new = tokio::time::timeout(Duration::from_mins(1), known(3)).await.expect("the late one gives way");
    assert!(begun.elapsed() >= Duration::from_secs(1), "a body has a second");
    tokio::time::timeout(Duration::from_secs(1), awaited.given_up()).await.expect("the body is given up");
    // Whole requests in progress stay.
    assert!(tokio::time::timeout(Duration::from_mins(1), known(4)).await.is_err());
    assert_eq!((places.open(), places.evicted()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn i6_an_address_has_a_share_and_evicts_its_own_connections() {
    let server = Server::start(8, 2);
    let mut other = server.connect_and_get(9, "/").await;
    let mut first = server.connect_and_get(1, "/").await;
    let _second = server.connect_and_get(1, "/known").await;
    a_second().await;
    let _third = server.connect_and_get(1, "/known").await;
    closed(&mut first).await;
    let mut refused = server.connect(1).await;
    closed(&mut refused).await;
    get_on(&mut other, "/").await;
    // The share is not for a trusted proxy.
    let _proxied = [server.connect_and_get(9, "/known").await, server.connect_and_get(9, "/known").await];
    assert_eq!((server.places.refused(), server.places.open()), (1, 5));
}

#[tokio::test]
async fn i6_share_of_an_ipv6_network_is_that_of_one_address() {
    let places = Places::new(8, 1, Vec::new());
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let first = places.take(address("2001:db8::1")).await.unwrap();
    first.place().mark_known();
    assert!(places.take(address("2001:db8::ffff:0:0:2")).await.is_none());
    let _other = places.take(address("2001:db8:0:1::1")).await.unwrap();
    let mapped = places.take(address("::ffff:10.0.0.1")).await.unwrap();
    mapped.place().mark_known();
    assert!(places.take(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))).await.is_none());
    drop(mapped);
    assert!(places.take(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn i6_large_heads_of_unknown_clients_are_bounded_in_sum() {
    let server = Server::start(10_000, 10_000);
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}", "x".repeat(32 * 1024));
    let room = server.places.heads.available_permits();
    let mut streams = Vec::new();
    loop {
        let mut stream = server.connect(1).await;
        if stream.write_all(head.as_bytes()).await.is_err() {
            break;
        }
        streams.push(stream);
    }
    assert_eq!(streams.len(), room / (head.len() - HEAD_BYTES_FREE));
    // Usual heads need no room, and known clients none for large ones.
    let mut known = server.connect_and_get(2, "/known").await;
    known.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    get_on(&mut known, "/").await;
}

#[tokio::test]
async fn response_to_an_unread_body_reaches_its_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", post(async || StatusCode::PAYLOAD_TOO_LARGE));
    let router = router.route("/ok", get(async || "ok"));
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve_router(listener, router, 4, stop.clone()));
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = vec![b' '; 1024 * 1024];
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut read = String::new();
        stream.read_to_string(&mut read).await.unwrap();
        assert!(read.starts_with("HTTP/1.1 413 "), "{read:?}");
    }
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_ends_idle_connections_and_waits_for_responses() {
    let server = Server::start(4, 4);
    let mut idle = server.connect_and_get(1, "/known").await;
    let Server { stop, task, connect, .. } = server;
    stop.cancel();
    closed(&mut idle).await;
    task.await.unwrap();
    assert!(connect.send((tokio::io::duplex(1).0, client(1))).await.is_err());
}
