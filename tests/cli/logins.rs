//! Every command with exactly the login to Postgres that docs/security.md names, and the way out of a fork.

use std::path::Path;
use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{AuditRecord, Call, Entry, Epoch, GatewayId, Outcome, RecordKey, RequestId, Status};
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use gatepost::audit::sink::{CursorUpdate, Sink};
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

    /// What a thief of the gateway's login does: appends a record to a stream.
    async fn forge(&self, epoch: Epoch) -> AuditRecord {
        let options = Options {
            url: self.gateway.clone(),
            password_file: None,
            statement_timeout: Duration::from_secs(20),
            migrate: false,
        };
        let mut sink = PostgresSink::new(&options).unwrap();
        let id = GatewayId(self.gateway_id);
        let head: Head = sink.cursor(id, epoch).await.unwrap();
        let outcome = Outcome::answered(Status::Ok, None, b"{}", &RecordKey::from_bytes([0; 32]));
        let call = Call::new(RequestId::new(), "tools/call").with_target(Some("example"), Some("forged"));
        let entry = Entry::new(call, outcome, Duration::from_millis(1));
        let record = AuditRecord { position: chain::link(id, epoch, head, &entry), entry };
        assert_eq!(sink.deliver(std::slice::from_ref(&record)).await.unwrap(), CursorUpdate::Moved);
        record
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
    let (code, stdout, stderr) = logins.run(&reader, &["audit", "verify"]);
    assert!(matches!(code, Some(0 | 4)) && stdout.contains("known"), "{stdout}{stderr}");
    assert_eq!(gatepost.terminate(), Some(0));
    logins.succeeds(&gateway, &["outbox", "drain"]);
    assert_eq!(logins.count("audit_log WHERE method = 'gateway/closed'").await, 2);
}

