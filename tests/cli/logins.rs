//! Every command with exactly the login to Postgres that docs/security.md names, and the way out of a fork.

use std::path::Path;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::AuditRecord;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::wait::{SOON, until, until_async};

/// A gateway with a login of its own, beside the owner's and an auditor's, none of them a superuser.
struct Logins {
    setup: Setup,
    owner: String,
    reader: String,
    gateway: String,
    gateway_id: Uuid,
    /// The superuser's URL.
    admin: String,
}

impl Logins {
    /// The tables are there, and the gateway is registered.
    async fn new() -> Self {
        let cluster = Cluster::shared();
        let database = cluster.create_database().await;
        let name = database.url.rsplit('/').next().unwrap().to_owned();
        let mut admin = PgConnection::connect(&database.url).await.unwrap();
        let roles = format!(
            "DO $$ BEGIN CREATE ROLE gatepost_writer; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
             DO $$ BEGIN CREATE ROLE gatepost_reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
             CREATE ROLE owner_{name} LOGIN;
             CREATE ROLE reader_{name} LOGIN IN ROLE gatepost_reader;
             CREATE ROLE gateway_{name} LOGIN IN ROLE gatepost_writer;
             ALTER DATABASE {name} OWNER TO owner_{name}"
        );
        sqlx::raw_sql(AssertSqlSafe(roles)).execute(&mut admin).await.unwrap();
        let url = |role: &str| database.url.replace("//gatepost@", &format!("//{role}_{name}@"));
        let gateway_id = Uuid::new_v4();
        let mut setup = Setup::new();
        setup.set("audit.gateway_id", &gateway_id.to_string()).set_toml("postgres.migrate", "false");
        setup.env.insert("GATEPOST_POSTGRES_URL".to_owned(), url("gateway"));
        setup.env.insert("GATEPOST_POSTGRES_READER_URL".to_owned(), url("reader"));
        let logins = Self {
            setup,
            owner: url("owner"),
            reader: url("reader"),
            gateway: url("gateway"),
            gateway_id,
            admin: database.url,
        };
        logins.succeeds(&logins.owner, &["migrate"]);
        let add = ["audit", "gateways", "add", &gateway_id.to_string(), "--role", &format!("gateway_{name}")];
        logins.succeeds(&logins.owner, &add);
        logins
    }

    /// Runs a command with one login and no other.
    fn run(&self, url: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.setup.command(args);
        command.env_remove("GATEPOST_POSTGRES_READER_URL").env("GATEPOST_POSTGRES_URL", url);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn succeeds(&self, url: &str, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(url, args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        stdout
    }

    fn is_refused(&self, url: &str, args: &[&str]) {
        let (code, stdout, stderr) = self.run(url, args);
        assert!(
            code == Some(1) && (stderr.contains("42501") || stderr.contains("permission denied")),
            "{args:?}: {code:?} {stdout}{stderr}"
        );
    }

    /// Starts `serve` as docs/security.md says.
    fn start(&self) -> Gatepost {
        self.setup.start()
    }

    async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.admin).await.unwrap()
    }

    async fn admin_runs(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin().await).await.unwrap();
    }

    async fn count(&self, what: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {what}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.admin().await).await.unwrap()
    }

    /// Waits until so many rows of `what` are there.
    async fn wait_for_rows(&self, what: &str, rows: i64) {
        until_async(&format!("{rows} rows of {what}"), 2 * SOON, async || self.count(what).await == rows).await;
    }
}

async fn call(gatepost: &Gatepost, text: &str) {
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    client.call("echo", json!({ "text": text })).await.unwrap();
}

