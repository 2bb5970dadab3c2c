//! `gatepost audit retire` of a gateway that signs checkpoints: what an anchor must have confirmed, and what is kept so
//! that the other records can be proven.

use std::fs;

use gatepost::audit::record::{Epoch, GatewayId};
use gatepost::audit::sink::postgres;
use gatepost::audit::tree::Tree;
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::policy::Policy;
use gatepost::evidence::proof::LogProof;
use gatepost::evidence::tree::{Edge, Hash, KnownNodes, TreeHead};
use gatepost::notary::Signer;
use gatepost::ops::export_line::parse_export_line;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::common::gatepost::Setup;
use crate::common::made_stream::{MadeStream, month, month_name};
use crate::common::postgres::{Cluster, Database};
use crate::run::run;

const ORIGIN: &str = "example.com/gatepost";

/// The smallest index that is kept: the calls that arrived in the first month and ended before it are retired.
const FIRST_KEPT: usize = 11;

/// The indexes of calls that arrived in the first month and ended after a kept one.
const LATE: [usize; 2] = [12, 14];

/// A stream over two months, its tree and its signing key.
struct Drill {
    database: Database,
    setup: Setup,
    stream: MadeStream,
    secret: String,
    owner: PgConnection,
}

impl Drill {
    async fn new() -> Self {
        let database = Cluster::shared().create_database().await;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        postgres::migrate(&mut owner).await.unwrap();
        sqlx::query("SELECT gatepost_partitions($1, 3)").bind(month(3)).execute(&mut owner).await.unwrap();
        let day = std::time::Duration::from_hours(24);
        let mut stream = MadeStream::open(GatewayId(Uuid::from_u128(0x17)), None, month(2) - day);
        stream.calls(FIRST_KEPT - 1, month(2) - day / 2);
        for index in FIRST_KEPT..30 {
            stream.call(if LATE.contains(&index) { month(2) - day / 8 } else { month(2) + day });
        }
        stream.deliver(&database.url).await;
        let mut setup = Setup::new();
        setup.set("postgres.url", &database.url);
        let (_, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
        Self { database, setup, stream, secret: secret.to_string(), owner }
    }

    /// A signed checkpoint over the first records, as if it was stored at the end of so many months before this one,
    /// and so many hours later.
    async fn checkpoint(&mut self, size: usize, before: u32, hours: u64) {
        let mut tree = Tree::begin(Epoch(1));
        self.stream.records.iter().take(size).for_each(|record| tree.push(&record.position));
        let head = TreeHead { size: tree.size(), root: tree.root() };
        let signer = Signer::new(ORIGIN, vec![self.secret.clone().into()]);
        let note = signer.sign(self.stream.gateway_id, Epoch(1), head).await.unwrap();
        let edge: Vec<u8> = tree.edge().hashes().iter().flat_map(|hash| hash.0).collect();
        let size = i64::try_from(size).unwrap();
        let stored_at = month(before) + std::time::Duration::from_hours(hours);
        sqlx::query("INSERT INTO audit_checkpoint VALUES ($1, 1, $2, 1, $2, $3, $4, $5, $6)")
            .bind(self.stream.gateway_id.0)
            .bind(size)
            .bind(&head.root.0[..])
            .bind(edge)
            .bind(note)
            .bind(stored_at)
            .execute(&mut self.owner)
            .await
            .unwrap();
    }

    async fn anchor(&mut self, size: i64, name: &str, kind: &str) {
        let sql = "INSERT INTO audit_anchor VALUES ($1, 1, $2, $3, $4, '', now(), '', now())";
        let insert = sqlx::query(sql).bind(self.stream.gateway_id.0).bind(size).bind(name).bind(kind);
        insert.execute(&mut self.owner).await.unwrap();
    }

    async fn sizes(&mut self, table: &str) -> Vec<i64> {
        let sql = format!("SELECT size FROM {table} ORDER BY size");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.owner).await.unwrap()
    }

    fn retire(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let heads = self.setup.dir().join("heads");
        let (code, stdout, _) = run(&self.setup, &["audit", "heads"]);
        assert_eq!(code, Some(0));
        fs::write(&heads, stdout).unwrap();
        let (heads, journal) = (heads.display().to_string(), self.setup.dir().join("journal").display().to_string());
        let month = month_name(2);
        let args = ["audit", "retire", "--before", &month, "--heads", &heads, "--journal", &journal, "--reason", "old"];
        run(&self.setup, &[&args[..], &["--without-export"], more].concat())
    }

