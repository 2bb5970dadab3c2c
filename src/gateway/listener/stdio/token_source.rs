//! The token of a client on standard input: one that was given at the start, or the output of a command that is run
//! again before the token ends.

use std::fmt;
use std::time::Duration;

use crate::command::{self, Run, RunError};

/// Longest run of a command. *Chosen*: it may ask a server, and clients wait a minute for a server's start.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest output of a command, in bytes. *Derived*: twice the longest token that is verified.
const OUTPUT_BYTES_MAX: usize = 32 * 1024;

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
pub enum TokenError {
    /// The command has no output.
    #[error(transparent)]
    Command(#[from] RunError),
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
    /// [`TokenError`]: the command gives none. It has ended, with all processes that it started in its group.
    ///
    /// # Cancel safety
    /// If the future is dropped, the command is killed, with all processes that it started in its group.
    pub(super) async fn token(&self) -> Result<String, TokenError> {
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

/// Runs a command until `limit`, and returns the word that it prints.
async fn output(words: &[String], withheld: &[String], limit: impl Future<Output = ()>) -> Result<String, TokenError> {
    let program = words.first().cloned().unwrap_or_default();
    let run = Run { words, withheld, input: None, output_bytes_max: OUTPUT_BYTES_MAX, timeout: COMMAND_TIMEOUT };
    let printed = match command::output_until(run, limit).await {
        Err(RunError::TooLong { .. }) => return Err(TokenError::Output { program }),
        printed => printed?,
    };
    let token = std::str::from_utf8(&printed).unwrap_or_default().trim();
    let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_word { Ok(token.to_owned()) } else { Err(TokenError::Output { program }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(words: &[&str]) -> TokenSource {
        let words = words.iter().copied().map(str::to_owned).collect();
        TokenSource::Command { words, withheld: vec!["CARGO_MANIFEST_DIR".to_owned()] }
    }

    async fn run(script: &str) -> Result<String, TokenError> {
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
                assert!(matches!(error, TokenError::Command(RunError::Timeout { .. })), "{error}");
            }
            ended(&started().unwrap()).await;
        }
    }
}
