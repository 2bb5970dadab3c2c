//! Reading the trail leaves a record, where a gateway runs that can make one.

use crate::common::gatepost::{ISSUER, Setup, token_with};
use crate::common::mcp::{Client, Era, Reply};
use crate::common::postgres::Cluster;
use crate::common::wait::{SOON, until};
use crate::run::run;
use gatepost::audit::record::Digest;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The details and readers of the `gateway/read` records, without those of this question.
fn reads(setup: &Setup) -> Vec<(Value, String)> {
    let (code, stdout, stderr) =
        run(setup, &["audit", "query", "--method", "gateway/read", "--limit", "1000", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let details = serde_json::from_str(record["request_args"].as_str().unwrap()).unwrap();
        (details, record["client_subject"].as_str().unwrap().to_owned())
    };
    stdout.lines().map(record).collect()
}

fn each_command_is_recorded(setup: &Setup, from: &str) {
    for args in [&["query", "--status", "denied"][..], &["show", "1/1"], &["tail", "-n", "1"], &["verify"]] {
        let (code, _, stderr) = run(setup, &[&["audit"], args].concat());
        let says = if args[0] == "query" { "gatepost: 0 records\n" } else { "" };
        assert_eq!((code, stderr.as_str()), (Some(0), says), "{args:?}");
    }
    until("the reads are delivered", SOON, || reads(setup).len() >= 4);
    let reads = reads(setup);
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
    for ((details, who), command) in reads.iter().zip(["query", "show", "tail", "verify"]) {
        assert_eq!((details["command"].as_str(), details["from"].as_str()), (Some(command), Some(from)));
        assert_eq!((who, details["uid"].as_u64()), (&me.name, Some(u64::from(me.uid.as_raw()))));
    }
    assert_eq!((&reads[0].0["filter"]["status"], &reads[0].0["rows"]), (&json!(["denied"]), &Value::from(0)));
    assert_eq!(reads[1].0["rows"], 1);
}

#[test]
fn reading_a_live_outbox_is_recorded() {
    let setup = Setup::new();
    let gatepost = setup.start();
    each_command_is_recorded(&setup, "outbox");
    assert_eq!(gatepost.terminate(), Some(0));
    let (code, stdout, _) = run(&setup, &["audit", "verify"]);
    assert!(code == Some(4) && stdout.ends_with("1 part is not proven\n"), "a dead gateway confirms nothing: {stdout}");
}

#[tokio::test]
async fn reading_postgres_beside_a_live_gateway_is_recorded() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let pool = database.pool().await;
    let opened = "SELECT count(*) FROM audit_log";
    crate::common::wait::until_async("the opening record is delivered", SOON, || async {
        sqlx::query_scalar::<_, i64>(opened).fetch_one(&pool).await.is_ok_and(|count| count == 1)
    })
    .await;
    each_command_is_recorded(&setup, "postgres");
    assert_eq!(gatepost.terminate(), Some(0));
    let (code, _, stderr) = run(&setup, &["audit", "query"]);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("this read is not recorded: no live gateway in "), "{stderr}");
}

/// The details of a record of the gateway.
fn details(record: &Value) -> Value {
    serde_json::from_str(record["request_args"].as_str().unwrap()).unwrap()
}

