//! The log of the registrar: the command that records a decision of the owner signs a checkpoint of all decisions.

use std::fs;

use gatepost::evidence::key::{SignatureType, SigningKey};
use tempfile::TempDir;
use uuid::Uuid;

use crate::evidence::{ORIGIN, Signing, Witnessing, verifier};
use crate::run::run;

/// The owner of a trail, who has a witness.
struct Owner {
    signing: Signing,
    witnessing: Witnessing,
    registrar: Uuid,
}

impl Owner {
    async fn new() -> Self {
        let mut signing = Signing::new().await;
        // Its start makes the tables.
        let gatepost = signing.setup.start();
        signing.all_delivered().await;
        signing.stop(gatepost);
        let registrar = sqlx::query_scalar("SELECT gateway_id FROM audit_registrar").fetch_one(&signing.pool).await;
        let registrar = registrar.unwrap();
        let witnessing = Witnessing::of(&mut signing, registrar);
        signing.setup.settings.remove("audit.gateway_id");
        Self { signing, witnessing, registrar }
    }

    /// Records a decision, and returns what was said on standard error.
    fn decide(&self, journal: &str) -> String {
        let journal = self.signing.setup.dir().join(journal).display().to_string();
        let args = ["audit", "hold", "add", "--reason", "a case", "--journal", &journal];
        let (code, stdout, stderr) = run(&self.signing.setup, &args);
        assert!(code == Some(0) && stdout.contains("trail/hold is recorded as 1/"), "{stdout}{stderr}");
        stderr
    }

    /// The sizes that are signed, and those that the witness confirmed.
    async fn sizes(&self) -> (Vec<i64>, Vec<i64>) {
        let sizes =
            async |sql| sqlx::query_scalar(sql).bind(self.registrar).fetch_all(&self.signing.pool).await.unwrap();
        (
            sizes("SELECT size FROM audit_checkpoint WHERE gateway_id = $1 ORDER BY size").await,
            sizes("SELECT size FROM audit_anchor WHERE gateway_id = $1 ORDER BY size").await,
        )
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).bind(self.registrar).execute(&self.signing.pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_signed_witnessed_and_proven_and_a_failure_is_caught_up() {
    let mut owner = Owner::new().await;
    owner.witnessing.start().await;
    assert_eq!(owner.decide("journal"), "");
    assert_eq!(owner.decide("journal"), "");
    assert_eq!(owner.sizes().await, (vec![1, 2], vec![1, 2]));
    let out = TempDir::new().unwrap();
    let place = format!("{}/1/2", owner.registrar);
    let dir = out.path().to_str().unwrap();
    let (code, stdout, stderr) = run(&owner.signing.setup, &["audit", "prove", &place, "--output", dir]);
    assert!(code == Some(0) && stdout.contains("number 1 of 2"), "{stdout}{stderr}");
    let (code, policy, stderr) = run(&owner.signing.setup, &["evidence", "policy"]);
    assert!(code == Some(0) && policy.contains("# The registrar"), "{policy}{stderr}");
    assert!(policy.contains(&format!("\nlog {ORIGIN}/{}+", owner.registrar)), "{policy}");
    let read = |end: &str| {
        let entries = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = entries.into_iter().find(|path| path.extension().is_some_and(|found| found == end)).unwrap();
        fs::read_to_string(path).unwrap()
    };
    let checked = TempDir::new().unwrap();
    let (code, said) = verifier(checked.path(), &policy, &read("json"), &read("tlog-proof"));
    assert!(code == Some(0) && said.contains("signed by the witness w1"), "{said}");
    // Nobody can tell what was signed: the decision is recorded, and nothing is signed.
    owner.witnessing.stop.cancel();
    owner.witnessing.stopped().await;
    let said = owner.decide("journal");
    assert!(said.contains("the decision is recorded, but") && said.contains("not all witnesses told"), "{said}");
    assert_eq!(owner.sizes().await, (vec![1, 2], vec![1, 2]));
    owner.witnessing.start().await;
    assert_eq!(owner.decide("journal"), "");
    assert_eq!(owner.sizes().await, (vec![1, 2, 4], vec![1, 2, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_while_one_of_two_witnesses_does_not_answer() {
    let mut owner = Owner::new().await;
    owner.witnessing.start().await;
    assert_eq!(owner.decide("journal"), "");
    let one = owner.signing.setup.settings["evidence.witnesses"].clone();
    let (key, _) = SigningKey::generate("witness.example/w2", SignatureType::CosignatureEd25519).unwrap();
    // Nothing listens there: the port was free, and is not one that others are given.
    let two = one.replacen('[', &format!("[{{ url = \"http://127.0.0.1:9\", key = \"{}\" }}, ", key.verifier()), 1);
    owner.signing.setup.set_toml("evidence.witnesses", &two);
    let said = owner.decide("journal");
    assert!(said.contains("not all witnesses told") && said.contains("witness.example/w2: "), "{said}");
    assert!(!said.contains("witness.example/w1"), "{said}");
    assert_eq!(owner.sizes().await, (vec![1], vec![1]), "the other one's answer does not suffice");
    owner.signing.setup.set_toml("evidence.witnesses", &one);
    assert_eq!(owner.decide("journal"), "");
    assert_eq!(owner.sizes().await, (vec![1, 3], vec![1, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_contradict_a_checkpoint_are_not_signed() {
    let mut owner = Owner::new().await;
    owner.witnessing.start().await;
    for _ in 0..3 {
        assert_eq!(owner.decide("journal"), "");
    }
    // A decision is changed in the database, with all that the owner of it can write.
    owner.execute("UPDATE audit_log SET hash = sha256(hash) WHERE gateway_id = $1 AND seq = 2").await;
    let said = owner.decide("journal");
    assert!(said.contains("Postgres has a checkpoint of 3 decisions that are not the first ones"), "{said}");
    // The checkpoints are removed, too: the witness remembers.
    owner.execute("DELETE FROM audit_checkpoint WHERE gateway_id = $1").await;
    let said = owner.decide("journal");
    assert!(said.contains("witness.example/w1 has a checkpoint of 3 decisions that are not the first ones"), "{said}");
    assert_eq!(owner.sizes().await.0, Vec::<i64>::new(), "nothing is signed");
}
