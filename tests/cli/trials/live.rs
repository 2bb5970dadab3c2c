//! Manipulations beside a gateway that runs, which `audit verify` asks.

use std::process::Command;

use gatepost::audit::chain::Head;
use gatepost::audit::record::{Epoch, GatewayId};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};

use super::made_trail::{MadeTrail, calls, delivered};
use super::tamper::{Tamper, another, chain_from, previous, set_details};
use super::{findings, verify};
use crate::common::gatepost::{BINARY, Setup};
use crate::common::postgres::{Cluster, Database};
use crate::run::run;

/// The check beside the live gateway of `setup`.
fn check(setup: &Setup) -> (Option<i32>, String) {
    let (code, stdout, stderr) = run(setup, &["audit", "verify", "--json"]);
    assert!(!stdout.is_empty(), "{stderr}");
    (code, stdout)
}

/// The gateway says that something else is true.
fn contradicted(setup: &Setup, what: &str) {
    let (code, report) = check(setup);
    let (kinds, _) = findings(&report);
    assert!(code == Some(1) && kinds.contains("live") && report.contains(what), "{report}");
}

/// A gateway that has delivered some calls to a database of its own, and its id.
async fn live() -> (Database, Setup, crate::common::gatepost::Gatepost, GatewayId) {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    calls(&gatepost, 3).await;
    delivered(&setup);
    let stats: Value = super::made_trail::stats(&setup);
    let id = serde_json::from_value(stats["live"]["gateway_id"].clone()).unwrap();
    (database, setup, gatepost, id)
}

#[tokio::test]
async fn the_live_gateway_confirms_its_streams_and_contradicts_an_empty_database() {
    let (database, setup, gatepost, _) = live().await;
    let (code, report) = check(&setup);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("the live gateway confirms their ends"), "{report}");
    let (code, report) = verify(&database.url, None, false);
    assert_eq!(code, Some(4), "{report}");
    let pool = database.pool().await;
    sqlx::query("TRUNCATE audit_log, audit_stream, audit_quarantine").execute(&pool).await.unwrap();
    contradicted(&setup, "is a head in the live gateway and is missing");
    drop(gatepost);
}

#[tokio::test]
async fn a_record_after_the_live_head_is_found() {
    let (database, setup, gatepost, id) = live().await;
    // The reads of this test are records too.
    delivered(&setup);
    let mut tamper = Tamper::on(&database.url, id).await;
    let call = tamper.rows(id, 1).await.swap_remove(1);
    tamper.append(vec![another(&call, "eve")], id, 1).await;
    contradicted(&setup, "the last record that the live gateway made: it was added");
    // The gateway notices it as soon as it delivers, and says so.
    calls(&gatepost, 1).await;
    setup.wait_for_log("stream is forked");
    contradicted(&setup, "the live gateway does not deliver");
}

#[tokio::test]
async fn a_policy_that_shows_the_check_more_than_others_is_found() {
    let (database, setup, gatepost, _) = live().await;
    drop(gatepost);
    let pool = database.pool().await;
    let mut connection = pool.acquire().await.unwrap();
    let split = "CREATE ROLE split_auditor LOGIN IN ROLE gatepost_reader;
        ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
        CREATE POLICY hide ON audit_log FOR SELECT
        USING (current_setting('transaction_isolation') = 'repeatable read' OR method <> 'tools/call')";
    sqlx::raw_sql(split).execute(&mut *connection).await.unwrap();
    let (code, report) = check(&setup);
    assert!(code == Some(1) && findings(&report).0.contains("table"), "{report}");
    let url = database.url.replace("//gatepost@", "//split_auditor@");
    for command in [&["audit", "verify"][..], &["audit", "query"], &["audit", "tail"], &["audit", "heads"]] {
        let mut process = Command::new(BINARY);
        let output = process.args(command).env_clear().env("GATEPOST_POSTGRES_URL", &url).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let refused = stderr.contains("a row security policy hides a part of the trail from this role");
        assert!(output.status.code() == Some(1) && output.stdout.is_empty() && refused, "{command:?}: {stderr}");
    }
}

/// A thief opens the next epoch of a gateway before it starts.
pub async fn the_next_epoch_forged(trail: &MadeTrail, cluster: &Cluster) {
    let template = trail.database.url.rsplit('/').next().unwrap();
    let database = cluster.create_database_with(&format!("TEMPLATE {template}")).await;
    let mut tamper = Tamper::new(&database.url, trail.a, trail.b).await;
    let mut rows = tamper.rows(trail.a, 7).await;
    let end = rows.last().unwrap().position;
    set_details(&mut rows[0], &previous(7, &end, true));
    for row in &mut rows {
        row.position.epoch = Epoch(8);
        *row = another(row, &row.entry.call.client_subject);
    }
    chain_from(Head::START, &mut rows);
    tamper.write(&rows).await;
    tamper.connection.close().await.unwrap();
    let (code, report) = verify(&database.url, Some(&trail.heads), false);
    assert!(code == Some(4) && report.contains("in 1 stream after 7/"), "{report}");
    let config = std::fs::read_to_string(trail.setup_a.config_file()).unwrap();
    let config = config.replace(&trail.database.url, &database.url);
    let file = trail.setup_a.dir().join("forged.toml");
    crate::common::gatepost::write_secret(&file, config);
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config"]).arg(&file).current_dir(trail.setup_a.dir());
    let log = std::fs::File::options().create(true).append(true).open(trail.setup_a.dir().join("log")).unwrap();
    let gatepost = trail.setup_a.wait_for(trail.setup_a.spawn_command(command.stderr(log)));
    trail.setup_a.wait_for_log("stream is forked");
    let output = Command::new(BINARY).args(["audit", "verify", "--json", "--config"]).arg(&file).output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && findings(&report).0.contains("live"), "{report}");
    drop(gatepost);
    let name = database.url.rsplit('/').next().unwrap();
    let mut admin = sqlx::PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}
