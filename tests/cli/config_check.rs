//! `gatepost config check` and `gatepost token` as an operator runs them: what is printed where, and the exit code.

use std::os::unix::fs::DirBuilderExt as _;

use crate::common::gatepost::{Setup, write_secret};
use crate::common::mcp::{Client, Era};
use crate::run::run;
use serde_json::json;

#[test]
fn config_check_accepts_a_valid_configuration() {
    let mut setup = Setup::new();
    setup.set_toml("backends.example.write", &format!("[\"{}\"]", setup.work_dir().display()));
    let (code, stdout, stderr) = run(&setup, &["config", "check"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.ends_with("gatepost.toml: the configuration is valid\n"), "{stdout}");
}

#[test]
fn config_check_notes_directories_that_a_backend_cannot_write_as_configured() {
    let mut setup = Setup::new();
    let (dir, work) = (setup.dir().to_owned(), setup.work_dir());
    let notes = |setup: &Setup| {
        let (code, stdout, stderr) = run(setup, &["config", "check"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        stdout.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    // The working directory, which is HOME too, and the directory for temporary files contain the test's outbox.
    let default = notes(&setup);
    let prefix = |path: &str| format!("{}/gatepost.toml: note: backends.example.write: {path} ", dir.display());
    assert!(default[0].starts_with(&prefix(dir.to_str().unwrap())), "{default:?}");
    assert!(default[0].contains(&format!("cannot make new ones in {}", dir.display())), "{default:?}");
    assert!(default[1].starts_with(&prefix("/tmp")) && default.len() == 2, "{default:?}");
    let paths = [work.to_str().unwrap(), "data/x", "data", "missing"].map(|path| format!("{path:?}"));
    std::fs::DirBuilder::new().mode(0o700).create(setup.audit_dir()).unwrap();
    setup.set_toml("backends.example.write", &format!("[{}]", paths.join(", ")));
    let others = notes(&setup);
    assert!(others[0].ends_with("data/x is not granted: it does not exist"), "{others:?}");
    assert!(others[1].contains("data is not granted: it is in ") && others.len() == 3, "{others:?}");
    setup.set_toml("backends.example.walls", "false");
    assert!(notes(&setup).is_empty());
}

#[test]
fn config_check_prints_one_line_per_fault_and_exits_2() {
    let mut setup = Setup::new();
    setup.set("server.lisen", "127.0.0.1:1").set_toml("server.calls_max", "0").role("typo", &["exmaple/echo"]);
    let file = setup.config_file();
    let lines = std::fs::read_to_string(&file).unwrap();
    let line = |key: &str| lines.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let (code, stdout, stderr) = run(&setup, &["config", "check"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let mut wanted = [
        ("server.lisen", "server.lisen: unknown key: did you mean server.listen?"),
        ("server.calls_max", "server.calls_max: 0 is out of range: use 1 to 65536 calls"),
        (
            "roles.typo",
            "roles.typo.allow[0]: \"exmaple/echo\" names the unknown backend \"exmaple\": did you mean example?",
        ),
    ]
    .map(|(key, message)| (line(key), message));
    wanted.sort_unstable();
    let wanted = wanted.map(|(line, message)| format!("{}:{line}: {message}\n", file.display()));
    assert_eq!(stderr, wanted.concat());

    let (code, _, stderr) = run(&setup, &["serve"]);
    assert_eq!(code, Some(2), "serve refuses it too");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
}

/// Changes a configuration so that it has one fault.
type Spoil = fn(&mut Setup);

#[test]
fn config_check_finds_what_serve_refuses_and_serve_refuses_it_before_it_opens_anything() {
    let cases: [(&str, Spoil); 16] = [
        ("backends.far.header_env.Authorization: the environment variable NOT_SET is not set", |setup| {
            setup.set("backends.far.url", "http://127.0.0.1:9/mcp");
            setup.set_toml("backends.far.header_env", "{ Authorization = \"NOT_SET\" }");
        }),
        ("backends.far.header_file.Authorization: ", |setup| {
            setup.set("backends.far.url", "http://127.0.0.1:9/mcp");
            setup.set_toml("backends.far.header_file", "{ Authorization = \"/nowhere/token\" }");
        }),
        ("backends.far.ca_file: ", |setup| {
            setup.set("backends.far.url", "https://127.0.0.1:9/mcp").set("backends.far.ca_file", "/nowhere/ca.pem");
        }),
        ("backends.example.env_from: the environment variable NOT_SET is not set", |setup| {
            setup.set_toml("backends.example.env_from", "[\"NOT_SET\"]");
        }),
        ("backends.example.env_file: ", |setup| {
            setup.set("backends.example.env_file", "/nowhere/env");
        }),
        ("backends.example.pins_file: ", |setup| {
            write_secret(&setup.dir().join("pins"), "no JSON");
            setup.set("backends.example.pins_file", setup.dir().join("pins").to_str().unwrap());
        }),
        ("auth.tokens_file: ", |setup| {
            setup.set("auth.tokens_file", "/nowhere/tokens");
        }),
        ("auth.keys[0]: ", |setup| {
            write_secret(&setup.dir().join("secret"), "short");
        }),
        ("auth.issuers[0].jwks_file: ", |setup| {
            setup.set_toml("auth.issuers", "[{ issuer = \"i\", jwks_file = \"/nowhere/jwks\" }]");
        }),
        ("server.tls.cert_file: ", |setup| {
            setup.set("server.tls.cert_file", "/nowhere/cert").set("server.tls.key_file", "/nowhere/key");
        }),
        ("server.state_key_file: ", |setup| {
            setup.set("server.state_key_file", "/nowhere/key");
        }),
        ("server.state_key_file: ", |setup| {
            write_secret(&setup.dir().join("state"), "no key");
            setup.set("server.state_key_file", setup.dir().join("state").to_str().unwrap());
        }),
        ("audit.digest_key_file: ", |setup| {
            write_secret(&setup.dir().join("digest"), "no key");
            setup.set("audit.digest_key_file", setup.dir().join("digest").to_str().unwrap());
        }),
        ("postgres.password_file: ", |setup| {
            setup.set("postgres.url", "postgres://u@127.0.0.1:9/d").set("postgres.password_file", "/nowhere/password");
        }),
        ("audit.dir: the admin socket in it has a path of ", |setup| {
            let long = setup.dir().join("d".repeat(100));
            setup.set("audit.dir", long.to_str().unwrap());
        }),
        ("roles.r.when[0].matches: ", |setup| {
            setup.set_toml("roles.r.when", r#"[{ tool = "example/echo", pointer = "/text", matches = "(" }]"#);
        }),
    ];
    for (part, spoil) in cases {
        let mut setup = Setup::new();
        spoil(&mut setup);
        let (code, _, stderr) = run(&setup, &["config", "check"]);
        assert!(code == Some(2) && stderr.contains(part), "{part}: {stderr}");
        let before: Vec<_> = setup.dir().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for command in [&["serve"][..], &["stdio"]] {
            setup.env.insert("GATEPOST_TOKEN".to_owned(), "x".to_owned());
            let (code, _, stderr) = run(&setup, command);
            assert!(code == Some(2) && stderr.contains(part), "{command:?} {part}: {stderr}");
            let after: Vec<_> = setup.dir().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(before, after, "{command:?} {part}: nothing was opened");
        }
    }
}

#[test]
fn backends_that_cannot_start_are_warned_of() {
    let mut setup = Setup::new();
    setup.set("backends.example.cwd", "/nowhere").set("backends.other.user", "no-such-user");
    setup.backend("other", &["sh"]);
    let (code, stdout, _) = run(&setup, &["config", "check"]);
    assert_eq!(code, Some(0), "{stdout}");
    for part in ["backends.example.cwd: /nowhere is not a directory", "backends.other.user: there is no user"] {
        let line = stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {stdout}"));
        assert!(line.contains("warning: ") && line.ends_with("the backend will be down"), "{line}");
    }
}

#[test]
fn an_override_by_the_environment_is_checked_too() {
    let mut setup = Setup::new();
    setup.env.insert("GATEPOST_POSTGRES_URL".to_owned(), "mysql://u:hunter2@h/d".to_owned());
    let (code, _, stderr) = run(&setup, &["config", "check"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("environment variable GATEPOST_POSTGRES_URL: postgres.url: "), "{stderr}");
    assert!(!stderr.contains("hunter2"), "I8");
}

#[test]
fn a_missing_file_is_exit_code_2() {
    let setup = Setup::new();
    let mut command = setup.command(&["config", "check"]);
    std::fs::remove_file(setup.dir().join("gatepost.toml")).unwrap();
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("gatepost.toml: cannot be read"));
}

#[tokio::test]
async fn the_gateway_accepts_a_minted_token() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let (code, stdout, stderr) = run(&setup, &["token", "--subject", "alice", "--role", "echo", "--ttl", "5m"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let client = Client::connect(&format!("{}/mcp", gatepost.url()), Era::Modern, Some(stdout.trim_end())).await;
    assert_eq!(client.call("example__echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
    assert_eq!(client.call("example__add", json!({"a": 1, "b": 1})).await.unwrap().error_code(), -32003);
}

#[test]
fn a_token_that_cannot_be_minted_leaves_stdout_empty() {
    let setup = Setup::new();
    let (code, stdout, stderr) = run(&setup, &["token", "--subject", "alice", "--role", "nobody"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("\"nobody\" is not configured"), "{stderr}");
    write_secret(&setup.dir().join("secret"), "short");
    let (code, stdout, stderr) = run(&setup, &["token", "--subject", "alice", "--role", "echo"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("has 5 bytes"), "{stderr}");
}

#[tokio::test]
async fn the_gateway_accepts_a_static_token_by_its_printed_hash() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    let mut setup = Setup::new();
    let (token, file) = ("0123456789abcdef0123456789abcdef", setup.dir().join("tokens.toml"));
    let mut command = std::process::Command::new(crate::common::gatepost::BINARY);
    command.args(["token", "hash", "--subject", "ci", "--role", "echo"]);
    let (input, output) = (std::process::Stdio::piped(), std::process::Stdio::piped());
    let mut child = command.stdin(input).stdout(output).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
    std::fs::write(&file, child.wait_with_output().unwrap().stdout).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    setup.set("auth.tokens_file", file.to_str().unwrap());
    let (code, _, stderr) = run(&setup, &["config", "check"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("auth.tokens_file: ") && stderr.contains("chmod 600"), "{stderr}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gatepost = setup.start();
    let client = Client::connect(&format!("{}/mcp", gatepost.url()), Era::Modern, Some(token)).await;
    assert_eq!(client.call("example__echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
    assert!(!gatepost.log().contains(token), "I8");
    let (_, usage, _) = run(&setup, &["outbox", "list", "--json"]);
    assert!(usage.contains("\"static\"") && !usage.contains(token), "{usage}");
    let bare = std::process::Command::new(crate::common::gatepost::BINARY).arg("token").output().unwrap();
    assert_eq!(bare.status.code(), Some(2), "a subject is needed to mint");
}
