//! The way from a call to the outbox, on a disk that blocks, fails and dies: I1, I2, I3, I7.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until_async};
use crate::fault_disk::Disk;
use crate::memory_sink::MemorySink;
use crate::rig::{
    Rig, call, call_with, events, many, ok, one, statuses, stop, stop_now, times_recorded, verify_records,
};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{AuditRecord, GatewayId, Outcome, RequestId, Status};
use gatepost::audit::ring::Phase;
use gatepost::audit::{UnavailableError, outbox};
use tokio::time::timeout;

/// Long enough for a future to be polled; what is asserted is that it is not ready, whatever time it gets.
const A_POLL: Duration = Duration::from_millis(1);

async fn syncs(disk: &Disk) {
    until_async("an fsync waits", SOON, || async { disk.waiting() > 0 }).await;
}

#[tokio::test]
async fn i1_begin_returns_only_after_the_commit_of_its_intent() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    rig.disk.close_gate();
    let mut begin = std::pin::pin!(audit.begin(call("echo")));
    assert!(timeout(A_POLL, &mut begin).await.is_err());
    syncs(&rig.disk).await;
    assert!(timeout(A_POLL, &mut begin).await.is_err(), "begin returned before its intent was stored");
    rig.disk.open_gate();
    let receipt = begin.await.unwrap();
    let reader = pipeline.probe();
    let intents = reader.reader().intents().unwrap();
    assert_eq!(intents.iter().map(|call| call.request_id).collect::<Vec<_>>(), [receipt.request_id()]);
    drop(receipt);
    stop(pipeline).await;
}

#[tokio::test]
async fn i1_finish_and_refuse_wait_for_the_commit_of_their_records() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let receipt = audit.begin(call("echo")).await.unwrap();
    rig.disk.close_gate();
    let mut finish = std::pin::pin!(receipt.finish(ok(), "answer"));
    assert!(timeout(A_POLL, &mut finish).await.is_err());
    syncs(&rig.disk).await;
    assert!(timeout(A_POLL, &mut finish).await.is_err(), "the answer was released before its record was stored");
    rig.disk.open_gate();
    assert_eq!(finish.await.unwrap().into_inner(), "answer");
    rig.disk.close_gate();
    let mut refuse = std::pin::pin!(audit.record_once(call("echo"), Outcome::failed(Status::Denied, "no"), ()));
    assert!(timeout(A_POLL, &mut refuse).await.is_err());
    syncs(&rig.disk).await;
    assert!(timeout(A_POLL, &mut refuse).await.is_err(), "the refusal was released before its record was stored");
    rig.disk.open_gate();
    refuse.await.unwrap().into_inner();
    stop(pipeline).await;
}

#[tokio::test]
async fn i1_level_queued_does_not_wait_for_the_disk() {
    let rig = Rig::queued(Duration::from_hours(1));
    let pipeline = rig.start_store_only();
    let before = rig.disk.operations();
    rig.disk.close_gate();
    for _ in 0..10 {
        one(&pipeline.audit(), "echo").await;
    }
    let probe = pipeline.probe();
    until_async("the scribe has them", SOON, || async { probe.gauge().stamped.0 == 11 }).await;
    assert_eq!(rig.disk.operations(), before);
    rig.disk.open_gate();
    stop(pipeline).await;
    assert_eq!(rig.stored_records().len(), 12);
}

#[tokio::test]
async fn i1_a_stopping_gateway_issues_no_receipt_and_no_answer() {
    for rig in [Rig::stored(), Rig::queued(Duration::from_hours(1))] {
        let pipeline = rig.start_store_only();
        let audit = pipeline.audit();
        let (open, refused) = (audit.begin(call("open")).await.unwrap(), call("late"));
        let id = open.request_id();
        stop(pipeline).await;
        assert!(matches!(audit.begin(call("late")).await, Err(UnavailableError::Closed)));
        let refuse = audit.record_once(refused, Outcome::failed(Status::Denied, "no"), ()).await;
        assert!(matches!(refuse, Err(UnavailableError::Closed)));
        // Its record was not taken any more, so the answer may not leave: the next start calls it interrupted.
        assert!(matches!(open.finish(ok(), ()).await, Err(UnavailableError::Closed)), "{:?}", rig.config.mode);
        stop(rig.start_store_only()).await;
        assert_eq!(statuses(&rig.stored_records(), id), [Status::Interrupted]);
    }
}

