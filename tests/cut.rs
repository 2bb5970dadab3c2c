//! A proxy between gateway and Postgres that cuts the connection at any byte, in either direction.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
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

/// Bytes that may still pass in each direction before the connection is cut.
#[derive(Debug)]
struct Link {
    to_server: AtomicI64,
    to_client: AtomicI64,
    cuts: AtomicUsize,
}

impl Link {
    /// Copies until the end, or until the bytes of `left` are used up; then both directions are cut.
    async fn copy(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicI64) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count) = from.read(&mut buffer).await {
            let before = left.load(Ordering::SeqCst);
            let pass = usize::try_from(before).unwrap_or(usize::MAX).min(count);
            if count == 0 || to.write_all(&buffer[..pass]).await.is_err() {
                return;
            }
            if pass < count || before == i64::try_from(pass).unwrap() {
                // One cut: the next connection is left alone.
                self.to_server.store(NEVER, Ordering::SeqCst);
                self.to_client.store(NEVER, Ordering::SeqCst);
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if before != NEVER {
                left.fetch_sub(i64::try_from(pass).unwrap(), Ordering::SeqCst);
            }
        }
    }
}

async fn proxy(server: SocketAddr) -> (SocketAddr, Arc<Link>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let link = Arc::new(Link {
        to_server: AtomicI64::new(NEVER),
        to_client: AtomicI64::new(NEVER),
        cuts: AtomicUsize::new(0),
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

#[tokio::test]
async fn i5_a_connection_cut_at_any_byte_delivers_each_record_once() {
    let database = Cluster::shared().create_database().await;
    let url = url::Url::parse(&database.url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap();
    let (address, link) = proxy(server).await;
    let mut through = url.clone();
    through.set_ip_host(address.ip()).unwrap();
    through.set_port(Some(address.port())).unwrap();
    let options = Options { url: through.to_string(), statement_timeout: Duration::from_secs(30), migrate: true };
    let rig = Rig::stored();
    let sink = PostgresSink::new(&options).unwrap();
    let pipeline = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let delivered = || async { probe.gauge().delivered == probe.gauge().stamped };
    until_async("the opening record is delivered", SOON, delivered).await;
    // A reply to the delivery of one record has under 60 bytes, one that prepares it under 400, a login under 700; the
    // statement itself has about 3,000.
    let replies = (1..60).step_by(4).chain((60..700).step_by(40));
    let statements = (1..4000).step_by(250);
    let mut expected = 0;
    for (left, offsets) in [(&link.to_client, replies.collect::<Vec<_>>()), (&link.to_server, statements.collect())] {
        for offset in offsets {
            left.store(offset, Ordering::SeqCst);
            expected += 1;
            // Records, until the cut has come.
            while link.cuts.load(Ordering::SeqCst) < expected {
                one(&audit, "echo").await;
                until_async("it is delivered or cut", SOON, || async {
                    delivered().await || link.cuts.load(Ordering::SeqCst) >= expected
                })
                .await;
            }
            until_async("all is delivered", SOON, delivered).await;
        }
    }
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let entries = trail::verify_postgres(&database.pool().await).await;
    assert_eq!(entries.len() as u64, ended.last.0);
    assert!(expected >= 40);
}
