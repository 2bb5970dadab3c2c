//! One life of a child process: start, handshake, lines in and out, end.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::mcp::json;
use crate::mcp::protocol::LEGACY_VERSIONS;

use super::super::message::{self, DISCOVER, Request, Response, ServerMessageHandler};
use super::super::{CallError, Limits};
use super::lines::ToWrite;
use super::link::Link;
use crate::mcp::lines::{LINE_BYTES_MAX, Line, next_line};

/// Longest time from start to the answer to `initialize`. *Chosen*: npx may have to fetch the server first.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest time for the answer to `server/discover`. *Chosen*: a server of the older era answers with an error at once; for
/// one that says nothing a start takes this much longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a child may take to end once its stdin is closed. *Chosen*: within the drain of a service manager's stop.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest line of a child's stderr that is logged, in bytes. *Chosen*.
const STDERR_LINE_BYTES_MAX: usize = 4096;

/// How many of the last lines of stderr are logged when a child ends. *Chosen*: a traceback's end.
const STDERR_TAIL_LINES: usize = 5;

/// The oldest revision a backend may answer with. *Spec*: it has the same `tools/list` and `tools/call`.
const OLDEST_VERSION: &str = "2024-11-05";

/// Why a child's life ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("cannot start {program:?} ({source})")]
    Start { program: String, source: std::io::Error },
    #[error("no command is configured")]
    NoCommand,
    #[error("initialize failed: {reason}")]
    Handshake { reason: String },
    #[error("it closed its output")]
    Closed,
    #[error("its pipe failed ({0})")]
    Pipe(std::io::Error),
    #[error("stopped")]
    Stopped,
}

/// How a child is greeted.
#[derive(Debug)]
pub(super) enum Hello {
    /// As `initialize` asks with these parameters. Whoever opened it tells it `notifications/initialized`.
    Client(String),
    /// By the gateway itself, without capabilities, in the stateless era where the child speaks that.
    Own {
        /// Whether that is to be found out; else the older era is spoken.
        probe: bool,
    },
}

/// Runs a child until it ends or `stop`; `on_up` gets its answer to `initialize` or `server/discover`. `listener` takes what
/// belongs to no request.
pub(super) async fn run(
    alias: &str,
    config: &config::Backend,
    initialize_params: &Hello,
    listener: Option<Arc<dyn ServerMessageHandler>>,
    stop: &CancellationToken,
    on_up: impl FnOnce(Arc<Link>, Response),
) -> End {
    let (mut child, stdin, stdout, stderr) = match start(config) {
        Ok(parts) => parts,
        Err(end) => return end,
    };
    let (link, to_write) = Link::new(listener);
    let link = Arc::new(link);
    let mut tail = VecDeque::new();
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let handshake = async {
        match handshake(&link, initialize_params).await {
            Ok(answer) => on_up(Arc::clone(&link), answer),
            Err(reason) => return End::Handshake { reason },
        }
        std::future::pending().await
    };
    let end = tokio::select! {
        () = stop.cancelled() => End::Stopped,
        end = read(alias, &link, stdout) => end,
        end = write(stdin, to_write) => end,
        end = handshake => end,
        end = ended(alias, &mut child, group) => end,
        () = drain_stderr(alias, stderr, &mut tail) => End::Closed,
    };
    // The writer is gone, and the child's stdin with it: a well-behaved child ends by itself now.
    link.end();
    // One that was waited for has no id, its group has ended, and another may have the number.
    let group = group.filter(|_| child.id().is_some());
    finish(alias, &mut child).await;
    end_group(alias, group);
    if !matches!(end, End::Stopped) {
        for line in tail {
            tracing::warn!(backend = alias, "stderr: {line}");
        }
    }
    end
}

type Parts = (Child, ChildStdin, BufReader<tokio::process::ChildStdout>, ChildStderr);

fn start(config: &config::Backend) -> Result<Parts, End> {
    let (program, arguments) = config.command.split_first().ok_or(End::NoCommand)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&config.env).kill_on_drop(true);
    // Its own process group: a Ctrl-C at the terminal is for the gateway, which lets open calls finish first.
    command.process_group(0);
    for name in ["PATH", "HOME"] {
        if let (Some(value), false) = (std::env::var_os(name), config.env.contains_key(name)) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| End::Start { program: program.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok((child, stdin, BufReader::new(stdout), stderr)),
        _ => Err(End::Closed),
    }
}

