//! `gatepost audit certify`, and the verifier that knows only the specification.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gatepost::audit::record::GatewayId;
use gatepost::evidence::key::{SignatureType, SigningKey};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::common::gatepost::{Gatepost, token_with};
use crate::common::mcp::{Client, Era};
use crate::common::python::python_program;
use crate::common::wait::{SOON, until_async};
use crate::evidence::{Signing, Witnessing, drop_line};
use crate::run::run;
use crate::trials::tamper::{Tamper, altered};

/// A gateway with a witness, and the policy of those who need both.
pub struct Certifying {
    pub signing: Signing,
    pub witnessing: Witnessing,
    gatepost: Option<Gatepost>,
    pub policy: String,
}

impl Certifying {
    pub async fn start(gateway: u128) -> Self {
        let mut signing = Signing::new().await;
        let mut witnessing = Witnessing::of(&mut signing, Uuid::from_u128(gateway));
        witnessing.start().await;
        let gatepost = Some(signing.setup.start());
        let key = SigningKey::parse(&witnessing.secret).unwrap();
        let policy = format!("log {}\nwitness w1 {}\nquorum w1\n", witnessing.log, key.verifier());
        Self { signing, witnessing, gatepost, policy }
    }

    /// Calls by a person, with a text that names the person. When it returns, they are in the database.
    pub async fn calls(&self, subject: &str, count: usize) {
        let token = token_with(&json!({ "sub": subject, "role": "admin" }));
        let url = format!("{}/mcp/example", self.gatepost.as_ref().unwrap().url());
        let client = Client::connect(&url, Era::Modern, Some(&token)).await;
        let before = self.echoes().await;
        for number in 0..count {
            client.call("echo", json!({ "text": format!("{subject} says {number}") })).await.unwrap();
        }
        // All calls before these are delivered already, so that their number is that of all. Without this, a witness
        // could have signed all delivered records, and none of these.
        let all = before + i64::try_from(count).unwrap();
        until_async("the calls are delivered", SOON, async || self.echoes().await == all).await;
    }

    /// The number of calls in the database.
    async fn echoes(&self) -> i64 {
        let sql = "SELECT count(*) FROM audit_log WHERE tool_name = 'echo'";
        sqlx::query_scalar(sql).fetch_one(&self.signing.pool).await.unwrap_or(0)
    }

    /// The time, when a witness has signed all records that there are.
    pub async fn witnessed_now(&self) -> String {
        self.signing.all_witnessed().await;
        self.now().await
    }

    async fn now(&self) -> String {
        let sql = r#"SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
        sqlx::query_scalar(sql).fetch_one(&self.signing.pool).await.unwrap()
    }

    /// Waits until a witness has signed after `time`. Its times are whole seconds.
    pub async fn witnessed_after(&self, time: &str) {
        let sql = "SELECT EXISTS (SELECT FROM audit_anchor WHERE last_at > $1::text::timestamptz + interval '2 s')";
        until_async("a witness signed later", SOON, async || {
            sqlx::query_scalar(sql).bind(time).fetch_one(&self.signing.pool).await.unwrap_or(false)
        })
        .await;
    }

    pub fn certify(&self, since: &str, until: &str, more: &[&str]) -> (Option<i32>, String, Option<String>) {
        let path = self.signing.setup.dir().join("certificate");
        fs::remove_file(&path).ok();
        let file = path.display().to_string();
        let args = ["audit", "certify", "--since", since, "--until", until, "--output", &file];
        let (code, stdout, stderr) = run(&self.signing.setup, &[&args[..], more].concat());
        (code, format!("{stdout}{stderr}"), fs::read_to_string(path).ok())
    }

    /// A certificate that the verifier accepts, and what that says.
    pub fn proven(&self, since: &str, until: &str, more: &[&str]) -> (String, String) {
        let (code, said, certificate) = self.certify(since, until, more);
        assert_eq!(code, Some(0), "{said}");
        let certificate = certificate.unwrap();
        let (code, said) = self.verify(&certificate);
        assert_eq!(code, Some(0), "{said}");
        (certificate, said)
    }

    fn verify(&self, certificate: &str) -> (Option<i32>, String) {
        verify(self.signing.setup.dir(), &self.policy, certificate)
    }

    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.signing.pool).await.unwrap();
    }

    pub fn stop(&mut self) {
        self.signing.stop(self.gatepost.take().unwrap());
    }
}

