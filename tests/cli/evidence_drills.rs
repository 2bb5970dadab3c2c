//! Drills: what becomes of a log when keys, machines, disks and databases change, as docs/evidence.md describes it.

use std::fs;
use std::path::Path;

use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::{Hash, TreeHead};
use nix::sys::signal::Signal;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use uuid::Uuid;

use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::s3::{KEY_ID, REGION, SECRET, SharedBucket, serve_bucket};
use crate::common::wait::{SOON, until_async};
use crate::evidence::{ORIGIN, Signing, Witnessing, copy, is_raised, verifier};
use crate::run::run;

/// A record and its proof, as `audit prove` writes them.
struct Proven {
    record: String,
    proof: String,
}

impl Proven {
    /// The exit code and the words of the verifier that knows only the specification.
    fn verify(&self, policy: &str) -> (Option<i32>, String) {
        verifier(TempDir::new().unwrap().path(), policy, &self.record, &self.proof)
    }

    fn succeeds(&self, policy: &str) {
        let (code, said) = self.verify(policy);
        assert!(code == Some(0) && said.starts_with("proven"), "{said}\n{policy}");
    }

    fn fails(&self, policy: &str, reason: &str) {
        let (code, said) = self.verify(policy);
        assert!(code == Some(1) && said.contains(reason), "{said}\n{policy}");
    }
}

/// Runs a command that must succeed.
fn succeeds(setup: &Setup, args: &[&str]) -> String {
    let (code, stdout, stderr) = run(setup, args);
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    stdout
}

fn policy(setup: &Setup, args: &[&str]) -> String {
    succeeds(setup, &[&["evidence", "policy"], args].concat())
}

/// A new key in a file; returns the verifier key that it has as a key of the gateway's log.
fn new_key(path: &Path, gateway: Uuid) -> VerifierKey {
    let (_, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
    write_secret(path, format!("{}\n", *secret));
    SigningKey::parse_named(&secret, &format!("{ORIGIN}/{gateway}")).unwrap().verifier().clone()
}

impl Signing {
    /// The last call that was recorded.
    async fn last_call(&self) -> String {
        let sql = "SELECT request_id FROM audit_log WHERE tool_name = 'echo' ORDER BY request_id DESC LIMIT 1";
        sqlx::query_scalar::<_, Uuid>(sql).fetch_one(&self.pool).await.unwrap().to_string()
    }

    fn prove(&self, id: &str) -> Proven {
        let out = TempDir::new().unwrap();
        let dir = out.path().to_str().unwrap();
        succeeds(&self.setup, &["audit", "prove", id, "--unwitnessed", "--output", dir]);
        let read = |end: &str| fs::read_to_string(out.path().join(format!("{id}.{end}"))).unwrap();
        Proven { record: read("json"), proof: read("tlog-proof") }
    }

    /// Starts the gateway, calls, and stops it; the last call, whose record is signed.
    async fn session(&self) -> String {
        let gatepost = self.setup.start();
        self.call(&gatepost, 3).await;
        self.stop(gatepost);
        self.all_signed().await;
        self.last_call().await
    }

    /// A gateway on another machine, with the same keys and database.
    fn other_machine(&self) -> Setup {
        let mut other = Setup::new();
        for (key, value) in &self.setup.settings {
            if key.starts_with("evidence.") || ["postgres.url", "audit.gateway_id"].contains(&key.as_str()) {
                other.set_toml(key, value);
            }
        }
        other
    }

    /// A bucket that gets the checkpoints.
    async fn bucket(&mut self) -> SharedBucket {
        let (bucket, url) = serve_bucket().await;
        let file = self.setup.dir().join("bucket.key");
        write_secret(&file, format!("{SECRET}\n"));
        let buckets = format!(
            "[{{ name = 'bucket', url = '{url}', region = '{REGION}', access_key_id = '{KEY_ID}',
                secret_key_file = '{}', interval = '1s' }}]",
            file.display()
        );
        self.setup.set_toml("evidence.buckets", &buckets);
        bucket
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    async fn gateways(&self) -> Vec<Uuid> {
        let sql = "SELECT DISTINCT gateway_id FROM audit_checkpoint ORDER BY gateway_id";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }
}

