//! The configuration of a command: its file, given or found, and files of environment variables.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::{CommandError, usage};

/// The help of `--config`.
pub(super) const CONFIG_HELP: &str =
    "Configuration file [default: $GATEPOST_CONFIG, ./gatepost.toml or /etc/gatepost/gatepost.toml]";

/// The help of `--env-file`.
pub(super) const ENV_FILE_HELP: &str = "File of environment variables in systemd's syntax, for what is not set; may \
    be repeated [default: gatepost.env beside /etc/gatepost/gatepost.toml]";

/// The environment variable that names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "GATEPOST_CONFIG";

/// The configuration in the current directory.
const HERE: &str = "gatepost.toml";

/// The configuration of a machine, and its variables. *Spec*: packaging/gatepost.service.
const OF_MACHINE: &str = "/etc/gatepost/gatepost.toml";
const ENV_OF_MACHINE: &str = "/etc/gatepost/gatepost.env";

/// The working directory of the machine's gateway. *Spec*: packaging/gatepost.service.
const WORK_DIR_OF_MACHINE: &str = "/var/lib/gatepost";

/// The options that name the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ConfigArgs {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    pub(super) config: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = ENV_FILE_HELP)]
    pub(super) env_file: Vec<PathBuf>,
}

/// The configuration file of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigFile {
    path: Option<PathBuf>,
    origin: Origin,
}

/// The way by which a configuration file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// `--config`.
    Option,
    /// `GATEPOST_CONFIG`.
    Variable,
    /// One of the usual places, or none of them has a file.
    Usual,
}

impl ConfigArgs {
    /// Finds the configuration file. One that is named may be missing: that is an error where it is read.
    pub(super) fn find(&self) -> ConfigFile {
        let variable = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        find(self.config.clone(), variable, &[Path::new(HERE), Path::new(OF_MACHINE)])
    }

    /// The configuration file of a command that needs one.
    ///
    /// # Errors
    /// None was found; the message names the places.
    pub(super) fn require(&self) -> anyhow::Result<PathBuf> {
        require(self.config.as_deref(), "")
    }
}

/// The configuration file of a command that needs one; `config` is the one that its command line names. `remedy` is
/// what else the operator can do.
///
/// # Errors
/// None was found; the message names the places.
pub(super) fn require(config: Option<&Path>, remedy: &str) -> anyhow::Result<PathBuf> {
    let file = ConfigArgs { config: config.map(Path::to_owned), env_file: Vec::new() }.find();
    let missing = || usage(format!("{file}: name one with --config FILE{remedy}"));
    file.path.clone().ok_or_else(missing)
}

fn find(option: Option<PathBuf>, variable: Option<PathBuf>, usual: &[&Path]) -> ConfigFile {
    if let Some(path) = option {
        return ConfigFile { path: Some(path), origin: Origin::Option };
    }
    if let Some(path) = variable {
        return ConfigFile { path: Some(path), origin: Origin::Variable };
    }
    // One that cannot be looked at exists: a command does not silently run with another configuration.
    let is_absent = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let exists = |path: &&&Path| path.metadata().map_or_else(|error| !is_absent(&error), |_| true);
    ConfigFile { path: usual.iter().find(exists).map(|path| path.to_path_buf()), origin: Origin::Usual }
}

impl ConfigFile {
    /// The file; `None`: the configuration is in environment variables alone.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns true if the command line does not name the file, and one was found.
    pub(super) fn is_found(&self) -> bool {
        self.origin != Origin::Option && self.path.is_some()
    }

    /// The file of variables beside the configuration of this machine, if it is that.
    pub(super) fn default_env_file(&self) -> Option<&'static Path> {
        self.is_of_machine().then_some(Path::new(ENV_OF_MACHINE))
    }

    /// The directory `dir` of this configuration. If it is relative in the configuration of this machine, it is
    /// relative to the working directory of the machine's gateway, wherever the command runs.
    pub(super) fn resolve(&self, dir: &Path) -> PathBuf {
        let work_dir = Path::new(WORK_DIR_OF_MACHINE);
        if self.is_of_machine() && work_dir.is_dir() { work_dir.join(dir) } else { dir.to_owned() }
    }

    fn is_of_machine(&self) -> bool {
        self.path.as_deref() == Some(Path::new(OF_MACHINE))
    }

    /// Adds the configuration file to an error that says that something is not configured.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let is_about = matches!(
            error.downcast_ref::<CommandError>(),
            Some(CommandError::NoOutbox(_) | CommandError::NotConfigured { .. })
        );
        // The operator knows the file that the command line names.
        if !is_about || self.origin == Origin::Option { error } else { error.context(self.to_string()) }
    }
}

/// The file, or the places that have none.
impl fmt::Display for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.origin) {
            (Some(path), Origin::Variable) => write!(f, "configuration {} ({CONFIG_VARIABLE})", path.display()),
            (Some(path), _) => write!(f, "configuration {}", path.display()),
            (None, _) => {
                write!(f, "no configuration file: neither --config nor {CONFIG_VARIABLE} is set, and neither ")?;
                write!(f, "./{HERE} nor {OF_MACHINE} exists")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_counts_before_the_variable_and_both_before_the_usual_places() {
        let dir = tempfile::tempdir().unwrap();
        let (here, machine) = (dir.path().join("here"), dir.path().join("machine"));
        let usual = [here.as_path(), machine.as_path()];
        let named = |name: &str| Some(PathBuf::from(name));
        let none = find(None, None, &usual);
        assert!(none.path.is_none() && none.to_string().contains("GATEPOST_CONFIG"), "{none}");
        std::fs::write(&machine, "").unwrap();
        assert_eq!(find(None, None, &usual).path(), Some(machine.as_path()));
        std::fs::write(&here, "").unwrap();
        assert_eq!(find(None, None, &usual).path(), Some(here.as_path()));
        assert_eq!(find(None, named("v"), &usual).path(), Some(Path::new("v")));
        assert_eq!(find(named("o"), named("v"), &usual).path(), Some(Path::new("o")));
        assert!(!find(named("o"), None, &usual).is_found() && find(None, None, &usual).is_found());
    }

    #[test]
    fn only_the_configuration_of_the_machine_has_a_default_file_of_variables() {
        let file = |path: &str| find(Some(path.into()), None, &[]);
        assert_eq!(file(OF_MACHINE).default_env_file(), Some(Path::new("/etc/gatepost/gatepost.env")));
        assert_eq!(file("gatepost.toml").default_env_file(), None);
        assert_eq!(file("gatepost.toml").resolve(Path::new("data")), Path::new("data"));
        assert_eq!(file(OF_MACHINE).resolve(Path::new("/data")), Path::new("/data"));
    }
}
