//! Accepting connections, also when the process has no file descriptor left.
//!
//! A failure to accept ends nothing: the connection waits in the kernel's queue, and accepting is tried again after a
//! pause. Failures are logged from time to time, counted, and an alarm (`docs/runbook.md`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::audit::meter::Counter;

/// Pause after a failure. *Chosen*: a descriptor that becomes free is used soon, and trying costs no processor time to
/// speak of.
const PAUSE: Duration = Duration::from_millis(100);

/// Least time between two log lines. *Chosen*: the alarm and the metric tell the rest.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// A listener.
pub trait Accept: Sync {
    /// A connection, with the address of its client.
    type Accepted: Send;

    /// Accepts a connection. The future may be dropped at any time.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send;
}

impl Accept for TcpListener {
    type Accepted = (TcpStream, SocketAddr);

    fn accept(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send {
        self.accept()
    }
}

impl Accept for UnixListener {
    type Accepted = (UnixStream, tokio::net::unix::SocketAddr);

    fn accept(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send {
        self.accept()
    }
}

/// The failures of all listeners of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AcceptFailures(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: Counter,
    logged: Mutex<Option<Instant>>,
}

impl AcceptFailures {
    /// The number of failures.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count.get()
    }

    /// Accepts the next connection of `listener`. A connection that its client has given up is not a failure.
    ///
    /// # Cancel safety
    /// No connection is lost if the future is dropped.
    pub async fn accept<L: Accept>(&self, listener: &L) -> L::Accepted {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_given_up(&error) => {}
                Err(error) => {
                    self.note(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn note(&self, error: &io::Error) {
        self.0.count.add(1);
        let mut logged = self.0.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let (open_files_max, failures) = (open_files_max(), self.count());
            tracing::error!(
                %error, open_files_max, failures,
                "cannot accept a connection; it waits, and accepting is tried again every {PAUSE:?}"
            );
        }
    }
}

/// A listener whose failures are counted, for [`axum::serve()`].
#[derive(Debug)]
pub struct CountedListener {
    /// The listener.
    pub listener: TcpListener,
    /// The counter of its failures.
    pub failures: AcceptFailures,
}

impl axum::serve::Listener for CountedListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        self.failures.accept(&self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The process's limit for open files; `None`: it has none.
#[must_use]
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Returns whether the connection, and not the process, is the reason.
fn is_given_up(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of accepting, the last one first.
    struct Results(Mutex<Vec<io::Result<u32>>>);

    impl Accept for Results {
        type Accepted = u32;

        fn accept(&self) -> impl Future<Output = io::Result<u32>> + Send {
            std::future::ready(self.0.lock().pop().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_counted_and_tried_again_after_a_pause() {
        let (failures, begun) = (AcceptFailures::default(), tokio::time::Instant::now());
        let results = Results(Mutex::new(vec![
            Ok(7),
            Err(io::Error::from_raw_os_error(nix::errno::Errno::ENFILE as i32)),
            Err(io::ErrorKind::ConnectionAborted.into()),
            Err(io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32)),
        ]));
        assert_eq!(failures.accept(&results).await, 7);
        assert_eq!(failures.count(), 2);
        assert_eq!(begun.elapsed(), 2 * PAUSE);
    }
}
