//! Signed checkpoints of running gateways, as those see them who have only the database, or only a proof.

use std::fs;
use std::path::Path;
use std::process::Command;

use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::policy::Policy;
use gatepost::evidence::proof::{LogProof, ProofError};
use gatepost::evidence::tree::Edge;
use gatepost::ops::export_line::parse_export_line;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::common::command;
use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::mcp::Era;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::run::run;

const ORIGIN: &str = "example.com/gatepost";

/// A gateway that signs, and its database.
struct Signing {
    setup: Setup,
    _database: Database,
    pool: PgPool,
    secret: String,
}

/// A checkpoint in the database.
struct Stored {
    gateway: Uuid,
    log: i64,
    size: i64,
    epoch: i64,
    root: Vec<u8>,
    note: String,
}

impl Signing {
    async fn new() -> Self {
        let database = Cluster::shared().create_database().await;
        let pool = database.pool().await;
        let mut setup = Setup::new();
        let (_, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
        write_secret(&setup.dir().join("log.key"), format!("{}\n", *secret));
        let key_file = setup.dir().join("log.key").display().to_string();
        setup.set("postgres.url", &database.url).set("evidence.origin", ORIGIN).set("evidence.key_file", &key_file);
        setup.set("evidence.interval", "1s");
        Self { setup, _database: database, pool, secret: secret.to_string() }
    }

    async fn call(&self, gatepost: &Gatepost, count: usize) {
        let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
        for _ in 0..count {
            client.call("echo", json!({ "text": "signed" })).await.unwrap();
        }
    }

    async fn checkpoints(&self) -> Vec<Stored> {
        let sql = "SELECT gateway_id, log, size, epoch, root, note FROM audit_checkpoint ORDER BY log, size";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await.unwrap();
        let checkpoint = |row: sqlx::postgres::PgRow| Stored {
            gateway: row.get(0),
            log: row.get(1),
            size: row.get(2),
            epoch: row.get(3),
            root: row.get(4),
            note: row.get(5),
        };
        rows.into_iter().map(checkpoint).collect()
    }

    /// Waits until a checkpoint covers all records that are delivered now.
    async fn all_signed(&self) {
        let sql = "SELECT coalesce(bool_and(EXISTS (SELECT FROM audit_checkpoint c WHERE c.gateway_id = s.gateway_id
            AND (c.epoch, c.seq) >= (s.epoch, s.delivered_seq))), false) FROM audit_stream s";
        until_async("a checkpoint covers all records", SOON, async || {
            sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap_or(false)
        })
        .await;
    }

    /// The hashes of the records from `epoch` on, as anyone reads them.
    async fn hashes(&self, from: i64) -> Vec<[u8; 32]> {
        let sql = "SELECT hash FROM audit_log WHERE epoch >= $1 ORDER BY epoch, seq";
        let hashes: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(from).fetch_all(&self.pool).await.unwrap();
        hashes.into_iter().map(|hash| hash.try_into().unwrap()).collect()
    }

    /// The policy of those who trust the log's key and need no witness.
    fn policy(&self, name: &str) -> Policy {
        let key = SigningKey::parse_named(&self.secret, name).unwrap();
        Policy::parse(format!("log {}\nquorum none\n", key.verifier()).as_bytes()).unwrap()
    }

    fn verify_notes(&self, checkpoints: &[Stored]) {
        for Stored { gateway, log, note, .. } in checkpoints {
            let name = if *log == 1 { format!("{ORIGIN}/{gateway}") } else { format!("{ORIGIN}/{gateway}/{log}") };
            let policy = self.policy(&name);
            assert!(policy.check(&Note::parse(note.as_bytes()).unwrap()).is_ok(), "{note}");
        }
    }

    fn stop(&self, gatepost: Gatepost) {
        assert_eq!(gatepost.terminate(), Some(0), "{}", self.setup.log());
    }
}

