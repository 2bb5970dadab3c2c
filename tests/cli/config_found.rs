//! The configuration that a command finds by itself, and files of environment variables.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::gatepost::{BINARY, Setup, write_secret};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::wait::{SOON, until_async};
use serde_json::json;

/// Runs a command without `--config` in `dir`: its exit code, output and errors.
fn run_in(dir: &Path, variables: &[(&str, &Path)], args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(dir).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    ended(&mut command)
}

fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A command of each kind that reads a configuration and ends.
const COMMANDS: [&[&str]; 5] = [
    &["audit", "query"],
    &["outbox", "stats"],
    &["config", "check"],
    &["token", "--subject", "a", "--role", "admin"],
    &["evidence", "policy"],
];

#[test]
fn all_commands_find_the_configuration_in_the_same_places() {
    let setup = Setup::new();
    let file = setup.config_file();
    assert_eq!(setup.start().terminate(), Some(0));
    let elsewhere = tempfile::tempdir().unwrap();
    for args in COMMANDS {
        // Without a key for checkpoints there is nothing to print.
        let wanted = Some(if args[0] == "evidence" { 2 } else { 0 });
        let (code, _, stderr) = run_in(setup.dir(), &[], args);
        assert_eq!(code, wanted, "{args:?}: {stderr}");
        let (code, stdout, stderr) = run_in(elsewhere.path(), &[("GATEPOST_CONFIG", &file)], args);
        assert_eq!(code, wanted, "{args:?}: {stderr}");
        let is_named = format!("{stdout}{stderr}").contains(file.to_str().unwrap());
        assert!(is_named || args[0] == "token", "{args:?}: the file is named: {stderr}");
    }
    // A name that leads nowhere is an error, not the next place.
    let missing = elsewhere.path().join("missing.toml");
    let (code, _, stderr) = run_in(setup.dir(), &[("GATEPOST_CONFIG", &missing)], &["outbox", "stats"]);
    assert!(code == Some(2) && stderr.contains("missing.toml: cannot be read"), "{stderr}");
}

