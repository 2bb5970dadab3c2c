//! `gatepost config check`: validates everything without starting, including the key files, and notes in which
//! directories stdio backends cannot write as configured.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::configuration::environment;
use super::database;
use super::exit::{BAD_USAGE, CommandError};
use super::output::print;
use crate::auth::Authenticator;
use crate::config::{Config, ConfigError, Origin, is_loopback};
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

/// One line for each setting that is valid and probably not meant so, and for each directory in which a stdio backend
/// cannot write as configured.
fn notes(config: &Config, path: &Path) -> String {
    let warning = |text: String| format!("{}: warning: {text}\n", path.display());
    let mut warnings = Vec::new();
    if config.backends.is_empty() {
        warnings.push(warning("there are no backends: clients find no tools; add [backends.NAME]".to_owned()));
    }
    if config.roles.is_empty() {
        warnings.push(warning("there are no roles: every call is denied; add [roles.NAME] with allow".to_owned()));
    }
    for (alias, backend) in &config.backends {
        if let Some(program) = backend.command.first().filter(|program| !is_found(program, backend)) {
            let text =
                format!("backends.{alias}.command: the program {program:?} is not found: the backend will be down");
            warnings.push(warning(text));
        }
        let url = backend.url.as_deref().and_then(|url| url::Url::parse(url).ok());
        if url.is_some_and(|url| url.scheme() == "http" && !is_loopback(&url)) {
            let text = "is not encrypted, and leaves this machine: anyone on the way can read and change it";
            warnings.push(warning(format!("backends.{alias}.url: {text}")));
        }
    }
    warnings.concat() + &limited_roots(config, path)
}

/// Returns true if the program of a backend can be started: by its path, or found in `PATH`.
fn is_found(program: &str, backend: &crate::config::Backend) -> bool {
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let cwd = backend.cwd.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
        return is_program(&cwd.join(program));
    }
    let path = backend.env.get("PATH").map(Into::into).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    std::env::split_paths(&path).any(|dir| is_program(&dir.join(program)))
}

fn limited_roots(config: &Config, path: &Path) -> String {
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
    fn settings_that_are_probably_not_meant_so_are_named() {
        let notes_of = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("gatepost.toml");
            std::fs::write(&file, text).unwrap();
            notes(&Config::parse(text, None, []).unwrap(), Path::new("FILE"))
        };
        let empty = notes_of("");
        assert!(
            empty.contains("FILE: warning: there are no backends") && empty.contains("there are no roles"),
            "{empty}"
        );
        let text = "[roles.r]\nallow = [\"*/*\"]\n[backends.a]\ncommand = [\"no-such-program-here\"]\n\
                    [backends.b]\nurl = \"http://tools.example.com/mcp\"\n[backends.c]\ncommand = [\"sh\"]\n\
                    [backends.d]\nurl = \"http://127.0.0.1:1/mcp\"\n";
        let found = notes_of(text);
        let warned: Vec<_> = found.lines().filter(|line| line.contains("warning")).collect();
        assert_eq!(warned.len(), 2, "{found}");
        assert!(warned[0].contains("backends.a.command") && warned[1].contains("backends.b.url"), "{found}");
    }

    #[test]
    fn an_unreadable_key_file_is_a_fault() {
        let text = "[[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"i\"\nsecret_file = \"/nonexistent/secret\"\n";
        let faults = faults(text);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("FILE: auth.keys[0]: \"/nonexistent/secret\" cannot be read "), "{faults:?}");
    }
}
