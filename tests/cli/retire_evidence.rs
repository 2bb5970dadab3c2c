//! `gatepost audit retire` of a gateway that signs checkpoints: what an anchor must have confirmed, and what is kept so
//! that the other records can be proven.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::audit::record::{Epoch, GatewayId};
use gatepost::audit::sink::postgres;
use gatepost::audit::tree::Tree;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::policy::Policy;
use gatepost::evidence::proof::LogProof;
use gatepost::evidence::tree::{Edge, Hash, KnownNodes, TreeHead};
use gatepost::notary::{Signer, TimeStampAnchor};
use gatepost::ops::export_line::parse_export_line;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::common::gatepost::{Setup, write_secret};
use crate::common::made_stream::{MadeStream, month, month_name};
use crate::common::postgres::{Cluster, Database};
use crate::common::s3::{KEY_ID, REGION, SECRET, serve_bucket};
use crate::common::tsa::Tsa;
use crate::run::run;

const ORIGIN: &str = "example.com/gatepost";

/// The smallest index that is kept: the calls that arrived in the first month and ended before it are retired.
const FIRST_KEPT: usize = 11;

/// The indexes of calls that arrived in the first month and ended after a kept one.
const LATE: [usize; 2] = [12, 14];

/// A stream over two months, its tree and its signing key.
pub struct Drill {
    pub database: Database,
    pub setup: Setup,
    pub stream: MadeStream,
    secret: String,
    /// The keys of the witnesses, by name.
    witnesses: BTreeMap<&'static str, String>,
    pub owner: PgConnection,
}

/// The time of a signature.
fn time() -> UnixTime {
    UnixTime::from_seconds(1_795_910_000).unwrap()
}

/// The signature line of a witness over the text of a note.
fn signature(secret: &str, note: &str) -> Vec<u8> {
    let note = Note::parse(note.as_bytes()).unwrap();
    format!("{}\n", sign(&SigningKey::parse(secret).unwrap(), note.text(), time()).unwrap()).into_bytes()
}

impl Drill {
    pub async fn new() -> Self {
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
        let key = |name| SigningKey::generate(name, SignatureType::CosignatureEd25519).unwrap().1.to_string();
        let witnesses = ["w1", "w2", "w9"].map(|name| (name, key(name))).into();
        Self { database, setup, stream, secret: secret.to_string(), witnesses, owner }
    }

    /// Configures the log's key, the witnesses w1 and w2, and a program.
    pub fn configure(&mut self) {
        let key_file = self.setup.dir().join("log.key");
        write_secret(&key_file, format!("{}\n", self.secret));
        self.setup.set("evidence.origin", ORIGIN).set("evidence.key_file", &key_file.display().to_string());
        let witness = |name| {
            let key = SigningKey::parse(&self.witnesses[name]).unwrap();
            format!("{{ url = 'http://127.0.0.1:1', key = '{}' }}", key.verifier())
        };
        self.setup.set_toml("evidence.witnesses", &format!("[{}, {}]", witness("w1"), witness("w2")));
        self.setup.set_toml("evidence.commands", "[{ name = 'git', command = ['true'] }]");
    }

    /// The note of the stored checkpoint of so many records.
    async fn note(&mut self, size: i64) -> String {
        let sql = "SELECT note FROM audit_checkpoint WHERE size = $1";
        sqlx::query_scalar(sql).bind(size).fetch_one(&mut self.owner).await.unwrap()
    }

    /// A signed checkpoint over the first records, as if it was stored at the end of so many months before this one,
    /// and so many hours later.
    pub async fn checkpoint(&mut self, size: usize, before: u32, hours: u64) {
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

    /// A row of an anchor: of a witness with a true signature, of others with no proof.
    pub async fn anchor(&mut self, size: i64, name: &str, kind: &str) {
        let note = self.note(size).await;
        let proof = if kind == "witness" { signature(&self.witnesses[name], &note) } else { Vec::new() };
        self.row(size, (name, kind), &proof).await;
    }

    /// A row of an anchor, whatever it proves.
    async fn row(&mut self, size: i64, (name, kind): (&str, &str), proof: &[u8]) {
        let sql = "INSERT INTO audit_anchor VALUES ($1, 1, $2, $3, $4, $5, now(), $5, now())";
        let insert = sqlx::query(sql).bind(self.stream.gateway_id.0).bind(size).bind(name).bind(kind).bind(proof);
        insert.execute(&mut self.owner).await.unwrap();
    }

    pub async fn sql(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.owner).await.unwrap();
    }