/// Everything that `audit show` prints about the record.
fn shown(setup: &Setup, id: &str) -> String {
    let output = setup.command(&["audit", "show", id]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn show_prints_the_rule_that_decided_from_the_policy_in_the_trail() {
    let mut setup = Setup::new();
    // Long enough that the policy continues in further records.
    let many: Vec<String> = (0..9000).map(|tool| format!("example/unused_{tool}")).collect();
    setup.role("long", &[&["example/add"], many.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
    setup.role("\"a.b c\"", &["example/ech*"]);
    let gatepost = setup.start();
    let call = async |tool: &str, arguments: Value| {
        let client = gatepost.client_at("/mcp/example", Era::Modern, "a.b c").await;
        client.call(tool, arguments).await.unwrap()
    };
    let first = call("echo", json!({"text": "x"})).await;
    let denied = call("add", json!({"a": 1, "b": 2})).await;
    setup.role("\"a.b c\"", &["example/other", "example/echo"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    setup.wait_for_log("configuration reloaded");
    let second = call("echo", json!({"text": "x"})).await;
    let id = |reply: &Reply| reply.header("x-request-id").to_owned();
    let rule = |reply: &Reply| {
        let text = shown(&setup, &id(reply));
        text.lines().find(|line| line.starts_with("rule: ")).unwrap_or(&text).to_owned()
    };
    // The policy of each record is the one that was in force, not the last one.
    assert_eq!(rule(&first), "rule: \"example/ech*\"");
    assert_eq!(rule(&denied), "rule: no rule of the caller's roles allows it");
    assert_eq!(rule(&second), "rule: \"example/echo\"");
    let records = |method: &str| {
        let output = setup.command(&["audit", "query", "--json", "--method", method]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let (opened, config, parts) = (records("gateway/opened"), records("gateway/config"), records("gateway/policy"));
    let count = details(&opened[0])["policy_parts"].as_u64().unwrap();
    assert!(count > 1 && parts.len() as u64 == 2 * count, "{count}, {}", parts.len());
    let digest = |record: &Value| record["policy_digest"].as_str().unwrap().to_owned();
    let calls = records("tools/call");
    assert_eq!(digest(&calls[0]), digest(&opened[0]));
    assert_eq!(digest(&calls[1]), digest(&opened[0]));
    assert_eq!(digest(&calls[2]), digest(&config[0]));
    assert_ne!(digest(&opened[0]), digest(&config[0]));
    // The digest is that of the text, whoever computes it.
    let mut texts: Vec<_> = parts.iter().filter(|part| digest(part) == digest(&opened[0])).collect();
    texts.sort_by_key(|part| details(part)["part"].as_u64());
    let text: String = texts.iter().map(|part| details(part)["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(Digest::of(text.as_bytes()).to_string(), digest(&opened[0]));
}

#[tokio::test]
async fn i8_secrets_of_the_configuration_count_as_changed_or_not() {
    let mut setup = Setup::new();
    setup.set_toml("backends.example.env", "{ KEY = \"hunter2\" }");
    let text = std::fs::read_to_string(setup.config_file()).unwrap();
    let gatepost = setup.start();
    setup.role("late", &["example/*"]).config_file();
    gatepost.signal(Signal::SIGHUP);
    setup.wait_for_log("configuration reloaded");
    assert_eq!(gatepost.terminate(), Some(0));
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let records = String::from_utf8(output.stdout).unwrap();
    assert!(!records.contains("hunter2"));
    let plain = Digest::of(text.as_bytes()).to_string();
    assert!(!records.contains(&plain), "whoever guesses the file could check it");
    let of = |method: &str| {
        let line = records.lines().find(|line| line.contains(&format!("\"{method}\""))).unwrap();
        details(&serde_json::from_str(line).unwrap())
    };
    let (opened, config) = (of("gateway/opened"), of("gateway/config"));
    assert_eq!(opened["config_digest"], config["previous_config_digest"]);
    assert_ne!(config["config_digest"], config["previous_config_digest"]);
    assert_ne!(config["file_digest"], config["previous_file_digest"]);
}

#[tokio::test]
async fn a_trail_that_is_in_postgres_is_not_read_from_the_outbox_of_its_live_gateway() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let dir = setup.audit_dir();
    let dir = dir.to_str().unwrap();
    let on_dir = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gatepost"));
        let output = command.args(args).args(["--dir", dir]).current_dir(setup.work_dir()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for command in [&["verify"][..], &["heads"], &["query"], &["tail"], &["show", "1/1"]] {
        let (code, stdout, stderr) = on_dir(&[&["audit"], command].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{command:?}: {stderr}");
        assert!(stderr.contains("delivers to Postgres") && stderr.contains("GATEPOST_POSTGRES_URL"), "{stderr}");
    }
    for command in [&["list"][..], &["verify"], &["export"], &["tail"]] {
        let (code, _, stderr) = on_dir(&[&["outbox"], command].concat());
        assert_eq!(code, Some(0), "{command:?}: {stderr}");
        assert!(stderr.contains("delivered records are there, and this reads the others"), "{stderr}");
    }
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn an_error_of_postgres_says_where_it_is_and_what_to_do() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    // Nobody listens on port 1.
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/audit");
    for args in [&["audit", "query"][..], &["audit", "tail"], &["audit", "show", "1/1"], &["audit", "verify"]] {
        let (code, stdout, stderr) = run(&setup, args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}: {stderr}");
        for part in ["127.0.0.1:1: Connection refused", "gatepost outbox list", "gatepost outbox stats"] {
            assert!(stderr.contains(part), "{args:?}: {stderr}");
        }
        assert!(!stderr.contains("os error") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    }
    setup.set("postgres.url", &database.url);
    assert_eq!(run(&setup, &["migrate"]).0, Some(0));
    sqlx::query("REVOKE ALL ON audit_log FROM PUBLIC, gatepost_reader").execute(&database.pool().await).await.unwrap();
    sqlx::query("CREATE ROLE audit_stranger LOGIN").execute(&database.pool().await).await.unwrap();
    let stranger = database.url.replacen("gatepost@", "audit_stranger@", 1);
    setup.set("postgres.url", &stranger);
    let (code, _, stderr) = run(&setup, &["audit", "query"]);
    assert_eq!((code, stderr.matches("permission denied").count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("gatepost_reader") && !stderr.contains("at line"), "{stderr}");
}

#[tokio::test]
async fn a_call_is_found_by_its_issuer_its_token_and_its_address() {
    let database = Cluster::shared().create_database().await;
    for url in [None, Some(&database.url)] {
        let mut setup = Setup::new();
        if let Some(url) = url {
            setup.set("postgres.url", url);
        }
        let gatepost = setup.start();
        let token = token_with(&json!({"sub": "tester", "role": "admin", "jti": "t-7"}));
        let client = Client::connect(&format!("{}/mcp", gatepost.url()), Era::Modern, Some(&token)).await;
        client.call("example__echo", json!({"text": "hello"})).await.unwrap();
        let found = |args: &[&str]| {
            let (code, stdout, stderr) =
                run(&setup, &[&["audit", "query", "--json", "--method", "tools/call"], args].concat());
            assert_eq!(code, Some(0), "{args:?}: {stderr}");
            stdout.lines().count()
        };
        until("the call is in the trail", SOON, || found(&[]) == 1);
        for (option, value) in [("--issuer", ISSUER), ("--token-id", "t-7"), ("--addr", "127.0.0.1")] {
            assert_eq!((found(&[option, value]), found(&[option, "other"])), (1, 0), "{option} {url:?}");
        }
        assert_eq!(gatepost.terminate(), Some(0));
    }
}
