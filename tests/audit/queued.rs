//! Level `queued`: the disk rests while the sink keeps up, and takes over when it does not.

use std::sync::Mutex;
use std::time::Duration;

use crate::common::wait::{SOON, until_async};
use crate::fault_disk::Counts;
use crate::memory_sink::Mood;
use crate::rig::{
    Rig, call, delivered, drained, events, forgotten, many, ok, one, stop, stop_now, times_recorded, verify_records,
    verify_records_from,
};
use gatepost::audit::Audit;
use gatepost::audit::chain::{self, Head};
use gatepost::audit::lost::takeover;
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::record::{AuditRecord, Entry, Epoch, RequestId, Status, StreamPosition};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::Sink;

/// Starts at level `queued` and waits until the opening has settled.
async fn settled(rig: &Rig) -> (Pipeline, Probe) {
    let pipeline = rig.start();
    let probe = pipeline.probe();
    forgotten(rig, &probe).await;
    (pipeline, probe)
}

/// What was done with the files of the outbox. The note beside it is never synced.
fn outbox_use(rig: &Rig) -> Vec<Counts> {
    let mut counts = rig.disk.counts();
    counts.retain(|file| file.name != "delivered.json" || file.syncs > 0);
    counts
}

#[tokio::test]
async fn queued_records_do_not_touch_the_disk_while_the_sink_keeps_up() {
    let rig = Rig::queued(Duration::from_hours(1));
    let (pipeline, probe) = settled(&rig).await;
    let before = outbox_use(&rig);
    many(&pipeline.audit(), 2_000).await;
    until_async("all is delivered", SOON, || async { probe.gauge().records == 0 }).await;
    assert_eq!(outbox_use(&rig), before);
    assert_eq!(rig.sink.count(), 2_001);
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}

#[tokio::test]
async fn queued_records_do_not_spill_because_many_calls_are_open() {
    let mut rig = Rig::queued(Duration::from_hours(1));
    rig.config.ring.records = 64;
    let (pipeline, probe) = settled(&rig).await;
    let audit = pipeline.audit();
    let mut open = Vec::new();
    while open.len() < 40 {
        open.push(audit.begin(call("open")).await.unwrap());
    }
    let before = outbox_use(&rig);
    for round in 1..=30 {
        one(&audit, "echo").await;
        until_async("it is delivered", SOON, || async { rig.sink.count() > round }).await;
    }
    assert_eq!(outbox_use(&rig), before);
    drop(open);
    until_async("all is delivered", SOON, || async { probe.gauge().records == 0 }).await;
    stop(pipeline).await;
}

/// Waits until calls flow past the disk: the spill is over once a batch was looked at that found no backlog.
async fn rests(rig: &Rig, audit: &Audit) -> Vec<RequestId> {
    let ids = Mutex::new(Vec::new());
    until_async("the disk rests", SOON, || async {
        let before = outbox_use(rig);
        let some = many(audit, 5).await;
        until_async("all is delivered", SOON, || async {
            let times = times_recorded(&rig.sink.records());
            some.iter().all(|id| times.contains_key(id))
        })
        .await;
        ids.lock().unwrap().extend(some);
        outbox_use(rig) == before
    })
    .await;
    ids.into_inner().unwrap()
}

/// Spills, loses nothing, drains and rests.
async fn spills_and_recovers(rig: Rig, calls: usize) {
    let (pipeline, probe) = settled(&rig).await;
    let audit = pipeline.audit();
    rig.sink.turn(Mood::Blocked);
    let mut ids = many(&audit, calls).await;
    until_async("it spills", SOON, || async { probe.gauge().stored.0 > 1 }).await;
    ids.extend(many(&audit, 10).await);
    let stored = probe.gauge().stored;
    assert!(stored.0 > 10, "{stored}");
    // A crash now loses none of what was stored.
    let crashed = rig.after_crash();
    let kept = crashed.stored_records();
    assert!(verify_records_from(&kept, 2).last().unwrap().seq >= stored.0.cast_signed());

    rig.sink.turn(Mood::Healthy);
    forgotten(&rig, &probe).await;
    ids.extend(rests(&rig, &audit).await);
    assert_eq!(stop(pipeline).await.lost, 0);
    let records = rig.sink.records();
    verify_records(&records);
    let times = times_recorded(&records);
    assert!(ids.iter().all(|id| times[id] == 1));
}

#[tokio::test]
async fn queued_records_spill_when_they_are_old() {
    spills_and_recovers(Rig::queued(Duration::from_millis(20)), 30).await;
}

#[tokio::test]
async fn queued_records_spill_when_the_ring_is_half_full() {
    let mut rig = Rig::queued(Duration::from_hours(1));
    rig.config.ring.records = 64;
    spills_and_recovers(rig, 100).await;
}

