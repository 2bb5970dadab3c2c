//! Anchors of other kinds than witnesses, keys that the gateway does not have, and calls without evidence.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::note::Note;
use serde_json::json;
use sqlx::Row as _;

use crate::common::command;
use crate::common::gatepost::{BINARY, Gatepost, Setup};
use crate::common::mcp::Era;
use crate::common::tsa::Tsa;
use crate::common::wait::{SOON, until_async};
use crate::evidence::{ORIGIN, Signing, is_raised};
use crate::run::run;

/// A program in the directory of a setup.
fn program(setup: &Setup, name: &str, script: &str) -> PathBuf {
    let path = setup.dir().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The script in the documentation that has this line, with these parts replaced.
fn documented(line: &str, changes: &[(&str, &str)]) -> String {
    let page = include_str!("../../docs/evidence.md");
    let mut scripts = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let script = scripts.find(|script| script.contains(line)).unwrap();
    let replaced = |script: String, (from, to): &(&str, &str)| {
        assert!(script.contains(from), "{script}");
        script.replace(from, to)
    };
    changes.iter().fold(script.replace("#!/bin/sh\n", ""), replaced)
}

impl Signing {
    /// The first confirmations by an anchor: its kind, the note of the checkpoint, and the proof.
    async fn confirmed(&self, anchor: &str) -> Vec<(String, String, Vec<u8>)> {
        let sql = "SELECT a.kind, c.note, a.first_proof FROM audit_anchor a JOIN audit_checkpoint c
            USING (gateway_id, log, size) WHERE a.anchor = $1 ORDER BY size";
        let rows = sqlx::query(sql).bind(anchor).fetch_all(&self.pool).await.unwrap();
        rows.into_iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    async fn all_confirmed(&self, anchor: &str) {
        until_async("the anchor confirmed a checkpoint", SOON, async || !self.confirmed(anchor).await.is_empty()).await;
    }
}

async fn status_of_call(gatepost: &Gatepost) -> u16 {
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    client.call("echo", json!({ "text": "x" })).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn time_stamps_and_commands_confirm_checkpoints_each_by_itself() {
    let (mut signing, tsa) = (Signing::new().await, Tsa::start().await);
    let kept = signing.setup.dir().join("kept");
    fs::create_dir(&kept).unwrap();
    let script = documented("# keep-checkpoint", &[("/mnt/evidence", kept.to_str().unwrap())]);
    let keep = program(&signing.setup, "keep", &script);
    let failing = program(&signing.setup, "failing", "echo secret-output; exit 3");
    signing.setup.set_toml(
        "evidence.time_stamps",
        &format!(
            "[{{ name = 'tsa', url = '{0}/good', interval = '1s' }}, {{ name = 'old', url = '{0}/expired', interval = '1s' }}]",
            tsa.url
        ),
    );
    signing.setup.set_toml(
        "evidence.commands",
        &format!(
            "[{{ name = 'keep', command = ['{}'], interval = '1s' }}, {{ name = 'failing', command = ['{}'], interval = '1s' }}]",
            keep.display(),
            failing.display()
        ),
    );
    signing.setup.set("evidence.anchor_max_age", "10s");
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 3).await;
    signing.all_confirmed("tsa").await;
    signing.all_confirmed("keep").await;
    let (kind, note, token) = signing.confirmed("tsa").await.remove(0);
    assert!(kind == "tsa" && tsa.verifies(&token, note.as_bytes()));
    assert!(!tsa.verifies(&token, note.replace("gatepost", "gatepast").as_bytes()));
    let (kind, note, proof) = signing.confirmed("keep").await.remove(0);
    let file = kept.join(str::from_utf8(&proof).unwrap().trim_end());
    assert!(kind == "command" && fs::read_to_string(&file).unwrap() == note, "{file:?}");
    // It keeps the first one of a size.
    let put = |text: &str| {
        let mut child = Command::new(&keep).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    assert!(put(&note) && !put(&format!("{note}x")));
    assert_eq!(fs::read_to_string(&file).unwrap(), note);
    // The others have an error each, and delay none.
    signing.setup.wait_for_log("the certificate of the time-stamp authority was not valid at the time in the token");
    signing.setup.wait_for_log("failed (exit status: 3)");
    until_async("the alarm is raised", SOON, async || is_raised(&gatepost, "evidence_unanchored")).await;
    let log = signing.setup.log();
    let alarm = log.lines().find(|line| line.contains("evidence_unanchored")).unwrap();
    assert!(alarm.contains("old has not confirmed") && alarm.contains("failing has not confirmed"), "{alarm}");
    assert!(!alarm.contains("keep has not") && !alarm.contains("tsa has not"), "{alarm}");
    assert!(!log.contains("secret-output"), "{log}");
    assert!(signing.confirmed("old").await.is_empty() && signing.confirmed("failing").await.is_empty());
    let metrics = gatepost.get_ops("/metrics").1;
    assert!(metrics.contains("gatepost_evidence_confirmed_records{place=\"tsa\"}"), "{metrics}");
    signing.stop(gatepost);
}

/// A key of openssl: the program that signs with it, and its verifier key.
fn openssl_key(setup: &Setup, name: &str) -> (PathBuf, VerifierKey) {
    let (key, public) = (setup.dir().join(format!("{name}.key")), setup.dir().join(format!("{name}.pem")));
    command::run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key));
    command::run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
    let public = public.display().to_string();
    let output = Command::new(BINARY).args(["evidence", "show", &public, "--name", ORIGIN]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}");
    let verifier = stdout.lines().find_map(|line| line.strip_prefix("verifier key: ")).unwrap();
    let script = documented("# sign-checkpoint", &[("/etc/gatepost/log.key", key.to_str().unwrap())]);
    (program(setup, name, &script), VerifierKey::parse(verifier).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_signs_and_a_wrong_signature_is_never_used() {
    let mut signing = Signing::without_key().await;
    let (sign, verifier) = openssl_key(&signing.setup, "sign");
    let (_, other) = openssl_key(&signing.setup, "other");
    signing.setup.set_toml("evidence.sign_command", &format!("['{}']", sign.display()));
    signing.setup.set("evidence.verifier_key", &other.to_string());
    let gatepost = signing.setup.start();
    until_async("the alarm is raised", SOON, async || is_raised(&gatepost, "evidence_unsigned")).await;
    signing.setup.wait_for_log("is not one by evidence.verifier_key over its input");
    signing.call(&gatepost, 2).await;
    signing.stop(gatepost);
    assert_eq!(signing.checkpoints().await.len(), 0);
    signing.setup.set("evidence.verifier_key", &verifier.to_string());
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 2).await;
    signing.all_signed().await;
    for checkpoint in signing.checkpoints().await {
        let key = verifier.named(&format!("{ORIGIN}/{}", checkpoint.gateway)).unwrap();
        assert_eq!(Note::parse(checkpoint.note.as_bytes()).unwrap().verify([&key]).unwrap().len(), 1);
    }
    // Each way in which a command can fail has its own message.
    for (script, wanted) in [
        ("exit 4", "failed (exit status: 4)"),
        ("echo no signature", "must print 64 bytes in base64"),
        ("head -c 63 /dev/zero | base64 -w 0", "must print 64 bytes in base64"),
        ("yes", "printed more than 1024 bytes"),
    ] {
        program(&signing.setup, "sign", script);
        signing.call(&gatepost, 1).await;
        signing.setup.wait_for_log(wanted);
    }
    signing.stop(gatepost);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_refused_and_recorded_while_evidence_is_missing() {
    let mut signing = Signing::new().await;
    let gate = signing.setup.dir().join("gate");
    let anchor = program(&signing.setup, "anchor", &format!("test -e {}", gate.display()));
    let commands = format!("[{{ name = 'anchor', command = ['{}'], interval = '1s' }}]", anchor.display());
    signing.setup.set_toml("evidence.commands", &commands).set("evidence.on_failure", "refuse");
    signing.setup.set("evidence.anchor_max_age", "10s");
    fs::write(&gate, "").unwrap();
    let gatepost = signing.setup.start();
    until_async("calls continue after the first checkpoint", SOON, async || status_of_call(&gatepost).await == 200)
        .await;
    signing.all_confirmed("anchor").await;
    fs::remove_file(&gate).unwrap();
    until_async("calls are refused", SOON, async || status_of_call(&gatepost).await == 503).await;
    let sql = "SELECT count(*) FROM audit_log WHERE response_status = 'audit_unavailable' AND method = 'tools/call'
        AND error_message LIKE 'evidence of the trail is missing%'";
    until_async("the refusal is recorded", SOON, async || {
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&signing.pool).await.unwrap() > 0
    })
    .await;
    fs::write(&gate, "").unwrap();
    until_async("calls continue", SOON, async || status_of_call(&gatepost).await == 200).await;
    signing.stop(gatepost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_of_evidence_that_cannot_work_is_refused() {
    let signing = Signing::new().await;
    let witness = |name: &str| {
        let key = SigningKey::generate(name, SignatureType::CosignatureEd25519).unwrap().0;
        format!("{{ url = 'https://w', key = '{}' }}", key.verifier())
    };
    let log_key = SigningKey::generate("w.example", SignatureType::Ed25519).unwrap().0;
    let long = "x".repeat(198);
    for (key, value, wanted) in [
        ("evidence.origin", format!("'{long}'"), "evidence.origin: has 198 bytes, limit 197"),
        ("evidence.origin", "'example.com/a+b'".to_owned(), "evidence.origin"),
        ("evidence.sign_command", "['sign']".to_owned(), "evidence.sign_command: excludes evidence.key_file"),
        ("evidence.verifier_key", format!("'{}'", log_key.verifier()), "has no effect without evidence.sign_command"),
        (
            "evidence.witnesses",
            format!("[{0}, {0}]", witness("w.example")),
            "is the name of evidence.witnesses[0].key too",
        ),
        ("evidence.witnesses", "[{ url = 'https://w', key = 'w+1+2' }]".to_owned(), "evidence.witnesses[0].key"),
        (
            "evidence.commands",
            "[{ name = 'postgres', command = ['true'] }]".to_owned(),
            "is the name of the database too: each anchor needs a name of its own",
        ),
        ("audit.store_timeout", "'61s'".to_owned(), "audit.store_timeout: is 61s, limit 60s with evidence.on_failure"),
        (
            "evidence.time_stamps",
            "[{ name = 'a', url = 'http://a' }, { name = 'a', url = 'http://b' }]".to_owned(),
            "is the name of evidence.time_stamps[0].name too",
        ),
    ] {
        let mut signing = Signing::new().await;
        signing.setup.set("evidence.on_failure", "refuse").set_toml(key, &value);
        let (code, _, stderr) = run(&signing.setup, &["config", "check"]);
        assert!(code == Some(2) && stderr.contains(wanted), "{key} = {value}: {code:?} {stderr}");
    }
    let (code, _, stderr) = run(&signing.setup, &["config", "check"]);
    assert_eq!(code, Some(0), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_never_answers_delays_no_stop() {
    let mut signing = Signing::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let key = SigningKey::generate("w.example", SignatureType::CosignatureEd25519).unwrap().0;
    let url = format!("http://{}", silent.local_addr().unwrap());
    let witnesses = format!("[{{ url = '{url}', key = '{}' }}]", key.verifier());
    signing.setup.set_toml("evidence.witnesses", &witnesses);
    let gatepost = signing.setup.start();
    // It is asked which checkpoint it has.
    let (connection, _) = silent.accept().unwrap();
    signing.call(&gatepost, 1).await;
    signing.stop(gatepost);
    signing.setup.wait_for_log("the last checkpoint was not stored or confirmed in time");
    drop(connection);
}
