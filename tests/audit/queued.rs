//! Level `queued`: the disk rests while the sink keeps up, and takes over when it does not.

use std::sync::Mutex;
use std::time::Duration;

use crate::common::wait::{SOON, until_async};
use crate::memory_sink::Mood;
use crate::rig::{
    Rig, call, events, forgotten, many, ok, one, stop, stop_now, times_recorded, verify_records, verify_records_from,
};
use gatepost::audit::Audit;
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::record::{RequestId, Status};

/// Starts at level `queued` and waits until the opening has settled.
async fn settled(rig: &Rig) -> (Pipeline, Probe) {
    let pipeline = rig.start();
    let probe = pipeline.probe();
    forgotten(rig, &probe).await;
    (pipeline, probe)
}

#[tokio::test]
async fn queued_records_do_not_touch_the_disk_while_the_sink_keeps_up() {
    let rig = Rig::queued(Duration::from_hours(1));
    let (pipeline, probe) = settled(&rig).await;
    let before = (rig.disk.operations(), rig.disk.counts());
    many(&pipeline.audit(), 2_000).await;
    until_async("all is delivered", SOON, || async { probe.gauge().records == 0 }).await;
    assert_eq!((rig.disk.operations(), rig.disk.counts()), before);
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
    let before = rig.disk.operations();
    for round in 1..=30 {
        one(&audit, "echo").await;
        until_async("it is delivered", SOON, || async { rig.sink.count() > round }).await;
    }
    assert_eq!(rig.disk.operations(), before);
    drop(open);
    until_async("all is delivered", SOON, || async { probe.gauge().records == 0 }).await;
    stop(pipeline).await;
}

/// Waits until calls flow past the disk: the spill is over once a batch was looked at that found no backlog.
async fn rests(rig: &Rig, audit: &Audit) -> Vec<RequestId> {
    let ids = Mutex::new(Vec::new());
    until_async("the disk rests", SOON, || async {
        let before = rig.disk.operations();
        let some = many(audit, 5).await;
        until_async("all is delivered", SOON, || async {
            let times = times_recorded(&rig.sink.records());
            some.iter().all(|id| times.contains_key(id))
        })
        .await;
        ids.lock().unwrap().extend(some);
        rig.disk.operations() == before
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
