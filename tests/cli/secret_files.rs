//! Files with secrets: others may neither read nor change them, at the start and in `config check` alike.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::gatepost::{Setup, token, write_secret};
use crate::run::run;

/// A gateway that uses a file of each kind, and these files.
fn setup() -> (Setup, Vec<(&'static str, PathBuf)>) {
    let mut setup = Setup::new();
    let file = |name: &str, text: &str| {
        write_secret(&setup.dir().join(name), text);
        setup.dir().join(name)
    };
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let tokens = file("tokens", &format!("[[tokens]]\nsha256 = \"{hash}\"\nsubject = \"ci\"\n"));
    let (header, client) = (file("header", "Bearer secret"), file("client", "secret"));
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (file("cert.pem", &issued.cert.pem()), file("key.pem", &issued.signing_key.serialize_pem()));
    let secret = setup.dir().join("secret");
    setup.set("auth.tokens_file", tokens.to_str().unwrap());
    setup.set("backends.far.url", "http://127.0.0.1:1/mcp");
    setup.set("backends.far.header_file.Authorization", header.to_str().unwrap());
    setup.set("backends.near.url", "http://127.0.0.1:1/mcp");
    setup.set("backends.near.oauth.token_url", "http://127.0.0.1:1/").set("backends.near.oauth.client_id", "gate");
    setup.set("backends.near.oauth.client_secret_file", client.to_str().unwrap());
    setup.set("server.tls.cert_file", cert.to_str().unwrap()).set("server.tls.key_file", key.to_str().unwrap());
    let files = vec![
        ("auth.keys[0]", secret),
        ("auth.tokens_file", tokens),
        ("backends.far.header_file.Authorization", header),
        ("backends.near.oauth.client_secret_file", client),
        ("server.tls.key_file", key),
    ];
    (setup, files)
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
}

/// `config check` and `serve` refuse the file, and say all this.
fn refused(setup: &Setup, key: &str, file: &Path, parts: &[&str]) {
    for command in [&["config", "check"][..], &["serve"]] {
        let output = setup.command(command).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in [key, file.to_str().unwrap()].iter().chain(parts) {
            assert!(said.contains(part), "{command:?}: {part:?} is not in {said}");
        }
    }
}

#[test]
fn every_file_with_a_secret_is_for_its_owner_alone() {
    let (setup, files) = setup();
    assert_eq!(run(&setup, &["config", "check"]).0, Some(0));
    for (key, file) in &files {
        for bits in [0o644, 0o604, 0o602, 0o640, 0o660, 0o620] {
            mode(file, bits);
            let (found, command) = (format!("has mode {bits:04o}"), format!("chmod 600 {}", file.display()));
            refused(&setup, key, file, &[&found, "must have mode 0600", &command]);
        }
        mode(file, 0o400);
        assert_eq!(run(&setup, &["config", "check"]).0, Some(0), "{key}");
    }
}

#[test]
fn a_named_group_may_read_files_with_secrets() {
    let (mut setup, files) = setup();
    let (_, first) = &files[0];
    // As systemd and Kubernetes give them: owned by root, readable for a group, behind a chain of links.
    let data = setup.dir().join("..2027_01_01");
    fs::create_dir(&data).unwrap();
    symlink("..2027_01_01", setup.dir().join("..data")).unwrap();
    fs::rename(first, data.join("secret")).unwrap();
    symlink("..data/secret", first).unwrap();
    for (_, file) in &files {
        mode(file, 0o440);
    }
    let group = fs::metadata(first).unwrap().gid();
    refused(&setup, "auth.keys[0]", first, &["has mode 0440", &format!("its group ({group}) in server.secrets_group")]);
    setup.set("server.secrets_group", &group.to_string());
    assert_eq!(run(&setup, &["config", "check"]).0, Some(0));
    assert_eq!(setup.start().terminate(), Some(0));
    // The group may read, and not write; others may do nothing.
    for bits in [0o460, 0o444] {
        mode(first, bits);
        refused(&setup, "auth.keys[0]", first, &[&format!("has mode {bits:04o}"), "must have mode 0640"]);
    }
    mode(first, 0o440);
    setup.set("server.secrets_group", "no-such-group");
    let (code, _, stderr) = run(&setup, &["config", "check"]);
    assert!(code == Some(2) && stderr.contains("server.secrets_group: \"no-such-group\" is not a group"), "{stderr}");
}

#[test]
fn a_file_with_a_secret_belongs_to_the_gateways_user_or_root() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give a file away; src/file_access.rs tests the rule for every user.
    }
    let (setup, files) = setup();
    for (key, file) in &files {
        chown(file, Some(65_534), None).unwrap();
        refused(&setup, key, file, &["belongs to user nobody", "must belong to user root", "chown root "]);
        chown(file, Some(0), None).unwrap();
    }
}

#[test]
fn a_configuration_with_secrets_is_for_its_owner_alone() {
    let mut setup = Setup::new();
    let file = setup.config_file();
    let check = |setup: &Setup, bits: u32, args: &[&str]| {
        let mut command = setup.command(args);
        mode(&file, bits);
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&setup, 0o644, &["config", "check"]).0, Some(0), "it contains no secret");
    let (code, said) = check(&setup, 0o666, &["config", "check"]);
    assert!(code == Some(2) && said.contains("has mode 0666") && said.contains("chmod 644"), "{said}");
    for (key, value) in [
        ("postgres.url", "\"postgres://u:hunter2@127.0.0.1:1/d\""),
        ("alarms.webhook_url", "\"https://h/hunter2\""),
        ("backends.example.env", "{ GITHUB_TOKEN = \"hunter2\" }"),
    ] {
        setup.set_toml(key, value);
        for command in [&["config", "check"][..], &["serve"], &["stdio"], &["outbox", "list"], &["audit", "query"]] {
            for bits in [0o644, 0o640, 0o602] {
                let (code, said) = check(&setup, bits, command);
                assert_eq!(code, Some(2), "{command:?} {bits:o}: {said}");
                let named = said.contains(file.to_str().unwrap()) && said.contains("must have mode 0600");
                assert!(named && !said.contains("hunter2"), "{command:?}: {said}");
            }
        }
        assert_eq!(check(&setup, 0o600, &["config", "check"]).0, Some(0), "{key}");
        setup.settings.remove(key);
    }
}

#[test]
fn the_token_of_a_desktop_client_is_a_secret() {
    let setup = Setup::new();
    let file = setup.dir().join("token");
    write_secret(&file, token("admin"));
    let start = |bits: u32| {
        mode(&file, bits);
        let mut command = setup.command(&["stdio", "--backend", "example", "--token-file", file.to_str().unwrap()]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let refused = start(0o644);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--token-file: ") && said.contains("has mode 0644") && said.contains("chmod 600"), "{said}");
    assert_eq!(start(0o600).status.code(), Some(0));
}

#[test]
fn what_the_driver_opens_by_itself_is_checked_too() {
    let mut setup = Setup::new();
    setup.set("postgres.url", "postgres://u@127.0.0.1:1/d");
    let passwords = setup.dir().join(".pgpass");
    write_secret(&passwords, "*:*:*:*:hunter2\n");
    assert_eq!(run(&setup, &["config", "check"]).0, Some(0));
    mode(&passwords, 0o644);
    refused(&setup, "postgres.url", &passwords, &["has mode 0644", "chmod 600"]);
}
