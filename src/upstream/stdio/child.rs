//! One run of a child process: its start, its handshake, its input and output, and its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio_util::sync::CancellationToken;

use crate::children::{self, StartedChild};
use crate::mcp::lines::{LINE_BYTES_MAX, Line, next_line};
use crate::mcp::shared_text::SharedText;
use crate::upstream::error::CallError;
use crate::upstream::message::{self, DISCOVER, Request, Response, ServerMessageHandler};
use crate::upstream::timeouts::Timeouts;
use crate::walls::{BackendLauncher, StartReport};

use super::child_connection::ChildConnection;
use super::shutdown::ProcessGroup;
use super::write_queue::QueuedLines;

/// Longest time from start to the answer to `initialize`. *Chosen*: npx may have to fetch the server first.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest time for the answer to `server/discover`. *Chosen*: most servers of the older era answer with an error at
/// once; the start of a server that does not answer takes this much longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time from the start of a process until it is behind its walls. *Chosen*: it takes some milliseconds, and
/// some hundred if it has to grant a large directory entry by entry.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest report. *Chosen*: an error message with a path.
const REPORT_BYTES_MAX: usize = 16 * 1024;

/// Longest time in which the rest of a child's output is read after the child has ended. *Chosen*: what is in the pipe
/// takes milliseconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest line of a child's stderr that is logged, in bytes. *Chosen*: longer than a line that people write.
const STDERR_LINE_BYTES_MAX: usize = 4096;

/// The number of last lines of stderr that are logged when a child ends. *Chosen*: the end of a traceback.
const STDERR_TAIL_LINES: usize = 5;

/// The reason for which a run of a child ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExitReason {
    #[error("{reason}")]
    Start { reason: String },
    #[error("initialize failed: {reason}")]
    Handshake { reason: String },
    #[error("it closed its output")]
    Closed,
    #[error("reading or writing failed ({0})")]
    Pipe(std::io::Error),
    #[error("stopped")]
    Stopped,
}

/// The first messages to a child.
#[derive(Debug)]
pub(super) enum Handshake {
    /// `initialize` with a client's parameters. The owner of the session sends `notifications/initialized`.
    Client(SharedText),
    /// The gateway's own handshake, without capabilities.
    Gateway {
        /// Ask first whether the child speaks the stateless era; otherwise speak the older one.
        probe: bool,
    },
}

/// Runs a child until it ends or `stop` is cancelled. `on_up` gets its answer to `initialize` or `server/discover`.
/// `listener` handles messages that belong to no request.
pub(super) async fn run(
    alias: &str,
    launcher: &BackendLauncher,
    handshake: &Handshake,
    listener: Option<Arc<dyn ServerMessageHandler>>,
    stop: &CancellationToken,
    on_up: impl FnOnce(Arc<ChildConnection>, Response),
) -> ExitReason {
    let (mut child, stdin, mut stdout, stderr) = match start(launcher).await {
        Ok(parts) => parts,
        Err(reason) => return reason,
    };
    let mut tail = VecDeque::new();
    let group = ProcessGroup::of(&child.process);
    let (connection, lines) = ChildConnection::new(listener);
    let connection = Arc::new(connection);
    let conversation = async {
        if let Err(reason) = read_report(launcher, &mut stdout).await {
            return reason;
        }
        let startup = async {
            match perform_handshake(&connection, handshake).await {
                Ok(answer) => {
                    connection.set_greeting(&answer);
                    on_up(Arc::clone(&connection), answer);
                }
                Err(reason) => return ExitReason::Handshake { reason },
            }
            std::future::pending().await
        };
        tokio::select! {
            reason = read(alias, &connection, &mut stdout, launcher.reports()) => reason,
            reason = write(stdin, lines) => reason,
            reason = startup => reason,
        }
    };
    let reason = tokio::select! {
        () = stop.cancelled() => ExitReason::Stopped,
        reason = conversation => reason,
        reason = wait_for_exit(alias, &mut child, group) => reason,
        () = drain_stderr(alias, stderr, &mut tail) => ExitReason::Closed,
    };
    // The writer is dropped, and the child's stdin with it: a well-behaved child ends by itself now.
    connection.close();
    group.end(alias, &mut child.process).await;
    if !matches!(reason, ExitReason::Stopped) {
        for line in tail {
            tracing::warn!(backend = alias, "stderr: {line}");
        }
    }
    reason
}

type Parts = (StartedChild, ChildStdin, BufReader<ChildStdout>, ChildStderr);

async fn start(launcher: &BackendLauncher) -> Result<Parts, ExitReason> {
    let program = launcher.program().unwrap_or_default();
    let failed = |error: std::io::Error| ExitReason::Start { reason: format!("cannot start {program:?} ({error})") };
    let command = launcher.command().map_err(|reason| ExitReason::Start { reason })?;
    let mut child = children::start(command).await.map_err(failed)?;
    match (child.process.stdin.take(), child.process.stdout.take(), child.process.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok((child, stdin, BufReader::new(stdout), stderr)),
        _ => Err(ExitReason::Closed),
    }
}

