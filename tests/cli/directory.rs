//! Directories that cannot be an outbox: one clear message with path, reason and remedy, and exit code 3.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::gatepost::Setup;
use crate::run::run;
use redb::{Database, TableDefinition};

/// A user other than the one who runs the tests, where that is root: `nobody` on Debian.
const NOBODY: u32 = 65_534;

/// What `serve` says as it ends with exit code 3.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("ERROR").count(), 1, "one message: {said}");
    said
}

fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn create_dir(dir: &Path, bits: u32) {
    fs::create_dir(dir).unwrap();
    mode(dir, bits);
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let setup = Setup::new();
    let dir = setup.audit_dir();
    create_dir(&dir, 0o700);
    let mut command = setup.command(&["serve"]);
    if nix::unistd::geteuid().is_root() {
        mode(setup.dir(), 0o755);
        mode(&setup.dir().join("gatepost.toml"), 0o644);
        // Files with secrets are read before the directory is opened.
        chown(setup.dir().join("secret"), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
        let said = refused(command);
        let chown = format!("chown nobody {}", dir.display());
        says(&said, &[dir.to_str().unwrap(), "belongs to user root", "must belong to user nobody", &chown]);
    } else {
        mode(&dir, 0);
        let said = refused(command);
        says(&said, &[dir.to_str().unwrap(), "Permission denied", "user that Gatepost runs as", "0700"]);
    }
    mode(&dir, 0o700);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing was changed");
}

#[test]
fn a_directory_that_others_may_use_is_refused() {
    let mut setup = Setup::new();
    let dir = setup.audit_dir();
    create_dir(&dir, 0o700);
    for bits in [0o777, 0o701, 0o750, 0o1777, 0o2770] {
        mode(&dir, bits);
        let said = refused(setup.command(&["serve"]));
        let found = format!("has mode {bits:04o}");
        says(&said, &[dir.to_str().unwrap(), &found, "must have mode 0700", &format!("chmod 700 {}", dir.display())]);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing was changed");
        let (code, _, stderr) = run(&setup, &["config", "check"]);
        assert!(code == Some(2) && stderr.contains("audit.dir: ") && stderr.contains(&found), "{stderr}");
    }
    // As Kubernetes leaves a volume with `fsGroup`.
    let group = fs::metadata(&dir).unwrap().gid().to_string();
    setup.set("server.secrets_group", &group);
    let gatepost = setup.start();
    let addresses = fs::metadata(dir.join("serve.json")).unwrap().permissions().mode();
    assert_eq!(addresses & 0o777, 0o600);
    assert_eq!(gatepost.terminate(), Some(0));
    mode(&dir, 0o2777);
    says(&refused(setup.command(&["serve"])), &["has mode 2777"]);
}

#[test]
fn no_link_in_the_directory_is_followed_and_no_pipe_is_opened() {
    let setup = Setup::new();
    let (dir, victim) = (setup.audit_dir(), setup.dir().join("victim"));
    fs::write(&victim, "precious").unwrap();
    create_dir(&dir, 0o700);
    for name in [
        "serve.new",
        "serve.json",
        "lock",
        "outbox-000001.redb",
        "ballast",
        "admin.new",
        "checkpoint.new",
        "quarantine",
    ] {
        symlink(&victim, dir.join(name)).unwrap();
        let said = refused(setup.command(&["serve"]));
        says(&said, &[dir.to_str().unwrap(), &format!("contains the symbolic link \\\"{name}\\\"")]);
        fs::remove_file(dir.join(name)).unwrap();
        // Opening a pipe would wait for the other side.
        nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        says(&refused(setup.command(&["serve"])), &[&format!("contains the pipe \\\"{name}\\\"")]);
        fs::remove_file(dir.join(name)).unwrap();
    }
    let gatepost = setup.start();
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_read_only_file_system_is_refused() {
    let setup = Setup::new();
    let dir = setup.audit_dir();
    create_dir(&dir, 0o700);
    let serve = setup.command(&["serve"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o ro,mode=700 none \"$0\" && exec \"$@\"").arg(&dir);
    command.arg(serve.get_program()).args(serve.get_args());
    says(&refused(command), &[dir.to_str().unwrap(), "Read-only file system", "mount it writable"]);
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let setup = Setup::new();
    fs::write(setup.audit_dir(), "precious").unwrap();
    let said = refused(setup.command(&["serve"]));
    says(&said, &[setup.audit_dir().to_str().unwrap(), "cannot create directory"]);
    assert_eq!(fs::read_to_string(setup.audit_dir()).unwrap(), "precious");
}

/// A file of a version to come.
fn newer(dir: &Path) -> PathBuf {
    let file = dir.join("outbox-000001.redb");
    let database = Database::create(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = TableDefinition::<&str, &[u8]>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 2_u32.to_le_bytes().as_slice()).unwrap();
    transaction.commit().unwrap();
    file
}

#[test]
fn an_outbox_of_a_newer_version_is_refused_unchanged() {
    let setup = Setup::new();
    let dir = setup.audit_dir();
    create_dir(&dir, 0o700);
    let file = newer(&dir);
    let before = fs::read(&file).unwrap();
    says(
        &refused(setup.command(&["serve"])),
        &[file.to_str().unwrap(), "has format 2", "reads only format 1", "newer"],
    );
    assert_eq!(fs::read(&file).unwrap(), before);
    assert!(!dir.join("quarantine").exists(), "it is no damaged file");
}

#[test]
fn every_outbox_command_refuses_a_newer_version_unchanged() {
    let mut setup = Setup::new();
    let dir = setup.audit_dir();
    create_dir(&dir, 0o700);
    let file = newer(&dir);
    fs::write(dir.join("lock"), "").unwrap();
    let before = fs::read(&file).unwrap();
    let commands: [&[&str]; 9] = [
        &["stats"],
        &["list"],
        &["list", "--intents"],
        &["show", "1/1"],
        &["show", "1/1", "--hex"],
        &["tail"],
        &["verify"],
        &["export"],
        &["prune", "--older-than", "1s", "--yes"],
    ];
    let check = |setup: &Setup, command: &[&str]| {
        let output = setup.command(&[&["outbox"], command].concat()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {stderr}");
        says(&stderr, &[file.to_str().unwrap(), "has format 2", "reads only format 1", "newer"]);
        assert_eq!(fs::read(&file).unwrap(), before, "{command:?}");
        let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lock", "outbox-000001.redb"], "{command:?}");
    };
    for command in commands {
        check(&setup, command);
    }
    // Nobody listens on port 1.
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/audit");
    check(&setup, &["drain", "--timeout", "1s"]);
}
