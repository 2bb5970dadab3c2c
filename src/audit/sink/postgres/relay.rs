//! The way of a connection over TCP: the driver talks to a Unix socket of this process, and a task passes the bytes on.
//!
//! So the address, the options of the socket and TLS are the program's own, which the driver does not allow, and the
//! password stays here if the server asks for it in clear text.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use super::login::{Login, Refusal, log_in};
use crate::postgres_url::ChannelBinding;

/// Time without a byte after which the kernel asks whether the server is still there. *Chosen*: shorter than the five
/// minutes or so after which common firewalls and load balancers forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Interval of these questions, and the number without an answer after which the connection is closed. *Chosen*: a dead
/// one is found within a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;

/// Longest time in milliseconds that sent bytes wait for the server's kernel. *Chosen*: a healthy one answers at once,
/// however long the statement takes.
const UNACKNOWLEDGED_MAX: u32 = 30_000;

/// Bytes that are passed on at a time. *Chosen*: more made no difference to a batch of 4 MB.
const BUFFER_BYTES: usize = 64 * 1024;

/// Longest time until the driver connects to its socket. *Chosen*: it does so at once, or never.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream to a server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream, and whether it is encrypted.
pub(super) struct ServerStream {
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// True if it cannot be read on the way.
    pub is_encrypted: bool,
    /// The end point that a login can be bound to, see [`end_point`](super::scram::end_point); `None` without TLS.
    pub end_point: Option<Vec<u8>>,
}

/// Connects to an address.
///
/// # Errors
/// The server cannot be reached.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = TcpStream::connect(address).await?;
    // Otherwise the end of a batch may wait for an acknowledgement that the server delays.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MAX)?;
    Ok(stream)
}

/// Starts to pass on the bytes of `server`. Returns the directory of the socket that the driver has to connect to; it
/// is in no file system, and takes one connection, of this process.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn start(server: ServerStream, binding: ChannelBinding) -> io::Result<(String, Refusal)> {
    // A leading NUL: the abstract name space of Linux.
    let dir = format!("\0gatepost-{}", uuid::Uuid::new_v4());
    // The driver appends the name that Postgres gives its socket, with the port that the driver was given.
    let listener = UnixListener::bind(socket_path(&dir))?;
    let refusal = Refusal::default();
    let reason = refusal.clone();
    tokio::spawn(async move {
        let accepted = tokio::time::timeout(DRIVER_TIMEOUT, own_connection(&listener)).await;
        drop(listener);
        if let Ok(Ok(driver)) = accepted {
            // Both ends see an error here as the end of their connection.
            relay(driver, server, binding, &reason).await.ok();
        }
    });
    Ok((dir, refusal))
}

/// The port that the driver has to use, which only names the socket.
pub(super) const PORT: u16 = 1;

fn socket_path(dir: &str) -> String {
    format!("{dir}/.s.PGSQL.{PORT}")
}

/// The first connection of this process. Other processes can find the socket, and are turned away.
async fn own_connection(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if pid == Some(std::process::id()) {
            return Ok(stream);
        }
    }
}

/// Passes bytes on until one side ends.
async fn relay(
    mut driver: UnixStream,
    server: ServerStream,
    binding: ChannelBinding,
    refusal: &Refusal,
) -> io::Result<()> {
    let ServerStream { mut stream, is_encrypted, end_point } = server;
    log_in(&mut driver, &mut stream, &Login { is_encrypted, end_point, binding, refusal }).await?;
    let (mut from_driver, mut to_driver) = driver.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(stream);
    // If the driver goes, so does the connection to the server, whatever it still has to say.
    tokio::select! {
        ended = copy(&mut from_server, &mut to_driver) => ended,
        ended = copy(&mut from_driver, &mut to_server) => ended,
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(bytes).await?;
        // TLS keeps what it has encrypted until it is told.
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Says that this process is the other one, and the name of the socket.
    const OTHER: &str = "GATEPOST_TEST_RELAY";

    /// Connects to the socket, sends `startup`, and returns what is received until the end.
    fn received(name: &str, startup: &[u8]) -> Vec<u8> {
        use std::io::{Read as _, Write as _};
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixStream};

        let address = SocketAddr::from_abstract_name(name).unwrap();
        let mut stream = UnixStream::connect_addr(&address).unwrap();
        stream.write_all(startup).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn socket_of_the_driver_takes_one_connection_of_this_process() {
        if let Ok(name) = std::env::var(OTHER) {
            assert_eq!(received(&name, b""), b"", "another process is turned away");
            return;
        }
        let (stream, mut server) = tokio::io::duplex(1024);
        let (dir, _) = start(
            ServerStream { stream: Box::new(stream), is_encrypted: false, end_point: None },
            ChannelBinding::Prefer,
        )
        .unwrap();
        let path = socket_path(&dir);
        let name = path.trim_start_matches('\0').to_owned();
        // The name of this test, after that of the crate.
        let test = format!("{}::socket_of_the_driver_takes_one_connection_of_this_process", module_path!());
        let test = test.split_once("::").unwrap().1;
        let mut other = Command::new(std::env::current_exe().unwrap());
        let other = other.args(["--exact", test]).env(OTHER, &name).output().unwrap();
        let shown = String::from_utf8_lossy(&other.stdout);
        assert!(other.status.success() && shown.contains("1 passed"), "{shown}");
        let accepted = b"R\0\0\0\x08\0\0\0\0and more";
        server.write_all(accepted).await.unwrap();
        server.shutdown().await.unwrap();
        let own = tokio::task::spawn_blocking(move || received(&name, &[0, 0, 0, 8, 0, 3, 0, 0])).await.unwrap();
        assert_eq!(own, accepted);
        assert!(UnixStream::connect(path).await.is_err(), "it is gone");
    }
}
