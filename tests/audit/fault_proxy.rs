//! A proxy between gateway and Postgres that cuts, holds up, slows down or swallows at a byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// No cut is due.
const NEVER: i64 = i64::MAX;

/// What happens at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
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
pub struct Link {
    pub to_server: AtomicI64,
    pub to_client: AtomicI64,
    pub trouble: Mutex<Trouble>,
    /// How many there were.
    pub troubles: AtomicUsize,
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

/// Begins a proxy to `server`; its address, and what decides over its bytes.
pub async fn proxy(server: SocketAddr) -> (SocketAddr, Arc<Link>) {
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
