//! A proxy between gateway and Postgres that cuts, holds up, slows down or swallows at any byte, in either direction.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::pipeline::{Rig, one, stop};
use common::postgres::Cluster;
use common::trail;
use common::wait::{SOON, until_async};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// No cut is due.
const NEVER: i64 = i64::MAX;

/// What happens at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Both directions end.
    Cut,
    /// Nothing passes for a moment, shorter than the statement timeout.
    Delay,
    /// From here on bytes trickle, until the next trouble.
    Throttle,
    /// What comes is taken and never passed on; the connection stays open.
    Swallow,
}

/// How long a delay is, and a pause between the pieces of a trickle.
const DELAY: Duration = Duration::from_millis(120);
const PAUSE: Duration = Duration::from_millis(1);
/// The pieces of a trickle.
const PIECE: usize = 48;

/// Bytes that may still pass in each direction before there is trouble, and which.
#[derive(Debug)]
struct Link {
    to_server: AtomicI64,
    to_client: AtomicI64,
    trouble: Mutex<Trouble>,
    troubles: AtomicUsize,
}

impl Link {
    /// Copies until the end; when the bytes of `left` are used up there is trouble, once: the next connection is left
    /// alone.
    async fn copy(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicI64) {
        let (mut buffer, mut trickles) = (vec![0; 16 * 1024], false);
        while let Ok(count) = from.read(&mut buffer).await {
            let before = left.load(Ordering::SeqCst);
            let pass = usize::try_from(before).unwrap_or(usize::MAX).min(count);
            if count == 0 || pieces(&mut to, &buffer[..pass], trickles).await.is_err() {
                return;
            }
            if pass == count && before != i64::try_from(pass).unwrap() {
                if before != NEVER {
                    left.fetch_sub(i64::try_from(pass).unwrap(), Ordering::SeqCst);
                }
                continue;
            }
            self.to_server.store(NEVER, Ordering::SeqCst);
            self.to_client.store(NEVER, Ordering::SeqCst);
            self.troubles.fetch_add(1, Ordering::SeqCst);
            let trouble = *self.trouble.lock().unwrap();
            match trouble {
                Trouble::Cut => return,
                Trouble::Swallow => {
                    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                    return;
                }
                Trouble::Delay => tokio::time::sleep(DELAY).await,
                Trouble::Throttle => trickles = true,
            }
            if pieces(&mut to, &buffer[pass..count], trickles).await.is_err() {
                return;
            }
        }
    }
}

async fn pieces(to: &mut OwnedWriteHalf, bytes: &[u8], trickles: bool) -> std::io::Result<()> {
    if !trickles {
        return to.write_all(bytes).await;
    }
    for piece in bytes.chunks(PIECE) {
        to.write_all(piece).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn proxy(server: SocketAddr) -> (SocketAddr, Arc<Link>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let link = Arc::new(Link {
        to_server: AtomicI64::new(NEVER),
        to_client: AtomicI64::new(NEVER),
        trouble: Mutex::new(Trouble::Cut),
        troubles: AtomicUsize::new(0),
    });
    let shared = Arc::clone(&link);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let link = Arc::clone(&shared);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(server).await else { return };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                // Whichever direction ends first takes the other one with it.
                tokio::select! {
                    () = link.copy(from_client, to_server, &link.to_server) => {}
                    () = link.copy(from_server, to_client, &link.to_client) => {}
                }
            });
        }
    });
    (address, link)
}

/// Makes records until there was each trouble at each offset; all are delivered after each.
async fn delivers_each_record_once(
    statement_timeout: Duration,
    troubles: &[Trouble],
    replies: Vec<i64>,
    statements: Vec<i64>,
) {
    let database = Cluster::shared().create_database().await;
    let url = url::Url::parse(&database.url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap();
    let (address, link) = proxy(server).await;
    let mut through = url.clone();
    through.set_ip_host(address.ip()).unwrap();
    through.set_port(Some(address.port())).unwrap();
    let options = Options { url: through.to_string(), statement_timeout, migrate: true };
    let rig = Rig::stored();
    let sink = PostgresSink::new(&options).unwrap();
    let pipeline = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let delivered = || async { probe.gauge().delivered == probe.gauge().stamped };
    until_async("the opening record is delivered", SOON, delivered).await;
    let mut expected = 0;
    for trouble in troubles {
        *link.trouble.lock().unwrap() = *trouble;
        for (left, offsets) in [(&link.to_client, &replies), (&link.to_server, &statements)] {
            for offset in offsets {
                left.store(*offset, Ordering::SeqCst);
                expected += 1;
                // Records, until the trouble has come.
                while link.troubles.load(Ordering::SeqCst) < expected {
                    one(&audit, "echo").await;
                    until_async("it is delivered or in trouble", SOON, || async {
                        delivered().await || link.troubles.load(Ordering::SeqCst) >= expected
                    })
                    .await;
                }
                until_async("all is delivered", SOON, delivered).await;
            }
        }
    }
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let entries = trail::verify_postgres(&database.pool().await).await;
    assert_eq!(entries.len() as u64, ended.last.0);
    assert_eq!(expected, troubles.len() * (replies.len() + statements.len()));
}

#[tokio::test]
async fn i5_a_connection_cut_at_any_byte_delivers_each_record_once() {
    // A reply to the delivery of one record has under 60 bytes, one that prepares it under 400, a login under 700; the
    // statement itself has about 3,000.
    let replies = (1..60).step_by(4).chain((60..700).step_by(40)).collect();
    let statements = (1..4000).step_by(250).collect();
    delivers_each_record_once(Duration::from_secs(30), &[Trouble::Cut], replies, statements).await;
}

#[tokio::test]
async fn i5_a_connection_that_is_held_up_or_trickles_at_any_byte_delivers_each_record_once() {
    let replies = (1..60).step_by(7).chain([200, 600]).collect();
    let statements = (1..4000).step_by(500).collect();
    let troubles = [Trouble::Delay, Trouble::Throttle];
    delivers_each_record_once(Duration::from_secs(30), &troubles, replies, statements).await;
}

#[tokio::test]
async fn i5_a_connection_that_swallows_from_any_byte_on_is_given_up_and_delivers_each_record_once() {
    let replies = vec![1, 45];
    let statements = vec![1, 1_500];
    delivers_each_record_once(Duration::from_millis(400), &[Trouble::Swallow], replies, statements).await;
}
