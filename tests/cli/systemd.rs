//! `packaging/gatepost.service` with the configuration that the package installs: a gateway starts that has the
//! environment, the user and the files which systemd gives it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::command::run;
use crate::common::python::python_program;
use crate::sandbox::Sandbox;

/// A user such as `DynamicUser=` makes. *Spec*: systemd.exec(5), 61184 to 65519.
const USER: u32 = 61_234;

/// Sets the access list with which systemd lets a user read files of root, if the file system has such lists: the
/// owner and the user may read (4) or also pass (5), all others nothing. The list's mask is in the mode's group bits.
/// *Spec*: acl(5), and the kernel's `struct posix_acl_xattr_entry`.
const SET_ACCESS_LIST: &str = r#"
import os, struct, sys
path, user, may, of_all = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 0xFFFFFFFF
entries = [(0x01, may, of_all), (0x02, may, user), (0x04, 0, of_all), (0x10, may, of_all), (0x20, 0, of_all)]
packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(path, "system.posix_acl_access", packed)
"#;

fn packaged(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)).unwrap()
}

/// The values of a directive of the unit, in order.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The settings that the sample has as comments are in force, except those that need what this machine does not have.
fn with_all_settings(sample: &str) -> String {
    let is_setting =
        |line: &&str| line.strip_prefix('#').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '));
    let lines: Vec<&str> = sample.lines().map(|line| if is_setting(&line) { &line[1..] } else { line }).collect();
    lines.join("\n") + "\n"
}

/// The secrets that the sample names, as an administrator puts them into /etc/gatepost/credentials.
fn credentials() -> Vec<(&'static str, String)> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    vec![
        ("tls-key", issued.signing_key.serialize_pem()),
        ("tokens", format!("[[tokens]]\nsha256 = \"{hash}\"\nsubject = \"ci\"\n")),
        ("tickets-authorization", "Bearer secret".to_owned()),
        ("postgres-password", "secret".to_owned()),
        ("certificate", issued.cert.pem()),
    ]
}

/// The forms in which systemd gives credentials to the user of a service.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// On a file system without access lists (ramfs): files of the user.
    Owned,
    /// On one with access lists (tmpfs): files of root, which the user may read.
    Listed,
}

fn list_access(path: &Path, may: &str) {
    let user = USER.to_string();
    run(Command::new(python_program("python")).args(["-c", SET_ACCESS_LIST]).arg(path).args([&user, may]));
}

/// The sandbox as the unit describes it, with this configuration.
fn sandbox(unit: &str, config: &str, form: Form) -> Option<Sandbox> {
    let mut sandbox = Sandbox::new(USER)?;
    let root = (0, 0);
    let etc = sandbox.make_dir("etc", 0o755, root);
    Sandbox::make_file(&etc, "gatepost.toml", config, 0o644, root);
    Sandbox::make_file(&etc, "gatepost.env", &packaged("etc/gatepost.env"), 0o600, root);
    let owner = if form == Form::Owned { (USER, USER) } else { root };
    let given = sandbox.make_dir("credentials", 0o500, owner);
    assert_eq!(values(unit, "LoadCredential"), ["secret:/etc/gatepost/credentials"]);
    for (name, secret) in credentials() {
        if name == "certificate" {
            Sandbox::make_file(&etc, "cert.pem", &secret, 0o644, root);
            continue;
        }
        let file = Sandbox::make_file(&given, &format!("secret_{name}"), &secret, 0o400, owner);
        if form == Form::Listed {
            list_access(&file, "4");
        }
    }
    if form == Form::Listed {
        list_access(&given, "5");
    }
    // The state of a dynamic user is in a directory that others cannot enter, behind a link; the service sees it there.
    let state = sandbox.make_dir("private/gatepost", 0o700, (USER, USER));
    sandbox.make_dir("private/gatepost/home", 0o700, (USER, USER));
    assert_eq!(values(unit, "StateDirectory"), ["gatepost gatepost/home"]);
    let lib = sandbox.make_dir("lib", 0o755, root);
    symlink("private/gatepost", lib.join("gatepost")).unwrap();
    sandbox.mount(etc, "/etc/gatepost", false);
    sandbox.mount(given, "/run/credentials/gatepost.service", false);
    sandbox.mount(state, "/var/lib/gatepost", true);
    let tmp = sandbox.make_dir("tmp", 0o1777, root);
    sandbox.mount(tmp, "/tmp", true);
    cwd_and_environment(&mut sandbox, unit);
    Some(sandbox)
}

