//! The token of a client on standard input: one that was given at the start, or the output of a command that is run
//! again before the token ends.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{ChildStdout, Command};

use crate::children;

/// Longest run of a command. *Chosen*: it may ask a server, and clients wait a minute for a server's start.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest output of a command, in bytes. *Derived*: twice the longest token that is verified.
const OUTPUT_BYTES_MAX: usize = 32 * 1024;

/// Variables that begin so are the gateway's, and some are secrets: a command does not get them.
const OWN_PREFIX: &str = "GATEPOST_";

/// The source of a client's token.
pub enum TokenSource {
    /// This token.
    Given(String),
    /// The output of this command.
    Command {
        /// The program and its arguments.
        words: Vec<String>,
        /// Variables of the gateway that the command does not get, because they are secrets of the gateway.
        withheld: Vec<String>,
    },
}

/// The reason why a command gives no token. I8: it does not show the command's output or its arguments.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No program is named, or it cannot be started.
    #[error("cannot run {program:?}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("{program:?} failed ({status}): run it in a terminal to see why")]
    Status {
        /// The program.
        program: String,
        /// The end of its process.
        status: std::process::ExitStatus,
    },
    /// The command takes too long.
    #[error("{program:?} took longer than {} s and was ended: it must not wait for a person", COMMAND_TIMEOUT.as_secs())]
    Timeout {
        /// The program.
        program: String,
    },
    /// The command's output cannot be a token.
    #[error("{program:?} must print the token and nothing else: one word, at most {OUTPUT_BYTES_MAX} bytes")]
    Output {
        /// The program.
        program: String,
    },
}

impl TokenSource {
    /// The token; a command is run for it.
    ///
    /// # Errors
    /// [`CommandError`]: the command gives none. It has ended, with all processes that it started in its group.
    ///
    /// # Cancel safety
    /// If the future is dropped, the command is killed, with all processes that it started in its group.
    pub(super) async fn token(&self) -> Result<String, CommandError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::Command { words, withheld } => output(words, withheld, tokio::time::sleep(COMMAND_TIMEOUT)).await,
        }
    }

    /// Returns true if the source can give a newer token.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Command { .. })
    }
}

/// I8: a token is never shown.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.renews() { "TokenSource::Command" } else { "TokenSource::Given" })
    }
}

/// Runs a command, without a shell and until `limit`, and returns the word that it prints. What it prints as errors
/// goes where the gateway's own log goes.
async fn output(
    words: &[String],
    withheld: &[String],
    limit: impl Future<Output = ()>,
) -> Result<String, CommandError> {
    let (name, arguments) = words.split_first().map_or(("", &[][..]), |(name, arguments)| (name.as_str(), arguments));
    let program = || name.to_owned();
    let failed = |source| CommandError::Start { program: program(), source };
    let mut command = Command::new(name);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // I8: the gateway's own secrets are not the command's business.
    for (variable, _) in std::env::vars_os() {
        let is_own = variable.as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes());
        if is_own || withheld.iter().any(|name| **name == *variable) {
            command.env_remove(variable);
        }
    }
    let mut child = children::start_group(command).await.map_err(failed)?;
    // Processes that it leaves behind, or that it still is.
    let group = child.group.take();
    let stdout = child.process.stdout.take();
    let run = async {
        let mut stdout = stdout.map(receiver).transpose()?;
        let mut printed = Vec::new();
        let status = tokio::select! {
            read = read(&mut stdout, &mut printed) => {
                read?;
                if printed.len() > OUTPUT_BYTES_MAX {
                    // It would wait for a reader of the rest.
                    drop(stdout.take());
                }
                child.process.wait().await?
            }
            // A process that it left behind may have its output open for ever.
            status = child.process.wait() => status?,
        };
        if let Some(stdout) = stdout {
            // What it printed is in the pipe.
            read_rest(stdout, &mut printed)?;
        }
        Ok((status, printed))
    };
    let ended = tokio::select! {
        ended = run => Some(ended),
        () = limit => None,
    };
    drop(group);
    let (status, printed) = ended.ok_or_else(|| CommandError::Timeout { program: program() })?.map_err(failed)?;
    // First, because a command that is not read to its end may fail for that.
    if printed.len() > OUTPUT_BYTES_MAX {
        return Err(CommandError::Output { program: program() });
    }
    if !status.success() {
        return Err(CommandError::Status { program: program(), status });
    }
    let token = std::str::from_utf8(&printed).unwrap_or_default().trim();
    let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_word { Ok(token.to_owned()) } else { Err(CommandError::Output { program: program() }) }
}

fn receiver(stdout: ChildStdout) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(stdout.into_owned_fd()?)
}

/// Reads to the end, or until there is more than a token may have.
async fn read(stdout: &mut Option<pipe::Receiver>, printed: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(stdout) = stdout else { return Ok(()) };
    // I6: no more is kept than a token may have, and one read.
    while printed.len() <= OUTPUT_BYTES_MAX && stdout.read_buf(printed).await? > 0 {}
    Ok(())
}