#[tokio::test]
async fn i2_a_crash_while_spilling_interrupts_each_open_call_once() {
    let rig = Rig::queued(Duration::from_millis(150));
    let (pipeline, probe) = settled(&rig).await;
    let audit = pipeline.audit();
    rig.sink.turn(Mood::Blocked);
    let open = audit.begin(call("open")).await.unwrap();
    let ends_later = audit.begin(call("echo")).await.unwrap();
    let later_id = ends_later.request_id();
    many(&audit, 5).await;
    until_async("it spills", SOON, || async { probe.gauge().stored.0 > 1 }).await;
    rig.sink.turn(Mood::Healthy);
    rests(&rig, &audit).await;
    // Its intent is in the outbox, and its record could go past it.
    ends_later.finish(ok(), ()).await.unwrap().into_inner();
    until_async("it is delivered", SOON, || async { times_recorded(&rig.sink.records()).contains_key(&later_id) })
        .await;
    let crashed = rig.after_crash();
    // What the crashed gateway delivered before it died, and nothing that it did afterwards.
    stop_now(pipeline).await;
    stop(crashed.start()).await;
    let records = crashed.sink.records();
    let times = times_recorded(&records);
    assert_eq!((times[&open.request_id()], times[&later_id]), (1, 1));
    let interrupted: Vec<_> =
        records.iter().filter(|record| record.entry.response_status == Status::Interrupted).collect();
    assert_eq!(interrupted.iter().map(|record| record.entry.call.request_id).collect::<Vec<_>>(), [open.request_id()]);
    assert!(events(&records, "opened")[1]["previous_closed"] == false);
}

/// A gateway at level `queued` whose records are delivered and not stored, as it would be found after a kill; and the
/// last record that was delivered.
async fn killed() -> (Rig, StreamPosition) {
    let rig = Rig::queued(Duration::from_hours(1));
    let (pipeline, probe) = settled(&rig).await;
    many(&pipeline.audit(), 5).await;
    until_async("all is delivered", SOON, || async { rig.sink.count() == 1 + 5 }).await;
    until_async("it is noted", SOON, || async { rig.note().is_some_and(|note| note["seq"] == 6) }).await;
    drop(probe);
    let crashed = rig.after_crash();
    stop_now(pipeline).await;
    let records = rig.sink.records();
    let last = records.iter().rev().find(|record| record.entry.call.method == "tools/call").unwrap().position;
    // What the killed one delivered, and not what it did afterwards.
    crashed.sink.cut_after(&last);
    (crashed, last)
}

#[tokio::test]
async fn delivered_head_is_noted_and_named_by_the_next_epoch() {
    let (rig, last) = killed().await;
    stop(rig.start()).await;
    let records = rig.sink.records();
    verify_records(&records);
    let opened = &events(&records, "opened")[1];
    assert_eq!(opened["previous_seq"], last.seq.0);
    assert_eq!(opened["previous_hash"], last.hash.to_string());
    assert_eq!(events(&records, "takeover"), Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn end_that_only_postgres_knows_is_recorded_once() {
    for outage in [false, true] {
        let (mut rig, last) = killed().await;
        // As a power loss leaves it, which takes the note.
        std::fs::remove_file(rig.dir.path().join("delivered.json")).unwrap();
        if outage {
            // Another crash before Postgres can be asked.
            rig.sink.turn(Mood::Down);
            let pipeline = rig.start();
            let crashed = rig.after_crash();
            stop_now(pipeline).await;
            crashed.sink.turn(Mood::Healthy);
            rig = crashed;
        }
        for _ in 0..2 {
            drained(&rig).await;
        }
        let records = rig.sink.records();
        verify_records(&records);
        assert!(events(&records, "opened")[1]["previous_seq"].as_u64() < Some(last.seq.0));
        let expected = serde_json::json!({ "epoch": 1, "seq": last.seq, "hash": last.hash });
        assert_eq!(events(&records, "takeover"), [expected], "outage: {outage}");
        let read = records.iter().find_map(takeover);
        assert_eq!(read, Some((Epoch(1), Head::after(&last))));
    }
}

#[tokio::test]
async fn end_is_not_taken_over_at_level_stored() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    many(&pipeline.audit(), 3).await;
    delivered(&pipeline.probe()).await;
    let crashed = rig.after_crash();
    let last = rig.sink.records().last().unwrap().position;
    stop_now(pipeline).await;
    crashed.sink.cut_after(&last);
    // Somebody with the gateway's login appends a call to the epoch that ended in a crash.
    let entry = Entry::new(call("forged"), ok(), Duration::ZERO);
    let position = chain::link(last.gateway_id, last.epoch, Head::after(&last), &entry);
    crashed.sink.clone().deliver(&[AuditRecord { position, entry }]).await.unwrap();
    let pipeline = crashed.start();
    let probe = pipeline.probe();
    one(&pipeline.audit(), "echo").await;
    delivered(&probe).await;
    let ShipperState::Forked { error } = probe.shipper() else { panic!("{:?}", probe.shipper()) };
    assert!(error.contains("epoch 1"), "{error}");
    stop(pipeline).await;
    let records = crashed.sink.records();
    assert_eq!(events(&records, "takeover"), Vec::<serde_json::Value>::new());
    assert_eq!(events(&records, "opened")[1]["previous_seq"], last.seq.0);
}

#[tokio::test]
async fn rows_that_postgres_lost_at_the_end_of_an_epoch_raise_the_alarm() {
    let (rig, last) = killed().await;
    let records = rig.sink.records();
    let before = records[records.len() - 2].position;
    rig.sink.cut_after(&before);
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    let ShipperState::Forked { error } = probe.shipper() else { panic!("{:?}", probe.shipper()) };
    assert!(error.contains(&format!("records {} to {0} were delivered", last.seq)), "{error}");
    stop(pipeline).await;
}
