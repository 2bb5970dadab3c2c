//! What a package brings besides the binary: completions, manual pages, the systemd unit and what it relies on.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::gatepost::{BINARY, Setup};
use crate::common::wait::SOON;
use gatepost::audit::chain::Head;
use gatepost::audit::ring::{Phase, Ring, RingLimits};

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The subcommands as `--help` lists them.
fn subcommands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn completions_of_every_shell_know_every_subcommand() {
    let subcommands = subcommands();
    assert!(subcommands.len() > 8, "{subcommands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = stdout(&["completions", shell]);
        for name in &subcommands {
            assert!(text.contains(name.as_str()), "{shell} does not know {name}");
        }
    }
    let output = run(&["completions", "csh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bash"), "it names those that there are");
}

#[test]
fn bash_loads_the_printed_completions() {
    let script = format!(
        "{}\nCOMP_WORDS=(gatepost conf) COMP_CWORD=1\n_gatepost gatepost conf gatepost\necho \"${{COMPREPLY[@]}}\"\n",
        stdout(&["completions", "bash"])
    );
    // Longer than an argument of a process may be.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let output = Command::new("bash").arg(file.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "config");
}

#[test]
fn there_is_a_manual_page_for_every_subcommand() {
    assert!(stdout(&["man"]).contains(".TH gatepost 1"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made").join("man1");
    assert_eq!(stdout(&["man", "--dir", dir.to_str().unwrap()]), "");
    for name in subcommands() {
        let page = std::fs::read_to_string(dir.join(format!("gatepost-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(dir.join("gatepost-config-check.1").exists() && dir.join("gatepost.1").exists());
    let output = run(&["man", "--dir", "/proc/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("gatepost: cannot write to /proc/nowhere: "));
}

/// What arrived at a `NOTIFY_SOCKET`, up to the first message with `wanted`.
fn heard(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}; {all:#?}"));
        all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        if all.last().unwrap().lines().any(|line| line == wanted) {
            return all;
        }
    }
}

#[test]
fn systemd_is_notified_of_ready_watchdog_and_stopping() {
    let mut setup = Setup::new();
    let path = setup.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    setup.env.insert("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned());
    setup.env.insert("WATCHDOG_USEC".to_owned(), "300000".to_owned());
    let gatepost = setup.start();
    let first = heard(&socket, "READY=1");
    assert_eq!(first.len(), 1, "nothing comes before: {first:?}");
    assert!(first[0].contains(&format!("STATUS=listening on {}/mcp", gatepost.url())), "{first:?}");
    for _ in 0..3 {
        heard(&socket, "WATCHDOG=1");
    }
    gatepost.signal(nix::sys::signal::Signal::SIGTERM);
    heard(&socket, "STOPPING=1");
    assert_eq!(gatepost.wait(), Some(0));
    assert!(!setup.log().contains("ERROR"), "{}", setup.log());
}

#[test]
fn no_watchdog_ping_without_a_watchdog() {
    let mut setup = Setup::new();
    let path = setup.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    setup.env.insert("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned());
    let gatepost = setup.start();
    heard(&socket, "READY=1");
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(heard(&socket, "STOPPING=1").len(), 1, "no WATCHDOG=1 comes between");
}

#[test]
fn a_gateway_serves_without_a_notify_listener() {
    let mut setup = Setup::new();
    let path = setup.dir().join("nobody");
    setup.env.insert("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned());
    let gatepost = setup.start();
    setup.wait_for_log("cannot notify systemd");
    assert_eq!(gatepost.terminate(), Some(0));
}

#[test]
fn a_stalled_scribe_does_not_count_as_alive() {
    let ring = Ring::new(RingLimits { records: 64, bytes: 1 << 20 }, Head::START);
    let begun = ring.heartbeat();
    assert!(!ring.heartbeat().has_progressed_since(begun), "it has not begun to work");
    ring.advance_phase(Phase::Closing);
    // Closing is work: it is taken at once, and the scribe is busy with it from here.
    assert_eq!(ring.take(None).phase, Phase::Closing);
    let taken = ring.heartbeat();
    assert!(taken.has_progressed_since(begun), "it took work");
    assert!(!ring.heartbeat().has_progressed_since(taken), "it does nothing with it");
    // A failing outbox is tried again: that is life.
    assert_eq!(ring.pause(std::time::Duration::ZERO), Phase::Closing);
    assert!(ring.heartbeat().has_progressed_since(taken));
}

#[test]
fn an_idle_scribe_counts_as_alive() {
    let ring = Ring::new(RingLimits { records: 64, bytes: 1 << 20 }, Head::START);
    let scribe = std::thread::spawn({
        let ring = std::sync::Arc::clone(&ring);
        move || ring.take(None).phase
    });
    crate::common::wait::until("the scribe rests", SOON, || ring.heartbeat().has_progressed_since(ring.heartbeat()));
    ring.advance_phase(Phase::Closing);
    scribe.join().unwrap();
    assert!(!ring.heartbeat().has_progressed_since(ring.heartbeat()), "it is busy now");
}

fn packaged(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

/// The value of a directive that stands once.
fn directive<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = lines.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(lines.next(), None, "{name} stands once");
    value
}

#[test]
fn the_unit_matches_the_binary() {
    let unit = std::fs::read_to_string(packaged("gatepost.service")).unwrap();
    assert_eq!(directive(&unit, "Type"), "notify");
    assert_eq!(directive(&unit, "WatchdogSignal"), "SIGTERM");
    assert_eq!(directive(&unit, "RestartPreventExitStatus"), "2 3");
    for (command, help) in [("ExecStart", "serve"), ("ExecStartPre", "config check")] {
        let words: Vec<&str> = directive(&unit, command).split(' ').collect();
        assert_eq!(words[0], "/usr/bin/gatepost");
        assert_eq!(words[1..].join(" "), format!("{help} --config /etc/gatepost/gatepost.toml"));
        let mut args: Vec<&str> = help.split(' ').collect();
        args.push("--help");
        assert!(stdout(&args).contains("--config"));
    }
    let config = gatepost::config::Config::default();
    let stop = config.server.drain_timeout + config.audit.store_timeout + config.postgres.drain_timeout;
    let allowed = humantime::parse_duration(directive(&unit, "TimeoutStopSec")).unwrap();
    assert!(allowed > stop, "{allowed:?} is enough for {stop:?}");
}

#[test]
fn systemd_accepts_the_unit_and_rates_it_hardened() {
    // A machine without systemd runs no unit; what the unit says is checked above there too.
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    // The binary is not where the unit expects it on a machine without the package.
    let unit = std::fs::read_to_string(packaged("gatepost.service")).unwrap().replace("/usr/bin/gatepost", BINARY);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gatepost.service");
    std::fs::write(&file, unit).unwrap();
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (ok, said) = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("gatepost.service")).collect();
    assert!(ok && ours.is_empty(), "{said}");
    // Tenths: 0 is locked up, 100 is open. Measured with systemd 252: 14, of which an open network is most.
    let (ok, said) = analyze(&["security", "--offline=true", "--threshold=20"]);
    assert!(ok, "{said}");
}

/// The commands of the timer and of the `CronJob` get as far as the file of heads, which is not there.
#[test]
fn the_examples_of_retirement_are_valid_commands() {
    let text = |name: &str| std::fs::read_to_string(packaged("../examples").join(name)).unwrap();
    let service = text("retire.service");
    let command = service.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c 'exec gatepost ")).unwrap();
    let command =
        command.trim_end_matches('\'').replace("$(date +%%Y-%%m-%%d)", "today").replace("retention policy", "policy");
    let of_service: Vec<String> = command.split_whitespace().map(|word| word.replace('"', "")).collect();
    let job = text("retire-cronjob.yaml");
    let of_job = job.lines().find_map(|line| line.trim().strip_prefix("args: ")).unwrap();
    for args in [of_service, serde_json::from_str(of_job).unwrap()] {
        let output = Command::new(BINARY).args(&args).env_clear().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("cannot read"), "{args:?}: {said}");
    }
    assert!(text("retire.timer").contains("OnCalendar="));
}

#[test]
fn the_image_runs_a_valid_command_and_not_as_root() {
    let file = std::fs::read_to_string(packaged("Dockerfile")).unwrap();
    let line = |name: &str| file.lines().filter_map(|line| line.strip_prefix(name)).next_back().unwrap().trim();
    assert_eq!(line("ENTRYPOINT "), "[\"/usr/bin/gatepost\"]");
    let args: Vec<String> = serde_json::from_str(line("CMD ")).unwrap();
    assert_eq!(args, ["serve", "--config", "/etc/gatepost/gatepost.toml"]);
    assert_eq!((line("USER "), line("VOLUME ")), ("10001:10001", "/var/lib/gatepost"));
    let toolchain = std::fs::read_to_string(packaged("../rust-toolchain.toml")).unwrap();
    let version = line("ARG BUILD_IMAGE=rust:").split('-').next().unwrap_or_default().to_owned();
    assert!(line("ARG RUN_IMAGE=").starts_with("debian:") && toolchain.contains(&version));
    // The probe is the gateway's own command, with the same configuration.
    let probe: Vec<String> = serde_json::from_str(line("HEALTHCHECK ").split_once("CMD ").unwrap().1).unwrap();
    assert_eq!(probe, ["/usr/bin/gatepost", "health", "--config", "/etc/gatepost/gatepost.toml"]);
    assert!(stdout(&["health", "--help"]).contains("--config"));
    // Both base images are arguments, which a release sets to digests.
    for image in ["BUILD_IMAGE", "RUN_IMAGE"] {
        let uses = file.lines().filter(|line| line.contains(&format!("${{{image}}}"))).count();
        assert!(file.contains(&format!("\nARG {image}=")) && uses == 1, "{image}");
    }
    assert_eq!(file.lines().filter(|line| line.starts_with("FROM ")).count(), 2);
}

#[test]
fn a_release_refuses_a_base_image_without_a_digest() {
    let digest = format!("rust:1.95@sha256:{}", "0a".repeat(32));
    for (build, run, refused) in [
        ("", "", "BUILD_IMAGE is ''"),
        ("rust:1.95-bookworm", &*digest, "BUILD_IMAGE is 'rust:1.95-bookworm'"),
        ("rust@sha256:0a0a", &*digest, "BUILD_IMAGE is 'rust@sha256:0a0a'"),
        (&*digest, "debian:bookworm-slim", "RUN_IMAGE is 'debian:bookworm-slim'"),
    ] {
        let mut command = Command::new(packaged("../scripts/release"));
        let output = command.arg("--image").env("BUILD_IMAGE", build).env("RUN_IMAGE", run).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("release: {refused}, which has no digest: set it to ")), "{said}");
    }
}
