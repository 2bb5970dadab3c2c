//! The gateway's side of the admin socket.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::socket::{SOCKET_NAME, with_timeout};
use super::token::AdminToken;
use crate::accept::AcceptFailures;
use crate::audit::pipeline::Probe;
use crate::ops::protocol::{Line, Progress, Question};
use crate::ops::read_log::{ReadOrigin, os_user, record_read};
use crate::ops::status::pipeline_status;
use crate::ops::{background, inspect, prune};

/// Longest question with its token, in bytes. *Chosen*: the heads of 5,000 streams fit, and a filter with every field
/// at its limit. Only a client with the token is read that far.
const QUESTION_BYTES_MAX: u64 = 1024 * 1024;

/// Size from which a chunk of an answer is sent, in bytes. Its last line, at most a record of about 1 MiB, may exceed
/// it. *Chosen*: one hand-over between threads for about a hundred records.
const CHUNK_BYTES: usize = 64 * 1024;

/// Longest silence within an answer. *Derived*: a third of the time that its reader waits. *Measured*:
/// `benches/inspect.rs`: the check of a file of 112 MiB when it is opened takes a tenth of a second with a processor to
/// itself, and ten seconds or more at the lowest priority on a busy one.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Most chunks of an answer between its reader and its writer. *Chosen*: neither waits for the other at every chunk.
const CHUNKS_MAX: usize = 4;

/// Questions answered at the same time. *Chosen*: each may read the whole outbox.
const QUESTIONS_MAX: usize = 4;

/// The open socket.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    path: PathBuf,
    token: AdminToken,
    probe: Probe,
    failures: AcceptFailures,
}

impl Admin {
    /// Opens the socket in `dir` with a new token, and replaces those that a dead gateway left.
    ///
    /// # Errors
    /// The token cannot be stored, or the socket cannot be made, for example because the path is longer than the 107
    /// bytes that Unix sockets allow.
    pub fn bind(dir: &Path, probe: Probe, failures: AcceptFailures) -> io::Result<Self> {
        let path = dir.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Before the socket: a client that finds the socket finds its token.
        let token = AdminToken::create(dir)?;
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, token, probe, failures })
    }

    /// Answers until `stop`, then removes the socket.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(QUESTIONS_MAX));
        while let Some((stream, _)) = stop.run_until_cancelled(self.failures.accept(&self.listener)).await {
            let (probe, token, slots) = (self.probe.clone(), self.token.clone(), Arc::clone(&slots));
            tasks.spawn(async move {
                let Ok(_permit) = slots.acquire().await else { return };
                if let Err(error) = serve(stream, &token, probe).await {
                    tracing::debug!(%error, "admin client disconnected or timed out");
                }
            });
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "admin socket not removed");
        }
    }
}

async fn serve(stream: UnixStream, token: &AdminToken, probe: Probe) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut shown, mut line) = (String::new(), String::new());
    {
        let mut lines = (&mut stream).take(QUESTION_BYTES_MAX);
        with_timeout(lines.read_line(&mut shown)).await?;
        if !token.matches(shown.trim_end()) {
            let uid = stream.get_ref().peer_cred().map(|peer| peer.uid()).ok();
            tracing::warn!(uid, "admin client refused: it did not show the token in admin.token");
            let refusal = "the first line is not the token in admin.token: ask as the gateway's user";
            write_line(&mut stream, &Line::Error(refusal.to_owned())).await?;
            return stream.shutdown().await;
        }
        with_timeout(lines.read_line(&mut line)).await?;
    }
    let last = match serde_json::from_str::<Question>(&line) {
        Ok(Question::RecordRead { read }) => {
            let uid = stream.get_ref().peer_cred()?.uid();
            match record_read(&probe, &os_user(uid), ReadOrigin::Uid(uid), &read).await {
                Ok(()) => Line::End,
                Err(error) => Line::Error(format!("the read cannot be recorded: {error}")),
            }
        }
        Ok(Question::Prune { until, awaited }) => {
            let uid = stream.get_ref().peer_cred()?.uid();
            match prune::prune(&probe, until, awaited, uid).await {
                Ok(pruned) => {
                    write_line(&mut stream, &Line::Pruned(pruned)).await?;
                    Line::End
                }
                Err(error) => Line::Error(error.to_string()),
            }
        }
        Ok(question) => answer_from_outbox(&mut stream, question, probe).await?,
        Err(error) => Line::Error(format!("not a question: {error}")),
    };
    write_line(&mut stream, &last).await?;
    stream.shutdown().await
}

/// Reads the outbox on a thread of low priority and writes the answer; returns its last line.
async fn answer_from_outbox(stream: &mut BufReader<UnixStream>, question: Question, probe: Probe) -> io::Result<Line> {
    let needs_status = matches!(question, Question::Stats | Question::OutboxHeads | Question::CheckTrail { .. });
    let live = needs_status.then(|| pipeline_status(&probe));
    let (chunks, mut written) = mpsc::channel(CHUNKS_MAX);
    let reading = background::spawn(move || {
        let mut chunk = String::new();
        let mut emit = |line: Line| {
            // Without the line, the answer would look complete.
            let failed = |error| json_line(&Line::Error(format!("cannot write a line of the answer: {error}")));
            chunk += &json_line(&line).or_else(failed).unwrap_or_default();
            // Progress is sent at once, since a person waits for it.
            if chunk.len() < CHUNK_BYTES && !matches!(line, Line::Progress(_)) {
                return ControlFlow::Continue(());
            }
            match chunks.blocking_send(std::mem::take(&mut chunk)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let answered = inspect::answer(&question, probe.reader(), live, &mut emit);
        // The channel is closed if the client disconnected.
        chunks.blocking_send(chunk).ok();
        answered
    })?;
    forward(&mut written, stream).await?;
    Ok(match reading.await {
        Ok(Ok(())) => Line::End,
        Ok(Err(error)) => Line::Error(error.to_string()),
        Err(_) => Line::Error("the thread that read the outbox panicked".to_owned()),
    })
}

/// Forwards chunks to the client, and sends a line of progress after each [`SILENCE_MAX`] without a chunk: the thread
/// that reads the outbox has a low priority.
async fn forward(chunks: &mut mpsc::Receiver<String>, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MAX, chunks.recv()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(_) => json_line(&Line::Progress(Progress { records: None }))?,
        };
        let mut rest = chunk.as_bytes();
        while !rest.is_empty() {
            // The time limit is for each write: a slow client is served as long as it reads anything at all.
            let count = with_timeout(stream.write(rest)).await?;
            rest = rest.get(count..).filter(|_| count > 0).ok_or(io::ErrorKind::WriteZero)?;
        }
    }
}

async fn write_line(stream: &mut BufReader<UnixStream>, line: &Line) -> io::Result<()> {
    with_timeout(stream.write_all(json_line(line)?.as_bytes())).await
}

fn json_line(line: &Line) -> io::Result<String> {
    Ok(serde_json::to_string(line).map_err(io::Error::other)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_is_broken_by_lines_of_progress() {
        let (chunks, mut written) = mpsc::channel(CHUNKS_MAX);
        let (mut near, far) = tokio::io::duplex(1024);
        let writing = tokio::spawn(async move { forward(&mut written, &mut near).await });
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