#[tokio::test]
async fn config_check_connect_finds_missing_rights_and_registrations_and_makes_none() {
    let logins = Logins::new().await;
    let check = |ok: bool, setting: &str, part: &str| {
        let output = logins.setup.command(&["config", "check", "--connect"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find(|line| line.starts_with(&format!("{setting} "))).unwrap();
        let word = if ok { " OK " } else { " FAILED " };
        assert!(line.contains(word) && line.contains(part), "{setting}: {said}");
        assert_eq!(output.status.code(), Some(i32::from(!ok)), "{said}");
    };
    check(true, "postgres.url", "the schema is complete, and the gateway is registered");
    check(true, "postgres.reader_url", "connected; 1 gateway registered");
    logins.admin_runs("DELETE FROM audit_gateway").await;
    check(false, "postgres.url", "gatepost audit gateways add");
    logins.admin_runs("UPDATE audit_registrar SET registration = 'first'").await;
    check(true, "postgres.url", "may register itself");
    assert_eq!((logins.count("audit_gateway").await, logins.count("audit_stream").await), (0, 0), "nothing is made");
    logins.admin_runs("REVOKE EXECUTE ON FUNCTION gatepost_deliver FROM gatepost_writer").await;
    check(false, "postgres.url", "may not execute gatepost_deliver: have the owner of the tables run GRANT");
    logins.admin_runs("GRANT EXECUTE ON FUNCTION gatepost_deliver TO gatepost_writer").await;
    logins.admin_runs("REVOKE SELECT ON audit_gateway FROM gatepost_reader").await;
    check(false, "postgres.reader_url", "a member of gatepost_reader");
}

#[tokio::test]
async fn config_check_connect_says_what_a_gateway_without_an_id_needs() {
    let mut logins = Logins::new().await;
    logins.setup.settings.remove("audit.gateway_id");
    let output = logins.setup.command(&["config", "check", "--connect"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("has no id before its first start") && said.contains("set audit.gateway_id"), "{said}");
    assert_eq!((output.status.code(), logins.count("audit_gateway").await), (Some(1), 1));
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
async fn serve_warns_of_a_server_or_database_that_weakens_the_trail() {
    // The test cluster has no fsync.
    let database = Cluster::shared().create_database_with("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    for warning in ["the server runs with fsync = off", "another encoding than UTF8", "LATIN1"] {
        setup.wait_for_log(warning);
    }
    assert_eq!(gatepost.terminate(), Some(0));
}

/// A thief of the gateway's login appends to its streams: the live one and one that the gateway opens later.
#[tokio::test]
async fn i4_forked_gateway_delivers_in_place_after_resolve_fork() {
    let logins = Logins::new().await;
    let gatepost = logins.start();
    call(&gatepost, "one").await;
    logins.wait_for_rows("audit_log", 2).await;
    logins.forge(Epoch(1)).await;
    logins.forge(Epoch(2)).await;
    call(&gatepost, "two").await;
    until("the fork is noticed", SOON, || gatepost.get_ops("/readyz").1.contains("forked"));
    let dir = logins.setup.dir().to_owned();
    let (heads, journal) = (dir.join("heads.jsonl"), dir.join("journal.jsonl"));
    let print_heads =
        || std::fs::write(&heads, logins.succeeds("postgres://x@127.0.0.1:1/x", &["outbox", "heads"])).unwrap();
    print_heads();
    let resolve = ["audit", "resolve-fork", "--heads", path(&heads), "--reason", "stolen", "--journal", path(&journal)];
    let owner = logins.owner.clone();
    let dry_run = logins.succeeds(&owner, &[&resolve[..], &["--dry-run"]].concat());
    assert!(dry_run.contains("1 row from seq 3 to 3 to audit_foreign; cursor from 3 to 2"), "{dry_run}");
    assert_eq!(logins.count("audit_foreign").await, 0, "a dry run changes nothing");
    logins.succeeds(&owner, &resolve);
    logins.wait_for_rows("audit_log WHERE tool_name = 'echo'", 2).await;
    until("the alarm is lowered", SOON, || !gatepost.get_ops("/readyz").1.contains("forked"));
    assert_eq!(logins.count("audit_foreign WHERE epoch = 1 AND seq = 3 AND moved_by LIKE 'owner%'").await, 1);
    assert_eq!(gatepost.terminate(), Some(0));

    // The epoch that the thief opened before the gateway did. Its heads are read from the directory.
    let gatepost = logins.start();
    call(&gatepost, "three").await;
    until("the fork is noticed", SOON, || gatepost.get_ops("/readyz").1.contains("forked"));
    let (code, _, stderr) = logins.run(&owner, &resolve);
    assert!(code == Some(1) && stderr.contains("was extended after the heads were printed"), "{stderr}");
    drop(gatepost);
    print_heads();
    logins.succeeds(&owner, &resolve);
    let gatepost = logins.start();
    logins.wait_for_rows("audit_log WHERE tool_name = 'echo'", 3).await;
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(logins.count("audit_log WHERE tool_name = 'forged'").await, 0);
    assert_eq!(logins.count("audit_log WHERE method = 'trail/resolved'").await, 2);
    let (code, stdout, stderr) = logins.run(&logins.reader, &["audit", "verify"]);
    assert_eq!(code, Some(4), "{stdout}{stderr}");
    assert!(stdout.contains("resolved") && stdout.contains("stolen"), "{stdout}");
}

#[tokio::test]
async fn lost_rows_do_not_strand_the_records_behind_them() {
    let mut logins = Logins::new().await;
    logins.setup.set("audit.keep_delivered", "0s");
    let gatepost = logins.start();
    for text in ["one", "two", "three"] {
        call(&gatepost, text).await;
    }
    logins.wait_for_rows("audit_log", 4).await;
    // A database that was restored to a time before the second call.
    logins
        .admin_runs(
            "DELETE FROM audit_log WHERE seq > 2;
             UPDATE audit_stream SET delivered_seq = 2, head_hash = (SELECT hash FROM audit_log WHERE seq = 2)",
        )
        .await;
    call(&gatepost, "four").await;
    until("the fork is noticed", SOON, || gatepost.get_ops("/readyz").1.contains("forked"));
    let dir = logins.setup.dir().to_owned();
    let (heads, journal) = (dir.join("heads.jsonl"), dir.join("journal.jsonl"));
    std::fs::write(&heads, logins.succeeds("postgres://x@127.0.0.1:1/x", &["outbox", "heads"])).unwrap();
    let owner = logins.owner.clone();
    let resolve =
        ["audit", "resolve-fork", "--heads", path(&heads), "--reason", "restored", "--journal", path(&journal)];
    let shown = logins.succeeds(&owner, &resolve);
    assert!(shown.contains("cursor from 2 to 4") && shown.contains("no row for seq 3 to 4"), "{shown}");
    logins.wait_for_rows("audit_log WHERE seq = 5 AND tool_name = 'echo'", 1).await;
    assert_eq!(gatepost.terminate(), Some(0));
    // The decision alone excuses no missing rows.
    let (code, stdout, stderr) = logins.run(&logins.reader, &["audit", "verify"]);
    assert!(code == Some(1) && stdout.contains("gap") && stdout.contains("restored"), "{code:?} {stdout}{stderr}");
}

#[tokio::test]
async fn gateway_that_a_restored_database_does_not_know_says_what_to_run() {
    let logins = Logins::new().await;
    let gatepost = logins.start();
    call(&gatepost, "one").await;
    logins.wait_for_rows("audit_log", 2).await;
    // A database that was restored to a time before the gateway was registered.
    logins.admin_runs("DELETE FROM audit_log; DELETE FROM audit_stream; DELETE FROM audit_gateway").await;
    call(&gatepost, "two").await;
    let (id, role) = (logins.gateway_id.to_string(), logins.gateway.split(['/', '@']).nth(2).unwrap());
    let advice = format!("gatepost audit gateways add {id} --role {role}");
    until("the command is named", SOON, || gatepost.get_ops("/readyz").1.contains(&advice));
    assert_eq!(logins.count("audit_stream").await, 0);
    logins.succeeds(&logins.owner, &["audit", "gateways", "add", &id, "--role", role]);
    logins.wait_for_rows("audit_log WHERE tool_name = 'echo'", 2).await;
    logins.wait_for_rows("audit_log WHERE method = 'gateway/restored'", 1).await;
    assert_eq!(gatepost.terminate(), Some(0));
    let (code, stdout, stderr) = logins.run(&logins.reader, &["audit", "verify"]);
    assert!(code != Some(1) && stdout.contains("delivered again from what the gateway keeps"), "{stdout}{stderr}");
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
    let unknown =
        ["audit", "accept", "--kind", "nonsense", "--gateway", &gateway, "--reason", "x", "--journal", path(&other)];
    let (code, _, stderr) = logins.run(&owner, &unknown);
    assert!(code == Some(2) && stderr.contains("not a kind"), "{stderr}");
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