#[tokio::test]
async fn i2_every_end_of_a_call_is_one_record() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let dropped = audit.begin(call("dropped")).await.unwrap();
    let dropped_id = dropped.request_id();
    drop(dropped);
    let mut want = vec![(dropped_id, Status::Error)];
    for status in [Status::Ok, Status::ToolError, Status::Error, Status::Timeout, Status::Cancelled] {
        let receipt = audit.begin(call("ended")).await.unwrap();
        want.push((receipt.request_id(), status));
        receipt.finish(Outcome::failed(status, "why"), ()).await.unwrap().into_inner();
    }
    let mut refused = Vec::new();
    for status in [Status::Denied, Status::Unauthenticated, Status::Malformed, Status::RateLimited] {
        let call = call("refused");
        refused.push((call.request_id, status));
        audit.record_once(call, Outcome::failed(status, "why"), ()).await.unwrap().into_inner();
    }
    let mut abandoned = Box::pin(audit.begin(call("abandoned")));
    rig.disk.close_gate();
    assert!(timeout(A_POLL, &mut abandoned).await.is_err());
    drop(abandoned);
    rig.disk.open_gate();
    stop(pipeline).await;
    let records = rig.stored_records();
    verify_records(&records);
    for (id, status) in want.iter().chain(&refused) {
        assert_eq!(statuses(&records, *id), [*status]);
    }
    let of_tool = |tool: &str| -> Vec<_> {
        records.iter().filter(|record| record.entry.call.tool_name.as_deref() == Some(tool)).collect()
    };
    assert!(of_tool("refused").iter().all(|record| record.entry.latency_ms <= 0.0));
    assert!(of_tool("ended").iter().all(|record| record.entry.latency_ms > 0.0));
    assert_eq!(of_tool("abandoned").len(), 1);
    assert_eq!(of_tool("abandoned")[0].entry.response_status, Status::Error);
    assert_eq!(records.len(), want.len() + refused.len() + 3);
}

#[tokio::test]
async fn i2_a_crash_gives_each_open_call_one_interrupted_record() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let finished = many(&audit, 5).await;
    let open = [audit.begin(call("open")).await.unwrap(), audit.begin(call("open")).await.unwrap()];
    let finished_later = one(&audit, "echo").await;
    let crashed = rig.after_crash();
    stop_now(pipeline).await;

    let reopened = crashed.start_store_only();
    let again = crashed.after_crash();
    stop(reopened).await;
    for rig in [&crashed, &again] {
        stop(rig.start_store_only()).await;
        let records = rig.stored_records();
        verify_records(&records);
        for receipt in &open {
            assert_eq!(statuses(&records, receipt.request_id()), [Status::Interrupted]);
        }
        for id in finished.iter().chain([&finished_later]) {
            assert_eq!(statuses(&records, *id), [Status::Ok]);
        }
        let opened = events(&records, "opened");
        assert_eq!(opened[1]["interrupted"], 2);
        assert_eq!(opened[2]["interrupted"], 0);
    }
}

#[tokio::test]
async fn i2_a_call_whose_intent_timed_out_has_one_record_later() {
    let mut rig = Rig::stored();
    rig.config.timeouts.store = Duration::from_millis(50);
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    rig.disk.fail();
    let refused = call("echo");
    let id = refused.request_id;
    assert!(matches!(audit.begin(refused).await, Err(UnavailableError::NotStored { .. })));
    let probe = pipeline.probe();
    assert!(probe.gauge().outbox_failed);
    rig.disk.heal();
    until_async("the outbox heals", SOON, || async { probe.gauge().stamped.0 == 2 }).await;
    assert!(!probe.gauge().outbox_failed);
    let crashed = rig.after_crash();
    stop(pipeline).await;
    stop(crashed.start_store_only()).await;
    for rig in [rig, crashed] {
        let records = rig.stored_records();
        assert_eq!(statuses(&records, id), [Status::AuditUnavailable]);
        let record = records.iter().find(|record| record.entry.call.request_id == id).unwrap();
        assert!(record.entry.latency_ms <= 0.0, "a call that was refused before dispatch");
    }
}

