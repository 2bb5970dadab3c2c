//! An outbox without room: a small file system that is filled to its last block, and a quota.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::wait::{SOON, until_async};
use crate::memory_sink::{MemorySink, Mood};
use crate::rig::{Rig, bytes_in, call_with, delivered, events, ok, one, stop, times_recorded, verify_records};
use gatepost::audit::outbox::Keep;
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{Outcome, RequestId, Status, Timestamp};
use gatepost::audit::{Audit, UnavailableError};

/// Says that this process is the one inside the namespace.
const INSIDE: &str = "GATEPOST_TEST_TMPFS";

/// Calls with large arguments until one is refused for want of room; the calls that were released, and the refusal.
async fn fill(audit: &Audit) -> (Vec<RequestId>, UnavailableError) {
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

/// The outbox is full: what is open still ends, events are recorded, refusals are counted, and after delivery calls
/// begin again.
async fn recovers(pipeline: Pipeline, sink: &MemorySink, dir: &Path, open: gatepost::audit::Receipt) {
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let (released, refusal) = fill(&audit).await;
    assert!(matches!(refusal, UnavailableError::OutboxFull { .. }), "{refusal}");
    assert!(refusal.to_string().contains("outbox is full"), "{refusal}");
    assert!(probe.gauge().outbox.full);
    let open_id = open.request_id();
    open.finish(ok(), ()).await.unwrap().into_inner();
    let event = call_with("echo", "{}");
    let event_id = event.request_id;
    audit.record_event(event).await.unwrap();
    assert!(!refused(&audit, "{}").await, "there is no room for the record of a refusal");
    audit.count_refusals(7, Timestamp::now(), Timestamp::now()).unwrap();
    sink.turn(Mood::Healthy);
    until_async("calls are accepted again", SOON, || async { !probe.gauge().outbox.full }).await;
    let again = one(&audit, "echo").await;
    until_async("all is delivered", SOON, || async { probe.gauge().delivered == probe.gauge().stamped }).await;
    until_async("the directory is small", SOON, || async { bytes_in(dir) < 4 * 1024 * 1024 }).await;
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let records = sink.records();
    let times = times_recorded(&records);
    for id in released.iter().chain([&open_id, &event_id, &again]) {
        assert_eq!(times[id], 1);
    }
    let gaps: u64 = events(&records, "gap").iter().filter_map(|gap| gap["refused"].as_u64()).sum();
    assert_eq!(gaps, 8, "the refused call and the refusals are counted");
    verify_records(&records);
}

/// Records a refusal; `false` if there is no room for its record.
async fn refused(audit: &Audit, arguments: &str) -> bool {
    let outcome = Outcome::failed(Status::Denied, "no");
    audit.record_refusal(call_with("echo", arguments), outcome, ()).await.unwrap().is_some()
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
async fn i4_i6_a_full_quota_refuses_only_calls_until_delivery() {
    let (rig, pipeline, open) = begun(tempfile::tempdir().unwrap(), 64 * 1024 * 1024).await;
    recovers(pipeline, &rig.sink, rig.dir.path(), open).await;
}

#[tokio::test]
async fn i6_refusals_leave_the_last_quarter_of_the_quota() {
    let quota = 64 * 1024 * 1024;
    let (rig, pipeline, open) = begun(tempfile::tempdir().unwrap(), quota).await;
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let mut stored = 0;
    while refused(&audit, &arguments).await {
        stored += 1;
        assert!(stored < 10_000, "refusals fill the disk");
    }
    let used = probe.gauge().outbox.used_bytes;
    assert!((quota / 4 * 3..quota / 8 * 7).contains(&used), "to within one file: {used}");
    let (released, _) = fill(&audit).await;
    assert!(released.len() > 50, "{} calls after the refusals", released.len());
    drop(open);
    rig.sink.turn(Mood::Healthy);
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}

#[tokio::test]
async fn i6_refusals_leave_the_last_quarter_of_the_ring() {
    let mut rig = Rig::on(tempfile::tempdir().unwrap());
    rig.config.timeouts.admission = Duration::ZERO;
    rig.config.ring.records = 64;
    let pipeline = rig.start();
    let audit = pipeline.audit();
    // An open call takes the room of its intent and of its record.
    let mut open = Vec::new();
    while refused(&audit, "{}").await {
        open.push(audit.begin(call_with("open", "{}")).await.unwrap());
    }
    for _ in 0..4 {
        open.push(audit.begin(call_with("open", "{}")).await.unwrap());
    }
    assert!(!refused(&audit, "{}").await);
    drop(open);
    assert_eq!(stop(pipeline).await.lost, 0);
}

#[tokio::test]
async fn unaudited_calls_are_counted_in_a_gap_record() {
    let (rig, pipeline, open) = begun(tempfile::tempdir().unwrap(), 64 * 1024 * 1024).await;
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    fill(&audit).await;
    for _ in 0..3 {
        let receipt = audit.begin_or_continue(call_with("echo", "{}")).await.unwrap();
        receipt.finish(ok(), ()).await.unwrap().into_inner();
    }
    drop(open);
    rig.sink.turn(Mood::Healthy);
    until_async("calls are accepted again", SOON, || async { !probe.gauge().outbox.full }).await;
    // With room again it is recorded like any other.
    let receipt = audit.begin_or_continue(call_with("echo", "{}")).await.unwrap();
    let id = receipt.request_id();
    receipt.finish(ok(), ()).await.unwrap().into_inner();
    stop(pipeline).await;
    let records = rig.sink.records();
    assert_eq!(times_recorded(&records)[&id], 1);
    let gaps = events(&records, "gap");
    let total = |key: &str| gaps.iter().filter_map(|gap| gap[key].as_u64()).sum::<u64>();
    assert_eq!((total("refused"), total("unaudited")), (1, 3));
    verify_records(&records);
}

#[tokio::test]
async fn a_replaced_outbox_directory_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::stored();
    rig.config.dir = place.path().join("outbox");
    rig.config.timeouts.store = Duration::from_millis(50);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    one(&audit, "echo").await;
    let aside = place.path().join("aside");
    std::fs::rename(&rig.config.dir, &aside).unwrap();
    std::fs::create_dir(&rig.config.dir).unwrap();
    assert!(matches!(audit.begin(call_with("echo", "{}")).await, Err(UnavailableError::NotStored { .. })));
    until_async("the outbox has failed", SOON, || async { probe.gauge().outbox_failed }).await;
    assert_eq!(rig.config.dir.read_dir().unwrap().count(), 0, "nothing is written into the other directory");
    std::fs::remove_dir(&rig.config.dir).unwrap();
    std::fs::rename(&aside, &rig.config.dir).unwrap();
    until_async("the outbox has healed", SOON, || async { !probe.gauge().outbox_failed }).await;
    one(&audit, "echo").await;
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}

/// A directory on a tmpfs of 64 MiB. `None` in the process that the runner started: it runs the test `name` again in a
/// mount namespace of its own, where it may mount whoever started it, and judges that.
fn small_disk(name: &str) -> Option<tempfile::TempDir> {
    if let Ok(dir) = std::env::var(INSIDE) {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs", &dir]).status().unwrap();
        assert!(mounted.success());
        return Some(tempfile::tempdir_in(&dir).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("full::{name}"), "--nocapture"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    None
}

#[tokio::test]
async fn i4_a_full_disk_loses_nothing_and_delivery_frees_it() {
    let Some(dir) = small_disk("i4_a_full_disk_loses_nothing_and_delivery_frees_it") else { return };
    let (rig, pipeline, open) = begun(dir, 1 << 40).await;
    recovers(pipeline, &rig.sink, rig.dir.path(), open).await;
}

#[tokio::test]
async fn i4_a_gateway_starts_on_a_full_disk_and_drains_it() {
    let Some(dir) = small_disk("i4_a_gateway_starts_on_a_full_disk_and_drains_it") else { return };
    let (mut rig, pipeline, open) = begun(dir, 1 << 40).await;
    let audit = pipeline.audit();
    let (released, _) = fill(&audit).await;
    drop(open);
    // Refusals use up what the ballast gave, until the disk has not a page left.
    rig.config.timeouts.store = Duration::from_millis(50);
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let mut refused = 0;
    while !pipeline.probe().gauge().outbox_failed {
        let refuse = audit.record_once(call_with("echo", &arguments), Outcome::failed(Status::Denied, "no"), ());
        drop(tokio::time::timeout(Duration::from_millis(500), refuse).await);
        refused += 1;
        assert!(refused < 10_000, "the disk is never full");
    }
    pipeline.stop(Duration::from_millis(200), Duration::from_millis(10)).await;
    rig.config.timeouts.store = SOON;
    rig.sink.turn(Mood::Healthy);
    for _ in 0..2 {
        let pipeline = rig.start();
        let probe = pipeline.probe();
        until_async("calls are accepted again", SOON, || async { !probe.gauge().outbox.full }).await;
        one(&pipeline.audit(), "echo").await;
        assert_eq!(stop(pipeline).await.lost, 0);
    }
    let records = rig.sink.records();
    let times = times_recorded(&records);
    assert!(released.iter().all(|id| times[id] == 1));
    verify_records(&records);
}

#[tokio::test]
async fn kept_records_leave_a_full_disk_before_a_call_is_refused() {
    let Some(dir) = small_disk("kept_records_leave_a_full_disk_before_a_call_is_refused") else { return };
    let mut rig = Rig::on(dir);
    rig.config.outbox_bytes_max = 80 * 1024 * 1024;
    rig.config.keep = Some(Keep { age: Duration::from_hours(1), bytes: 1 << 29 });
    rig.config.timeouts.admission = Duration::from_millis(50);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let mut kept = 0;
    for call in 0..2_000 {
        let receipt = audit.begin(call_with("echo", &arguments)).await.unwrap();
        receipt.finish(ok(), ()).await.unwrap().into_inner();
        if call % 100 == 0 {
            delivered(&probe).await;
            kept = probe.gauge().outbox.kept_bytes.max(kept);
        }
    }
    assert!(kept > 16 * 1024 * 1024, "{kept}");
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}
