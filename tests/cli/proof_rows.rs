//! `gatepost audit prove` with rows that were removed from the trail or added to it.

use gatepost::audit::codec::encode_record;
use gatepost::audit::record::AuditRecord;
use tempfile::TempDir;

use crate::common::made_stream::{MadeStream, month};
use crate::retire_evidence::Drill;
use crate::run::run;

/// The message with which the proof of a record is refused.
fn refusal(drill: &Drill, record: &AuditRecord) -> String {
    let (dir, id) = (TempDir::new().unwrap(), record.entry.call.request_id.to_string());
    let out = dir.path().to_str().unwrap();
    let (code, stdout, stderr) = run(&drill.setup, &["audit", "prove", &id, "--unwitnessed", "--output", out]);
    assert!(code == Some(1) && dir.path().read_dir().unwrap().next().is_none(), "{stdout}{stderr}");
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_record_is_not_replaced_by_one_after_the_checkpoint() {
    let mut drill = Drill::new().await;
    drill.checkpoint(20, 2, 1).await;
    drill.sql("DELETE FROM audit_log WHERE seq = 18").await;
    let said = refusal(&drill, &drill.stream.records[16]);
    assert!(said.contains("records between the checkpoints around it are missing"), "{said}");
}

/// The stream with another last record, and that record.
fn forged(stream: &MadeStream) -> (MadeStream, AuditRecord) {
    let mut forged = stream.clone();
    forged.records.pop();
    forged.call(month(2) + std::time::Duration::from_hours(48));
    let record = forged.records.last().unwrap().clone();
    (forged, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_record_in_the_place_of_a_signed_one_is_not_proven() {
    let mut said = String::new();
    for is_quarantined in [false, true] {
        let mut drill = Drill::new().await;
        drill.checkpoint(30, 2, 1).await;
        let (_, record) = forged(&drill.stream);
        let (position, own) = (record.position, drill.stream.records[29].position);
        let mut frame = Vec::new();
        encode_record(&record, &mut frame).unwrap();
        // The signed hash stays where proofs look for it, in one table or in another one, and the record is beside it.
        let quarantine =
            "INSERT INTO audit_quarantine (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, error)
            VALUES ($1, 1, 30, $2, $3, $4, $5, 'forged')";
        sqlx::query(quarantine)
            .bind(position.gateway_id.0)
            .bind(position.prev_hash.0.to_vec())
            .bind(position.hash.0.to_vec())
            .bind(record.entry.call.request_id.0)
            .bind(frame)
            .execute(&mut drill.owner)
            .await
            .unwrap();
        if !is_quarantined {
            let retired = "INSERT INTO audit_retired_hash (gateway_id, epoch, seq, hash) VALUES ($1, 1, 30, $2)";
            let query = sqlx::query(retired).bind(position.gateway_id.0).bind(own.hash.0.to_vec());
            query.execute(&mut drill.owner).await.unwrap();
            drill.sql("DELETE FROM audit_log WHERE seq = 30").await;
        }
        said += &refusal(&drill, &record);
    }
    // In one of the orders the database gives the signed hash first, and the tree has its root.
    assert!(said.contains("the signed tree has another record in this place"), "{said}");
}
