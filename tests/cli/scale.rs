//! The statements of docs/scale.md, as far as they can run here: several databases that are read through one.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::run::run;

const PAGE: &str = include_str!("../../docs/scale.md");

fn name(database: &Database) -> &str {
    database.url.rsplit('/').next().unwrap()
}

/// The block of SQL that begins with this line.
fn block(begin: &str) -> &'static str {
    let (_, after) = PAGE.split_once(&format!("```sql\n{begin}")).unwrap();
    let length = begin.len() + after.find("```").unwrap();
    let at = PAGE.find(&format!("```sql\n{begin}")).unwrap() + "```sql\n".len();
    &PAGE[at..at + length]
}

/// A trail with one call of its own.
async fn trail(text: &str) -> (Setup, Database) {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    client.call("echo", json!({ "text": text })).await.unwrap();
    let pool = database.pool().await;
    let is_there = "SELECT EXISTS (SELECT FROM audit_log WHERE tool_name = 'echo')";
    until_async("the call is delivered", SOON, || async {
        sqlx::query_scalar(is_there).fetch_one(&pool).await.is_ok_and(|found: bool| found)
    })
    .await;
    assert_eq!(gatepost.terminate(), Some(0));
    (setup, database)
}

fn succeeds(setup: &Setup, args: &[&str]) -> String {
    let (code, stdout, stderr) = run(setup, &[&["audit"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_are_read_through_one() {
    let (setup, one) = trail("from one").await;
    let (_, two) = trail("from two").await;
    let hub = Cluster::shared().create_database().await;
    let mut admin = PgConnection::connect(&hub.url).await.unwrap();
    let cluster = Cluster::shared();
    let each = block("CREATE EXTENSION IF NOT EXISTS postgres_fdw;");
    for (alias, database) in [("one", &one), ("two", &two)] {
        let sql = each
            .replace("one.example.com", &cluster.address.to_string())
            .replace("5432", &cluster.port.to_string())
            .replace("dbname 'audit'", &format!("dbname '{}'", name(database)))
            .replace("user 'auditor'", "user 'gatepost'");
        let sql =
            sql.replace("SCHEMA one", &format!("SCHEMA {alias}")).replace("SERVER one", &format!("SERVER {alias}"));
        let sql = sql.replace("INTO one", &format!("INTO {alias}"));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    }
    let reader = format!("reader_{}", name(&hub));
    let views = block("CREATE VIEW audit_log").replace("reader", &reader);
    sqlx::raw_sql(AssertSqlSafe(views)).execute(&mut admin).await.unwrap();

    let mut setup = setup;
    setup.set("postgres.reader_url", &hub.url.replacen("gatepost@", &format!("{reader}@"), 1));
    let found = succeeds(&setup, &["query", "--tool", "example/echo", "--json"]);
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<_> = found.iter().map(|record| record["request_args"].to_string()).collect();
    assert!(texts.len() == 2 && texts[0].contains("from one") && texts[1].contains("from two"), "{texts:?}");
    assert_ne!(found[0]["gateway_id"], found[1]["gateway_id"]);
    for record in &found {
        let shown = succeeds(&setup, &["show", record["request_id"].as_str().unwrap(), "--json"]);
        assert!(shown.contains(record["hash"].as_str().unwrap()), "{shown}");
    }
    assert_eq!(succeeds(&setup, &["tail", "-n", "2", "--tool", "example/echo"]).matches("echo").count(), 2);
    // A view can leave rows out: that is no trail to verify.
    let (code, stdout, _) = run(&setup, &["audit", "verify"]);
    assert!(code == Some(1) && stdout.contains("audit_log is a view"), "{stdout}");
}