#[tokio::test]
async fn i2_refusals_without_room_become_one_gap_record() {
    let mut rig = Rig::stored();
    rig.config.ring.records = 32;
    rig.config.timeouts.admission = Duration::from_millis(5);
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let mut open = Vec::new();
    let mut refused = 0_u64;
    // I6: when no call fits any more, refusals and the outcomes of calls already begun still do. The scribe is kept
    // busy meanwhile, so that it finds all that were missed at once.
    let mut denied = Box::pin(audit.record_once(call("denied"), Outcome::failed(Status::Denied, "no"), ()));
    while refused < 5 {
        if open.len() == 27 && rig.disk.waiting() == 0 {
            rig.disk.close_gate();
            assert!(timeout(A_POLL, &mut denied).await.is_err());
            syncs(&rig.disk).await;
        }
        match audit.begin(call("echo")).await {
            Ok(receipt) => open.push(receipt),
            Err(UnavailableError::Full { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    rig.disk.open_gate();
    denied.await.unwrap().into_inner();
    assert_eq!(
        open.len(),
        27,
        "seven eighths of the ring, of which a call that begins takes two places and an open one one"
    );
    for receipt in open {
        receipt.finish(ok(), ()).await.unwrap().into_inner();
    }
    one(&audit, "echo").await;
    stop(pipeline).await;
    let records = rig.stored_records();
    verify_records(&records);
    let gaps = events(&records, "gap");
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["refused"], refused);
}

#[tokio::test]
async fn i2_a_gap_is_recorded_though_no_call_follows() {
    let mut rig = Rig::stored();
    rig.config.ring.records = 16;
    rig.config.timeouts.admission = Duration::from_millis(5);
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let mut open = Vec::new();
    while let Ok(receipt) = audit.begin(call("echo")).await {
        open.push(receipt);
    }
    let probe = pipeline.probe();
    until_async("the gap is stored", SOON, || async { !events(&stored_records(probe.reader()), "gap").is_empty() })
        .await;
    drop(open);
    stop(pipeline).await;
}

/// The epochs' opening and closing records, and whether everything between them is in its place.
fn epochs(records: &[AuditRecord]) -> Vec<(u64, bool)> {
    verify_records(records);
    let mut epochs: Vec<(u64, bool)> = Vec::new();
    for record in records {
        let (position, method) = (record.position, record.entry.call.method.as_str());
        if let Some((_, closed)) = epochs.last_mut().filter(|(epoch, _)| *epoch == position.epoch.0) {
            assert!(!*closed, "a record after gateway/closed: {method}");
            assert_ne!(method, "gateway/opened");
            *closed = method == "gateway/closed";
        } else {
            assert_eq!((position.seq.0, method), (1, "gateway/opened"));
            epochs.push((position.epoch.0, false));
        }
    }
    epochs
}

#[tokio::test]
async fn i3_epochs_rise_by_one_over_stops_and_crashes() {
    let mut rig = Rig::stored();
    let mut want = Vec::new();
    for epoch in 1..=6 {
        let pipeline = rig.start_store_only();
        assert_eq!(pipeline.probe().stream().1.0, epoch);
        many(&pipeline.audit(), 3).await;
        let crash = epoch % 2 == 0;
        if crash {
            let crashed = rig.after_crash();
            stop_now(pipeline).await;
            rig = crashed;
        } else {
            let ended = stop(pipeline).await;
            assert_eq!((ended.lost, ended.last.0), (0, 5));
        }
        want.push((epoch, !crash));
    }
    let records = rig.stored_records();
    assert_eq!(epochs(&records), want);
    let opened = events(&records, "opened");
    for (before, opened) in want.iter().zip(&opened[1..]) {
        assert_eq!(opened["previous_epoch"], before.0);
        assert_eq!(opened["previous_closed"], before.1);
        let last = records.iter().rfind(|record| record.position.epoch.0 == before.0).unwrap();
        assert_eq!(opened["previous_seq"], last.position.seq.0);
        assert_eq!(opened["previous_hash"], last.position.hash.to_string());
    }
    assert!(opened[0]["previous_epoch"].is_null());
    assert_eq!(opened[0]["level"], "stored");
    assert!(events(&records, "closed").iter().all(|closed| closed["records"] == 5));
}

#[tokio::test]
async fn i3_an_epoch_whose_opening_failed_is_not_used_twice() {
    let dry = Rig::stored();
    stop(dry.start_store_only()).await;
    let dry_second = Rig::on(dry.disk.crash_image(dry.dir.path()));
    let opened = dry_second.start_store_only();
    let operations = dry_second.disk.operations();
    stop(opened).await;
    for at in 1..=operations {
        let rig = Rig::on(dry.disk.crash_image(dry.dir.path()));
        rig.disk.fail_once_at(at);
        let failed = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), None::<MemorySink>);
        if let Ok(pipeline) = failed {
            stop(pipeline).await;
        }
        stop(rig.start_store_only()).await;
        epochs(&rig.stored_records());
        assert_eq!(rig.disk.written_after_failure(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn i3_nothing_follows_the_closing_record() {
    let rig = Rig::stored();
    rig.sink.turn(crate::memory_sink::Mood::Blocked);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    one(&audit, "echo").await;
    let stopping = tokio::spawn(stop(pipeline));
    until_async("the epoch is closed", SOON, || async { probe.gauge().stored.0 == 3 }).await;
    // Refused, since the gateway stops; the trail of this epoch is complete and says so.
    assert!(audit.begin(call("late")).await.is_err());
    rig.sink.turn(crate::memory_sink::Mood::Healthy);
    stopping.await.unwrap();
    assert_eq!(rig.sink.records().last().unwrap().entry.call.method, "gateway/closed");
    let pipeline = rig.start();
    stop(pipeline).await;
    assert_eq!(epochs(&rig.sink.records()), [(1, true), (2, true)]);
    assert_eq!(events(&rig.sink.records(), "opened")[1]["previous_closed"], true);
}

#[tokio::test]
async fn i3_an_epoch_closed_before_its_file_failed_stays_closed() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    one(&pipeline.audit(), "echo").await;
    let (disk, sink) = (rig.disk.clone(), rig.sink.clone());
    sink.turn(crate::memory_sink::Mood::Blocked);
    let stopping = tokio::spawn(stop(pipeline));
    until_async("the epoch is closed", SOON, || async { probe.phase() == Phase::Closed }).await;
    disk.fail_next();
    sink.turn(crate::memory_sink::Mood::Healthy);
    stopping.await.unwrap();
    assert!(rig.generations().iter().any(|name| name.contains("000002")), "the failure made a new file");
    stop(rig.start()).await;
    assert_eq!(events(&rig.sink.records(), "opened")[1]["previous_closed"], true);
}

/// Calls one after another until one is refused; what was given a receipt and what was released.
async fn scripted(pipeline: &Pipeline) -> (Vec<RequestId>, Vec<RequestId>) {
    let (audit, mut begun, mut released) = (pipeline.audit(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let Ok(receipt) = audit.begin(call("echo")).await else { break };
        let id = receipt.request_id();
        begun.push(id);
        let Ok(answer) = receipt.finish(ok(), ()).await else { break };
        answer.into_inner();
        released.push(id);
    }
    (begun, released)
}

/// Runs the script on a disk that fails as `fail` says; what had a receipt has to be there afterwards.
async fn survives(fail: impl Fn(&Disk), lasting: bool) {
    let mut rig = Rig::stored();
    if lasting {
        rig.config.timeouts.store = Duration::from_millis(20);
    }
    fail(&rig.disk);
    let (begun, released) = match Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), None::<MemorySink>) {
        Ok(pipeline) => {
            let calls = scripted(&pipeline).await;
            if lasting {
                stop_now(pipeline).await;
            } else {
                assert_eq!(calls.1.len(), 3, "a new file takes over");
                assert_eq!(stop(pipeline).await.lost, 0);
            }
            calls
        }
        Err(_) => Default::default(),
    };
    // I7: not even redb's own farewell is written.
    assert_eq!(rig.disk.written_after_failure(), Vec::<String>::new());
    rig.disk.heal();
    rig.config.timeouts.store = SOON;
    stop(rig.start_store_only()).await;
    let records = rig.stored_records();
    epochs(&records);
    let times = times_recorded(&records);
    assert!(begun.iter().all(|id| times[id] == 1), "I2: a call that was begun has one record");
    for id in released {
        assert_eq!(statuses(&records, id), [Status::Ok], "a call whose answer was released");
    }
    let names = rig.generations();
    assert!(names.iter().all(|name| !name.contains(".tmp")), "{names:?}");
}

#[tokio::test]
async fn i7_a_failed_operation_moves_the_outbox_to_a_new_file() {
    let dry = Rig::stored();
    let pipeline = dry.start_store_only();
    scripted(&pipeline).await;
    stop(pipeline).await;
    let operations = dry.disk.operations();
    assert!(operations > 20, "{operations}");
    for at in 1..=operations {
        survives(|disk| disk.fail_once_at(at), false).await;
    }
}

#[tokio::test]
async fn i7_a_dead_disk_loses_nothing_that_had_a_receipt() {
    let dry = Rig::stored();
    let pipeline = dry.start_store_only();
    scripted(&pipeline).await;
    let operations = dry.disk.operations();
    stop(pipeline).await;
    for at in (1..=operations).step_by(3) {
        survives(|disk| disk.fail_from(at), true).await;
    }
}

#[tokio::test]
async fn i7_a_new_file_carries_the_intents_of_open_calls() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let open = audit.begin(call("open")).await.unwrap();
    rig.disk.fail_next();
    let later = one(&audit, "echo").await;
    assert_eq!(rig.generations().len(), 2);
    let crashed = rig.after_crash();
    stop_now(pipeline).await;
    stop(crashed.start_store_only()).await;
    let records = crashed.stored_records();
    assert_eq!(statuses(&records, open.request_id()), [Status::Interrupted]);
    assert_eq!(statuses(&records, later), [Status::Ok]);
}

#[tokio::test]
async fn a_failing_disk_is_retried_without_leaving_files() {
    let mut rig = Rig::stored();
    rig.config.timeouts.store = Duration::from_millis(20);
    let pipeline = rig.start_store_only();
    rig.disk.fail_writes();
    assert!(pipeline.audit().begin(call("echo")).await.is_err());
    let before = rig.disk.operations();
    until_async("it is tried three times", SOON, || async { rig.disk.operations() > before + 6 }).await;
    rig.disk.heal();
    let probe = pipeline.probe();
    until_async("the outbox heals", SOON, || async { probe.gauge().stamped.0 == 2 }).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    let names = rig.generations();
    assert!(names.iter().all(|name| !name.contains(".tmp")), "{names:?}");
}

#[tokio::test]
async fn a_stop_reports_what_a_dead_disk_lost() {
    for mut rig in [Rig::stored(), Rig::queued(Duration::from_hours(1))] {
        rig.config.timeouts.store = Duration::from_secs(1);
        let pipeline = rig.start_store_only();
        let audit = pipeline.audit();
        let healthy = many(&audit, 3).await;
        rig.disk.fail();
        let lost = || audit.record_once(call("lost"), Outcome::failed(Status::Denied, "no"), ());
        drop(tokio::join!(lost(), lost(), lost(), lost()));
        let stored = rig.config.about.level == "stored";
        if !stored {
            let probe = pipeline.probe();
            until_async("the scribe has them", SOON, || async { probe.gauge().stamped.0 == 1 + 7 }).await;
        }
        let ended = stop_now(pipeline).await;
        // At level queued all calls and the closing record were in memory only; at level stored the four, which the
        // scribe waits with, so that there is no closing record yet.
        assert_eq!(ended.lost, if stored { 4 } else { healthy.len() + 4 + 1 }, "{:?}", rig.config.mode);
        rig.disk.heal();
        stop(rig.start_store_only()).await;
        let records = rig.stored_records();
        epochs(&records);
        assert_eq!(records.len(), if stored { 1 + 3 + 2 } else { 1 + 2 });
    }
}

#[tokio::test]
async fn a_stop_past_its_deadline_still_stores_the_ring() {
    let rig = Rig::queued(Duration::from_hours(1));
    let pipeline = rig.start();
    let (audit, probe, disk) = (pipeline.audit(), pipeline.probe(), rig.disk.clone());
    // The scribe hangs in the commit that forgets the opening record.
    disk.close_gate();
    one(&audit, "echo").await;
    syncs(&disk).await;
    rig.sink.turn(crate::memory_sink::Mood::Down);
    many(&audit, 3).await;
    let stopping = tokio::spawn(stop_now(pipeline));
    until_async("the scribe has to end", SOON, || async { probe.phase() == Phase::Finished }).await;
    disk.open_gate();
    assert_eq!(stopping.await.unwrap().lost, 0);
    let mut records = rig.sink.records();
    let last = records.last().unwrap().position.seq;
    records.extend(rig.stored_records().into_iter().filter(|record| record.position.seq > last));
    assert_eq!(epochs(&records), [(1, true)]);
    assert_eq!(records.len(), 1 + 4 + 1);
}

fn refusal_to_open(rig: &Rig, dir: &Path) -> outbox::OutboxError {
    let config = gatepost::audit::pipeline::Config { dir: dir.to_owned(), ..rig.config.clone() };
    Pipeline::start(&config, Arc::new(rig.disk.clone()), None::<MemorySink>).unwrap_err()
}

#[tokio::test]
async fn an_outbox_that_cannot_be_opened_says_why() {
    let rig = Rig::stored();
    let dir = rig.dir.path();
    let pipeline = rig.start_store_only();
    let (gateway_id, _) = pipeline.probe().stream();
    let locked = refusal_to_open(&rig, dir).to_string();
    let holder = format!("in use by pid {} gateway {gateway_id}", std::process::id());
    assert!(locked.contains(&holder), "{locked}");
    stop(pipeline).await;

    let mut other = Rig::stored();
    other.config.gateway_id = Some(GatewayId(RequestId::new().0));
    let error = refusal_to_open(&other, dir);
    assert!(matches!(&error, outbox::OutboxError::OtherGateway { found, .. } if *found == gateway_id));
    assert!(error.to_string().contains("change audit.gateway_id or audit.dir"), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = refusal_to_open(&rig, &file.path().join("outbox")).to_string();
    assert!(error.contains("cannot create directory") && error.contains("outbox"), "{error}");
}

#[tokio::test]
async fn arguments_of_any_size_are_stored() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let audit = pipeline.audit();
    let long = format!("{:?}", "x".repeat(50_000_000));
    // Whoever wires the configuration may forget its bound; the scribe must not die of it.
    let huge = call_with("huge", "{}").with_arguments(Some(long), None);
    let receipt = audit.begin(huge).await.unwrap();
    receipt.finish(ok(), ()).await.unwrap().into_inner();
    assert_eq!(stop(pipeline).await.lost, 0);
    let records = rig.stored_records();
    assert_eq!(records.len(), 3);
    assert_eq!(records[1].entry.call.request_args, None);
    assert_eq!(records[1].entry.error_message.as_deref(), Some("normalised: request_args"));
}