/// Reads the report of a process that becomes the backend's program.
///
/// # Errors
/// The process does not become it.
async fn read_report(launcher: &BackendLauncher, stdout: &mut BufReader<ChildStdout>) -> Result<(), ExitReason> {
    if !launcher.reports() {
        return Ok(());
    }
    let mut line = Vec::new();
    let read = tokio::time::timeout(REPORT_TIMEOUT, next_line(stdout, &mut line, REPORT_BYTES_MAX)).await;
    let failed = |reason: &str| ExitReason::Start { reason: reason.to_owned() };
    match read {
        Err(_) => return Err(failed("it was not started in time")),
        Ok(Err(error)) => return Err(ExitReason::Pipe(error)),
        Ok(Ok(_)) => {}
    }
    match StartReport::parse(&line) {
        Some(StartReport::Failed { reason }) => Err(ExitReason::Start { reason }),
        Some(report) => {
            launcher.log_report(&report);
            Ok(())
        }
        None => Err(failed("the process that starts it ended without a report")),
    }
}

async fn perform_handshake(connection: &ChildConnection, handshake: &Handshake) -> Result<Response, String> {
    match handshake {
        Handshake::Client(params) => {
            request(connection, "initialize", params.clone(), HANDSHAKE_TIMEOUT).await.map_err(|err| err.to_string())
        }
        Handshake::Gateway { probe: false } => initialize(connection).await,
        Handshake::Gateway { probe: true } => match discover(connection).await {
            Some(answer) => Ok(answer),
            None => match initialize(connection).await {
                Ok(answer) => Ok(answer),
                // A child that was slow to start may have read `server/discover` as the start of a stateless
                // connection.
                Err(reason) => discover(connection).await.ok_or(reason),
            },
        },
    }
}

async fn request(
    connection: &ChildConnection,
    method: &str,
    params: SharedText,
    timeout: Duration,
) -> Result<Response, CallError> {
    let timeouts = Timeouts { idle: timeout, total: timeout };
    connection.request(&Request::new(method, Some(params)), timeouts, false).await
}

/// Asks the child whether it speaks the stateless era. `None`: it does not, or it does not answer.
async fn discover(connection: &ChildConnection) -> Option<Response> {
    let answer = request(connection, DISCOVER, message::discover_params().into(), PROBE_TIMEOUT).await.ok()?;
    message::discovers_modern(&answer).then(|| {
        connection.set_modern();
        answer
    })
}

async fn initialize(connection: &ChildConnection) -> Result<Response, String> {
    let params = message::own_initialize_params().into();
    let answer = request(connection, "initialize", params, HANDSHAKE_TIMEOUT).await.map_err(|err| err.to_string())?;
    if let Response::Error { error, .. } = &answer {
        return Err(format!("it answered {error}"));
    }
    let initialized = message::write(None, "notifications/initialized", None);
    connection.send(initialized).await.map_err(|err| err.to_string())?;
    Ok(answer)
}

async fn write(mut stdin: ChildStdin, mut lines: QueuedLines) -> ExitReason {
    while let Some(line) = lines.next().await {
        if let Err(err) = line.write_line(&mut stdin).await {
            return ExitReason::Pipe(err);
        }
    }
    ExitReason::Closed
}

/// Reads a child's messages. `may_fail`: the first line may say that the process did not become the backend's program.
async fn read(
    alias: &str,
    connection: &ChildConnection,
    mut stdout: impl AsyncBufRead + Unpin,
    mut may_fail: bool,
) -> ExitReason {
    let mut text = Vec::new();
    loop {
        let line = next_line(&mut stdout, &mut text, LINE_BYTES_MAX).await;
        if std::mem::take(&mut may_fail)
            && let Some(StartReport::Failed { reason }) = StartReport::parse(&text)
        {
            return ExitReason::Start { reason };
        }
        match line {
            Ok(Line::End) => return ExitReason::Closed,
            Ok(Line::Whole) if text.trim_ascii().is_empty() => {}
            Ok(Line::Whole) => connection.handle_line(alias, &text),
            Ok(Line::Cut) => connection.handle_oversized_line(alias, &text),
            Err(err) => return ExitReason::Pipe(err),
        }
        if text.capacity() > 1024 * 1024 {
            text = Vec::new(); // Do not keep the memory of one long answer for ever.
        }
    }
}

/// Logs a child's stderr. Does not return before the child ends, because a child may close its stderr and keep running.
async fn drain_stderr(alias: &str, stderr: ChildStderr, tail: &mut VecDeque<String>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while let Ok(Line::Whole | Line::Cut) = next_line(&mut stderr, &mut line, STDERR_LINE_BYTES_MAX).await {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(backend = alias, "stderr: {text}");
        if tail.len() == STDERR_TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    std::future::pending::<()>().await;
}

/// Waits for a child that ends by itself, and then for the reader, which gets the rest of the output.
async fn wait_for_exit(alias: &str, child: &mut StartedChild, group: ProcessGroup) -> ExitReason {
    match child.process.wait().await {
        Ok(status) => tracing::info!(backend = alias, %status, "backend ended"),
        Err(err) => return ExitReason::Pipe(err),
    }
    // The output ends only when no descendant of the child has it open.
    group.end_descendants(alias).await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
    ExitReason::Closed
}