    /// The message with which a dry run is refused, or nothing if it is not.
    fn refusal(&self) -> String {
        let (code, stdout, stderr) = self.retire(&["--dry-run"]);
        assert_eq!(code, Some(i32::from(!stderr.is_empty())), "{stdout}{stderr}");
        stderr
    }

    async fn sizes(&mut self, table: &str) -> Vec<i64> {
        let sql = format!("SELECT size FROM {table} ORDER BY size");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.owner).await.unwrap()
    }

    fn retire(&self, more: &[&str]) -> (Option<i32>, String, String) {
        self.retire_before(2, more)
    }

    /// Retires the records before the month so many months before this one.
    fn retire_before(&self, before: u32, more: &[&str]) -> (Option<i32>, String, String) {
        let heads = self.setup.dir().join("heads");
        let (code, stdout, _) = run(&self.setup, &["audit", "heads"]);
        assert_eq!(code, Some(0));
        fs::write(&heads, stdout).unwrap();
        let (heads, journal) = (heads.display().to_string(), self.setup.dir().join("journal").display().to_string());
        let month = month_name(before);
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
    drill.configure();
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
async fn verify_compares_checkpoints_with_what_two_retirements_left() {
    let mut drill = Drill::new().await;
    drill.configure();
    let day = Duration::from_hours(24);
    drill.stream.calls(10, month(1) + day);
    drill.stream.deliver(&drill.database.url).await;
    for (size, before, hours) in [(9, 3, 2), (13, 2, 1), (20, 2, 2), (30, 2, 3), (40, 1, 48)] {
        drill.checkpoint(size, before, hours).await;
        drill.anchor(i64::try_from(size).unwrap(), "w1", "witness").await;
    }
    let key = |secret: &str| SigningKey::parse(secret).unwrap().verifier().to_string();
    let name = format!("{ORIGIN}/{}", drill.stream.gateway_id);
    let log = SigningKey::parse_named(&drill.secret, &name).unwrap().verifier().to_string();
    let policy = drill.setup.dir().join("policy").display().to_string();
    fs::write(&policy, format!("log {log}\nwitness w1 {}\nquorum w1\n", key(&drill.witnesses["w1"]))).unwrap();
    let heads = drill.setup.dir().join("confirmed").display().to_string();
    // The hashes of the first retirement stay where those of the records between them are gone after the second.
    for (before, runs) in [(2, [10, 11, 13, 15].as_slice()), (1, &[10, 11, 13, 15])] {
        let (code, stdout, stderr) = drill.retire_before(before, &[]);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        let kept: Vec<i64> = sqlx::query_scalar("SELECT seq FROM audit_retired_hash ORDER BY seq")
            .fetch_all(&mut drill.owner)
            .await
            .unwrap();
        assert_eq!(kept, runs);
        fs::write(&heads, run(&drill.setup, &["audit", "heads"]).1).unwrap();
        let (code, stdout, stderr) = run(&drill.setup, &["audit", "verify", "--policy", &policy, "--expect", &heads]);
        assert!(stdout.contains(&format!("proven to index 39 in {name}, witnessed at 20")), "{stdout}{stderr}");
        assert!(code == Some(0) && !stdout.contains("signed root"), "{code:?} {stdout}{stderr}");
    }
    // A kept record that was changed with all that follows from it is still noticed.
    drill.sql("UPDATE audit_log SET hash = sha256('x') WHERE seq = 35").await;
    let (code, stdout, _) = run(&drill.setup, &["audit", "verify", "--policy", &policy, "--expect", &heads]);
    assert!(code == Some(1) && stdout.contains("do not give the root that"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_away_can_continue_after_the_retirement() {
    let mut drill = Drill::new().await;
    drill.configure();
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
    drill.configure();
    let (code, _, stderr) = drill.retire(&["--dry-run"]);
    assert!(code == Some(1) && stderr.contains("is confirmed: none"), "{stderr}");
    let (code, stdout, stderr) = drill.retire(&["--unanchored"]);
    assert!(code == Some(0) && stdout.contains("13 records"), "{stdout}{stderr}");
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_retired_hash").fetch_one(&mut drill.owner).await.unwrap();
    assert_eq!(kept, 0, "without checkpoints nothing can be proven");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_confirmation_is_refused_and_a_true_one_between_forged_ones_counts() {
    let mut drill = Drill::new().await;
    for size in [13, 20, 25, 28, 30] {
        drill.checkpoint(size, 2, 1).await;
    }
    drill.anchor(13, "w1", "witness").await;
    let refusal = drill.refusal();
    assert!(refusal.contains("has no [evidence]") && refusal.contains("--unanchored"), "{refusal}");
    drill.configure();
    // A key that the configuration does not have, under a name that it has, and under one that it does not have.
    let note = drill.note(20).await;
    drill.row(20, ("w2", "witness"), &signature(&drill.witnesses["w9"], &note)).await;
    drill.row(20, ("w9", "witness"), &signature(&drill.witnesses["w9"], &note)).await;
    // The right key, and another tree: that of a smaller checkpoint.
    drill.row(25, ("w1", "witness"), &signature(&drill.witnesses["w1"], &note)).await;
    // The right shape, and another signature.
    let mut forged = SigningKey::parse(&drill.witnesses["w1"]).unwrap().verifier().to_string();
    forged = forged.split('+').nth(1).unwrap().to_owned();
    let bytes = [hex::decode(&forged).unwrap(), time().seconds().to_be_bytes().to_vec(), vec![7; 64]].concat();
    let line = format!("\u{2014} w1 {}\n", BASE64_STANDARD.encode(bytes));
    drill.row(30, ("w1", "witness"), line.as_bytes()).await;
    let refusal = drill.refusal();
    for wanted in [
        "has confirmed a checkpoint over record 1/15",
        "the last one that is confirmed: 1/13",
        "4 rows of audit_anchor refused, find out who wrote them",
        "witness w1 of 30 records: the answer is not signed by the witness: the signature of w1",
        "witness w1 of 25 records: the answer is not signed by the witness: the signature of w1",
        "witness w2 of 20 records: the answer is not signed by the witness: note is not signed by any of the 1 known keys",
        "nothing was retired",
        "--unanchored",
    ] {
        assert!(refusal.contains(wanted), "{wanted}: {refusal}");
    }
    drill.sql("DELETE FROM audit_anchor WHERE size > 20 OR anchor = 'w2'").await;
    let refusal = drill.refusal();
    assert!(refusal.contains("witness w9 of 20 records: the configuration has no anchor of this name"), "{refusal}");
    // A true one, with forged ones below and above it.
    drill.row(30, ("w1", "witness"), line.as_bytes()).await;
    drill.anchor(28, "w2", "witness").await;
    let (code, stdout, stderr) = drill.retire(&[]);
    assert!(code == Some(0) && stdout.contains("13 records of 1 stream"), "{stdout}{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_checkpoint_counts_only_for_records_that_are_in_its_tree() {
    let mut drill = Drill::new().await;
    drill.configure();
    for size in [9, 13, 20] {
        drill.checkpoint(size, 2, 1).await;
    }
    drill.anchor(13, "w1", "witness").await;
    // The row says that it covers more than it does.
    drill.sql("UPDATE audit_checkpoint SET seq = 40 WHERE size = 13").await;
    let refusal = drill.refusal();
    assert!(
        refusal.contains("record 1/15 of gateway") && refusal.contains("checkpoint of 13 records that w1"),
        "{refusal}"
    );
    drill.sql("UPDATE audit_checkpoint SET seq = 13 WHERE size = 13").await;
    drill.anchor(20, "w1", "witness").await;
    assert_eq!(drill.refusal(), "");
    // A record that the signed tree does not have.
    drill.sql("UPDATE audit_log SET hash = sha256('x') WHERE seq = 17").await;
    let refusal = drill.refusal();
    assert!(refusal.contains("do not give the signed root"), "{refusal}");
    // A note of another tree than the row's, and of another log.
    drill
        .sql("UPDATE audit_checkpoint t SET note = f.note FROM audit_checkpoint f WHERE t.size = 20 AND f.size = 9")
        .await;
    let note = drill.note(9).await;
    drill.sql("DELETE FROM audit_anchor").await;
    drill.row(20, ("w1", "witness"), &signature(&drill.witnesses["w1"], &note)).await;
    let refusal = drill.refusal();
    assert!(refusal.contains("witness w1 of 20 records: the note is of another tree"), "{refusal}");
    drill.setup.set("evidence.origin", "example.com/other");
    let refusal = drill.refusal();
    assert!(refusal.contains("the note is of the log \"example.com/gatepost/"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_stamps_are_verified_and_buckets_and_programs_are_asked_again() {
    let (mut drill, tsa, other) = (Drill::new().await, Tsa::start().await, Tsa::start().await);
    let (bucket, bucket_url) = serve_bucket().await;
    drill.configure();
    for size in [13, 20] {
        drill.checkpoint(size, 2, 1).await;
    }
    let note = drill.note(20).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let url = format!("{}/good", tsa.url);
    let stamp = async |note: &str| {
        TimeStampAnchor::new(&url, Duration::ZERO, None).unwrap().stamp(note, now).await.unwrap().der
    };
    let authority = |root: &str| format!("[{{ name = 'tsa', url = '{url}'{root} }}]");
    let root = |tsa: &Tsa| authority(&format!(", root_file = '{}'", tsa.root_file().display()));
    let token = stamp(&note).await;
    drill.row(20, ("tsa", "tsa"), &token).await;
    for (settings, wanted) in [
        (
            authority(""),
            "tsa tsa of 20 records: its signature cannot be verified: set evidence.time_stamps[].root_file",
        ),
        (root(&other), "tsa tsa of 20 records: the token is signed by an authority that no certificate of root_file"),
        (root(&tsa), ""),
    ] {
        drill.setup.set_toml("evidence.time_stamps", &settings);
        let refusal = drill.refusal();
        assert!(refusal.contains(wanted) && refusal.is_empty() == wanted.is_empty(), "{wanted}: {refusal}");
    }
    // A true token of another note; and one of a note that the log did not sign.
    let others = stamp(&drill.note(13).await).await;
    drill.sql("DELETE FROM audit_anchor").await;
    drill.row(20, ("tsa", "tsa"), &others).await;
    let refusal = drill.refusal();
    assert!(refusal.contains("tsa tsa of 20 records: the token is of other data"), "{refusal}");
    let stranger = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap().1.to_string();
    let own = std::mem::replace(&mut drill.secret, stranger);
    drill.sql("DELETE FROM audit_anchor; DELETE FROM audit_checkpoint WHERE size = 20").await;
    drill.checkpoint(20, 2, 1).await;
    drill.secret = own;
    let token = stamp(&drill.note(20).await).await;
    drill.row(20, ("tsa", "tsa"), &token).await;
    drill.row(20, ("git", "command"), b"kept").await;
    let refusal = drill.refusal();
    assert!(refusal.contains("tsa tsa of 20 records: the log's own signature: note is not signed"), "{refusal}");
    assert!(refusal.contains("command git of 20 records: the log's own signature"), "{refusal}");
    // A bucket and a program say themselves what they keep.
    drill.sql("DELETE FROM audit_anchor; DELETE FROM audit_checkpoint WHERE size = 20").await;
    drill.checkpoint(20, 2, 1).await;
    let secret_file = drill.setup.dir().join("bucket.key");
    write_secret(&secret_file, SECRET);
    let settings = format!(
        "[{{ name = 'bucket', url = '{bucket_url}', region = '{REGION}', access_key_id = '{KEY_ID}', secret_key_file = '{}' }}]",
        secret_file.display()
    );
    drill.setup.set_toml("evidence.buckets", &settings);
    drill.row(20, ("bucket", "s3"), b"x\nCOMPLIANCE until 2126-01-01T00:00:00+00:00\n").await;
    let refusal = drill.refusal();
    assert!(refusal.contains("s3 bucket of 20 records: the bucket responded with HTTP status 404"), "{refusal}");
    let (key, note) = (format!("{ORIGIN}/{}/{:020}.note", drill.stream.gateway_id, 20), drill.note(20).await);
    bucket.lock().objects.insert(key, note.into_bytes());
    assert_eq!(drill.refusal(), "");
    bucket.lock().lock = None;
    let refusal = drill.refusal();
    assert!(refusal.contains("without a lock"), "{refusal}");
    drill.row(20, ("git", "command"), b"kept").await;
    assert_eq!(drill.refusal(), "", "true keeps everything");
    drill.setup.set_toml("evidence.commands", "[{ name = 'git', command = ['false'] }]");
    let refusal = drill.refusal();
    assert!(refusal.contains("command git of 20 records: \"false\" failed (exit status: 1)"), "{refusal}");
}
