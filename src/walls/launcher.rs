//! The gateway's side of the start of a backend's process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tokio::process::Command;

use super::environment::Environment;
use super::kernel::missing;
use super::own_files::OwnFiles;
use super::plan::{Granted, Plan, WriteRoot};
use super::report::StartReport;
use super::user::BackendUser;
use crate::config;

/// The link to the running program, even if its file has been replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The directory of links to the open files of the process that reads it. *Spec*: proc(5).
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// The directory for temporary files. *Spec*: POSIX, unless `TMPDIR` names another directory.
pub(super) const TEMPORARY_DIR: &str = "/tmp";

/// Starts the processes of all stdio backends.
#[derive(Clone, Debug)]
pub struct Launcher(Option<Wrapper>);

#[derive(Clone, Debug)]
struct Wrapper {
    program: OwnProgram,
    /// The files that are closed to a process when it is started.
    own: Arc<RwLock<OwnFiles>>,
}

/// The running program, to be started again.
#[derive(Clone, Debug)]
struct OwnProgram {
    path: PathBuf,
    /// Kept open, because `path` names its descriptor.
    _file: Option<Arc<File>>,
}

impl OwnProgram {
    /// By an open file: it stays the same program when an update replaces the file, and, unlike the link, it is the
    /// right one under a tool that runs the program inside its own process (valgrind). By the link where the file may
    /// be executed but not read, and by its path where there is no `/proc`.
    fn find() -> Self {
        let link = Path::new(OWN_PROGRAM);
        match File::open(link) {
            Ok(file) => {
                let path = Path::new(OWN_DESCRIPTORS).join(file.as_raw_fd().to_string());
                Self { path, _file: Some(Arc::new(file)) }
            }
            Err(_) if link.exists() => Self { path: link.to_owned(), _file: None },
            Err(_) => Self { path: std::env::current_exe().unwrap_or_else(|_| link.to_owned()), _file: None },
        }
    }
}

/// Starts the processes of one stdio backend.
#[derive(Debug)]
pub struct BackendLauncher {
    alias: String,
    wrapper: Option<Wrapper>,
    command: Vec<String>,
    environment: Environment,
    cwd: Option<PathBuf>,
    user: Option<String>,
    has_walls: bool,
    /// The directories and files in which it may write, as configured.
    write: Option<Vec<PathBuf>>,
    /// True once it is logged what the kernel enforces.
    is_logged: AtomicBool,
}

impl Launcher {
    /// Starts backends by way of `gatepost run-backend`, to which `own` is closed. Only for the `gatepost` program.
    #[must_use]
    pub fn with_walls(own: OwnFiles) -> Self {
        Self(Some(Wrapper { program: OwnProgram::find(), own: Arc::new(RwLock::new(own)) }))
    }

    /// Replaces the files that are closed to processes that are started from now on.
    pub fn set_own(&self, own: OwnFiles) {
        if let Some(wrapper) = &self.0 {
            *wrapper.own.write() = own;
        }
    }

    /// Starts backends directly, without walls and without a parent-death signal: for programs other than `gatepost`.
    #[must_use]
    pub fn direct() -> Self {
        Self(None)
    }

    /// The launcher of the backend `alias`.
    #[must_use]
    pub fn backend(&self, alias: &str, config: &config::Backend) -> BackendLauncher {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let write = config.write.as_ref().map(|paths| paths.iter().map(absolute).collect());
        BackendLauncher {
            alias: alias.to_owned(),
            wrapper: self.0.clone(),
            command: config.command.clone(),
            environment: Environment::of(config),
            cwd: config.cwd.as_ref().map(absolute),
            user: config.user.clone(),
            has_walls: config.walls,
            write,
            is_logged: AtomicBool::new(false),
        }
    }
}

