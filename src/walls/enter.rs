//! `gatepost run-backend`: from a process of the gateway to the backend's program.
//!
//! The process has one thread. It becomes the program by `execve`, so that nothing of the gateway remains in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::SigSet;
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

use super::landlock::Walls;
use super::own_files::OwnFiles;
use super::plan::Plan;
use super::report::StartReport;
use super::scratch;
use super::user::BackendUser;

/// The capabilities that root keeps behind walls: those over files and users, to which the walls apply as well.
const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// The start of a backend's program.
#[derive(Clone, Debug)]
pub struct BackendStart {
    /// The process id of the gateway.
    pub parent: u32,
    /// The backend's user, by name or number, if it is not the gateway's.
    pub user: Option<String>,
    /// The gateway's own files; `None`: no walls.
    pub own: Option<OwnFiles>,
    /// The directories and files in which the backend may write.
    pub write: Vec<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// Becomes the backend's program, behind its walls. Reports on standard output first, as [`StartReport`] says.
///
/// # Errors
/// The reason why it did not; it was reported.
pub fn exec_backend(start: &BackendStart) -> Result<Infallible, String> {
    let failed = |reason: String| {
        // If the gateway is gone, the report has no reader.
        write_report(&StartReport::Failed { reason: reason.clone() }).ok();
        reason
    };
    let (report, temporary) = prepare(start).map_err(failed)?;
    write_report(&report).map_err(|error| format!("cannot report to the gateway ({error})"))?;
    let Some((program, arguments)) = start.command.split_first() else {
        return Err(failed("no command is configured".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(temporary.map(|dir| ("TMPDIR", dir)));
    // Returns only if it fails.
    let error = command.exec();
    Err(failed(format!("cannot start {} ({error})", program.display())))
}

fn write_report(report: &StartReport) -> std::io::Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}

/// Does everything that precedes the program. Returns the value of `TMPDIR` for it, if it needs another.
fn prepare(start: &BackendStart) -> Result<(StartReport, Option<PathBuf>), String> {
    close_inherited_files();
    // A gateway may have been started with signals blocked.
    SigSet::empty().thread_set_mask().map_err(|error| format!("cannot unblock signals ({error})"))?;
    // A session of its own: a process group by which the gateway ends it, and no terminal to type into.
    nix::unistd::setsid().map_err(|error| format!("cannot start a session ({error})"))?;
    let program = start.command.first().ok_or("no command is configured")?;
    find_program(program).map_err(|error| format!("cannot start {} ({error})", program.display()))?;
    // As the gateway's user, who can read the gateway's directories.
    let (walls, temporary) = match &start.own {
        Some(own) => build(own, start).map(|(walls, temporary)| (Some(walls), temporary))?,
        None => (None, None),
    };
    if walls.is_some() {
        drop_capabilities();
    }
    // What the service manager gave to the gateway, such as CAP_SETUID, is not for backends.
    rustix::thread::clear_ambient_capability_set().ok();
    if let Some(user) = &start.user {
        BackendUser::find(user)?.become_user()?;
    }
    die_with(start.parent)?;
    let report = match walls {
        Some(walls) => StartReport::Walled { abi: walls.enforce().map_err(|error| refused(&error))? },
        None => StartReport::Open,
    };
    Ok((report, temporary))
}

/// Finds out early what `execve` would say, so that the gateway can report it.
fn find_program(program: &OsStr) -> rustix::io::Result<()> {
    let is_executable = |path: &Path| rustix::fs::access(path, Access::EXEC_OK);
    if program.as_bytes().contains(&b'/') {
        return is_executable(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut error = Errno::NOENT;
    for dir in std::env::split_paths(&path) {
        match is_executable(&dir.join(program)) {
            Ok(()) => return Ok(()),
            Err(Errno::ACCESS) => error = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(error)
}

fn build(own: &OwnFiles, start: &BackendStart) -> Result<(Walls, Option<PathBuf>), String> {
    let env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    let plan = Plan::new(own, &start.write, &start.command, &env);
    // Another user has a home of its own, and could not use what this user makes.
    let temporary = if start.user.is_none() { scratch::make(&plan, &env) } else { None };
    let walls = Walls::new(&plan).map_err(|error| refused(&error))?;
    Ok((walls, temporary))
}

fn refused(error: &dyn std::fmt::Display) -> String {
    format!("cannot build the walls ({error}): fix that, or set `walls = false` for this backend")
}

/// Closes every file descriptor but the standard ones. The gateway's own are closed by `execve`; others may have been
/// inherited by the gateway.
fn close_inherited_files() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // The directory's own descriptor is among them, and is closed by then.
    let open: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        nix::unistd::close(descriptor).ok();
    }
}

/// Drops root's capabilities beyond files and users: those for tracing and for loading code into the kernel, for
/// example.
fn drop_capabilities() {
    for capability in CapabilitySet::all().difference(KEPT_CAPABILITIES).iter() {
        // Without CAP_SETPCAP there is nothing to drop, and an older kernel does not know every capability.
        rustix::thread::remove_capability_from_bounding_set(capability).ok();
    }
}

/// Has the kernel kill this process when the thread of the gateway that started it ends.
fn die_with(parent: u32) -> Result<(), String> {
    // Last: a change of user clears the signal.
    let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    set.map_err(|error| format!("cannot set the parent-death signal ({error})"))?;
    // The gateway may have ended before.
    let is_parent = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent);
    if is_parent { Ok(()) } else { Err("the gateway has ended".to_owned()) }
}
