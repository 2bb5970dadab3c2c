//! The token of a client on standard input: one that was given at the start, or the output of a command that is run
//! again before the token ends.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::children;

/// Longest run of a command. *Chosen*: it may ask a server, and clients wait a minute for a server's start.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest output of a command, in bytes. *Derived*: twice the longest token that is verified.
const OUTPUT_BYTES_MAX: u64 = 32 * 1024;

/// Variables that begin so are the gateway's, and some are secrets: a command does not get them.
const OWN_PREFIX: &str = "GATEPOST_";

/// The source of a client's token.
pub enum TokenSource {
    /// This token.
    Given(String),
    /// The output of this command: a program and its arguments.
    Command(Vec<String>),
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
    /// If the future is dropped, the command is killed.
    pub(super) async fn token(&self) -> Result<String, CommandError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::Command(words) => output(words, tokio::time::sleep(COMMAND_TIMEOUT)).await,
        }
    }

    /// Returns true if the source can give a newer token.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Command(_))
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
async fn output(words: &[String], limit: impl Future<Output = ()>) -> Result<String, CommandError> {
    let (name, arguments) = words.split_first().map_or(("", &[][..]), |(name, arguments)| (name.as_str(), arguments));
    let program = || name.to_owned();
    let failed = |source| CommandError::Start { program: program(), source };
    let mut command = Command::new(name);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with(OWN_PREFIX) {
            command.env_remove(variable);
        }
    }
    let mut child = children::start(command).await.map_err(failed)?;
    let group = child.process.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let stdout = child.process.stdout.take();
    let mut printed = Vec::new();
    let run = async {
        // I6: no more is read than a token may have.
        if let Some(stdout) = stdout {
            stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut printed).await?;
        }
        child.process.wait().await
    };
    let ended = tokio::select! {
        status = run => Some(status),
        () = limit => None,
    };
    // Processes that it left behind, or that it still is.
    group.map(|group| killpg(group, Signal::SIGKILL));
    let status = ended.ok_or_else(|| CommandError::Timeout { program: program() })?.map_err(failed)?;
    // First, because a command that is not read to its end may fail for that.
    if printed.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(CommandError::Output { program: program() });
    }
    if !status.success() {
        return Err(CommandError::Status { program: program(), status });
    }
    let token = std::str::from_utf8(&printed).unwrap_or_default().trim();
    let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_word { Ok(token.to_owned()) } else { Err(CommandError::Output { program: program() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str) -> Result<String, CommandError> {
        TokenSource::Command(["sh", "-c", script].map(str::to_owned).to_vec()).token().await
    }

    #[tokio::test]
    async fn a_command_gives_the_word_that_it_prints() {
        assert_eq!(run("echo '  a.b.c '").await.unwrap(), "a.b.c");
        // Its arguments are words, and no shell reads them.
        let words = ["printf", "%s", "$(id)|x"].map(str::to_owned).to_vec();
        assert_eq!(TokenSource::Command(words).token().await.unwrap(), "$(id)|x");
    }

    #[tokio::test]
    async fn i8_a_command_that_fails_is_named_without_its_output_and_arguments() {
        for (script, wanted) in [
            ("echo hunter2; exit 3", "failed (exit status: 3)"),
            ("echo hunter2 hunter2", "must print the token and nothing else"),
            ("echo", "must print the token and nothing else"),
            ("printf 'hunter2\\377'", "must print the token and nothing else"),
            ("head -c 40000 /dev/zero | tr '\\0' x", "must print the token and nothing else"),
        ] {
            let error = run(script).await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(wanted) && shown.contains("\"sh\"") && !shown.contains("hunter2"), "{shown}");
        }
        let missing = TokenSource::Command(vec!["/nonexistent".to_owned(), "hunter2".to_owned()]).token().await;
        let shown = format!("{:?}", missing.unwrap_err());
        assert!(shown.contains("/nonexistent") && !shown.contains("hunter2"), "{shown}");
        let given = TokenSource::Given("hunter2".to_owned());
        assert!(!format!("{given:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn i6_a_command_that_waits_is_ended_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let started = || std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
        let limit = async {
            while started().is_none() {
                tokio::task::yield_now().await;
            }
        };
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let error = output(&["sh".to_owned(), "-c".to_owned(), script], limit).await.unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
        let pid = started().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // It may remain a zombie until its parent takes its status.
        while !state().is_empty() && !state().contains(") Z ") {
            tokio::task::yield_now().await;
        }
    }
}