async fn console(gatepost: &Gatepost, path: &str) -> String {
    let client = reqwest::Client::new();
    let request = client.get(format!("{}{path}", gatepost.ops_url)).bearer_auth(token("auditor"));
    request.send().await.unwrap().text().await.unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn each_command_works_with_the_login_that_docs_name() {
    let logins = Logins::new().await;
    let gatepost = logins.start();
    call(&gatepost, "hello").await;
    logins.wait_for_rows("audit_log", 2).await;
    let shown = console(&gatepost, "/console/records").await;
    assert!(shown.contains("example/echo") && !shown.contains("42501"), "{shown}");
    assert!(!logins.setup.log().contains("owns tables of the trail"));
    logins.admin_runs("ALTER TABLE audit_log ADD CONSTRAINT no_sum CHECK (tool_name <> 'add')").await;
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
    logins.wait_for_rows("audit_quarantine", 1).await;
    logins.admin_runs("ALTER TABLE audit_log DROP CONSTRAINT no_sum").await;

    let (owner, reader, gateway) = (logins.owner.clone(), logins.reader.clone(), logins.gateway.clone());
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    for args in [
        &["outbox", "stats"][..],
        &["outbox", "list"],
        &["outbox", "tail"],
        &["outbox", "verify"],
        &["outbox", "export"],
        &["outbox", "heads"],
    ] {
        logins.succeeds(nowhere, args);
    }
    // Each of these reads is a record, which is delivered.
    for args in [
        &["audit", "query"][..],
        &["audit", "show", "1/2"],
        &["audit", "tail"],
        &["audit", "gateways", "list"],
        &["audit", "decisions", "list"],
    ] {
        logins.succeeds(&reader, args);
        logins.is_refused(&gateway, args);
    }
    let records: Value = serde_json::from_str(
        logins.succeeds(&reader, &["audit", "query", "--tool", "echo", "--json"]).lines().next().unwrap(),
    )
    .unwrap();
    let arguments = logins.setup.dir().join("arguments");
    std::fs::write(&arguments, records["request_args"].as_str().unwrap()).unwrap();
    let id = records["request_id"].as_str().unwrap();
    logins.succeeds(&reader, &["audit", "match", id, "--arguments", path(&arguments)]);

    for login in [&reader, &gateway] {
        logins.is_refused(login, &["outbox", "requeue"]);
    }
    logins.succeeds(&owner, &["outbox", "requeue"]);
    assert_eq!(logins.count("audit_quarantine").await, 0);
    let (code, stdout, stderr) = logins.run(&reader, &["audit", "verify"]);
    assert!(matches!(code, Some(0 | 4)), "{stdout}{stderr}");
    logins.is_refused(&gateway, &["audit", "verify"]);
    let journal = logins.setup.dir().join("journal.jsonl");
    let reason = ["--reason", "known", "--journal", path(&journal)];
    let gateway_id = logins.gateway_id.to_string();
    let accept = [&["audit", "accept", "--kind", "ends", "--gateway", &gateway_id][..], &reason].concat();
    let heads = logins.setup.dir().join("heads.jsonl");
    let add = ["audit", "gateways", "add", &gateway_id, "--role", "gatepost_writer", "--replace"];
    for login in [&reader, &gateway] {
        logins.is_refused(login, &accept);
        logins.is_refused(login, &add);
        logins.is_refused(login, &["migrate", "--register", "first"]);
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), "", "nothing was decided");
    }
    logins.succeeds(&owner, &accept);
    std::fs::write(&heads, logins.succeeds(nowhere, &["outbox", "heads"])).unwrap();
    let resolve = [&["audit", "resolve-fork", "--heads", path(&heads)][..], &reason].concat();
    let shown = logins.succeeds(&owner, &resolve);
    assert!(shown.contains("no stream in the file is forked"), "{shown}");
    logins.succeeds(&owner, &["audit", "decisions", "replay", path(&journal)]);
    assert_eq!(logins.count("audit_log WHERE method = 'trail/accepted'").await, 1);
    // The owner's role migrates beside the gateway.
    logins.succeeds(&owner, &["migrate", "--register", "owner"]);
    assert_eq!(gatepost.terminate(), Some(0));
    logins.succeeds(&gateway, &["outbox", "drain"]);
    assert_eq!(logins.count("audit_log WHERE method = 'gateway/closed'").await, 2);
}

