//! The admin socket: how `gatepost outbox` and `gatepost audit` ask a live gateway.
//!
//! A Unix socket `admin.sock` in the outbox directory, which only the gateway's user may enter. A client sends one line,
//! a [`Question`] as JSON; the gateway answers with JSON lines, the last one `{"end":true}`, and closes. A line with the key
//! `error` says why there is no more; one with `progress` that there will be. Lines are read as fast as the client takes
//! them: an answer may be as long as the outbox, and is never in memory as a whole.

use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::background;
use super::inspect::{self, Question};
use super::status::trail;
use crate::audit::pipeline::Probe;

/// The socket's name in the outbox directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// Longest question, bytes. *Chosen*: a filter with every field at its limit fits.
const QUESTION_BYTES_MAX: u64 = 16 * 1024;

/// How long a client may take to ask and to take a line, and the gateway to give one. *Chosen*: a person's patience.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are written at once, and a line more, which is at most a record, about 1 MiB. *Chosen*: a
/// hundred records or so for one handing over.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long an answer is silent at most. *Derived*: three times within what its reader waits. *Measured*: `benches/inspect.rs`,
/// a file of 112 MiB is checked as it is opened, which takes a tenth of a second of a processor, and ten and more of the
/// seventieth of one.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Such pieces of an answer between reading and writing. *Chosen*: neither waits for the other at every piece.
const CHUNKS_AHEAD: usize = 4;

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
                if let Err(error) = serve(stream, probe).await {
                    tracing::debug!(%error, "admin client went away, or was too slow");
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
    in_time((&mut stream).take(QUESTION_BYTES_MAX).read_line(&mut line)).await?;
    let question = match serde_json::from_str::<Question>(&line) {
        Ok(Question::NoteRead { read }) => {
            let last = match super::reads::note(&probe, stream.get_ref(), &read).await {
                Ok(()) => json!({ "end": true }),
                Err(error) => json!({ "error": format!("the read cannot be recorded: {error}") }),
            };
            return write(&mut stream, &last).await;
        }
        Ok(Question::Prune { until, awaited }) => {
            let uid = stream.get_ref().peer_cred()?.uid();
            match super::prune::prune(&probe, until, awaited, uid).await {
                Ok(cut) => write(&mut stream, &json!(cut)).await?,
                Err(error) => return write(&mut stream, &json!({ "error": error.to_string() })).await,
            }
            return write(&mut stream, &json!({ "end": true })).await;
        }
        Ok(question) => question,
        Err(error) => return write(&mut stream, &json!({ "error": format!("no question: {error}") })).await,
    };
    let doing = matches!(question, Question::Stats).then(|| trail(&probe));
    let (chunks, mut given) = mpsc::channel(CHUNKS_AHEAD);
    let reading = background::spawn(move || {
        let mut chunk = String::new();
        let mut emit = |line: Value| {
            writeln!(chunk, "{line}").ok();
            // The word that the work goes on is to be heard now.
            if chunk.len() < CHUNK_BYTES && line.get("progress").is_none() {
                return ControlFlow::Continue(());
            }
            match chunks.blocking_send(std::mem::take(&mut chunk)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let answered = inspect::answer(&question, probe.reader(), doing.as_ref(), &mut emit);
        // Where nobody takes it, nobody asks any more.
        chunks.blocking_send(chunk).ok();
        answered
    })?;
    forward(&mut given, &mut stream).await?;
    let last = match reading.await {
        Ok(Ok(())) => json!({ "end": true }),
        Ok(Err(error)) => json!({ "error": error.to_string() }),
        Err(_) => json!({ "error": "the answer could not be made" }),
    };
    write(&mut stream, &last).await?;
    stream.shutdown().await
}

/// Writes what is given as it comes, and where nothing comes for long, that the work goes on: its thread gives way to calls.
async fn forward(given: &mut mpsc::Receiver<String>, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MAX, given.recv()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(_) => format!("{}\n", json!({ "progress": {} })),
        };
        let mut rest = chunk.as_bytes();
        while !rest.is_empty() {
            // A slow reader is heard as long as it takes anything at all.
            let taken = in_time(stream.write(rest)).await?;
            rest = rest.get(taken..).filter(|_| taken > 0).ok_or(io::ErrorKind::WriteZero)?;
        }
    }
}

async fn write(stream: &mut BufReader<UnixStream>, line: &Value) -> io::Result<()> {
    in_time(stream.write_all(format!("{line}\n").as_bytes())).await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CLIENT_TIMEOUT:?}"));
    tokio::time::timeout(CLIENT_TIMEOUT, work).await.map_err(late)?
}

/// Asks the live gateway of `dir`, and gives each line of the answer to `take` as it comes.
///
/// # Errors
/// The socket cannot be reached, the gateway says why it cannot answer or ends before its answer does, or `take` fails.
pub async fn each(dir: &Path, question: &Question, take: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
    let mut stream = BufReader::new(in_time(UnixStream::connect(dir.join(SOCKET_NAME))).await?);
    let question = serde_json::to_string(question).map_err(io::Error::other)?;
    in_time(stream.write_all(format!("{question}\n").as_bytes())).await?;
    let mut lines = stream.lines();
    while let Some(line) = in_time(lines.next_line()).await? {
        let value: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            return Err(io::Error::other(error.to_owned()));
        }
        if value.get("end").is_some() {
            return Ok(());
        }
        take(value)?;
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the gateway ended before its answer did"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_long_says_that_it_goes_on() {
        let (chunks, mut given) = mpsc::channel(CHUNKS_AHEAD);
        let (mut near, far) = tokio::io::duplex(1024);
        let writing = tokio::spawn(async move { forward(&mut given, &mut near).await });
        let mut lines = BufReader::new(far).lines();
        let began = tokio::time::Instant::now();
        for count in 1..=4 {
            assert_eq!(lines.next_line().await.unwrap().unwrap(), r#"{"progress":{}}"#);
            assert_eq!(began.elapsed().as_secs(), 10 * count);
        }
        chunks.send("{}\n".to_owned()).await.unwrap();
        drop(chunks);
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "{}");
        assert_eq!(lines.next_line().await.unwrap(), None);
        writing.await.unwrap().unwrap();
    }
}
