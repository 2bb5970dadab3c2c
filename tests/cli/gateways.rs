//! Leases of gateways: which one is silent, which gateway says so, and `gatepost audit gateways list` and `close`.

use gatepost::audit::record::GatewayId;
use gatepost::audit::sink::postgres;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::common::gatepost::Setup;
use crate::common::made_stream::{MadeStream, month};
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until};
use crate::run::run;

/// A database with two gateways, whose ids are 1 and 2, and whose first epochs are open.
async fn two_gateways() -> (Database, PgConnection) {
    let database = Cluster::shared().create_database().await;
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    postgres::migrate(&mut owner).await.unwrap();
    for id in [1, 2] {
        MadeStream::open(GatewayId(Uuid::from_u128(id)), None, month(0)).deliver(&database.url).await;
    }
    (database, owner)
}

async fn execute(owner: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(owner).await.unwrap();
}

/// Renews a lease of 90 s, and returns the gateways that are said to be silent.
async fn renew(owner: &mut PgConnection, id: u128, epoch: i64) -> Vec<u128> {
    let renew = sqlx::query_scalar("SELECT gatepost_renew_lease($1, $2, 90)").bind(Uuid::from_u128(id)).bind(epoch);
    let silent: Vec<Uuid> = renew.fetch_one(owner).await.unwrap();
    silent.iter().map(Uuid::as_u128).collect()
}

/// Moves the times of a lease, as if so many seconds had passed since it was renewed.
async fn pass(owner: &mut PgConnection, id: u128, seconds: u64) {
    let sql = format!(
        "UPDATE audit_gateway SET lease_since = lease_since - interval '{seconds} s',
            lease_until = lease_until - interval '{seconds} s' WHERE gateway_id = '{}'",
        Uuid::from_u128(id)
    );
    execute(owner, &sql).await;
}

#[tokio::test]
async fn a_silent_gateway_is_reported_by_one_gateway_once_all_could_renew() {
    let (database, mut owner) = two_gateways().await;
    assert!(renew(&mut owner, 1, 1).await.is_empty() && renew(&mut owner, 2, 1).await.is_empty());
    // Neither can renew during an outage, and the first one back says nothing of the other for two intervals.
    pass(&mut owner, 1, 600).await;
    pass(&mut owner, 2, 600).await;
    assert!(renew(&mut owner, 2, 1).await.is_empty(), "the other one had no time to renew");
    pass(&mut owner, 2, 59).await;
    assert!(renew(&mut owner, 2, 1).await.is_empty());
    pass(&mut owner, 2, 1).await;
    assert_eq!(renew(&mut owner, 2, 1).await, [1]);
    // A new epoch begins anew, and so does a lease that expired.
    assert!(renew(&mut owner, 2, 2).await.is_empty());
    pass(&mut owner, 2, 60).await;
    assert_eq!(renew(&mut owner, 2, 2).await, [1]);
    // Of two that run, the first one reports the third.
    let mut third = MadeStream::open(GatewayId(Uuid::from_u128(3)), None, month(0));
    assert!(renew(&mut owner, 1, 1).await.is_empty() && renew(&mut owner, 3, 1).await.is_empty());
    pass(&mut owner, 3, 91).await;
    pass(&mut owner, 1, 60).await;
    assert_eq!(renew(&mut owner, 1, 1).await, [3]);
    assert!(renew(&mut owner, 2, 2).await.is_empty(), "one gateway only");
    // A gateway that ended is not silent.
    third.close(month(0));
    third.deliver(&database.url).await;
    assert!(renew(&mut owner, 1, 1).await.is_empty());
    for seconds in [2, 3601] {
        let sql = format!("SELECT gatepost_renew_lease('{}', 1, {seconds})", Uuid::from_u128(1));
        assert!(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.is_err(), "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_renews_its_lease_raises_the_alarm_and_the_owner_closes_the_other() {
    let (database, mut owner) = two_gateways().await;
    renew(&mut owner, 2, 1).await;
    pass(&mut owner, 2, 600).await;
    let id = Uuid::from_u128(7);
    // As if it had run for a while.
    let lease = format!(
        "INSERT INTO audit_gateway (gateway_id, owner_role, lease_epoch, lease_since, lease_until)
        VALUES ('{id}', 'gatepost', 1, now() - interval '10 min', now() + interval '10 min')"
    );
    execute(&mut owner, &lease).await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("audit.gateway_id", &id.to_string());
    let gatepost = setup.start();
    let alarm = |value: u32| format!("gatepost_alarm{{alarm=\"gateway_silent\"}} {value}");
    until("the alarm is raised", 2 * SOON, || gatepost.get_ops("/metrics").1.contains(&alarm(1)));
    assert!(setup.log().contains(&Uuid::from_u128(2).to_string()), "the alarm names it");
    let leases = || -> Vec<(String, String)> {
        let (code, stdout, stderr) = run(&setup, &["audit", "gateways", "list", "--json"]);
        assert_eq!(code, Some(0), "{stderr}");
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (text(&line, "gateway_id")[35..].to_owned(), text(&line, "lease"))).collect()
    };
    let lease = |id: &str| leases().into_iter().find(|(other, _)| other == id).unwrap().1;
    assert_eq!([lease("1"), lease("2"), lease("7")], ["none", "silent", "live"]);
    let silent = || run(&setup, &["audit", "verify"]).1.contains("did not end, and its lease expired at");
    assert!(silent());

    let journal = setup.dir().join("journal").display().to_string();
    let close = |id: u128| {
        let id = Uuid::from_u128(id).to_string();
        run(&setup, &["audit", "gateways", "close", &id, "--reason", "scrapped", "--journal", &journal])
    };
    assert!(close(7).2.contains("runs: stop it first"));
    assert!(close(9).2.contains("is not registered"));
    let (code, stdout, stderr) = close(2);
    assert!(code == Some(0) && stdout.contains("trail/closed is recorded as 1/1"), "{stdout}{stderr}");
    assert_eq!(lease("2"), "closed");
    assert!(!silent());
    assert!(run(&setup, &["audit", "decisions", "list"]).1.contains("scrapped"));
    // It comes back all the same.
    renew(&mut owner, 2, 1).await;
    assert_eq!(lease("2"), "live");
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(lease("7"), "ended");
}