#[tokio::test]
async fn console_without_a_login_that_reads_names_the_setting() {
    let mut logins = Logins::new().await;
    logins.setup.env.remove("GATEPOST_POSTGRES_READER_URL");
    let gatepost = logins.setup.start();
    logins.wait_for_rows("audit_log", 1).await;
    let shown = console(&gatepost, "/console/records").await;
    assert!(shown.contains("postgres.reader_url") && shown.contains("gatepost_reader"), "{shown}");
    let shown = console(&gatepost, "/console").await;
    assert!(shown.contains("Pipeline"), "{shown}");
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn serve_warns_if_its_login_may_change_the_trail() {
    let logins = Logins::new().await;
    logins.admin_runs("ALTER TABLE audit_log OWNER TO gatepost").await;
    let warning = "owns tables of the trail or may change their rows";
    let login = logins.gateway.split(['/', '@']).nth(2).unwrap().to_owned();
    let partition: String = sqlx::query_scalar(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_log'::regclass LIMIT 1",
    )
    .fetch_one(&mut logins.admin().await)
    .await
    .unwrap();
    let grants = [
        format!("GRANT UPDATE ON {partition} TO {login}"),
        format!("GRANT UPDATE (owner_role) ON audit_gateway TO {login}"),
        format!("GRANT TRIGGER ON audit_stream TO {login}"),
    ];
    for (grant, times) in grants.iter().zip(1..) {
        logins.admin_runs(grant).await;
        let gatepost = logins.start();
        until("the warning is logged", SOON, || logins.setup.log().matches(warning).count() == times);
        assert_eq!(gatepost.terminate(), Some(0));
        logins.admin_runs(&grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")).await;
    }
}

#[tokio::test]
async fn decisions_are_chained_and_restored_from_the_journal() {
    let logins = Logins::new().await;
    let (owner, dir) = (logins.owner.clone(), logins.setup.dir().to_owned());
    let (journal, other) = (dir.join("journal.jsonl"), dir.join("other.jsonl"));
    let gateway = logins.gateway_id.to_string();
    let accept = |more: &[&str], journal: &Path| {
        let args = ["audit", "accept", "--kind", "gap", "--gateway", &gateway, "--epoch", "1", "--reason", "known"];
        logins.run(&owner, &[&args[..], more, &["--journal", path(journal)]].concat())
    };
    for range in [&["--first", "2", "--last", "3"][..], &[], &["--first", "7", "--last", "7", "--by", "Ann"]] {
        let (code, stdout, stderr) = accept(range, &journal);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
    }
    let list = || logins.succeeds(&logins.reader, &["audit", "decisions", "list", "--json"]);
    let before = list();
    let decisions: Vec<AuditRecord> = before.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(decisions.len(), 3);
    let mut head = Head::START;
    for decision in &decisions {
        assert!(chain::hash_matches(&decision.position, &decision.entry));
        assert_eq!((decision.position.seq, decision.position.prev_hash), (head.seq.next(), head.hash));
        head = Head::after(&decision.position);
    }
    let details: Value = serde_json::from_str(decisions[0].entry.call.request_args.as_deref().unwrap()).unwrap();
    assert_eq!((&details["gateway"], &details["kind"], &details["first"]), (&json!(gateway), &json!("gap"), &json!(2)));
    assert_eq!(decisions[2].entry.call.client_subject, "Ann");
    assert_eq!(before, std::fs::read_to_string(&journal).unwrap(), "the journal has the same records");

    // A database that was restored to a time before the second decision.
    logins
        .admin_runs(
            "DELETE FROM audit_log WHERE method = 'trail/accepted' AND seq > 1;
             UPDATE audit_stream s SET delivered_seq = 1, head_hash = l.hash FROM audit_log l
             WHERE l.gateway_id = s.gateway_id AND l.method = 'trail/accepted'",
        )
        .await;
    let (code, _, stderr) = accept(&[], &journal);
    assert!(code == Some(1) && stderr.contains("decisions replay"), "{stderr}");
    let shown = logins.succeeds(&owner, &["audit", "decisions", "replay", path(&journal)]);
    assert_eq!(shown, "2 of 3 decisions recorded again\n");
    assert_eq!(list(), before);
    // Another decision at a place of the journal, and a journal that was changed.
    let (code, stdout, stderr) = accept(&[], &other);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let text = std::fs::read_to_string(&journal).unwrap();
    let forked = dir.join("forked.jsonl");
    let fourth = std::fs::read_to_string(&other).unwrap();
    std::fs::write(&forked, fourth.replace("known", "knows")).unwrap();
    let (code, _, stderr) = logins.run(&owner, &["audit", "decisions", "replay", path(&forked)]);
    assert!(code == Some(1) && stderr.contains("was changed"), "{stderr}");
    std::fs::write(&forked, format!("{text}{}", fourth.trim_end())).unwrap();
    let (code, _, stderr) = logins.run(&owner, &["audit", "decisions", "replay", path(&forked)]);
    assert!(code == Some(1) && stderr.contains("incomplete"), "{stderr}");
}
