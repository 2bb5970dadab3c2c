//! The admin socket: how `gatepost outbox` and `gatepost audit` ask a live gateway.
//!
//! A Unix socket `admin.sock` in the outbox directory, which only the gateway's user may enter. A client sends one line,
//! a [`Question`] as JSON; the gateway answers with JSON lines and closes. An answer that begins with the key `error` says
//! why there is none.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inspect::{self, Question};
use crate::audit::pipeline::Probe;

/// The socket's name in the outbox directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// Longest question, bytes. *Chosen*: a filter with every field at its limit fits.
const QUESTION_BYTES_MAX: u64 = 16 * 1024;

/// How long a client may take to ask, and to read its answer. *Chosen*: a person's patience.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Questions answered at once. *Chosen*: each may read the whole outbox.
const QUESTIONS_MAX: usize = 4;

/// The open socket.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    path: PathBuf,
    probe: Probe,
}

impl Admin {
    /// Opens the socket in `dir`, in place of one that a dead gateway left.
    ///
    /// # Errors
    /// The socket cannot be made, for example because the path is longer than the 107 bytes that Unix sockets allow.
    pub fn bind(dir: &Path, probe: Probe) -> io::Result<Self> {
        let path = dir.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, probe })
    }

    /// Answers until `stop`, then removes the socket.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let room = std::sync::Arc::new(Semaphore::new(QUESTIONS_MAX));
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let (probe, room) = (self.probe.clone(), std::sync::Arc::clone(&room));
            tasks.spawn(async move {
                let Ok(_permit) = room.acquire().await else { return };
                match tokio::time::timeout(CLIENT_TIMEOUT, serve(stream, probe)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "admin client went away"),
                    Err(_) => tracing::warn!("admin client was too slow"),
                }
            });
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "admin socket not removed");
        }
    }
}

async fn serve(stream: UnixStream, probe: Probe) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(QUESTION_BYTES_MAX).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Question>(&line) {
        Err(error) => Err(format!("no question: {error}")),
        Ok(Question::NoteRead { read }) => match super::reads::note(&probe, stream.get_ref(), &read).await {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(format!("the read cannot be recorded: {error}")),
        },
        Ok(question) => {
            let read = move || inspect::answer(&question, probe.reader(), Some(&probe));
            match tokio::task::spawn_blocking(read).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("the answer could not be made".to_owned()),
            }
        }
    };
    let lines = answer.unwrap_or_else(|error| vec![json!({ "error": error })]);
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Asks the live gateway of `dir`.
///
/// # Errors
/// The socket cannot be reached, or the gateway says why it cannot answer.
pub async fn ask(dir: &Path, question: &Question) -> io::Result<Vec<Value>> {
    let work = async {
        let mut stream = BufReader::new(UnixStream::connect(dir.join(SOCKET_NAME)).await?);
        let question = serde_json::to_string(question).map_err(io::Error::other)?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let (mut lines, mut answer) = (stream.lines(), Vec::new());
        while let Some(line) = lines.next_line().await? {
            let value: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
            if let Some(error) = value.get("error").and_then(Value::as_str) {
                return Err(io::Error::other(error.to_owned()));
            }
            answer.push(value);
        }
        Ok(answer)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CLIENT_TIMEOUT:?}"));
    tokio::time::timeout(CLIENT_TIMEOUT, work).await.map_err(late)?
}