#[test]
fn a_command_that_finds_no_configuration_names_the_places() {
    let empty = tempfile::tempdir().unwrap();
    let places = ["--config", "GATEPOST_CONFIG", "./gatepost.toml", "/etc/gatepost/gatepost.toml"];
    let commands = [("serve", 2), ("stdio", 2), ("config check", 2), ("token --subject a --role b", 2)];
    for (args, wanted) in commands.into_iter().chain([("audit query", 1), ("outbox stats", 3), ("migrate", 2)]) {
        let args: Vec<_> = args.split(' ').collect();
        let (code, _, stderr) = run_in(empty.path(), &[], &args);
        assert_eq!(code, Some(wanted), "{args:?}: {stderr}");
        assert!(places.iter().all(|place| stderr.contains(place)), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// A gateway whose database is named in its environment alone, as that of the shipped unit, and after one call.
struct ByUnit {
    setup: Setup,
    url: String,
}

impl ByUnit {
    /// Runs a command as on the gateway's host, without its variables.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.setup.command(args);
        command.env_remove("GATEPOST_POSTGRES_URL");
        ended(&mut command)
    }
}

#[tokio::test]
async fn audit_never_answers_from_the_outbox_of_a_gateway_that_delivers() {
    let database = Cluster::shared().create_database().await;
    let mut unit = ByUnit { setup: Setup::new(), url: database.url.clone() };
    unit.setup.env.insert("GATEPOST_POSTGRES_URL".to_owned(), unit.url.clone());
    let gatepost = unit.setup.start();
    gatepost.client(Era::Modern, "admin").await.call("example__echo", json!({"text": "hello"})).await.unwrap();
    let pool = database.pool().await;
    until_async("the call is delivered", SOON, || async {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_log WHERE tool_name = 'echo'");
        count.fetch_one(&pool).await.is_ok_and(|count| count == 1)
    })
    .await;

    let file = unit.setup.dir().join("gatepost.env");
    write_secret(&file, format!("# The unit's\nGATEPOST_POSTGRES_URL=\"{}\"\n", unit.url));
    let refused = |args: &[&str]| {
        let (code, stdout, stderr) = unit.run(args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}: {stderr}");
        assert!(stderr.contains("delivers to Postgres") && stderr.contains("--env-file"), "{args:?}: {stderr}");
    };
    let finds = |args: &[&str]| {
        let args = [args, &["--env-file", file.to_str().unwrap()]].concat();
        let (code, stdout, stderr) = unit.run(&args);
        assert!(code == Some(0) && stdout.contains("example/echo"), "{args:?}: {stdout}{stderr}");
    };
    for args in [&["audit", "query"][..], &["audit", "tail"], &["audit", "show", "1/2"], &["audit", "verify"]] {
        refused(args);
    }
    finds(&["audit", "query"]);
    // What is set counts before the file.
    let mut command = unit.setup.command(&["audit", "query", "--env-file", file.to_str().unwrap()]);
    let (code, _, stderr) = ended(command.env("GATEPOST_POSTGRES_URL", "postgres://a@127.0.0.1:1/x"));
    assert_eq!(code, Some(1), "{stderr}");

    assert_eq!(gatepost.terminate(), Some(0));
    // A dead gateway has delivered as well.
    refused(&["audit", "query"]);
    finds(&["audit", "query"]);
}

#[test]
fn files_of_variables_are_checked_and_faults_show_no_value() {
    let setup = Setup::new();
    assert_eq!(setup.start().terminate(), Some(0));
    let file = setup.dir().join("some.env");
    let stats = |file: &Path| ended(&mut setup.command(&["outbox", "stats", "--env-file", file.to_str().unwrap()]));
    let (code, _, stderr) = stats(&file);
    assert!(code == Some(2) && stderr.contains("some.env") && stderr.contains("cannot be read"), "{stderr}");
    write_secret(&file, "A=1\nexport GATEPOST_POSTGRES_URL=hidden\n");
    let (code, _, stderr) = stats(&file);
    assert!(code == Some(2) && stderr.contains("some.env:2: ") && !stderr.contains("hidden"), "{stderr}");
    write_secret(&file, "GATEPOST_AUDIT_LEVL=stored\n");
    let (code, _, stderr) = stats(&file);
    assert!(code == Some(2) && stderr.contains("GATEPOST_AUDIT_LEVL"), "{stderr}");
    write_secret(&file, "GATEPOST_AUDIT_LEVEL=stored\n");
    let (code, _, stderr) = stats(&file);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    // Others may not read what has passwords in it.
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, _, stderr) = stats(&file);
    assert!(code == Some(2) && stderr.contains("must have mode"), "{stderr}");
}

/// The places of a package: its configuration and its variables are found, and `audit.dir` is in the state directory,
/// wherever the command runs.
#[test]
fn the_machines_configuration_is_used_as_the_unit_uses_it() {
    let setup = Setup::new();
    assert_eq!(setup.start().terminate(), Some(0));
    let script = "set -e; dir=$0; mount -t tmpfs -o mode=755 none /etc; mkdir /etc/gatepost; cd /etc/gatepost
        umask 077; printf 'audit.dir = \"data\"\\n' >gatepost.toml; printf 'GATEPOST_AUDIT_LEVL=x\\n' >gatepost.env
        mount -t tmpfs -o mode=755 none /var/lib; mkdir /var/lib/gatepost; cp -r \"$dir/data\" /var/lib/gatepost
        cd /; ! \"$@\"; printf 'GATEPOST_AUDIT_LEVEL=stored\\n' >/etc/gatepost/gatepost.env; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.arg(setup.dir()).args([BINARY, "outbox", "stats", "--json"]).env_remove("GATEPOST_CONFIG");
    let (code, stdout, stderr) = ended(&mut command);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("\"dir\":\"/var/lib/gatepost/data\""), "{stdout}");
    // The first run had the misspelt variable of the file.
    assert!(stderr.contains("GATEPOST_AUDIT_LEVL: unknown variable"), "{stderr}");
    assert!(stderr.contains("gatepost: configuration /etc/gatepost/gatepost.toml\n"), "{stderr}");
}