impl BackendLauncher {
    /// The program as it is configured.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        self.command.first().map(String::as_str)
    }

    /// Returns whether the process writes a [`StartReport`] first.
    #[must_use]
    pub fn reports(&self) -> bool {
        self.wrapper.is_some()
    }

    /// The command that starts a process of the backend.
    ///
    /// # Errors
    /// The reason why there is none: no program is configured, its variables cannot be read, or its working directory
    /// does not exist.
    pub fn command(&self) -> Result<Command, String> {
        let (program, arguments) = self.command.split_first().ok_or("no command is configured")?;
        let env = self.environment.variables().map_err(|(key, reason)| format!("{key}: {reason}"))?;
        if let Some(cwd) = self.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            return Err(format!("cwd: {} is not a directory", cwd.display()));
        }
        let mut command = if let Some(wrapper) = &self.wrapper {
            self.wrapped(wrapper, &env)
        } else {
            let mut command = Command::new(program);
            // As `run-backend` has a session of its own: Ctrl-C at the terminal reaches only the gateway.
            command.args(arguments).process_group(0);
            command
        };
        command.env_clear().envs(&env).kill_on_drop(true);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// The reason why no process of the backend can be started, as far as it shows before: its variables, working
    /// directory or user.
    #[must_use]
    pub fn start_error(&self) -> Option<String> {
        let user = || BackendUser::find(self.user.as_deref()?).err().map(|reason| format!("user: {reason}"));
        self.command().err().or_else(user)
    }

    /// The directories and files in which it may write: as configured, otherwise the default for these variables.
    fn write(&self, env: &BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
        self.write.clone().unwrap_or_else(|| default_write(self.cwd.as_deref(), env))
    }

    fn wrapped(&self, wrapper: &Wrapper, env: &BTreeMap<OsString, OsString>) -> Command {
        let mut command = Command::new(&wrapper.program.path);
        command.arg0("gatepost").args(["run-backend", "--parent"]).arg(std::process::id().to_string());
        if let Some(user) = &self.user {
            command.arg("--user").arg(user);
        }
        if self.has_walls {
            let own = wrapper.own.read();
            command.arg("--own-dir").arg(&own.dir);
            command.args(own.files.iter().flat_map(|file| [OsStr::new("--own-file"), file.as_os_str()]));
            let write = self.write(env);
            command.args(write.iter().flat_map(|path| [OsStr::new("--write"), path.as_os_str()]));
        }
        command.arg("--").args(&self.command);
        command
    }

    /// The directories in which the backend cannot write as configured; each is shown with its consequence.
    #[must_use]
    pub fn limited_roots(&self) -> Vec<WriteRoot> {
        let Some(wrapper) = self.wrapper.as_ref().filter(|_| self.has_walls) else { return Vec::new() };
        let command: Vec<OsString> = self.command.iter().map(OsString::from).collect();
        // Without its variables it does not start, which is said elsewhere.
        let env = self.environment.variables().unwrap_or_default();
        let plan = Plan::new(&wrapper.own.read(), &self.write(&env), &command, &env);
        plan.write.into_iter().filter(|root| !matches!(root.granted, Granted::Whole(_))).collect()
    }

    /// Logs the limits of the walls.
    pub fn log_limits(&self) {
        for root in self.limited_roots() {
            tracing::info!(backend = self.alias, "write: {root}");
        }
    }

    /// Logs what the kernel enforces, once.
    pub fn log_report(&self, report: &StartReport) {
        if self.is_logged.swap(true, Ordering::Relaxed) {
            return;
        }
        match report {
            StartReport::Walled { abi } => {
                let missing: Vec<&str> = missing(*abi).collect();
                if missing.is_empty() {
                    tracing::info!(backend = self.alias, abi, "backend started behind walls");
                } else {
                    let missing = missing.join("; ");
                    tracing::info!(backend = self.alias, abi, missing, "backend started behind walls");
                }
            }
            StartReport::Open => tracing::warn!(
                backend = self.alias,
                "backend started without walls (walls = false): it can read the gateway's files"
            ),
            StartReport::Failed { .. } => {}
        }
    }
}

/// The working directory, the home directory and the directory for temporary files; without the root, which a service
/// often has as one of these.
fn default_write(cwd: Option<&Path>, env: &BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| env.get(OsStr::new(name)).map(PathBuf::from);
    let temporary = variable("TMPDIR").unwrap_or_else(|| PathBuf::from(TEMPORARY_DIR));
    let cwd = cwd.map(Path::to_owned).or_else(|| std::env::current_dir().ok());
    let all = [cwd, variable("HOME"), Some(temporary)];
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in all.into_iter().flatten() {
        if root.is_absolute() && root != Path::new("/") && root.exists() && !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}