/// Reads what is in the pipe, without waiting for more.
fn read_rest(stdout: pipe::Receiver, printed: &mut Vec<u8>) -> std::io::Result<()> {
    // A receiver does not look again at what it has not been told of.
    let file = File::from(stdout.into_nonblocking_fd()?);
    match file.take(OUTPUT_BYTES_MAX as u64 + 1).read_to_end(printed) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(words: &[&str]) -> TokenSource {
        let words = words.iter().copied().map(str::to_owned).collect();
        TokenSource::Command { words, withheld: vec!["CARGO_MANIFEST_DIR".to_owned()] }
    }

    async fn run(script: &str) -> Result<String, CommandError> {
        source(&["sh", "-c", script]).token().await
    }

    /// Waits until the process of this number, which a script wrote, has ended.
    async fn ended(pid: &str) {
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // It may remain a zombie until its parent takes its status.
        let gone = async {
            while !state().is_empty() && !state().contains(") Z ") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(COMMAND_TIMEOUT, gone).await.expect("the process still runs");
    }

    #[tokio::test]
    async fn a_command_gives_the_word_that_it_prints() {
        assert_eq!(run("echo '  a.b.c '").await.unwrap(), "a.b.c");
        // Its arguments are words, and no shell reads them.
        assert_eq!(source(&["printf", "%s", "$(id)|x"]).token().await.unwrap(), "$(id)|x");
    }

    #[tokio::test]
    async fn i8_a_command_does_not_get_the_gateways_secrets() {
        // Both are set by the runner of the tests; only one is withheld.
        assert_eq!(
            run(r#"echo "${CARGO_MANIFEST_DIR:-none}/${CARGO_PKG_NAME:-none}""#).await.unwrap(),
            "none/gatepost"
        );
    }

    /// As one that starts an agent does, which keeps the token for the next run.
    #[tokio::test]
    async fn i6_a_process_that_is_left_behind_delays_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; echo a.b.c", file.display());
        let never = std::future::pending();
        assert_eq!(output(&["sh".to_owned(), "-c".to_owned(), script], &[], never).await.unwrap(), "a.b.c");
        ended(&std::fs::read_to_string(file).unwrap()).await;
    }

    /// The end of the command may be noticed before its output.
    #[tokio::test]
    async fn what_a_command_printed_at_its_end_is_read() {
        // Which of the two is looked at first is left to chance.
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("pid");
            let script = format!("sleep 600 & echo $$ > {}; echo a.b.c", file.display());
            let words = ["sh".to_owned(), "-c".to_owned(), script];
            let until_both = async {
                let pid = loop {
                    match std::fs::read_to_string(&file) {
                        Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                        _ => tokio::task::yield_now().await,
                    }
                };
                // Nothing else runs on this thread until the command has printed and ended.
                let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                while !state().is_empty() && !state().contains(") Z ") {
                    std::thread::yield_now();
                }
            };
            let (token, ()) = tokio::join!(output(&words, &[], std::future::pending()), until_both);
            assert_eq!(token.unwrap(), "a.b.c");
        }
    }

    #[tokio::test]
    async fn i8_a_command_that_fails_is_named_without_its_output_and_arguments() {
        for (script, wanted) in [
            ("echo hunter2; exit 3", "failed (exit status: 3)"),
            ("echo hunter2 hunter2", "must print the token and nothing else"),
            ("echo", "must print the token and nothing else"),
            ("printf 'hunter2\\377'", "must print the token and nothing else"),
            ("head -c 40000 /dev/zero | tr '\\0' x", "must print the token and nothing else"),
            ("yes hunter2", "must print the token and nothing else"),
            // Its end is that of the shell, and the pipe is never empty.
            ("yes hunter2 & exit 0", "must print the token and nothing else"),
        ] {
            let error = run(script).await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(wanted) && shown.contains("\"sh\"") && !shown.contains("hunter2"), "{shown}");
        }
        let missing = source(&["/nonexistent", "hunter2"]).token().await;
        let shown = format!("{:?}", missing.unwrap_err());
        assert!(shown.contains("/nonexistent") && !shown.contains("hunter2"), "{shown}");
        let given = TokenSource::Given("hunter2".to_owned());
        assert!(!format!("{given:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn i6_a_command_that_waits_is_ended_with_what_it_started() {
        for is_dropped in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("pid");
            let started = || std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
            let limit = async || {
                while started().is_none() {
                    tokio::task::yield_now().await;
                }
            };
            let words = ["sh".to_owned(), "-c".to_owned(), format!("sleep 600 & echo $! > {}; wait", file.display())];
            if is_dropped {
                tokio::select! {
                    token = output(&words, &[], std::future::pending()) => panic!("{token:?}"),
                    () = limit() => {}
                }
            } else {
                let error = output(&words, &[], limit()).await.unwrap_err();
                assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
            }
            ended(&started().unwrap()).await;
        }
    }
}
