//! Signed checkpoints of running gateways, as those see them who have only the database, or only a proof.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gatepost::accept::{AcceptFailures, CountedListener};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::connections::serve_router;
use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::policy::Policy;
use gatepost::evidence::proof::{LogProof, ProofError};
use gatepost::evidence::tree::Edge;
use gatepost::ops::export_line::parse_export_line;
use gatepost::witness::Witness;
use gatepost::witness::server::router;
use gatepost::witness::store::Store;
use nix::sys::signal::Signal;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::command;
use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::mcp::Era;
use crate::common::postgres::{Cluster, Database};
use crate::common::python::python_program;
use crate::common::wait::{SOON, until_async};
use crate::run::run;

pub const ORIGIN: &str = "example.com/gatepost";

/// A gateway that signs, and its database.
pub struct Signing {
    pub setup: Setup,
    pub database: Database,
    pub pool: PgPool,
    pub secret: String,
}

/// A checkpoint in the database.
pub struct Stored {
    pub gateway: Uuid,
    pub log: i64,
    pub size: i64,
    pub epoch: i64,
    pub root: Vec<u8>,
    pub note: String,
}

impl Signing {
    pub async fn new() -> Self {
        let mut signing = Self::without_key().await;
        let key_file = signing.setup.dir().join("log.key");
        write_secret(&key_file, format!("{}\n", signing.secret));
        signing.setup.set("evidence.key_file", &key_file.display().to_string());
        signing
    }

