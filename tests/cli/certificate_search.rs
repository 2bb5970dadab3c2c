//! The choice of the two checkpoints of a certificate, among some that cannot be used.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::Edge;
use uuid::Uuid;

use crate::certificate::Certifying;
use crate::common::verifier::Parties;

/// More than one page of a search. *Source*: `CANDIDATES` in src/audit/query/checkpoints.rs.
const MORE_THAN_A_PAGE: u64 = 121;

fn now() -> UnixTime {
    UnixTime::from_seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A range of a log.
struct Search {
    it: Certifying,
    since: String,
    until: String,
}

impl Search {
    /// A log with two witnessed checkpoints after the end of a range, of different sizes.
    async fn of(gateway: u128) -> Self {
        let mut it = Certifying::start(gateway).await;
        it.calls("alice", 2).await;
        let since = it.witnessed_now().await;
        it.calls("alice", 2).await;
        let until = it.witnessed_now().await;
        it.witnessed_after(&until).await;
        it.calls("alice", 1).await;
        let later = it.witnessed_now().await;
        it.witnessed_after(&later).await;
        it.stop();
        Self { it, since, until }
    }

    fn policy(&mut self, policy: &str) -> [String; 2] {
        let path = self.it.signing.setup.dir().join("searched");
        policy.clone_into(&mut self.it.policy);
        fs::write(&path, policy).unwrap();
        ["--policy".to_owned(), path.display().to_string()]
    }

    /// The size of the second checkpoint of the certificate, which the verifier accepts.
    fn end(&self, more: &[&str]) -> u64 {
        let (certificate, _) = self.it.proven(&self.since, &self.until, more);
        let header: serde_json::Value = serde_json::from_str(certificate.lines().next().unwrap()).unwrap();
        let note = Note::parse(header["to"].as_str().unwrap().as_bytes()).unwrap();
        Checkpoint::parse(note.text()).unwrap().head().size
    }

    fn refused(&self, since: &str, more: &[&str], text: &str) {
        let (code, said, certificate) = self.it.certify(since, &self.until, more);
        assert!(code == Some(1) && said.contains(text) && certificate.is_none(), "{more:?}: {code:?} {said}");
    }

    /// With several gateways one must be named, and only its log is certified.
    async fn several_gateways(&self, policy: &[&str], size: u64) {
        let other = Uuid::from_u128(1);
        let sql = "INSERT INTO audit_checkpoint SELECT $1, log, size, epoch, seq, root, edge, note, stored_at
            FROM audit_checkpoint";
        sqlx::query(sql).bind(other).execute(&self.it.signing.pool).await.unwrap();
        let (own, unknown) = (Uuid::from_u128(94), Uuid::from_u128(2).to_string());
        let (code, said, certificate) = self.it.certify(&self.since, &self.until, policy);
        let wanted = format!("2 gateways sign checkpoints: name one with --gateway: {other}, {own}");
        assert!(code == Some(2) && said.contains(&wanted) && certificate.is_none(), "{code:?} {said}");
        assert_eq!(self.end(&[policy, &["--gateway", &own.to_string()]].concat()), size);
        self.refused(&self.since, &[policy, &["--gateway", &unknown]].concat(), "has signed no checkpoints");
        self.it.sql(&format!("DELETE FROM audit_checkpoint WHERE gateway_id = '{other}'")).await;
    }

    /// If the policy refuses all checkpoints before the range, the certificate begins with the log, and says why.
    async fn none_before(&self, policy: &[&str]) {
        let sql = "UPDATE audit_checkpoint SET note = replace(note, 'gatepost', 'getapost') WHERE stored_at <= $1::text::timestamptz";
        let query = |sql: &'static str| sqlx::query(sql).bind(&self.since).execute(&self.it.signing.pool);
        let changed = query(sql).await.unwrap().rows_affected();
        let (code, said, certificate) = self.it.certify(&self.since, &self.until, policy);
        let reason = format!(
            "checkpoints before the range cannot be used; the nearest one: the checkpoint is of the log \
             example.com/getapost/{}, which the policy does not name",
            Uuid::from_u128(94)
        );
        assert!(code == Some(0) && changed > 1, "{said}");
        assert!(said.contains(", from the beginning of the log, up to") && said.contains(&reason), "{said}");
        assert!(said.contains("it begins with the log, since "), "{said}");
        let header: serde_json::Value = serde_json::from_str(certificate.unwrap().lines().next().unwrap()).unwrap();
        assert!(header["from"].is_null(), "{header}");
        let (_, said, _) = self.it.certify(&self.since, &self.until, &[policy, &["--json"]].concat());
        let printed: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert!(printed["refused_before"].as_str().unwrap().contains(&reason), "{printed}");
        // Without any before it there is nothing to say.
        let (_, said, _) = self.it.certify("2026-01-01T00:00:00Z", &self.until, policy);
        assert!(said.contains(", from the beginning of the log, up to") && !said.contains("begins with"), "{said}");
        let sql = "UPDATE audit_checkpoint SET note = replace(note, 'getapost', 'gatepost') WHERE stored_at <= $1::text::timestamptz";
        query(sql).await.unwrap();
    }

    async fn note(&self, size: u64) -> String {
        let sql = "SELECT note FROM audit_checkpoint WHERE size = $1";
        sqlx::query_scalar(sql).bind(size.cast_signed()).fetch_one(&self.it.signing.pool).await.unwrap()
    }

    async fn set_note(&self, size: u64, note: &str) {
        let sql = "UPDATE audit_checkpoint SET note = $2 WHERE size = $1";
        sqlx::query(sql).bind(size.cast_signed()).bind(note).execute(&self.it.signing.pool).await.unwrap();
    }

    /// Checkpoints of an older log that is named by epoch 1, which a foreign log and its witness signed now.
    async fn foreign(&self, gateway: Uuid) {
        let parties = Parties::new("example.com/foreign/log");
        let mut edge = Edge::default();
        for size in 1..=MORE_THAN_A_PAGE {
            edge.push(&[1; 32], |_, _, _| {}).unwrap();
            let note = parties.note(&edge, now().seconds());
            let own = Note::new(note.text().to_owned(), note.signatures()[..1].to_vec()).unwrap().to_string();
            let hashes: Vec<u8> = edge.hashes().iter().flat_map(|hash| hash.0).collect();
            let sql = "INSERT INTO audit_checkpoint (gateway_id, log, size, epoch, seq, root, edge, note)
                VALUES ($1, 1, $2, 1, $2, $3, $4, $5)";
            let query = sqlx::query(sql).bind(gateway).bind(size.cast_signed()).bind(edge.root().0.to_vec());
            query.bind(hashes).bind(own).execute(&self.it.signing.pool).await.unwrap();
            let sql = "INSERT INTO audit_anchor (gateway_id, log, size, anchor, kind, first_proof, last_proof)
                VALUES ($1, 1, $2, 'w1', 'witness', $3, $3)";
            let line = format!("{}\n", note.signatures()[1]).into_bytes();
            let query = sqlx::query(sql).bind(gateway).bind(size.cast_signed()).bind(line);
            query.execute(&self.it.signing.pool).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_the_policy_refuses_does_not_end_the_search() {
    let gateway = Uuid::from_u128(94);
    let mut search = Search::of(94).await;
    let policy = search.it.policy.clone();
    let option = search.policy(&policy);
    let option = option.each_ref().map(String::as_str);
    let first = search.end(&option);
    // Signed by a key that the policy does not have.
    let note = search.note(first).await;
    let text = Note::parse(note.as_bytes()).unwrap().text().to_owned();
    let key = SigningKey::generate(search.it.witnessing.log.name(), SignatureType::Ed25519).unwrap().0;
    let foreign = Note::new(text.clone(), vec![sign(&key, &text, now()).unwrap()]).unwrap();
    search.set_note(first, &foreign.to_string()).await;
    assert!(search.end(&option) > first);
    search.set_note(first, &note).await;
    assert_eq!(search.end(&option), first);
    search.none_before(&option).await;
    search.several_gateways(&option, first).await;
    // More than a page of them, and those that fit after them.
    search.it.sql("UPDATE audit_anchor SET log = 9; UPDATE audit_checkpoint SET log = 9").await;
    search.foreign(gateway).await;
    assert_eq!(search.end(&option), first);
    assert_eq!(search.end(&[&option[..], &["--log", "9"]].concat()), first, "the log that has the range");
    let older = [&option[..], &["--log", "1"]].concat();
    search.refused(
        &search.since,
        &older,
        "can be used: 121 checkpoints looked at; the nearest one: the checkpoint is of the log example.com/foreign/log, \
         which the policy does not name",
    );
    // An ended log of which nothing can be certified, and one that the policy does not know either.
    let early = "2026-01-01T00:00:00Z";
    search.refused(early, &option, "and nothing can be certified of the first one, since no witness has signed it");
    search.it.sql("DELETE FROM audit_anchor WHERE log = 1").await;
    search.refused(early, &[], "and nothing can be certified of the first one, since no witness has signed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_chosen_that_the_verifier_can_count() {
    let mut search = Search::of(95).await;
    let [log, witness] = [0, 1].map(|line| search.it.policy.lines().nth(line).unwrap().to_owned());
    let first = search.end(&[]);
    let key = SigningKey::generate("witness.example/w2", SignatureType::CosignatureMlDsa44).unwrap().0;
    let text = Note::parse(search.note(first).await.as_bytes()).unwrap().text().to_owned();
    let line = format!("{}\n", sign(&key, &text, now()).unwrap()).into_bytes();
    let sql = "UPDATE audit_anchor SET first_proof = $2, last_proof = $2 WHERE size = $1";
    sqlx::query(sql).bind(first.cast_signed()).bind(line).execute(&search.it.signing.pool).await.unwrap();
    assert!(search.end(&[]) > first, "without a policy");
    let both = format!("{log}\n{witness}\nwitness w2 {}\ngroup g any w1 w2\n", key.verifier());
    for (quorum, is_chosen) in [("g", true), ("none", true), ("w2", false)] {
        let option = search.policy(&format!("{both}quorum {quorum}\n"));
        let option = option.each_ref().map(String::as_str);
        if is_chosen {
            assert!(search.end(&option) > first, "{quorum}");
        } else {
            search.refused(&search.since, &option, "without signatures by ML-DSA-44");
        }
    }
    // All others are signed by both, and one does not suffice.
    search.it.sql(&format!("DELETE FROM audit_anchor WHERE size = {first}")).await;
    let sql = "SELECT c.size, c.note FROM audit_checkpoint c JOIN audit_anchor a USING (gateway_id, log, size)";
    let notes: Vec<(i64, String)> = sqlx::query_as(sql).fetch_all(&search.it.signing.pool).await.unwrap();
    for (size, note) in notes {
        let text = Note::parse(note.as_bytes()).unwrap().text().to_owned();
        let line = format!("{}\n", sign(&key, &text, now()).unwrap()).into_bytes();
        let sql = "INSERT INTO audit_anchor SELECT gateway_id, log, size, 'w2', kind, $2, first_at, $2, last_at
            FROM audit_anchor WHERE size = $1";
        sqlx::query(sql).bind(size).bind(line).execute(&search.it.signing.pool).await.unwrap();
    }
    for quorum in ["group all all w1 w2\nquorum all\n", "quorum w2\n"] {
        let option = search.policy(&format!("{log}\n{witness}\nwitness w2 {}\n{quorum}", key.verifier()));
        let option = option.each_ref().map(String::as_str);
        search.refused(&search.since, &option, " can be used: ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_from_before_the_end_is_not_used_unless_nothing_came_in_between() {
    let search = Search::of(96).await;
    let (early, until) = ("2026-01-01T00:00:00Z", &search.until);
    let stored = format!("UPDATE audit_checkpoint SET stored_at = '{until}'::timestamptz - interval '5 s';");
    let first =
        |seconds: i32| format!("UPDATE audit_anchor SET first_at = '{until}'::timestamptz + interval '{seconds} s'");
    // A witness signed it only after the end.
    search.it.sql(&(stored + &first(1))).await;
    search.refused(early, &[], "no witness has signed a checkpoint since");
    // It signed before, too, and once more afterwards.
    search.it.sql(&first(-1)).await;
    search.it.proven(early, until, &[]);
}