async fn handshake(link: &Link, initialize_params: &Hello) -> Result<Response, String> {
    match initialize_params {
        Hello::Client(params) => {
            ask(link, "initialize", params, HANDSHAKE_TIMEOUT).await.map_err(|err| err.to_string())
        }
        Hello::Own { probe: false } => initialize(link).await,
        Hello::Own { probe: true } => match discover(link, PROBE_TIMEOUT).await {
            Some(answer) => Ok(answer),
            None => match initialize(link).await {
                Ok(answer) => Ok(answer),
                // One that was slow to start has taken the question as the beginning of a stateless conversation.
                Err(reason) => discover(link, PROBE_TIMEOUT).await.ok_or(reason),
            },
        },
    }
}

async fn ask(link: &Link, method: &str, params: &str, within: Duration) -> Result<Response, CallError> {
    link.request(&Request::new(method, Some(params)), Limits { idle: within, total: within }, false).await
}

/// Asks whether the stateless era is spoken, which every request of it says anew.
async fn discover(link: &Link, within: Duration) -> Option<Response> {
    let answer = ask(link, DISCOVER, &message::discover_params(), within).await.ok()?;
    message::discovers_modern(&answer).then(|| {
        link.set_modern();
        answer
    })
}

async fn initialize(link: &Link) -> Result<Response, String> {
    let answer = ask(link, "initialize", &crate::upstream::message::own_initialize_params(), HANDSHAKE_TIMEOUT).await;
    let answer = answer.map_err(|err| err.to_string())?;
    let result = match &answer {
        Response::Result(result) => result,
        Response::Error { error, .. } => return Err(format!("it answered {error}")),
    };
    let members = json::members(result).unwrap_or_default();
    let version = members.iter().find(|member| member.key == "protocolVersion");
    let version = version.and_then(|version| json::raw_string(version.value)).unwrap_or_default();
    if version != OLDEST_VERSION && !LEGACY_VERSIONS.contains(&version.as_str()) {
        return Err(format!("it speaks protocol version {version:?}"));
    }
    let initialized = message::write(None, "notifications/initialized", None);
    link.send(initialized).await.map_err(|err| err.to_string())?;
    Ok(answer)
}

async fn write(mut stdin: ChildStdin, mut lines: ToWrite) -> End {
    while let Some(mut line) = lines.next().await {
        line.push('\n');
        if let Err(err) = stdin.write_all(line.as_bytes()).await {
            return End::Pipe(err);
        }
    }
    End::Closed
}

async fn read(alias: &str, link: &Link, mut stdout: impl AsyncBufRead + Unpin) -> End {
    let mut text = Vec::new();
    loop {
        match next_line(&mut stdout, &mut text, LINE_BYTES_MAX).await {
            Ok(Line::End) => return End::Closed,
            Ok(Line::Whole) if text.trim_ascii().is_empty() => {}
            Ok(Line::Whole) => link.take(alias, &text),
            Ok(Line::Cut) => link.take_too_long(alias, &text),
            Err(err) => return End::Pipe(err),
        }
        if text.capacity() > 1024 * 1024 {
            text = Vec::new(); // One long answer shall not keep its room for ever.
        }
    }
}

/// Logs a child's stderr. Never ends before the child does: a child may close it and go on.
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

/// Waits for a child that ends by itself. What it has written is read to the end, which comes once nothing that it has
/// started holds its output.
async fn ended(alias: &str, child: &mut Child, group: Option<Pid>) -> End {
    if let Err(err) = child.wait().await {
        return End::Pipe(err);
    }
    end_group(alias, group);
    tokio::time::sleep(END_TIMEOUT).await;
    End::Closed
}

/// Kills what a child that has ended has started and left behind: `npx` and shells start the server as a child of theirs.
fn end_group(alias: &str, group: Option<Pid>) {
    // Mostly there is no such group any more.
    if group.is_some_and(|group| killpg(group, Signal::SIGKILL).is_ok()) {
        tracing::info!(backend = alias, "what the backend left running was killed");
    }
}

/// Waits for a child whose stdin is closed, and kills it when it does not end.
async fn finish(alias: &str, child: &mut Child) {
    match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => tracing::info!(backend = alias, %status, "backend ended"),
        Ok(Err(err)) => tracing::warn!(backend = alias, error = %err, "cannot wait for the backend"),
        Err(_) => match child.kill().await {
            Ok(()) => tracing::warn!(backend = alias, "backend did not end by itself and was killed"),
            Err(err) => tracing::warn!(backend = alias, error = %err, "cannot kill the backend"),
        },
    }
}
