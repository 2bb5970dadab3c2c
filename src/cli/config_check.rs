//! `gatepost config check`: validates everything without starting, including the key files, and notes in which
//! directories stdio backends cannot write as configured. With `--connect` it also tries what only a start would show.

mod connect;

use std::io::Write as _;
use std::path::Path;

use super::config_args::ConfigArgs;
use super::configuration::load_whole;
use super::exit::{BAD_USAGE, CommandError, FAILED};
use super::output::{print, without_error_numbers};
use super::{preflight, program};
use crate::config::{Config, ConfigError, Origin, is_loopback};
use crate::walls::{Launcher, OwnFiles};

/// `gatepost config check`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Also try what a start needs: each backend, Postgres, the keys of issuers, the listeners' addresses, the outbox
    /// directory; changes nothing, and exits with 1 if one of them fails
    #[arg(long)]
    connect: bool,
}

/// Prints that the configuration is valid, or one line per fault on standard error.
pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let path = &args.config.require()?;
    let faults = match check(path) {
        Ok(config) => {
            let valid = format!("{}: the configuration is valid\n", path.display());
            print(&(valid + &notes(&config, path)))?;
            return if args.connect { try_out(&config, path).await } else { Ok(()) };
        }
        Err(faults) => faults,
    };
    for fault in faults {
        // Without the program's name: editors jump to `file:line`. Nothing can be done if standard error is closed.
        writeln!(std::io::stderr().lock(), "{}", without_error_numbers(&fault.to_string())).ok();
    }
    Err(CommandError::Reported { code: BAD_USAGE }.into())
}

/// Prints the results of the trials.
async fn try_out(config: &Config, path: &Path) -> anyhow::Result<()> {
    let trials = Box::pin(connect::all(config, path)).await;
    print(&format!("\n{}", connect::table(&trials)))?;
    if trials.iter().all(connect::Trial::is_ok) {
        return Ok(());
    }
    Err(CommandError::Reported { code: FAILED }.into())
}

/// Loads the configuration at `path` under this process's environment, and every key and certificate it names. The
/// owners and permissions of these files and of `audit.dir` are checked, for the user that runs this.
///
/// # Errors
/// Every fault found.
fn check(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let loaded = load_whole(Some(path))?;
    let fault = |message: String| ConfigError { origin: Origin::File(path.to_owned()), key: String::new(), message };
    let mut faults: Vec<_> = loaded.check_file(|access| access).err().into_iter().collect();
    let config = loaded.config;
    faults.extend(preflight::faults(&config).into_iter().map(fault));
    if let Err(error) = config.audit.files.check_dir(&config.audit.dir) {
        faults.push(fault(format!("audit.dir: {error}")));
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
    let launcher = Launcher::with_walls(OwnFiles::of(config, [path]));
    for (alias, backend) in &config.backends {
        if let Some(program) = backend.command.first().filter(|program| !program::is_found(program, backend)) {
            let text =
                format!("backends.{alias}.command: the program {program:?} is not found: the backend will be down");
            warnings.push(warning(text));
        }
        let start_error = launcher.backend(alias, backend).start_error().filter(|_| !backend.command.is_empty());
        warnings
            .extend(start_error.map(|reason| warning(format!("backends.{alias}.{reason}: the backend will be down"))));
        let url = backend.url.as_deref().and_then(|url| url::Url::parse(url).ok());
        if url.is_some_and(|url| url.scheme() == "http" && !is_loopback(&url)) {
            let text = "is not encrypted, and leaves this machine: anyone on the way can read and change it";
            warnings.push(warning(format!("backends.{alias}.url: {text}")));
        }
    }
    warnings.concat() + &limited_roots(config, path, &launcher)
}

fn limited_roots(config: &Config, path: &Path, launcher: &Launcher) -> String {
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
