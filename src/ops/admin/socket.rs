//! Name and time limits of the admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

/// The socket's name in the outbox directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// Longest path of a socket, in bytes. *Spec*: unix(7), `sun_path` has 108 with the NUL.
const PATH_BYTES_MAX: usize = 107;

/// The reason why no socket can be made in the outbox directory `dir`: its path is too long.
#[must_use]
pub fn socket_path_error(dir: &Path) -> Option<String> {
    let bytes = dir.join(SOCKET_NAME).as_os_str().len();
    (bytes > PATH_BYTES_MAX).then(|| {
        format!("the admin socket in it has a path of {bytes} bytes, limit {PATH_BYTES_MAX}: use a shorter directory")
    })
}

/// Longest time for one read or write on either side. *Chosen*: longer than a person waits without a sign.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `work` within [`IO_TIMEOUT`].
pub(super) async fn with_timeout<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {IO_TIMEOUT:?}"));
    tokio::time::timeout(IO_TIMEOUT, work).await.map_err(late)?
}
