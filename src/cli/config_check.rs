//! `gatepost config check`: validates everything without starting, including the key files, and notes in which
//! directories stdio backends cannot write as configured.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::configuration::environment;
use super::database;
use super::exit::{BAD_USAGE, CommandError};
use super::output::print;
use crate::auth::Authenticator;
use crate::config::{Config, ConfigError, Origin};
use crate::gateway::listener::tls::Acceptor;
use crate::upstream::Upstreams;
use crate::walls::{Launcher, OwnFiles};

/// `gatepost config check`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "gatepost.toml")]
    config: PathBuf,
}

/// Prints that the configuration is valid, or one line per fault on standard error.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let faults = match check(&args.config) {
        Ok(config) => {
            let valid = format!("{}: the configuration is valid\n", args.config.display());
            return Ok(print(&(valid + &notes(&config, &args.config)))?);
        }
        Err(faults) => faults,
    };
    for fault in faults {
        // Without the program's name: editors jump to `file:line`. Nothing can be done if standard error is closed.
        writeln!(std::io::stderr().lock(), "{fault}").ok();
    }
    Err(CommandError::Reported { code: BAD_USAGE }.into())
}

/// Loads the configuration at `path` under this process's environment, and every key and certificate it names. The
/// owners and permissions of these files and of `audit.dir` are checked, for the user that runs this.
///
/// # Errors
/// Every fault found.
fn check(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let loaded = Config::load_whole(Some(path), environment())?;
    let fault = |key: &str, message: String| ConfigError {
        origin: Origin::File(path.to_owned()),
        key: key.to_owned(),
        message,
    };
    let mut faults: Vec<_> = loaded.check_file(|access| access).err().into_iter().collect();
    let config = loaded.config;
    if let Err(errors) = Authenticator::from_config(&config.auth) {
        faults.extend(errors.iter().map(|error| fault(&error.key, error.reason.to_string())));
    }
    for (alias, backend) in &config.backends {
        if let Err(message) = &backend.pins {
            faults.push(fault(&format!("backends.{alias}.pins_file"), message.clone()));
        }
    }
    if let Some(Err(error)) = config.server.tls.as_ref().map(Acceptor::load) {
        faults.push(fault(error.key, format!("{} {}", error.path.display(), error.reason)));
    }
    let backends = Upstreams::check(&config.backends);
    faults.extend(backends.into_iter().map(|error| fault(error.key(), error.message().to_owned())));
    if let Err(message) = database::check_files(&config) {
        faults.push(fault("", message));
    }
    if let Err(error) = config.audit.files.check_dir(&config.audit.dir) {
        faults.push(fault("audit.dir", error.to_string()));
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

/// One line for each directory in which a stdio backend cannot write as configured.
fn notes(config: &Config, path: &Path) -> String {
    let launcher = Launcher::with_walls(OwnFiles::of(config, [path]));
    let stdio = config.backends.iter().filter(|(_, backend)| !backend.command.is_empty());
    let limited = stdio.flat_map(|(alias, backend)| {
        let roots = launcher.backend(alias, backend).limited_roots();
        roots.into_iter().map(move |root| format!("{}: note: backends.{alias}.write: {root}\n", path.display()))
    });
    limited.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gatepost.toml");
        std::fs::write(&file, text).unwrap();
        let shown = |fault: &ConfigError| fault.to_string().replace(&format!("{}", file.display()), "FILE");
        check(&file).unwrap_err().iter().map(shown).collect()
    }

    #[test]
    fn each_fault_is_one_line_with_file_line_and_key() {
        assert_eq!(
            faults("[server]\nlisen = \"127.0.0.1:1\"\ncalls_max = 0\n"),
            [
                "FILE:2: server.lisen: unknown key: did you mean server.listen?",
                "FILE:3: server.calls_max: 0 is out of range: use 1 to 65536 calls",
            ]
        );
    }

    #[test]
    fn an_unreadable_key_file_is_a_fault() {
        let text = "[[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"i\"\nsecret_file = \"/nonexistent/secret\"\n";
        let faults = faults(text);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("FILE: auth.keys[0]: \"/nonexistent/secret\" cannot be read "), "{faults:?}");
    }
}
