//! `gatepost config check`: validates everything without starting, the key files too.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::auth::Authenticator;
use crate::config::{Config, Fault, Origin};
use crate::gateway::listener::tls::Acceptor;

use super::{BAD_CONFIG, FAILED, print};

/// Validates a configuration without starting.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "gatepost.toml")]
    pub config: PathBuf,
}

/// Says that the configuration is valid, or writes one line a fault to stderr and gives exit code 2.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Err(faults) = check(&args.config) else {
        let printed = print(&format!("{}: the configuration is valid\n", args.config.display()));
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
    };
    for fault in faults {
        // Without the program's name before it: editors jump to `file:line`. Where stderr is closed nobody can be told.
        writeln!(std::io::stderr().lock(), "{fault}").ok();
    }
    ExitCode::from(BAD_CONFIG)
}

/// The configuration at `path` under this process's environment, with every key and certificate loaded once.
///
/// # Errors
/// Every fault found.
pub fn check(path: &Path) -> Result<Config, Vec<Fault>> {
    let config = Config::load(Some(path), super::environment())?;
    let fault =
        |key: &str, message: String| Fault { origin: Origin::File(path.to_owned()), key: key.to_owned(), message };
    let mut faults = Vec::new();
    if let Err(errors) = Authenticator::from_config(&config.auth) {
        faults.extend(errors.iter().map(|error| fault(&error.key, error.reason.to_string())));
    }
    if let Some(Err(error)) = config.server.tls.as_ref().map(Acceptor::load) {
        faults.push(fault(error.key, format!("{} {}", error.path.display(), error.reason)));
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gatepost.toml");
        std::fs::write(&file, text).unwrap();
        let shown = |fault: &Fault| fault.to_string().replace(&format!("{}", file.display()), "FILE");
        check(&file).unwrap_err().iter().map(shown).collect()
    }

    #[test]
    fn each_fault_is_one_line_with_file_line_and_key() {
        assert_eq!(
            faults("[server]\nlisen = \"127.0.0.1:1\"\ncalls_max = 0\n"),
            [
                "FILE:2: server.lisen: unknown key: did you mean server.listen?",
                "FILE:3: server.calls_max: 0 calls is out of range, 1 to 65536: set it within the range",
            ]
        );
    }

    #[test]
    fn a_key_file_that_does_not_do_is_a_fault() {
        let text = "[[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"i\"\nsecret_file = \"/nonexistent/secret\"\n";
        let faults = faults(text);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("FILE: auth.keys[0]: cannot read "), "{faults:?}");
    }
}