async fn raised(gatepost: &Gatepost, alarm: &str) {
    until_async(&format!("the alarm {alarm} is raised"), SOON, async || is_raised(gatepost, alarm)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_keys_are_accepted_by_one_policy() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(0x81));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    let by_old = signing.session().await;
    let old_policy = policy(&signing.setup, &[]);
    let file = signing.setup.dir().join("second.key");
    let key = new_key(&file, gateway);
    let file = file.display().to_string();
    signing.setup.set("evidence.second_key_file", &file);
    // The witness knows the old key only, which still signs.
    let by_both = signing.session().await;
    signing.all_witnessed().await;
    let both_policy = policy(&signing.setup, &[]);
    assert_eq!(both_policy.matches("\nlog ").count(), 2, "{both_policy}");
    signing.setup.set("evidence.key_file", &file);
    signing.setup.settings.remove("evidence.second_key_file");
    let gatepost = signing.setup.start();
    signing.setup.wait_for_log("a checkpoint was not confirmed");
    witnessing.stop.cancel();
    witnessing.others.push(key);
    witnessing.start().await;
    signing.call(&gatepost, 3).await;
    signing.all_witnessed().await;
    signing.stop(gatepost);
    let by_new = signing.last_call().await;
    for (id, with_old) in [(&by_old, true), (&by_both, true), (&by_new, false)] {
        let proven = signing.prove(id);
        proven.succeeds(&both_policy);
        if with_old {
            proven.succeeds(&old_policy);
        } else {
            proven.fails(&old_policy, "has not signed the checkpoint");
        }
    }
    let new_policy = policy(&signing.setup, &[]);
    assert!(new_policy.contains("# Older checkpoints are signed by another key"), "{new_policy}");
    signing.prove(&by_new).succeeds(&new_policy);
    signing.prove(&by_old).fails(&new_policy, "has not signed the checkpoint");
    assert_eq!(signing.checkpoints().await.iter().map(|it| it.log).max(), Some(1), "it is one log");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_key_is_replaced_and_the_log_continues() {
    let mut signing = Signing::new().await;
    let by_lost = signing.session().await;
    let gateway = signing.gateways().await[0];
    let old_policy = policy(&signing.setup, &[]);
    fs::remove_file(signing.setup.dir().join("log.key")).unwrap();
    let (code, _, stderr) = run(&signing.setup, &["serve"]);
    assert!(code == Some(2) && stderr.contains("evidence.key_file") && stderr.contains("log.key"), "{stderr}");
    let file = signing.setup.dir().join("new.key");
    let key = new_key(&file, gateway);
    signing.setup.set("evidence.key_file", file.to_str().unwrap());
    let by_new = signing.session().await;
    let new_policy = policy(&signing.setup, &[]);
    assert!(new_policy.contains(&format!("\nlog {key}\n# Older checkpoints")), "{new_policy}");
    signing.prove(&by_lost).succeeds(&old_policy);
    signing.prove(&by_lost).fails(&new_policy, "has not signed the checkpoint");
    signing.prove(&by_new).succeeds(&new_policy);
    let merged = old_policy.replace("\nlog ", &format!("\nlog {key}\nlog "));
    signing.prove(&by_lost).succeeds(&merged);
    signing.prove(&by_new).succeeds(&merged);
    assert_eq!(signing.checkpoints().await.iter().map(|it| it.log).max(), Some(1), "the log continues");
    // A configuration that has neither key makes no policy for the log.
    new_key(&file, gateway);
    let foreign = policy(&signing.setup, &[]);
    assert!(foreign.contains("# NOT in this policy") && !foreign.contains("\nlog "), "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_outbox_continues_its_log_and_another_outbox_begins_one() {
    let mut signing = Signing::new().await;
    let before = signing.session().await;
    let other = signing.other_machine();
    copy(&signing.setup.audit_dir(), &other.audit_dir());
    fs::remove_dir_all(signing.setup.audit_dir()).unwrap();
    let old = std::mem::replace(&mut signing.setup, other);
    let after = signing.session().await;
    assert!(!signing.setup.log().contains("evidence_fork"), "{}", signing.setup.log());
    let checkpoints = signing.checkpoints().await;
    assert_eq!(signing.gateways().await.len(), 1);
    assert_eq!((checkpoints.last().unwrap().log, checkpoints.last().unwrap().epoch), (1, 2), "the log continues");
    // Without the outbox it is another gateway, with a log of its own, and the same key.
    let other = signing.other_machine();
    let moved = std::mem::replace(&mut signing.setup, other);
    let elsewhere = signing.session().await;
    let gateways = signing.gateways().await;
    assert_eq!(gateways.len(), 2);
    let all = policy(&signing.setup, &[]);
    assert_eq!(all.matches("\nlog ").count(), 2, "{all}");
    for id in [&before, &after, &elsewhere] {
        signing.prove(id).succeeds(&all);
    }
    let one = policy(&signing.setup, &["--log", &format!("{ORIGIN}/{}", gateways[0])]);
    assert_eq!(one.matches("\nlog ").count(), 1, "{one}");
    assert_eq!(one, policy(&signing.setup, &["--gateway", &gateways[0].to_string()]));
    let (code, _, stderr) = run(&signing.setup, &["evidence", "policy", "--log", "x"]);
    assert!(code == Some(1) && stderr.contains("no log was found"), "{stderr}");
    drop((old, moved));
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_demands_a_majority_of_witnesses_and_marks_less_as_weak() {
    let mut signing = Signing::new().await;
    signing.session().await;
    let keys: Vec<_> = (1..=4)
        .map(|number| SigningKey::generate(&format!("witness.example/w{number}"), SignatureType::CosignatureEd25519))
        .map(|key| key.unwrap().0.verifier().to_string())
        .collect();
    for (count, more, rule, is_weak) in [
        (1, &[][..], "1 w1", false),
        (2, &[], "2 w1 w2", false),
        (3, &[], "2 w1 w2 w3", false),
        (4, &[], "3 w1 w2 w3 w4", false),
        (1, &["--quorum", "any"], "any w1", false),
        (2, &["--quorum", "any"], "any w1 w2", true),
        (4, &["--quorum", "2"], "2 w1 w2 w3 w4", true),
        (4, &["--quorum", "all"], "all w1 w2 w3 w4", false),
    ] {
        let witnesses: Vec<_> =
            keys.iter().take(count).map(|key| format!("{{ url = \"http://127.0.0.1:9\", key = \"{key}\" }}")).collect();
        signing.setup.set_toml("evidence.witnesses", &format!("[{}]", witnesses.join(", ")));
        let text = policy(&signing.setup, more);
        assert!(text.contains(&format!("\ngroup witnesses {rule}\nquorum witnesses\n")), "{text}");
        assert_eq!(text.contains("\n# WEAK: "), is_weak, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_database_is_behind_its_checkpoints_and_the_log_continues() {
    let signing = Signing::new().await;
    signing.session().await;
    let backed_up = signing.count("SELECT max(size) FROM audit_checkpoint").await;
    let lost = signing.session().await;
    let records = signing.count("SELECT count(*) FROM audit_log").await;
    let signed = signing.count("SELECT max(size) FROM audit_checkpoint").await;
    for table in ["audit_log", "audit_stream", "audit_checkpoint"] {
        signing.execute(&format!("DELETE FROM {table} WHERE epoch = 2")).await;
    }
    let gatepost = signing.setup.start();
    until_async("the records are delivered again", SOON, async || {
        signing.count("SELECT count(*) FROM audit_log").await > records
    })
    .await;
    signing.call(&gatepost, 3).await;
    signing.all_signed().await;
    assert!(!is_raised(&gatepost, "evidence_fork"));
    signing.stop(gatepost);
    let sizes: Vec<_> = signing.checkpoints().await.iter().map(|it| (it.log, it.size)).collect();
    assert!(sizes.iter().all(|(log, size)| *log == 1 && (*size <= backed_up || *size > signed)), "{sizes:?}");
    // The lost checkpoints are not there again; a later one proves the records.
    signing.prove(&lost).succeeds(&policy(&signing.setup, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_restore_lost_for_ever_are_missing_and_later_ones_are_proven() {
    let signing = Signing::new().await;
    signing.session().await;
    let lost = signing.session().await;
    signing.session().await;
    // The outbox has the last epoch only.
    let mut files: Vec<_> =
        fs::read_dir(signing.setup.audit_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "redb"));
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    files.iter().take(2).for_each(|path| fs::remove_file(path).unwrap());
    for table in ["audit_log", "audit_stream", "audit_checkpoint"] {
        signing.execute(&format!("DELETE FROM {table} WHERE epoch > 1")).await;
    }
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 3).await;
    signing.all_signed().await;
    signing.call(&gatepost, 3).await;
    signing.all_signed().await;
    assert!(!is_raised(&gatepost, "evidence_fork"), "it contradicts nothing");
    signing.stop(gatepost);
    let later = signing.last_call().await;
    let (code, _, stderr) = run(&signing.setup, &["audit", "prove", &lost, "--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("no record"), "{stderr}");
    // Between the restored checkpoint and the next one, hashes are missing; after that, none are.
    let (code, _, stderr) = run(&signing.setup, &["audit", "prove", "4/1", "--unwitnessed"]);
    assert!(code == Some(1) && stderr.contains("are missing"), "{stderr}");
    signing.prove(&later).succeeds(&policy(&signing.setup, &[]));
    let (code, stdout, _) = run(&signing.setup, &["audit", "verify"]);
    assert!(code == Some(1) && stdout.contains("epoch"), "{stdout}");
}

/// The key is lost, and what the only place outside has is signed by it, an older checkpoint than the last one.
#[tokio::test(flavor = "multi_thread")]
async fn lost_key_is_replaced_although_a_bucket_has_only_what_it_signed() {
    let mut signing = Signing::new().await;
    let bucket = signing.bucket().await;
    let gatepost = signing.setup.start();
    until_async("the bucket has a checkpoint", SOON, async || !bucket.lock().objects.is_empty()).await;
    // It is away when the last checkpoints are signed.
    bucket.lock().status = Some(503);
    signing.call(&gatepost, 3).await;
    signing.stop(gatepost);
    signing.all_signed().await;
    bucket.lock().status = None;
    let kept = bucket.lock().objects.len();
    let gateway = signing.gateways().await[0];
    let file = signing.setup.dir().join("new.key");
    new_key(&file, gateway);
    signing.setup.set("evidence.key_file", file.to_str().unwrap());
    signing.session().await;
    until_async("the bucket has a checkpoint of the new key", SOON, async || bucket.lock().objects.len() > kept).await;
    assert_eq!(signing.checkpoints().await.iter().map(|it| it.log).max(), Some(1), "the log continues");
    // Without its memory, the gateway does not know the lost key: it signs nothing.
    fs::remove_file(signing.setup.audit_dir().join("checkpoint.json")).unwrap();
    let last = bucket.lock().objects.pop_last().unwrap();
    let gatepost = signing.setup.start();
    raised(&gatepost, "evidence_fork").await;
    signing.stop(gatepost);
    assert!(!bucket.lock().objects.contains_key(&last.0));
}

/// Two gateways have one id and key, and only a bucket sees both.
#[tokio::test(flavor = "multi_thread")]
async fn fork_that_a_bucket_finds_ends_the_log() {
    let mut signing = Signing::new().await;
    let bucket = signing.bucket().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    until_async("the bucket has a checkpoint", SOON, async || !bucket.lock().objects.is_empty()).await;
    // The other gateway was faster, with the next sizes.
    let name = format!("{ORIGIN}/{}", signing.gateways().await[0]);
    let key = SigningKey::parse_named(&signing.secret, &name).unwrap();
    let largest = signing.checkpoints().await.last().unwrap().size;
    for size in largest + 1..largest + 40 {
        let head = TreeHead { size: size.unsigned_abs(), root: Hash([7; 32]) };
        let text = Checkpoint::new(&name, head).unwrap().to_string();
        let note = Note::new(text.clone(), vec![sign(&key, &text, UnixTime::from_seconds(1).unwrap()).unwrap()]);
        bucket.lock().objects.insert(format!("{name}/{size:020}.note"), note.unwrap().to_string().into_bytes());
    }
    signing.call(&gatepost, 2).await;
    raised(&gatepost, "evidence_fork").await;
    signing.setup.wait_for_log("records that this log does not have");
    signing.stop(gatepost);
}

#[tokio::test(flavor = "multi_thread")]
async fn witness_with_a_new_key_still_tells_what_the_log_signed() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(0x87));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    signing.session().await;
    signing.all_witnessed().await;
    // Its operator gives out another key, and what it has is signed with the old one.
    let (key, _) = SigningKey::generate("w.example", SignatureType::CosignatureEd25519).unwrap();
    let witnesses = signing.setup.settings["evidence.witnesses"].clone();
    let (before, after) = witnesses.split_once("key = \"").unwrap();
    let after = after.split_once('"').unwrap().1;
    signing.setup.set_toml("evidence.witnesses", &format!("{before}key = \"{}\"{after}", key.verifier()));
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    signing.all_signed().await;
    // Its signatures do not count before it signs with the new key.
    signing.setup.wait_for_log("a checkpoint was not confirmed");
    signing.stop(gatepost);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_disk_ends_the_log_and_signed_records_are_known_to_be_missing() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(0x84));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    witnessing.start().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 3).await;
    signing.all_witnessed().await;
    // Records are stored and signed, and cannot be delivered.
    signing.execute("ALTER TABLE audit_log ADD CONSTRAINT closed CHECK (false) NOT VALID").await;
    signing.execute("ALTER TABLE audit_quarantine ADD CONSTRAINT closed CHECK (false) NOT VALID").await;
    let delivered = signing.count("SELECT count(*) FROM audit_log").await;
    signing.call(&gatepost, 5).await;
    let largest = "SELECT coalesce(max(size), 0) FROM audit_anchor";
    until_async("the witness signed them", SOON, async || signing.count(largest).await >= delivered + 5).await;
    gatepost.end(Signal::SIGKILL);
    fs::remove_dir_all(signing.setup.audit_dir()).unwrap();
    signing.execute("ALTER TABLE audit_log DROP CONSTRAINT closed").await;
    signing.execute("ALTER TABLE audit_quarantine DROP CONSTRAINT closed").await;
    let missing = signing.count(largest).await - delivered;
    assert!(missing >= 5, "the witness signed more records than anyone has");
    let gatepost = signing.setup.start();
    raised(&gatepost, "evidence_fork").await;
    signing.setup.wait_for_log("this gateway does not remember to have signed one");
    let (code, _, stderr) = run(&signing.setup, &["evidence", "new-log"]);
    assert!(code == Some(1) && stderr.contains("stop that gateway"), "{stderr}");
    signing.call(&gatepost, 2).await;
    signing.stop(gatepost);
    let said = succeeds(&signing.setup, &["evidence", "new-log"]);
    assert!(said.contains("begins a new log") && said.contains("witnesses"), "{said}");
    let name = format!("{ORIGIN}/{gateway}/2");
    witnessing.stop.cancel();
    witnessing.others.push(SigningKey::parse_named(&signing.secret, &name).unwrap().verifier().clone());
    witnessing.start().await;
    let gatepost = signing.setup.start();
    until_async("the witness signs the new log", SOON, async || {
        signing.count("SELECT count(*) FROM audit_anchor WHERE log = 2").await > 0
    })
    .await;
    assert!(!is_raised(&gatepost, "evidence_fork"));
    signing.stop(gatepost);
    let both = policy(&signing.setup, &[]);
    assert!(both.contains(&format!("log {ORIGIN}/{gateway}+")) && both.contains(&format!("log {name}+")), "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_gateway_with_id_and_key_signs_nothing_and_the_first_continues() {
    let mut signing = Signing::new().await;
    signing.setup.set("audit.gateway_id", &Uuid::from_u128(0x85).to_string());
    let first = signing.setup.start();
    signing.call(&first, 3).await;
    signing.all_signed().await;
    let other = signing.other_machine();
    let second = other.start();
    raised(&second, "evidence_fork").await;
    let size = signing.count("SELECT max(size) FROM audit_checkpoint").await;
    signing.call(&second, 20).await;
    signing.call(&first, 3).await;
    until_async("the first signs on", SOON, async || {
        signing.count("SELECT max(size) FROM audit_checkpoint").await > size
    })
    .await;
    assert!(!is_raised(&first, "evidence_fork"));
    assert_eq!(second.terminate(), Some(0), "{}", other.log());
    signing.stop(first);
    let checkpoints = signing.checkpoints().await;
    let names: std::collections::BTreeSet<_> = checkpoints.iter().map(|it| it.log).collect();
    assert_eq!(names.len(), 1);
    signing.prove(&signing.last_call().await).succeeds(&policy(&signing.setup, &[]));
}
