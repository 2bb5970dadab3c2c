//! An outbox without room: a small file system that is filled to its last block, and a quota.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::memory_sink::{MemorySink, Mood};
use common::pipeline::{Rig, bytes_in, call_with, events, ok, one, stop, times_recorded};
use common::trail;
use common::wait::{SOON, until_async};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{Outcome, RequestId, Status};
use gatepost::audit::{Audit, Unavailable};

/// Says that this process is the one inside the namespace.
const INSIDE: &str = "GATEPOST_TEST_TMPFS";

/// Calls with large arguments until one is refused for want of room; the calls that were released, and the refusal.
async fn fill(audit: &Audit) -> (Vec<RequestId>, Unavailable) {
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let mut released = Vec::new();
    loop {
        let receipt = match audit.begin(call_with("echo", &arguments)).await {
            Ok(receipt) => receipt,
            Err(unavailable) => return (released, unavailable),
        };
        let id = receipt.request_id();
        receipt.finish(ok(), ()).await.unwrap().into_inner();
        released.push(id);
        assert!(released.len() < 10_000, "the outbox is never full");
    }
}

/// The outbox is full: what is open still ends, refusals are recorded, and after delivery calls begin again.
async fn recovers(pipeline: Pipeline, sink: &MemorySink, dir: &Path, open: gatepost::audit::Receipt) {
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let (released, refusal) = fill(&audit).await;
    assert!(matches!(refusal, Unavailable::OutboxFull { .. }), "{refusal}");
    assert!(refusal.to_string().contains("outbox is full"), "{refusal}");
    assert!(probe.gauge().outbox.full);
    let open_id = open.request_id();
    open.finish(ok(), ()).await.unwrap().into_inner();
    let denied = call_with("echo", "{}");
    let denied_id = denied.request_id;
    audit.refuse(denied, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
    sink.turn(Mood::Healthy);
    until_async("calls are accepted again", SOON, || async { !probe.gauge().outbox.full }).await;
    let again = one(&audit, "echo").await;
    until_async("all is delivered", SOON, || async { probe.gauge().delivered == probe.gauge().stamped }).await;
    until_async("the directory is small", SOON, || async { bytes_in(dir) < 4 * 1024 * 1024 }).await;
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let records = sink.records();
    let times = times_recorded(&records);
    for id in released.iter().chain([&open_id, &denied_id, &again]) {
        assert_eq!(times[id], 1);
    }
    assert_eq!(events(&records, "gap")[0]["refused"], 1, "the refused call is counted");
    trail::verify_records(&records);
}

async fn begun(dir: tempfile::TempDir, quota: u64) -> (Rig, Pipeline, gatepost::audit::Receipt) {
    let mut rig = Rig::on(dir);
    rig.config.outbox_bytes_max = quota;
    rig.config.timeouts.admission = Duration::from_millis(50);
    rig.sink.turn(Mood::Down);
    let pipeline = rig.start();
    let open = pipeline.audit().begin(call_with("open", "{}")).await.unwrap();
    (rig, pipeline, open)
}

#[tokio::test]
async fn i4_i6_a_quota_refuses_calls_and_nothing_else_until_records_are_delivered() {
    let (rig, pipeline, open) = begun(tempfile::tempdir().unwrap(), 64 * 1024 * 1024).await;
    recovers(pipeline, &rig.sink, rig.dir.path(), open).await;
}

/// Runs itself again in a mount namespace of its own, where it may mount a tmpfs of 64 MiB whoever started it.
#[tokio::test]
async fn i4_a_full_disk_loses_nothing_and_heals_by_delivery() {
    if let Ok(dir) = std::env::var(INSIDE) {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs", &dir]).status().unwrap();
        assert!(mounted.success());
        let (rig, pipeline, open) = begun(tempfile::tempdir_in(&dir).unwrap(), 1 << 40).await;
        return recovers(pipeline, &rig.sink, rig.dir.path(), open).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "i4_a_full_disk_loses_nothing_and_heals_by_delivery";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
