//! A trail made by real processes: two gateways, with epochs that were closed, killed, quarantined and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use gatepost::audit::record::GatewayId;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::certificates::{SignedLog, sign};
use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::{Client, Era};
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until, until_async};
use crate::run::{outbox_succeeds, run};

/// Nothing listens here.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/none";

/// The trail, and the gateways that made it, which have ended.
pub struct MadeTrail {
    pub database: Database,
    /// Seven epochs: closed; killed with an open call; closed, with two records in quarantine; killed undelivered, one
    /// record of which then rotted; closed; killed; closed.
    pub a: GatewayId,
    /// Two epochs: closed; killed.
    pub b: GatewayId,
    /// The setup of gateway A, which has ended.
    pub setup_a: Setup,
    /// The heads of all streams.
    pub heads: PathBuf,
    /// The records of both gateways as a witness signed them.
    pub signed: [SignedLog; 2],
}

/// Makes it.
pub async fn make_trail(cluster: &Cluster) -> MadeTrail {
    let database = cluster.create_database().await;
    let (mut a, mut b) = (Setup::new(), Setup::new());
    for setup in [&mut a, &mut b] {
        setup.set("postgres.url", &database.url).set("postgres.drain_timeout", "10s");
    }
    first_epoch(&a).await;
    killed(&a, true).await;
    let pool = database.pool().await;
    quarantined(&a, &pool).await;
    rotten(&mut a, &database).await;
    closed(&a).await;
    killed(&a, false).await;
    closed(&a).await;
    closed(&b).await;
    killed(&b, false).await;
    let heads = a.dir().join("heads");
    let (code, stdout, stderr) = run(&a, &["audit", "heads"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 9), "{stdout}{stderr}");
    fs::write(&heads, stdout).unwrap();
    let id = |of: &str| format!("SELECT gateway_id FROM audit_stream GROUP BY 1 HAVING count(*) {of}");
    let ids = async |of| {
        let id: uuid::Uuid = sqlx::query_scalar(sqlx::AssertSqlSafe(id(of))).fetch_one(&pool).await.unwrap();
        GatewayId(id)
    };
    let (id_a, id_b) = (ids("= 7").await, ids("= 2").await);
    let signed = [sign(&database.url, &pool, id_a).await, sign(&database.url, &pool, id_b).await];
    pool.close().await;
    MadeTrail { database, a: id_a, b: id_b, setup_a: a, heads, signed }
}

async fn client(gatepost: &Gatepost, role: &str) -> Client {
    gatepost.client_at("/mcp/example", Era::Modern, role).await
}

/// Calls that succeed.
pub async fn calls(gatepost: &Gatepost, count: usize) {
    let client = client(gatepost, "admin").await;
    for number in 0..count {
        client.call("echo", json!({"text": format!("hello {number}")})).await.unwrap();
    }
}

/// The live gateway's status, from its admin socket.
pub fn stats(setup: &Setup) -> Value {
    serde_json::from_str(&outbox_succeeds(setup, &["stats", "--json"])).unwrap()
}

/// Waits until the live gateway has delivered everything.
pub fn delivered(setup: &Setup) {
    until("all is delivered", SOON, || {
        let stats = stats(setup);
        stats["live"]["delivered"] == stats["live"]["last_seq"]
    });
}

/// Records with every status that a caller can cause at once, and a clean end.
async fn first_epoch(setup: &Setup) {
    let gatepost = setup.start();
    calls(&gatepost, 4).await;
    client(&gatepost, "echo").await.call("add", json!({"a": 1, "b": 2})).await.unwrap();
    let admin = client(&gatepost, "admin").await;
    admin.call("fail", json!({"message": "no"})).await.unwrap();
    admin.call("nosuch", json!({})).await.unwrap();
    let url = format!("{}/mcp/example", gatepost.url());
    Client::unconnected(&url, Era::Modern, Some("rubbish")).call("echo", json!({"text": "x"})).await.unwrap();
    delivered(setup);
    assert_eq!(gatepost.terminate(), Some(0));
}

async fn closed(setup: &Setup) {
    let gatepost = setup.start();
    calls(&gatepost, 5).await;
    delivered(setup);
    assert_eq!(gatepost.terminate(), Some(0));
}

async fn killed(setup: &Setup, with_open_call: bool) {
    let gatepost = setup.start();
    calls(&gatepost, 4).await;
    delivered(setup);
    if with_open_call {
        let client = client(&gatepost, "admin").await;
        tokio::spawn(async move { client.call("sleep", json!({"ms": 60_000})).await });
        until_async("the call is open", SOON, || async { stats(setup)["intents"] == 1 }).await;
    }
    assert_eq!(gatepost.end(Signal::SIGKILL), None);
}

/// Two records that Postgres refuses, between others.
async fn quarantined(setup: &Setup, pool: &PgPool) {
    let check = "ALTER TABLE audit_log ADD CONSTRAINT no_poison CHECK (request_args::text NOT LIKE '%poison%')";
    sqlx::query(check).execute(pool).await.unwrap();
    let gatepost = setup.start();
    let admin = client(&gatepost, "admin").await;
    for text in ["one", "poison one", "two", "poison two", "three"] {
        admin.call("echo", json!({"text": text})).await.unwrap();
    }
    delivered(setup);
    assert_eq!(gatepost.terminate(), Some(0));
    sqlx::query("ALTER TABLE audit_log DROP CONSTRAINT no_poison").execute(pool).await.unwrap();
}

/// An epoch that is not delivered when it is killed, and of which a bit then flips.
async fn rotten(setup: &mut Setup, database: &Database) {
    setup.set("postgres.url", NOWHERE);
    let gatepost = setup.start();
    let admin = client(&gatepost, "admin").await;
    for number in 0..4 {
        admin.call("echo", json!({"text": format!("rots here {number}")})).await.unwrap();
    }
    assert_eq!(gatepost.end(Signal::SIGKILL), None);
    let flipped: usize = outbox_files(&setup.audit_dir()).iter().map(|file| flip(file, b"rots here 1")).sum();
    assert!(flipped > 0, "the record is in the outbox");
    setup.set("postgres.url", &database.url);
}

fn outbox_files(dir: &Path) -> Vec<PathBuf> {
    let files = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "redb")).collect()
}

/// Flips a bit in each place of the file that has `needle`.
fn flip(file: &Path, needle: &[u8]) -> usize {
    let mut bytes = fs::read(file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len().saturating_sub(needle.len())).filter(|at| bytes[*at..].starts_with(needle)).collect();
    for at in &places {
        bytes[*at] ^= 1;
    }
    fs::write(file, bytes).unwrap();
    places.len()
}