fn copy(from: &Path, to: &Path) {
    command::run(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checkpoint_is_recomputed_from_the_table_alone_across_crashes_and_restarts() {
    let signing = Signing::new().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 5).await;
    signing.all_signed().await;
    gatepost.end(Signal::SIGKILL);
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 3).await;
    signing.stop(gatepost);
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 1).await;
    signing.stop(gatepost);
    let (checkpoints, hashes) = (signing.checkpoints().await, signing.hashes(1).await);
    assert_eq!(checkpoints.last().unwrap().size, i64::try_from(hashes.len()).unwrap(), "the last record is signed too");
    assert_eq!(checkpoints.iter().map(|checkpoint| checkpoint.log).max(), Some(1), "the log outlives a crash");
    assert_eq!(checkpoints.last().unwrap().epoch, 3);
    for checkpoint in &checkpoints {
        let mut edge = Edge::default();
        let covered = hashes.iter().take(usize::try_from(checkpoint.size).unwrap());
        covered.for_each(|hash| edge.push(hash, |_, _, _| {}).unwrap());
        assert_eq!(edge.root().0.to_vec(), checkpoint.root, "{}", checkpoint.note);
    }
    signing.verify_notes(&checkpoints);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_proven_without_the_others_and_a_changed_trail_proves_nothing() {
    let signing = Signing::new().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 20).await;
    signing.all_signed().await;
    signing.stop(gatepost);
    let sql = "SELECT request_id, gateway_id FROM audit_log WHERE tool_name = 'echo' ORDER BY seq";
    let rows = sqlx::query(sql).fetch_all(&signing.pool).await.unwrap();
    let (id, gateway): (Uuid, Uuid) = (rows[7].get(0), rows[7].get(1));
    let out = signing.setup.dir().join("proofs");
    fs::create_dir(&out).unwrap();
    let prove = |more: &[&str]| {
        let (id, out) = (id.to_string(), out.display().to_string());
        run(&signing.setup, &[&["audit", "prove", &id, "--output", &out], more].concat())
    };
    let (code, _, stderr) = prove(&[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("signed by its gateway only") && stderr.contains("--unwitnessed"), "{stderr}");
    let (code, stdout, stderr) = prove(&["--unwitnessed", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let said: Value = serde_json::from_str(&stdout).unwrap();
    let record = fs::read_to_string(out.join(format!("{id}.json"))).unwrap();
    let proof = fs::read_to_string(out.join(format!("{id}.tlog-proof"))).unwrap();
    let proof = LogProof::parse(proof.as_bytes()).unwrap();
    let record = parse_export_line(record.trim_end()).unwrap();
    let policy = signing.policy(&format!("{ORIGIN}/{gateway}"));
    let checked = proof.verify(&record.position.hash.0, &policy).unwrap();
    assert_eq!(said["index"], proof.index);
    assert_eq!(said["size"], checked.checkpoint.size());
    assert_eq!(proof.index + 1, record.position.seq.0, "it is in the first epoch");
    let mut other = record.position.hash.0;
    other[0] ^= 1;
    assert!(matches!(proof.verify(&other, &policy), Err(ProofError::NotIncluded { .. })));
    let (code, _, stderr) = prove(&["--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("File exists"), "{stderr}");
    fs::remove_dir_all(&out).unwrap();
    fs::create_dir(&out).unwrap();
    // The other records between the checkpoints are changed, with hashes that fit them; then they are removed.
    let change = "UPDATE audit_log SET hash = sha256(hash) WHERE request_id <> $1";
    sqlx::query(change).bind(id).execute(&signing.pool).await.unwrap();
    let (code, _, stderr) = prove(&["--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("do not give the signed root"), "{stderr}");
    sqlx::query("DELETE FROM audit_log WHERE request_id <> $1").bind(id).execute(&signing.pool).await.unwrap();
    let (code, _, stderr) = prove(&["--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("are missing"), "{stderr}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_from_a_copy_signs_nothing_until_a_new_log_begins() {
    let signing = Signing::new().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    signing.stop(gatepost);
    let (dir, older) = (signing.setup.audit_dir(), signing.setup.dir().join("older"));
    copy(&dir, &older);
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    signing.stop(gatepost);
    let signed = signing.checkpoints().await.len();
    // The machine is restored from a snapshot: outbox and memory are those of then.
    fs::remove_dir_all(&dir).unwrap();
    copy(&older, &dir);
    let gatepost = signing.setup.start();
    let is_raised = async || gatepost.get_ops("/metrics").1.contains("gatepost_alarm{alarm=\"evidence_fork\"} 1");
    until_async("the alarm is raised", SOON, is_raised).await;
    signing.call(&gatepost, 2).await;
    signing.stop(gatepost);
    assert_eq!(signing.checkpoints().await.len(), signed, "nothing is signed");
    fs::write(dir.join("new-log"), "").unwrap();
    let gatepost = signing.setup.start();
    until_async("a checkpoint of the new log is stored", SOON, async || signing.checkpoints().await.len() > signed)
        .await;
    let metrics = gatepost.get_ops("/metrics").1;
    assert!(metrics.contains("gatepost_alarm{alarm=\"evidence_fork\"} 0"), "{metrics}");
    gatepost.end(Signal::SIGKILL);
    let gatepost = signing.setup.start();
    until_async("the new log continues", SOON, async || {
        signing.checkpoints().await.last().is_some_and(|checkpoint| checkpoint.epoch > checkpoint.log)
    })
    .await;
    let checkpoints = signing.checkpoints().await;
    assert!(
        checkpoints.iter().all(|checkpoint| checkpoint.log == 1 || checkpoint.log == 3),
        "and no further one begins"
    );
    signing.verify_notes(&checkpoints);
    drop(gatepost);
}
