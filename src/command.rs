//! A command that runs to its end: without a shell, for a limited time, with a limited output.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::children;

/// Variables that begin so are the gateway's, and some are secrets: a command does not get them.
const OWN_PREFIX: &str = "GATEPOST_";

/// A command and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The program and its arguments.
    pub words: &'a [String],
    /// Variables of the gateway that the command does not get, because they are secrets of the gateway. It gets none
    /// whose name begins with `GATEPOST_` either.
    pub withheld: &'a [String],
    /// Its standard input; `None`: nothing.
    pub input: Option<&'a [u8]>,
    /// The largest output, in bytes.
    pub output_bytes_max: usize,
    /// The longest run.
    pub timeout: Duration,
}

/// The reason why a command has no output. I8: it does not show the command's output or its arguments.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No program is named, or it cannot be started.
    #[error("cannot run {program:?}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The command failed.
    #[error("{program:?} failed ({status}): run it in a terminal to see why")]
    Status {
        /// The program.
        program: String,
        /// The end of its process.
        status: ExitStatus,
    },
    /// The command takes too long.
    #[error("{program:?} took longer than {} s and was ended: it must not wait for a person", timeout.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        timeout: Duration,
    },
    /// The command prints too much.
    #[error("{program:?} printed more than {limit} bytes")]
    TooLong {
        /// The program.
        program: String,
        /// The limit.
        limit: usize,
    },
}

/// Runs a command and returns what it prints. What it prints as errors goes where the gateway's own log goes.
///
/// # Errors
/// [`RunError`]. The command has ended, with all processes that it started in its group.
///
/// # Cancel safety
/// If the future is dropped, the command is killed, with all processes that it started in its group.
pub async fn output(run: Run<'_>) -> Result<Vec<u8>, RunError> {
    output_until(run, tokio::time::sleep(run.timeout)).await
}

/// As [`output`], until `limit` instead of for a time.
///
/// # Errors
/// As for [`output`].
///
/// # Cancel safety
/// As for [`output`].
pub async fn output_until(run: Run<'_>, limit: impl Future<Output = ()>) -> Result<Vec<u8>, RunError> {
    let (name, arguments) = run.words.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    let program = || name.to_owned();
    let failed = |source| RunError::Start { program: program(), source };
    let mut command = Command::new(name);
    command.args(arguments).kill_on_drop(true);
    command.stdin(if run.input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    // I8: the gateway's own secrets are not the command's business.
    for (variable, _) in std::env::vars_os() {
        let is_own = variable.as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes());
        if is_own || run.withheld.iter().any(|name| **name == *variable) {
            command.env_remove(variable);
        }
    }
    let mut child = children::start_group(command).await.map_err(failed)?;
    // Processes that it leaves behind, or that it still is.
    let group = child.group.take();
    let (stdin, stdout) = (child.process.stdin.take(), child.process.stdout.take());
    let to_its_end = async {
        let mut stdout = stdout.map(receiver).transpose()?;
        let mut printed = Vec::new();
        let status = tokio::select! {
            read = read(&mut stdout, &mut printed, run.output_bytes_max) => {
                read?;
                if printed.len() > run.output_bytes_max {
                    // It would wait for a reader of the rest.
                    drop(stdout.take());
                }
                child.process.wait().await?
            }
            // A process that it left behind may have its output open for ever.
            status = child.process.wait() => status?,
        };
        if let Some(stdout) = stdout {
            // Its output is in the pipe.
            read_rest(stdout, &mut printed, run.output_bytes_max)?;
        }
        Ok((status, printed))
    };
    let ended = tokio::select! {
        ended = to_its_end => Some(ended),
        never = write(stdin, run.input.unwrap_or_default()) => match never {},
        () = limit => None,
    };
    drop(group);
    let timeout = || RunError::Timeout { program: program(), timeout: run.timeout };
    let (status, printed) = ended.ok_or_else(timeout)?.map_err(failed)?;
    // First, because a command that is not read to its end may fail for that.
    if printed.len() > run.output_bytes_max {
        return Err(RunError::TooLong { program: program(), limit: run.output_bytes_max });
    }
    if status.success() { Ok(printed) } else { Err(RunError::Status { program: program(), status }) }
}

fn receiver(stdout: ChildStdout) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(stdout.into_owned_fd()?)
}

/// Writes the input, and closes it. Never ends: the command does.
async fn write(stdin: Option<ChildStdin>, input: &[u8]) -> Infallible {
    if let Some(mut stdin) = stdin {
        // The command need not read it.
        stdin.write_all(input).await.ok();
    }
    std::future::pending().await
}

/// Reads to the end, or until there is more than there may be.
async fn read(stdout: &mut Option<pipe::Receiver>, printed: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
    let Some(stdout) = stdout else { return Ok(()) };
    // I6: no more is kept than there may be, and one read.
    while printed.len() <= bytes_max && stdout.read_buf(printed).await? > 0 {}
    Ok(())
}

/// Reads what is in the pipe, without waiting for more.
fn read_rest(stdout: pipe::Receiver, printed: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
    // A receiver does not look again at what it has not been told of.
    let file = File::from(stdout.into_nonblocking_fd()?);
    match file.take(bytes_max as u64 + 1).read_to_end(printed) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, input: &[u8], output_bytes_max: usize) -> Result<Vec<u8>, RunError> {
        let words = ["sh", "-c", script].map(str::to_owned);
        let timeout = Duration::from_mins(1);
        output(Run { words: &words, withheld: &[], input: Some(input), output_bytes_max, timeout }).await
    }

    #[tokio::test]
    async fn a_command_gets_its_input_and_need_not_read_it() {
        // More than a pipe has room for.
        let input = vec![b'x'; 300_000];
        assert_eq!(run("cat", &input, input.len()).await.unwrap(), input);
        assert_eq!(run("echo done", &input, 10).await.unwrap(), b"done\n");
        // It closes its output first.
        assert_eq!(run("exec >&-; test $(wc -c) = 300000", &input, 10).await.unwrap(), b"");
        assert!(matches!(run("cat", &input, 10).await, Err(RunError::TooLong { limit: 10, .. })));
    }
}