fn cwd_and_environment(sandbox: &mut Sandbox, unit: &str) {
    values(unit, "WorkingDirectory")[0].clone_into(&mut sandbox.cwd);
    sandbox.umask = if values(unit, "UMask") == ["0077"] { "0077" } else { panic!("another UMask") };
    for variable in values(unit, "Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        sandbox.env.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in [
        ("CREDENTIALS_DIRECTORY", "/run/credentials/gatepost.service"),
        ("STATE_DIRECTORY", "/var/lib/gatepost:/var/lib/gatepost/home"),
        ("INVOCATION_ID", "0b6f8e2a5a5f4b0d8c1c6d6a4d8e3a11"),
        ("JOURNAL_STREAM", "8:12345"),
        ("SYSTEMD_EXEC_PID", "1"),
        ("LANG", "C.UTF-8"),
        ("USER", "gatepost"),
        ("LOGNAME", "gatepost"),
    ] {
        sandbox.env.insert(name.to_owned(), value.to_owned());
    }
}

/// The arguments of a command of the unit.
fn args(unit: &str, name: &str) -> Vec<String> {
    values(unit, name)[0].strip_prefix("/usr/bin/gatepost ").unwrap().split(' ').map(str::to_owned).collect()
}

#[test]
fn a_gateway_starts_with_the_environment_and_the_files_of_the_unit() {
    let unit = packaged("gatepost.service");
    let sample = packaged("etc/gatepost.toml");
    let all = with_all_settings(&sample);
    assert!(all.contains("\npassword_file = ") && all.contains("\n[server.tls]"), "{all}");
    for (config, form) in [(&sample, Form::Owned), (&all, Form::Owned), (&all, Form::Listed)] {
        // Only root can make such a user and its files.
        let Some(sandbox) = sandbox(&unit, config, form) else { return };
        let (code, said) = sandbox.run(&args(&unit, "ExecStartPre"));
        assert_eq!(code, Some(0), "{form:?}: {said}");
        let gateway = sandbox.start(&args(&unit, "ExecStart"));
        let (code, said) = gateway.health();
        assert_eq!(code, Some(0), "{said}\n{}", sandbox.log());
        let (scheme, host) = if config == &all { ("https", "mcp.example.com") } else { ("http", "127.0.0.1:8808") };
        let (_, answer) = gateway.in_network(
            "curl",
            &["-sk", "-w", "\n%{http_code}", "-H", &format!("Host: {host}"), &format!("{scheme}://127.0.0.1:8808/mcp")],
        );
        assert!(answer.ends_with("\n401"), "{answer}");
        assert_eq!(gateway.terminate(), Some(0), "{}", sandbox.log());
    }
}

#[test]
fn the_sample_is_a_valid_configuration_with_and_without_its_comments() {
    let sample = packaged("etc/gatepost.toml");
    for text in [&sample, &with_all_settings(&sample)] {
        gatepost::config::Config::parse(text, None, []).unwrap_or_else(|faults| panic!("{faults:#?}"));
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    for file in ["gatepost.toml", "gatepost.env"] {
        let asset = format!("[\"packaging/etc/{file}\", \"etc/gatepost/{file}\"");
        assert!(manifest.contains(&asset) && manifest.contains(&format!("\"/etc/gatepost/{file}\"")), "{file}");
    }
    let made: PathBuf = values(&packaged("gatepost.service"), "LoadCredential")[0].split_once(':').unwrap().1.into();
    assert!(packaged("debian/postinst").contains(&format!(" {}\n", made.display())));
}
