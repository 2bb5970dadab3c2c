//! `gatepost audit export` and `verify-export`.

use std::fs;
use std::path::Path;

use gatepost::audit::record::GatewayId;
use gatepost::audit::sink::postgres;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::common::gatepost::Setup;
use crate::common::made_stream::{MadeStream, month};
use crate::common::postgres::Cluster;
use crate::run::run;

/// Records of the larger gateway. *Chosen*: more than a page has.
const CALLS: usize = 4_500;

/// A trail of two gateways, one of which has a record in quarantine, and the setup to read it. Its records are of the
/// month before, so that all are in the past whenever the tests run: an export ends at the time when it began.
async fn trail() -> (Setup, [MadeStream; 2]) {
    let database = Cluster::shared().create_database().await;
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    postgres::migrate(&mut owner).await.unwrap();
    let mut streams = [1, 2].map(|id| MadeStream::open(GatewayId(Uuid::from_u128(id)), None, month(1)));
    streams[0].calls(CALLS, month(1));
    streams[1].calls(3, month(1));
    streams[1].close(month(1));
    for stream in &streams {
        stream.deliver(&database.url).await;
    }
    let quarantine = "WITH moved AS (DELETE FROM audit_log WHERE gateway_id = $1 AND seq = 2 RETURNING *)
        INSERT INTO audit_quarantine (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate, error)
        SELECT gateway_id, epoch, seq, prev_hash, hash, request_id, $2, '23514', 'no' FROM moved";
    let mut frame = Vec::new();
    gatepost::audit::codec::encode_record(&streams[1].records[1], &mut frame).unwrap();
    sqlx::query(quarantine).bind(Uuid::from_u128(2)).bind(frame).execute(&mut owner).await.unwrap();
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    (setup, streams)
}

fn succeeds(setup: &Setup, args: &[&str]) -> (String, String) {
    let (code, stdout, stderr) = run(setup, &[&["audit"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    (stdout, stderr)
}

fn fails(setup: &Setup, args: &[&str], text: &str) {
    let (code, stdout, stderr) = run(setup, &[&["audit"], args].concat());
    assert!(code.is_some_and(|code| code != 0) && stderr.contains(text), "{args:?}: {code:?} {stdout}{stderr}");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_record_and_can_be_checked_and_continued() {
    let (setup, [large, small]) = trail().await;
    let (all, _) = succeeds(&setup, &["export"]);
    let records = lines(&all);
    assert_eq!(records.len(), large.records.len() + small.records.len(), "no limit, and none is missing");
    let expected = large.records.iter().chain(&small.records);
    for (line, record) in records.iter().zip(expected) {
        assert_eq!(line["hash"], record.position.hash.to_string(), "in the order of the positions");
    }
    assert_eq!(records[1]["request_args"]["text"], "hello", "a JSON value");
    assert!(all.contains(r#""request_args":{"text":"hello",  "n":1.50}"#), "with every byte");
    assert_eq!(records[large.records.len() + 1]["quarantined"], "23514: no");

    // From where it was broken off, and a part.
    let at = format!("{}/1/{}", large.gateway_id, CALLS);
    let (rest, _) = succeeds(&setup, &["export", "--after", &at]);
    assert_eq!(lines(&rest), records[CALLS..]);
    let (part, _) = succeeds(&setup, &["export", "--gateway", &small.gateway_id.to_string(), "--tool", "echo"]);
    assert_eq!(lines(&part).len(), 3);
    let (csv, _) = succeeds(&setup, &["export", "--format", "csv", "--gateway", &small.gateway_id.to_string()]);
    assert!(csv.starts_with("gateway_id,epoch,seq,prev_hash,hash,request_id,"));
    assert_eq!(csv.lines().count(), 1 + small.records.len());
    let (none, _) = succeeds(&setup, &["export", "--until", "2001-01-01T00:00:00Z"]);
    assert_eq!(none, "");

    let dir = setup.dir().join("export");
    let name = dir.to_str().unwrap();
    let (_, said) = succeeds(&setup, &["export", "--output", name]);
    assert!(said.contains("4,506 records in 1 file"), "{said}");
    assert_eq!(said.matches("this read is not recorded").count(), 1, "{said}");
    let (checked, _) = succeeds(&setup, &["verify-export", name]);
    assert!(checked.contains("4,506 records in 1 file: every file has its sum") && checked.contains("2 runs"));
    fails(&setup, &["export", "--output", name], "has files");
    fails(&setup, &["export", "--output", name, "--resume"], "is complete");
    broken_off(&setup, &dir);
    changed(&setup, &dir);
}

/// An export that was killed continues: the manifest names no file, its last line is torn, and a file is half written.
fn broken_off(setup: &Setup, dir: &Path) {
    let (name, manifest) = (dir.to_str().unwrap(), dir.join("manifest.jsonl"));
    let text = fs::read_to_string(&manifest).unwrap();
    let header = text.lines().next().unwrap();
    fs::write(&manifest, format!("{header}\n{{\"file\":\"rec")).unwrap();
    fs::rename(dir.join("records-000001.jsonl.zst"), dir.join("records-000001.jsonl.zst.tmp")).unwrap();
    fails(setup, &["verify-export", name], "is not complete");
    fails(setup, &["export", "--output", name, "--resume", "--tool", "echo"], "its own options");
    succeeds(setup, &["export", "--output", name, "--resume"]);
    assert_eq!(fs::read_to_string(&manifest).unwrap(), text, "the same again");
    succeeds(setup, &["verify-export", name]);
}

/// Whatever is changed is found.
fn changed(setup: &Setup, dir: &Path) {
    let name = dir.to_str().unwrap();
    let (manifest, part) = (dir.join("manifest.jsonl"), dir.join("records-000001.jsonl.zst"));
    let (manifest_was, part_was) = (fs::read_to_string(&manifest).unwrap(), fs::read(&part).unwrap());
    let restore = || {
        fs::write(&manifest, &manifest_was).unwrap();
        fs::write(&part, &part_was).unwrap();
    };
    let mut flipped = part_was.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&part, flipped).unwrap();
    fails(setup, &["verify-export", name], "was changed");
    restore();
    fs::write(&manifest, manifest_was.replace("\"records\":4506", "\"records\":4505")).unwrap();
    fails(setup, &["verify-export", name], "the manifest says 4505");
    restore();
    fs::remove_file(&part).unwrap();
    fails(setup, &["verify-export", name], "cannot read");
    restore();
    succeeds(setup, &["verify-export", name]);
}