    /// The same, whose configuration names no key.
    pub async fn without_key() -> Self {
        let database = Cluster::shared().create_database().await;
        let pool = database.pool().await;
        let mut setup = Setup::new();
        let (_, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
        setup.set("postgres.url", &database.url).set("evidence.origin", ORIGIN).set("evidence.interval", "1s");
        Self { setup, database, pool, secret: secret.to_string() }
    }

    pub async fn call(&self, gatepost: &Gatepost, count: usize) {
        let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
        for _ in 0..count {
            client.call("echo", json!({ "text": "signed" })).await.unwrap();
        }
    }

    pub async fn checkpoints(&self) -> Vec<Stored> {
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

    /// Waits until a record is delivered.
    pub async fn all_delivered(&self) {
        until_async("a record is delivered", SOON, async || {
            sqlx::query_scalar("SELECT count(*) > 0 FROM audit_log").fetch_one(&self.pool).await.unwrap_or(false)
        })
        .await;
    }

    /// Waits until a checkpoint covers all records that are delivered now.
    pub async fn all_signed(&self) {
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

    pub fn stop(&self, gatepost: Gatepost) {
        assert_eq!(gatepost.terminate(), Some(0), "{}", self.setup.log());
    }
}

pub fn copy(from: &Path, to: &Path) {
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
    check_roots(&checkpoints, &hashes);
    signing.verify_notes(&checkpoints);
}

/// Computes the roots of the checkpoints of one log again, whose records have these hashes.
fn check_roots<'a>(checkpoints: impl IntoIterator<Item = &'a Stored>, hashes: &[[u8; 32]]) {
    for checkpoint in checkpoints {
        let mut edge = Edge::default();
        let covered = hashes.iter().take(usize::try_from(checkpoint.size).unwrap());
        covered.for_each(|hash| edge.push(hash, |_, _, _| {}).unwrap());
        assert_eq!(edge.root().0.to_vec(), checkpoint.root, "{}", checkpoint.note);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_queued_what_is_delivered_is_signed_and_a_crash_ends_the_log() {
    let mut signing = Signing::new().await;
    signing.setup.set("audit.level", "queued");
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
    let (checkpoints, second) = (signing.checkpoints().await, signing.hashes(2).await);
    let of_log = |log| checkpoints.iter().filter(move |checkpoint| checkpoint.log == log);
    check_roots(of_log(1), &signing.hashes(1).await);
    check_roots(of_log(2), &second);
    assert!(of_log(1).next_back().unwrap().size >= 6, "the opening record and the calls");
    assert_eq!(
        of_log(2).next_back().unwrap().size,
        i64::try_from(second.len()).unwrap(),
        "the last record is signed too"
    );
    assert_eq!(checkpoints.last().unwrap().log, 2, "a clean stop does not end a log");
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
    sqlx::query("UPDATE audit_log SET client_subject = 'bob' WHERE request_id = $1")
        .bind(id)
        .execute(&signing.pool)
        .await
        .unwrap();
    let (code, _, stderr) = prove(&["--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("is not that of its contents"), "{stderr}");
    let back = "UPDATE audit_log SET client_subject = $2 WHERE request_id = $1";
    sqlx::query(back).bind(id).bind(&record.entry.call.client_subject[..]).execute(&signing.pool).await.unwrap();
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

/// A witness in this process, at one address whether it runs or not.
pub struct Witnessing {
    dir: tempfile::TempDir,
    pub secret: String,
    pub log: VerifierKey,
    /// Further logs, or keys of the log.
    pub others: Vec<VerifierKey>,
    address: SocketAddr,
    pub stop: CancellationToken,
}

impl Witnessing {
    /// A witness of the log of `gateway`, which does not run yet. The gateway is told to use it.
    pub fn of(signing: &mut Signing, gateway: Uuid) -> Self {
        let (key, secret) = SigningKey::generate("witness.example/w1", SignatureType::CosignatureEd25519).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Store::create(&DiskFs, dir.path(), &[key.verifier()]).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let witnesses = format!("[{{ url = \"http://{address}\", key = \"{}\" }}]", key.verifier());
        signing.setup.set("audit.gateway_id", &gateway.to_string()).set_toml("evidence.witnesses", &witnesses);
        let log = SigningKey::parse_named(&signing.secret, &format!("{ORIGIN}/{gateway}")).unwrap();
        let (secret, log, others) = (secret.to_string(), log.verifier().clone(), Vec::new());
        Self { dir, secret, log, others, address, stop: CancellationToken::new() }
    }

    pub async fn start(&mut self) {
        self.stop = CancellationToken::new();
        let key = SigningKey::parse(&self.secret).unwrap();
        let store = Store::open(Arc::new(DiskFs), self.dir.path(), &[key.verifier()]).unwrap();
        let logs = [&[self.log.clone()][..], &self.others].concat();
        let witness = Arc::new(Witness::new(vec![key], logs, store));
        // An earlier one may not have ended yet.
        let listener = loop {
            match tokio::net::TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let listener = CountedListener { listener, failures: AcceptFailures::default() };
        tokio::spawn(serve_router(listener, router(witness), 16, self.stop.clone()));
    }

    /// Waits until nothing answers at its address any more.
    pub async fn stopped(&self) {
        until_async("the witness does not answer", SOON, async || {
            tokio::net::TcpStream::connect(self.address).await.is_err()
        })
        .await;
    }

    /// Those who trust the log's key, and need this witness.
    fn policy(&self) -> Policy {
        let key = SigningKey::parse(&self.secret).unwrap();
        let text = format!("log {}\nwitness w1 {}\nquorum w1\n", self.log, key.verifier());
        Policy::parse(text.as_bytes()).unwrap()
    }
}

impl Signing {
    /// Waits until the witness has signed a checkpoint that covers all records that are delivered now.
    pub async fn all_witnessed(&self) {
        let sql = "SELECT coalesce(bool_and(EXISTS (SELECT FROM audit_checkpoint c JOIN audit_anchor a
            USING (gateway_id, log, size) WHERE c.gateway_id = s.gateway_id
            AND (c.epoch, c.seq) >= (s.epoch, s.delivered_seq))), false) FROM audit_stream s";
        until_async("the witness signed a checkpoint over all records", SOON, async || {
            sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap_or(false)
        })
        .await;
    }
}

pub fn is_raised(gatepost: &Gatepost, alarm: &str) -> bool {
    gatepost.get_ops("/metrics").1.contains(&format!("gatepost_alarm{{alarm=\"{alarm}\"}} 1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_signs_what_continues_and_proofs_need_it() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(77));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 5).await;
    signing.all_witnessed().await;
    // Killed with records that no checkpoint covers: the proof to the witness needs hashes that only Postgres has.
    signing.call(&gatepost, 5).await;
    gatepost.end(Signal::SIGKILL);
    let gatepost = signing.setup.start();
    signing.all_witnessed().await;
    signing.stop(gatepost);
    let id: Uuid = sqlx::query_scalar("SELECT request_id FROM audit_log WHERE tool_name = 'echo' ORDER BY seq LIMIT 1")
        .fetch_one(&signing.pool)
        .await
        .unwrap();
    let (id, out) = (id.to_string(), signing.setup.dir().display().to_string());
    let (code, stdout, stderr) = run(&signing.setup, &["audit", "prove", &id, "--output", &out]);
    assert!(code == Some(0) && stdout.contains("the signatures of the log and witness.example/w1"), "{stdout}{stderr}");
    let read = |end: &str| fs::read_to_string(signing.setup.dir().join(format!("{id}.{end}"))).unwrap();
    let record = parse_export_line(read("json").trim_end()).unwrap();
    let proof = LogProof::parse(read("tlog-proof").as_bytes()).unwrap();
    let policy = witnessing.policy();
    let checked = proof.verify(&record.position.hash.0, &policy).unwrap();
    assert_eq!(checked.witnesses.len(), 1);
    assert!(proof.verify(&[0; 32], &policy).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_until_a_witness_answers_and_calls_continue() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(78));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    let gatepost = signing.setup.start();
    until_async("the alarm is raised", SOON, async || is_raised(&gatepost, "evidence_unsigned")).await;
    signing.call(&gatepost, 3).await;
    assert_eq!(signing.checkpoints().await.len(), 0);
    witnessing.start().await;
    signing.all_witnessed().await;
    until_async("the alarm is cleared", SOON, async || !is_raised(&gatepost, "evidence_unsigned")).await;
    // Once it has answered, its outage does not end the signing, and it catches up.
    witnessing.stop.cancel();
    signing.call(&gatepost, 3).await;
    signing.all_signed().await;
    witnessing.start().await;
    signing.call(&gatepost, 3).await;
    signing.all_witnessed().await;
    signing.stop(gatepost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_tells_that_outbox_and_database_were_set_back() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(79));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    signing.all_witnessed().await;
    signing.stop(gatepost);
    let (dir, older) = (signing.setup.audit_dir(), signing.setup.dir().join("older"));
    copy(&dir, &older);
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 4).await;
    signing.all_witnessed().await;
    signing.stop(gatepost);
    // An attacker who owns machine and database makes both forget the last epoch.
    fs::remove_dir_all(&dir).unwrap();
    copy(&older, &dir);
    for table in ["audit_log", "audit_stream", "audit_checkpoint"] {
        let delete = format!("DELETE FROM {table} WHERE epoch = 2");
        sqlx::query(sqlx::AssertSqlSafe(delete)).execute(&signing.pool).await.unwrap();
    }
    let kept = signing.checkpoints().await.len();
    let gatepost = signing.setup.start();
    until_async("the alarm is raised", SOON, async || is_raised(&gatepost, "evidence_fork")).await;
    signing.setup.wait_for_log("witness.example/w1 has a checkpoint of");
    signing.call(&gatepost, 4).await;
    signing.stop(gatepost);
    assert_eq!(signing.checkpoints().await.len(), kept, "nothing is signed");
}

/// What the verifier says that knows only the specification: its exit code and its output.
pub fn verifier(dir: &Path, policy: &str, record: &str, proof: &str) -> (Option<i32>, String) {
    let files = [("policy", policy), ("record.json", record), ("record.tlog-proof", proof)];
    let mut command = Command::new(python_program("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("verify/gatepost_verify.py"));
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text)
}

/// The same value of a column, changed.
fn changed(value: &Value) -> Value {
    match value {
        Value::Null => json!("x"),
        Value::Number(number) => json!(number.as_f64().unwrap() + 1.0),
        // Another digit, also of a UUID or a time.
        Value::String(text) => match text.find(|c: char| c.is_ascii_digit()) {
            Some(at) => {
                let digit = if &text[at..=at] == "1" { "2" } else { "1" };
                json!(format!("{}{digit}{}", &text[..at], &text[at + 1..]))
            }
            None => json!(format!("{text}x")),
        },
        other => json!([other]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_independent_verifier_needs_no_gatepost_and_notices_every_change() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(80));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 7).await;
    signing.all_witnessed().await;
    signing.stop(gatepost);
    let sql = "SELECT request_id FROM audit_log WHERE tool_name = 'echo' ORDER BY seq LIMIT 1 OFFSET 3";
    let id: Uuid = sqlx::query_scalar(sql).fetch_one(&signing.pool).await.unwrap();
    let out = signing.setup.dir().display().to_string();
    let (code, _, stderr) = run(&signing.setup, &["audit", "prove", &id.to_string(), "--output", &out]);
    assert_eq!(code, Some(0), "{stderr}");
    let read = |end: &str| fs::read_to_string(signing.setup.dir().join(format!("{id}.{end}"))).unwrap();
    let (record, proof) = (read("json"), read("tlog-proof"));
    let key = SigningKey::parse(&witnessing.secret).unwrap();
    let policy = format!("log {}\nwitness w1 {}\nquorum w1\n", witnessing.log, key.verifier());
    let dir = tempfile::tempdir().unwrap();
    let check = |policy: &str, record: &str, proof: &str| verifier(dir.path(), policy, record, proof);
    let (code, said) = check(&policy, &record, &proof);
    assert!(code == Some(0) && said.contains("signed by the witness w1 at 20"), "{said}");
    assert!(said.starts_with(&format!("proven: record {} (from 0)", proof_index(&proof))), "{said}");
    // Every column but the hash itself, which the verifier computes.
    let columns: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&record).unwrap();
    assert_eq!(columns.len(), 39);
    for (name, raw) in columns.iter().filter(|(name, _)| *name != "hash") {
        let part = format!("\"{name}\":{raw}");
        let value = changed(&serde_json::from_str(raw.get()).unwrap());
        let other = record.replacen(&part, &format!("\"{name}\":{value}"), 1);
        assert_ne!(other, record, "{part}");
        let (code, said) = check(&policy, &other, &proof);
        assert!(code == Some(1) && said.starts_with("not proven"), "{name}: {said}");
    }
    // What no hash covers may not show anything else either.
    let args = columns["request_args"].to_string();
    let exact = |shown: &str| {
        let exact = format!(",\"request_args_exact\":{}}}\n", json!(args));
        record
            .replacen(&format!("\"request_args\":{args}"), &format!("\"request_args\":{shown}"), 1)
            .replacen("}\n", &exact, 1)
    };
    let (code, said) = check(&policy, &exact(&args), &proof);
    assert_eq!(code, Some(0), "{said}");
    for (what, record) in [
        ("another text", exact("{\"text\":\"other\"}")),
        ("unknown member", record.replacen("}\n", ",\"approved_by\":\"me\"}\n", 1)),
        ("two records", format!("{record}{record}")),
        ("member twice", record.replacen('{', "{\"seq\":1,", 1)),
    ] {
        let (code, said) = check(&policy, &record, &proof);
        assert!(code == Some(1) && said.starts_with("not proven"), "{what}: {said}");
    }
    let index = proof_index(&proof);
    let stranger = SigningKey::generate("witness.example/w1", SignatureType::CosignatureEd25519).unwrap().0;
    for (what, policy, proof) in [
        ("index", policy.clone(), proof.replacen(&format!("index {index}"), &format!("index {}", index + 1), 1)),
        ("hash", policy.clone(), drop_line(&proof, 2)),
        ("size", policy.clone(), proof.replacen(&format!("{gateway}\n"), &format!("{gateway}\n1"), 1)),
        ("witness", policy.clone(), drop_last_line(&proof)),
        ("other witness", policy.replace(&key.verifier().to_string(), &stranger.verifier().to_string()), proof.clone()),
        ("no log", drop_line(&policy, 0), proof.clone()),
        ("empty", policy.clone(), String::new()),
        ("index with a sign", policy.clone(), proof.replacen("index ", "index +", 1)),
        ("hidden quorum", policy.replacen("quorum w1", "# \u{2028}quorum none\nquorum w1", 1), proof.clone()),
        ("two quorums", format!("{policy}quorum none\n"), proof.clone()),
        ("group of none", policy.replacen("quorum w1", "group g 0 w1\nquorum g", 1), proof.clone()),
        ("member twice", policy.replacen("quorum w1", "group g 2 w1 w1\nquorum g", 1), proof.clone()),
        ("log as witness", format!("log {0}\nwitness w1 {0}\nquorum w1\n", witnessing.log), proof.clone()),
    ] {
        let (code, said) = check(&policy, &record, &proof);
        assert!(code == Some(1) && said.starts_with("not proven"), "{what}: {said}");
    }
}

fn proof_index(proof: &str) -> u64 {
    proof.lines().nth(1).unwrap().strip_prefix("index ").unwrap().parse().unwrap()
}

pub fn drop_line(text: &str, at: usize) -> String {
    text.split_inclusive('\n').enumerate().filter(|(idx, _)| *idx != at).map(|(_, line)| line).collect()
}

fn drop_last_line(text: &str) -> String {
    drop_line(text, text.lines().count() - 1)
}