    /// Proves the record at an index, and checks the proof.
    fn prove(&self, index: usize) {
        let record = &self.stream.records[index];
        let (dir, id) = (TempDir::new().unwrap(), record.entry.call.request_id.to_string());
        let out = dir.path().to_str().unwrap();
        let (code, _, stderr) = run(&self.setup, &["audit", "prove", &id, "--unwitnessed", "--output", out]);
        assert_eq!(code, Some(0), "{index}: {stderr}");
        let read = |end: &str| fs::read_to_string(dir.path().join(format!("{id}.{end}"))).unwrap();
        let shown = parse_export_line(read("json").trim_end()).unwrap();
        let name = format!("{ORIGIN}/{}", self.stream.gateway_id);
        let key = SigningKey::parse_named(&self.secret, &name).unwrap();
        let policy = Policy::parse(format!("log {}\nquorum none\n", key.verifier()).as_bytes()).unwrap();
        let proof = LogProof::parse(read("tlog-proof").as_bytes()).unwrap();
        proof.verify(&shown.position.hash.0, &policy).unwrap();
        assert_eq!(proof.index, index as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_confirmed_records_are_retired_and_the_kept_ones_are_still_proven() {
    let mut drill = Drill::new().await;
    for (size, before, hours) in
        [(1, 3, 1), (2, 3, 1), (3, 3, 1), (4, 3, 1), (7, 3, 2), (9, 3, 2), (13, 2, 1), (20, 2, 2), (30, 2, 3)]
    {
        drill.checkpoint(size, before, hours).await;
    }
    // In one hour, a time stamp, a witness that signed twice, and a command that confirmed the largest one.
    for (size, name, kind) in [(1, "tsa", "tsa"), (2, "w1", "witness"), (3, "w1", "witness"), (4, "git", "command")] {
        drill.anchor(size, name, kind).await;
    }
    drill.anchor(13, "w1", "witness").await;
    let (code, _, stderr) = drill.retire(&[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("over record 1/15") && stderr.contains("is confirmed: 1/13"), "{stderr}");
    assert!(stderr.contains("--unanchored"), "{stderr}");
    let (code, stdout, stderr) = drill.retire(&["--unanchored", "--dry-run"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(drill.sizes("audit_checkpoint").await.len(), 9, "nothing was changed");
    drill.anchor(20, "git", "command").await;
    let (code, stdout, stderr) = drill.retire(&[]);
    assert!(code == Some(0) && stdout.contains("13 records of 1 stream"), "{stdout}{stderr}");
    // Of each hour of the retired month the last one of each anchor is kept, or else the last one; all of this month.
    assert_eq!(drill.sizes("audit_checkpoint").await, [1, 3, 4, 9, 13, 20, 30]);
    assert_eq!(drill.sizes("audit_anchor").await, [1, 3, 4, 13, 20]);
    let kept: Vec<i64> = sqlx::query_scalar("SELECT seq FROM audit_retired_hash ORDER BY seq")
        .fetch_all(&mut drill.owner)
        .await
        .unwrap();
    assert_eq!(kept, [10, 11, 13, 15], "those after the last checkpoint without a kept record");
    for index in (FIRST_KEPT..30).filter(|index| !LATE.contains(index)) {
        drill.prove(index);
    }
    let id = drill.stream.records[3].entry.call.request_id.to_string();
    let (code, _, stderr) = run(&drill.setup, &["audit", "prove", &id, "--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("no record"), "{stderr}");
    let _database = &drill.database;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_away_can_continue_after_the_retirement() {
    let mut drill = Drill::new().await;
    for (size, before, hours) in [(4, 3, 1), (5, 3, 1), (9, 3, 2), (20, 2, 2), (30, 2, 3)] {
        drill.checkpoint(size, before, hours).await;
    }
    for (size, name) in [(4, "w2"), (5, "w1"), (20, "w1"), (30, "w1")] {
        drill.anchor(size, name, "witness").await;
    }
    let (code, stdout, stderr) = drill.retire(&[]);
    assert!(code == Some(0) && stdout.contains("13 records of 1 stream"), "{stdout}{stderr}");
    let sql = "SELECT base_size, base_edge, hashes FROM gatepost_hashes($1, 1, 4, NULL, NULL)";
    let known = sqlx::query_as(sql).bind(drill.stream.gateway_id.0).fetch_one(&mut drill.owner).await;
    let (size, edge, hashes): (i64, Vec<u8>, Vec<Vec<u8>>) = known.unwrap();
    assert_eq!(size, 4);
    let edge = edge.as_chunks::<32>().0.iter().map(|hash| Hash(*hash)).collect();
    // The hashes of the records 5 to 30, of which the first ones are retired, lead from the edge to the signed root.
    let hashes = hashes.into_iter().take(26).map(|hash| hash.try_into().unwrap()).collect();
    let nodes = KnownNodes::new(Edge::from_hashes(4, edge).unwrap(), hashes);
    let mut tree = Tree::begin(Epoch(1));
    drill.stream.records.iter().take(30).for_each(|record| tree.push(&record.position));
    assert_eq!(nodes.whole_edge().root(), tree.root());
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_evidence_needs_confirmation_of_each_gateway() {
    let mut drill = Drill::new().await;
    let (code, stdout, stderr) = drill.retire(&["--dry-run"]);
    assert!(code == Some(0), "nothing is signed: {stdout}{stderr}");
    let key_file = drill.setup.dir().join("log.key").display().to_string();
    drill.setup.set("evidence.origin", ORIGIN).set("evidence.key_file", &key_file);
    let (code, _, stderr) = drill.retire(&["--dry-run"]);
    assert!(code == Some(1) && stderr.contains("is confirmed: none"), "{stderr}");
    let (code, stdout, stderr) = drill.retire(&["--unanchored"]);
    assert!(code == Some(0) && stdout.contains("13 records"), "{stdout}{stderr}");
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_retired_hash").fetch_one(&mut drill.owner).await.unwrap();
    assert_eq!(kept, 0, "without checkpoints nothing can be proven");
}
