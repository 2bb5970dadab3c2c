//! Name and time limits of the admin socket.

use std::io;
use std::time::Duration;

/// The socket's name in the outbox directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// Longest time for one read or write on either side. *Chosen*: longer than a person waits without a sign.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `work` within [`IO_TIMEOUT`].
pub(super) async fn with_timeout<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {IO_TIMEOUT:?}"));
    tokio::time::timeout(IO_TIMEOUT, work).await.map_err(late)?
}
