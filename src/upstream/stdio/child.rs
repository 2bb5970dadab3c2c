//! One run of a child process: its start, its handshake, its input and output, and its end.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::mcp::lines::{LINE_BYTES_MAX, Line, next_line};
use crate::mcp::protocol::LEGACY_VERSIONS;
use crate::mcp::shared_text::SharedText;
use crate::upstream::error::CallError;
use crate::upstream::message::{self, DISCOVER, Request, Response, ServerMessageHandler};
use crate::upstream::timeouts::Timeouts;

use super::child_connection::ChildConnection;
use super::write_queue::QueuedLines;

/// Longest time from start to the answer to `initialize`. *Chosen*: npx may have to fetch the server first.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest time for the answer to `server/discover`. *Chosen*: most servers of the older era answer with an error at
/// once; the start of a server that does not answer takes this much longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that a child may take to end once its stdin is closed. *Chosen*: short enough for the time that a
/// service manager leaves to a service that stops.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest line of a child's stderr that is logged, in bytes. *Chosen*: longer than a line that people write.
const STDERR_LINE_BYTES_MAX: usize = 4096;

/// The number of last lines of stderr that are logged when a child ends. *Chosen*: the end of a traceback.
const STDERR_TAIL_LINES: usize = 5;

/// The oldest revision that a backend may answer with. *Spec*: `tools/list` and `tools/call` are the same in it.
const OLDEST_VERSION: &str = "2024-11-05";

/// The reason for which a run of a child ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExitReason {
    #[error("cannot start {program:?} ({source})")]
    Start { program: String, source: std::io::Error },
    #[error("no command is configured")]
    NoCommand,
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
    config: &config::Backend,
    handshake: &Handshake,
    listener: Option<Arc<dyn ServerMessageHandler>>,
    stop: &CancellationToken,
    on_up: impl FnOnce(Arc<ChildConnection>, Response),
) -> ExitReason {
    let (mut child, stdin, stdout, stderr) = match start(config) {
        Ok(parts) => parts,
        Err(reason) => return reason,
    };
    let (connection, lines) = ChildConnection::new(listener);
    let connection = Arc::new(connection);
    let mut tail = VecDeque::new();
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let startup = async {
        match perform_handshake(&connection, handshake).await {
            Ok(answer) => on_up(Arc::clone(&connection), answer),
            Err(reason) => return ExitReason::Handshake { reason },
        }
        std::future::pending().await
    };
    let reason = tokio::select! {
        () = stop.cancelled() => ExitReason::Stopped,
        reason = read(alias, &connection, stdout) => reason,
        reason = write(stdin, lines) => reason,
        reason = startup => reason,
        reason = wait_for_exit(alias, &mut child, group) => reason,
        () = drain_stderr(alias, stderr, &mut tail) => ExitReason::Closed,
    };
    // The writer is dropped, and the child's stdin with it: a well-behaved child ends by itself now.
    connection.close();
    // A child that was waited for has no id: its group has been killed, and the number may belong to another process.
    let group = group.filter(|_| child.id().is_some());
    finish(alias, &mut child).await;
    kill_group(alias, group);
    if !matches!(reason, ExitReason::Stopped) {
        for line in tail {
            tracing::warn!(backend = alias, "stderr: {line}");
        }
    }
    reason
}

type Parts = (Child, ChildStdin, BufReader<tokio::process::ChildStdout>, ChildStderr);

fn start(config: &config::Backend) -> Result<Parts, ExitReason> {
    let (program, arguments) = config.command.split_first().ok_or(ExitReason::NoCommand)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&config.env).kill_on_drop(true);
    // Its own process group: Ctrl-C at the terminal reaches only the gateway, which lets calls in progress finish
    // first.
    command.process_group(0);
    for name in ["PATH", "HOME"] {
        if let (Some(value), false) = (std::env::var_os(name), config.env.contains_key(name)) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| ExitReason::Start { program: program.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok((child, stdin, BufReader::new(stdout), stderr)),
        _ => Err(ExitReason::Closed),
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
    let result = match &answer {
        Response::Result(result) => result,
        Response::Error { error, .. } => return Err(format!("it answered {error}")),
    };
    let version = result.string("protocolVersion").unwrap_or_default();
    if version != OLDEST_VERSION && !LEGACY_VERSIONS.contains(&version.as_str()) {
        return Err(format!("it answered with the unsupported protocol version {version:?}"));
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

async fn read(alias: &str, connection: &ChildConnection, mut stdout: impl AsyncBufRead + Unpin) -> ExitReason {
    let mut text = Vec::new();
    loop {
        match next_line(&mut stdout, &mut text, LINE_BYTES_MAX).await {
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
async fn wait_for_exit(alias: &str, child: &mut Child, group: Option<Pid>) -> ExitReason {
    if let Err(err) = child.wait().await {
        return ExitReason::Pipe(err);
    }
    // The output ends only when no descendant of the child has it open.
    kill_group(alias, group);
    tokio::time::sleep(END_TIMEOUT).await;
    ExitReason::Closed
}

/// Kills the descendants of a child that has ended: `npx` and shells start the server as a child of their own.
fn kill_group(alias: &str, group: Option<Pid>) {
    // Usually the group does not exist any more.
    if group.is_some_and(|group| killpg(group, Signal::SIGKILL).is_ok()) {
        tracing::info!(backend = alias, "killed the processes that the backend left running");
    }
}

/// Waits for a child whose stdin is closed, and kills it if it does not end in time.
async fn finish(alias: &str, child: &mut Child) {
    match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => tracing::info!(backend = alias, %status, "backend ended"),
        Ok(Err(err)) => tracing::warn!(backend = alias, error = %err, "cannot wait for the backend to end"),
        Err(_) => match child.kill().await {
            Ok(()) => tracing::warn!(backend = alias, "backend did not end after its input was closed; killed it"),
            Err(err) => tracing::warn!(backend = alias, error = %err, "cannot kill the backend"),
        },
    }
}