fn verify(dir: &Path, policy: &str, certificate: &str) -> (Option<i32>, String) {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let mut command = Command::new(python_program("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("verify/gatepost_verify.py"));
    command.arg(write("policy", policy)).arg(write("checked", certificate));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn lines(certificate: &str) -> Vec<Value> {
    certificate.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_range_has_a_certificate_without_records() {
    let mut it = Certifying::start(97).await;
    it.calls("alice", 2).await;
    let last = it.witnessed_now().await;
    it.witnessed_after(&last).await;
    let since = it.now().await;
    it.witnessed_after(&since).await;
    let until = it.now().await;
    it.witnessed_after(&until).await;
    it.stop();
    let (certificate, said) = it.proven(&since, &until, &["--subject", "alice"]);
    assert!(said.starts_with("proven: no record of 'alice' is missing among the 0 from number "), "{said}");
    assert_eq!(lines(&certificate), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_a_persons_records_is_missing_and_others_stay_hidden() {
    let mut it = Certifying::start(90).await;
    it.calls("alice", 2).await;
    let since = it.witnessed_now().await;
    it.calls("alice", 3).await;
    it.calls("bob", 2).await;
    let until = it.witnessed_now().await;
    it.witnessed_after(&until).await;
    it.calls("alice", 1).await;
    it.stop();
    let subject = "alice";
    let (certificate, said) = it.proven(&since, &until, &["--subject", subject]);
    assert!(said.contains(&format!("proven: no record of '{subject}' is missing among the ")), "{said}");
    assert!(said.contains("those before them were signed by the witness w1 at 20"), "{said}");
    assert!(said.contains("\nthey were signed by the witness w1 at 20"), "{said}");
    let records = lines(&certificate);
    let shown: Vec<_> = records.iter().filter(|record| record.get("request_args").is_some()).collect();
    assert!(shown.iter().all(|record| record["client_subject"] == subject), "{certificate}");
    assert_eq!(shown.iter().filter(|record| record["tool_name"] == "echo").count(), 3, "{certificate}");
    assert!(records.len() > shown.len() + 1, "{certificate}");
    // The others' circumstances and contents are in it neither as values nor as salts.
    assert!(certificate.contains("alice says 2") && !certificate.contains("bob says"), "{certificate}");
    for record in records.iter().filter(|record| record.get("request_args").is_none()) {
        assert_ne!(record["client_subject"], subject);
        for hidden in ["client_addr", "session_id", "context", "salt_content", "salt_circumstances", "error_message"] {
            assert!(record.get(hidden).is_none(), "{record}");
        }
    }
    let first = usize::try_from(records[0]["index"].as_u64().unwrap()).unwrap();
    let own = records.iter().position(|record| record.get("request_args").is_some()).unwrap() + 1;
    let other = records.iter().position(|record| record.get("request_args").is_none()).unwrap() + 1;
    let line = |at: usize| certificate.lines().nth(at).unwrap().to_owned();
    let replaced = |at: usize, new: &str| certificate.replacen(&line(at), new, 1);
    let hash_only = |at: usize| {
        let record = &records[at - 1];
        json!({ "index": record["index"], "hash": record["hash"] }).to_string()
    };
    let header: Value = serde_json::from_str(&line(0)).unwrap();
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        replaced(0, &header.to_string())
    };
    for (what, changed) in [
        ("a record is removed", drop_line(&certificate, own)),
        ("the last record is removed", drop_line(&certificate, records.len())),
        ("a record is there twice", certificate.replacen(&line(own), &format!("{0}\n{0}", line(own)), 1)),
        ("its hash only", replaced(own, &hash_only(own))),
        ("the hash of another's only", replaced(other, &hash_only(other))),
        (
            "another's name",
            replaced(other, &line(other).replacen("\"client_subject\":\"", "\"client_subject\":\"x", 1)),
        ),
        ("own name", replaced(own, &line(own).replacen("\"client_subject\":\"", "\"client_subject\":\"x", 1))),
        ("own arguments", certificate.replacen("alice says 2", "alice says 3", 1)),
        (
            "a commitment",
            replaced(other, &line(other).replacen("\"commitment_content\":\"", "\"commitment_content\":\"0", 1)),
        ),
        ("another index", replaced(own, &line(own).replacen("\"index\":", "\"index\":1", 1))),
        ("an index with a sign", replaced(own, &line(own).replacen("\"index\":", "\"index\":+", 1))),
        (
            "an index as a float",
            replaced(
                own,
                &line(own).replacen(
                    &format!("\"index\":{}", first + own - 1),
                    &format!("\"index\":{}.0", first + own - 1),
                    1,
                ),
            ),
        ),
        ("an unknown member", replaced(own, &line(own).replacen('{', "{\"approved_by\":\"me\",", 1))),
        ("a member twice", replaced(own, &line(own).replacen('{', "{\"index\":1,", 1))),
        ("shown and withheld", replaced(other, &line(other).replacen('{', "{\"request_args\":null,", 1))),
        ("shown and withheld, exact", replaced(other, &line(other).replacen('{', "{\"request_args_exact\":\"x\",", 1))),
        ("seq with a decimal point", replaced(own, &line(own).replacen(",\"request_id\"", ".0,\"request_id\"", 1))),
        ("another subject", with("subject", json!("nobody"))),
        ("no subject", with("subject", Value::Null)),
        ("a number as subject", with("subject", json!(7))),
        ("an earlier beginning", with("since", json!("2026-01-01T00:00:00.000000Z"))),
        ("a later end", with("until", json!("2999-01-01T00:00:00.000000Z"))),
        ("no first checkpoint", with("from", Value::Null)),
        ("another edge", with("edge", json!(vec!["00".repeat(32); header["edge"].as_array().unwrap().len()]))),
        (
            "a longer edge",
            with("edge", json!([&header["edge"].as_array().unwrap()[..], &[json!("00".repeat(32))]].concat())),
        ),
        ("another format", with("format", json!("gatepost.certificate.v2"))),
        ("one checkpoint twice", with("from", header["to"].clone())),
        ("a member more in the header", with("note", json!("approved"))),
        ("an empty line", format!("{certificate}\n")),
        ("no last line end", certificate.trim_end().to_owned()),
        ("empty", String::new()),
    ] {
        assert_ne!(changed, certificate, "{what}");
        let (code, said) = it.verify(&changed);
        assert!(code == Some(1) && said.starts_with("not proven"), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_says_no_more_than_the_database_and_the_witnesses_give() {
    let mut it = Certifying::start(91).await;
    it.calls("alice", 2).await;
    let since = it.witnessed_now().await;
    it.calls("alice", 2).await;
    it.calls("bob", 2).await;
    let until = it.witnessed_now().await;
    it.witnessed_after(&until).await;
    it.stop();
    let refused = |since: &str, until: &str, more: &[&str], code: i32, text: &str| {
        let (found, said, certificate) = it.certify(since, until, more);
        assert!(found == Some(code) && said.contains(text) && certificate.is_none(), "{more:?}: {found:?} {said}");
    };
    // Some are shown, and of the others the hash.
    let (certificate, said) = it.proven(&since, &until, &["--who", "bob"]);
    assert!(
        said.contains("proven: no record is missing among the 4 ") && said.contains("\n2 shown, 2 withheld"),
        "{said}"
    );
    assert!(certificate.contains("bob says 1") && !certificate.contains("alice"), "{certificate}");
    let record = certificate.lines().nth(3).unwrap();
    let (code, said) = it.verify(&certificate.replacen(record, &record.replacen("bob says", "bob said", 1), 1));
    assert!(code == Some(1) && said.starts_with("not proven: a record has another hash"), "{said}");
    let (code, said) = it.verify(&certificate.replacen(certificate.lines().nth(2).unwrap(), record, 1));
    assert!(code == Some(1) && said.starts_with("not proven"), "{said}");
    // The range may begin before the log does, and may be one in which nothing was recorded.
    let (_, said) = it.proven("2026-01-01T00:00:00Z", &until, &[]);
    assert!(said.contains(" from number 0 (from 0) on in ") && said.contains("they begin with the log"), "{said}");
    // A policy that another witness must have signed for.
    let policy = it.signing.setup.dir().join("other");
    let key = SigningKey::generate("witness.example/w2", SignatureType::CosignatureEd25519).unwrap().0;
    fs::write(&policy, it.policy.replacen("quorum w1", &format!("witness w2 {}\nquorum w2", key.verifier()), 1))
        .unwrap();
    refused(
        &since,
        &until,
        &["--policy", policy.to_str().unwrap()],
        1,
        "of the policy's witnesses, and they do not suffice",
    );
    fs::write(&policy, &it.policy).unwrap();
    it.proven(&since, &until, &["--policy", policy.to_str().unwrap()]);
    let later = "2999-01-01T00:00:00Z";
    refused(
        &since,
        later,
        &[],
        1,
        "no witness has signed a checkpoint since 2999-01-01T00:00:00.000000Z, only the last one at 20",
    );
    refused(&until, &since, &[], 2, "--since must be before --until");
    refused(&since, &until, &["--subject", "alice", "--tool", "echo"], 2, "give no other option");
    let long = "a".repeat(1025);
    refused(&since, &until, &["--subject", &long], 2, "the limit is 1024 bytes");
    it.proven(&since, &until, &["--subject", &long[1..]]);
    refused(&since, &until, &["--gateway", &Uuid::from_u128(5).to_string()], 1, "has signed no checkpoints");
    // A log that ended within the range.
    let logs = |log: u32| {
        let of = |table: &str, time: &str| format!("UPDATE {table} SET log = {log} WHERE {time} > '{since}';");
        of("audit_anchor", "last_at") + &of("audit_checkpoint", "stored_at")
    };
    it.sql(&logs(9)).await;
    refused(
        &since,
        &until,
        &[],
        1,
        "the log that began with epoch 1 ended, and one that begins with epoch 9 continues",
    );
    it.sql(&logs(1)).await;
    // Rows that were changed or removed.
    let steps = [
        ("UPDATE audit_log SET tool_name = 'x' WHERE request_args::text LIKE '%bob says 1%'", "was changed: its hash"),
        (
            "UPDATE audit_log SET hash = sha256('x') WHERE request_args::text LIKE '%bob says 1%'",
            "was changed: its hash",
        ),
        (
            "DELETE FROM audit_log WHERE request_args::text LIKE '%bob says 1%'",
            "the database has 3 records of the range",
        ),
    ];
    for (sql, text) in steps {
        it.sql(sql).await;
        refused(&since, &until, &["--subject", "alice"], 1, text);
    }
}

#[test]
fn a_certificate_that_was_made_without_gatepost_is_accepted() {
    let fixture = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evidence").join(name);
        fs::read_to_string(path).unwrap()
    };
    let (policy, certificate) = (fixture("policy"), fixture("certificate"));
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = verify(dir.path(), &policy, &certificate);
    assert!(code == Some(0) && said.contains("no record of 'alice' is missing among the 5 from number 2"), "{said}");
    assert!(said.contains("2 shown, 3 of others"), "{said}");
    for line in fixture("certificates.refused").lines() {
        let refused: Value = serde_json::from_str(line).unwrap();
        let [what, certificate, expected] = ["what", "certificate", "said"].map(|name| refused[name].as_str().unwrap());
        let (code, said) = verify(dir.path(), &policy, certificate);
        assert!(code == Some(1) && said.starts_with("not proven") && said.contains(expected), "{what}: {said}");
    }
    let (code, said) = verify(dir.path(), &policy, &fixture("certificate.counted"));
    assert!(
        code == Some(0) && said.contains("2 of those seen count calls without records, 1 do not say who"),
        "{said}"
    );
    for (changed, expected) in [
        (policy.replacen("quorum W1", "quorum W1 W2", 1), "W1: too many words"),
        (policy.replacen("quorum W1", "  # by hand\nquorum W1", 1), "proven: no record"),
        (format!("{policy}{}\n", policy.lines().next().unwrap()), "each key once"),
    ] {
        let (_, said) = verify(dir.path(), &changed, &certificate);
        assert!(said.contains(expected), "{changed}: {said}");
    }
    // A witness's signature that the policy does not know, and one that is not there.
    for changed in [policy.replacen("quorum W1", "quorum none", 1), drop_line(&policy, 1)] {
        let (code, said) =
            verify(dir.path(), &changed, &certificate.replace("witness.example/w1", "witness.example/w9"));
        let is_accepted = code == Some(0) && said.contains("they were signed by no witness");
        assert!(is_accepted || said.starts_with("not proven"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_compared_with_all_signed_checkpoints_and_those_kept_elsewhere() {
    let mut it = Certifying::start(92).await;
    it.calls("alice", 3).await;
    it.witnessed_now().await;
    it.calls("alice", 2).await;
    it.stop();
    let dir = it.signing.setup.dir().to_owned();
    let write = |name: &str, text: &str| {
        fs::write(dir.join(name), text).unwrap();
        dir.join(name).display().to_string()
    };
    let own = format!("{}quorum none\n", it.policy.split_inclusive('\n').next().unwrap());
    let (own, witnessed) = (write("own", &own), write("witnessed", &it.policy));
    let verify = |more: &[&str], code: i32, texts: &[&str]| {
        let (found, stdout, stderr) = run(&it.signing.setup, &[&["audit", "verify"], more].concat());
        let is_right = found == Some(code) && texts.iter().all(|text| stdout.contains(text));
        assert!(is_right, "{more:?}: {found:?} instead of {code} with {texts:?}\n{stdout}{stderr}");
        stdout
    };
    let note = "SELECT note FROM audit_checkpoint ORDER BY size DESC LIMIT 1";
    let note: String = sqlx::query_scalar(note).fetch_one(&it.signing.pool).await.unwrap();
    let kept = write("kept", &note);
    let name = it.witnessing.log.name().to_owned();
    verify(&[], 4, &["rests on the word of this database alone"]);
    let proven = format!("in {name}, witnessed by no witness; 0 records behind it");
    verify(&["--policy", &own], 0, &[&proven, "signed checkpoints or the live gateway confirm their ends"]);
    verify(&["--policy", &own, "--checkpoint", &kept], 0, &[&proven]);
    it.sql("DELETE FROM audit_anchor WHERE size = (SELECT max(size) FROM audit_checkpoint)").await;
    let stdout = verify(&["--policy", &witnessed], 4, &["by w1; ", " on the word of this database alone"]);
    assert!(!stdout.contains("; 0 records behind it"), "{stdout}");
    // The policy of another log.
    let other = SigningKey::generate("example.com/other/log", SignatureType::Ed25519).unwrap().0;
    let other = write("other", &format!("log {}\nquorum none\n", other.verifier()));
    let texts = ["the policy does not name the log", "names the log example.com/other/log, and there is no checkpoint"];
    verify(&["--policy", &other], 4, &texts);
    verify(&["--policy", &witnessed, "--checkpoint", &kept], 1, &[]);
    // The first rows are gone: a gap, and from the first checkpoint whose last record is here the tree continues.
    it.sql("CREATE TABLE first AS SELECT * FROM audit_log WHERE seq <= 2; DELETE FROM audit_log WHERE seq <= 2").await;
    let stdout = verify(&["--policy", &own], 1, &["gap: ", "proven to index "]);
    assert!(!stdout.contains("checkpoint: "), "{stdout}");
    it.sql("INSERT INTO audit_log SELECT * FROM first").await;
    verify(&["--policy", &own], 0, &[]);
    // The rows are changed, with all hashes and the cursor.
    it.sql("CREATE TABLE logs AS SELECT * FROM audit_log; CREATE TABLE streams AS SELECT * FROM audit_stream").await;
    let mut tamper = Tamper::on(&it.signing.database.url, GatewayId(Uuid::from_u128(92))).await;
    tamper
        .rewrite(tamper.a, 1, |mut rows| {
            rows[2] = altered(rows[2].clone());
            rows
        })
        .await;
    verify(&[], 4, &["rests on the word of this database alone"]);
    verify(&["--policy", &own], 1, &["checkpoint: ", &format!("do not give the root that {name} signed for")]);
    // And the checkpoints are removed, or made again by another key.
    it.sql("CREATE TABLE signed AS SELECT * FROM audit_checkpoint; DELETE FROM audit_checkpoint").await;
    verify(
        &["--policy", &own],
        4,
        &[&format!("the policy names the log {name}, and there is no checkpoint of it here")],
    );
    verify(&["--policy", &own, "--checkpoint", &kept], 1, &["signed for", &kept]);
    it.sql("INSERT INTO audit_checkpoint SELECT * FROM signed; UPDATE audit_checkpoint SET note = regexp_replace(note, '(?<=[a-z0-9] )[A-Za-z0-9+/=]{80,}', 'AAAAAAAAAAAA')").await;
    verify(&["--policy", &own], 1, &["the stored checkpoint of "]);
    it.sql("TRUNCATE audit_log, audit_stream; INSERT INTO audit_log SELECT * FROM logs; INSERT INTO audit_stream SELECT * FROM streams; DELETE FROM audit_checkpoint; INSERT INTO audit_checkpoint SELECT * FROM signed").await;
    verify(&["--policy", &own], 0, &[]);
    // The end is removed, and the cursor set back.
    it.sql("DELETE FROM audit_log WHERE seq > 4; UPDATE audit_stream SET (delivered_seq, head_hash) = (SELECT seq, hash FROM audit_log WHERE seq = 4)").await;
    verify(&["--policy", &own], 4, &["is not here: not delivered, or removed"]);
    verify(&["--policy", &own, "--checkpoint", &kept], 1, &["and these are not all here: some were removed"]);
}
