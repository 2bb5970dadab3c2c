//! The way from ring and outbox to a sink that misbehaves: I4, I5, I6 and I9.

use std::time::Duration;

use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until_async};
use crate::memory_sink::Mood;
use crate::rig::{
    Rig, bytes_in, call, delivered, forgotten, many, ok, one, statuses, stop, stop_now, times_recorded, verify_records,
    verify_records_from,
};
use gatepost::audit::record::{Outcome, Seq, Status};
use gatepost::audit::shipper::ShipperState;

#[tokio::test]
async fn i4_the_outbox_forgets_only_what_was_delivered() {
    for mood in [Mood::Blocked, Mood::Down, Mood::Held] {
        let rig = Rig::stored();
        rig.sink.turn(mood);
        let pipeline = rig.start();
        let (audit, probe) = (pipeline.audit(), pipeline.probe());
        many(&audit, 50).await;
        until_async("the sink was asked", SOON, || async { rig.sink.calls() > 0 }).await;
        many(&audit, 50).await;
        assert_eq!(stored_records(probe.reader()).len(), 101, "{mood:?}");
        assert_eq!(stored_records(probe.reader())[0].position.seq, Seq(1));
        let ended = stop_now(pipeline).await;
        assert_eq!((ended.lost, ended.delivered), (0, Seq(0)));
        assert_eq!(rig.stored_records().len(), 102);
        rig.sink.turn(Mood::Healthy);
        stop(rig.start()).await;
        assert_eq!(rig.sink.count(), 102 + 2);
        verify_records(&rig.sink.records());
    }
}

#[tokio::test]
async fn i4_a_partly_delivered_outbox_keeps_the_rest() {
    let mut rig = Rig::stored();
    rig.config.batch.records = 7;
    rig.sink.turn(Mood::Down);
    let pipeline = rig.start();
    many(&pipeline.audit(), 40).await;
    stop_now(pipeline).await;
    // The sink takes what comes first and refuses the rest as an operator's error would.
    rig.sink.turn(Mood::Healthy);
    rig.sink.hold_after(14);
    let pipeline = rig.start();
    let probe = pipeline.probe();
    until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
    // A commit carries the watermark.
    one(&pipeline.audit(), "echo").await;
    let delivered = rig.sink.count();
    assert_eq!(delivered, 14);
    let crashed = rig.after_crash();
    stop_now(pipeline).await;
    let kept = crashed.stored_records();
    let first_epoch: Vec<_> = kept.iter().filter(|record| record.position.epoch.0 == 1).collect();
    assert_eq!(first_epoch.last().unwrap().position.seq.0, 42);
    assert!(first_epoch[0].position.seq.0 <= 15, "everything behind the fourteenth is there");
    crashed.sink.hold_after(usize::MAX);
    stop(crashed.start()).await;
    verify_records(&crashed.sink.records());
    assert_eq!(crashed.sink.records().iter().filter(|record| record.position.epoch.0 == 1).count(), 42);
}

#[tokio::test]
async fn i4_a_partly_delivered_segment_is_kept() {
    let mut rig = Rig::stored();
    rig.config.batch.records = 7;
    rig.sink.turn(Mood::Blocked);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    // What arrives during one commit stands in one segment of the next.
    rig.disk.close_gate();
    let refuse = || {
        let audit = audit.clone();
        let refused = Outcome::failed(Status::Denied, "no");
        tokio::spawn(async move { audit.record_once(call("echo"), refused, ()).await.unwrap().into_inner() })
    };
    let mut refusals = vec![refuse()];
    until_async("an fsync waits", SOON, || async { rig.disk.waiting() > 0 }).await;
    refusals.extend((0..30).map(|_| refuse()));
    until_async("all are queued", SOON, || async { probe.gauge().records == 1 + 31 }).await;
    rig.disk.open_gate();
    for refusal in refusals {
        refusal.await.unwrap();
    }
    rig.sink.hold_after(14);
    rig.sink.turn(Mood::Healthy);
    until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
    assert_eq!(probe.gauge().delivered, Seq(14));
    // This commit carries the watermark.
    one(&audit, "echo").await;
    let stats = probe.reader().stats().unwrap();
    assert_eq!((stats.streams[0].delivered, stats.streams[0].last), (Seq(14), Seq(33)));
    let crashed = rig.after_crash();
    stop_now(pipeline).await;
    let kept = crashed.stored_records();
    assert!(kept[0].position.seq <= Seq(15), "kept from seq {}", kept[0].position.seq);
    verify_records_from(&kept, kept[0].position.seq.0.cast_signed());
    crashed.sink.hold_after(usize::MAX);
    stop(crashed.start()).await;
    assert_eq!(verify_records(&crashed.sink.records()).len(), 33 + 2);
}

#[tokio::test]
async fn i4_after_delivery_the_outbox_is_one_small_empty_file() {
    let rig = Rig::stored();
    for _ in 0..3 {
        let pipeline = rig.start_store_only();
        many(&pipeline.audit(), 20).await;
        stop(pipeline).await;
    }
    assert_eq!(rig.generations().len(), 3);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    forgotten(&rig, &probe).await;
    many(&audit, 10).await;
    // A file that was sealed by a failure is unlinked too, though the shipper had all of it from the ring.
    rig.disk.fail_next();
    many(&audit, 10).await;
    forgotten(&rig, &probe).await;
    let stats = probe.reader().stats().unwrap();
    assert_eq!((stats.generations, stats.streams.len(), stats.intents), (1, 0, 0));
    assert!(bytes_in(rig.dir.path()) < 2 * 1024 * 1024, "{}", bytes_in(rig.dir.path()));
    stop(pipeline).await;
    assert_eq!(rig.sink.count(), 3 * 22 + 22);
    verify_records(&rig.sink.records());
}

#[tokio::test]
async fn an_unlinked_outbox_file_is_closed() {
    let rig = Rig::stored();
    stop(rig.start_store_only()).await;
    let pipeline = rig.start();
    // Nobody but the shipper reads, so that nobody else opens it.
    until_async("it is unlinked", SOON, || async { rig.generations() == ["outbox-000002.redb"] }).await;
    // A read that is under way ends first.
    until_async("it is closed", SOON, || async { rig.disk.open_handles("outbox-000001.redb") == 0 }).await;
    stop(pipeline).await;
}

#[tokio::test]
async fn i4_stored_records_are_delivered_once_a_sink_is_configured() {
    let mut rig = Rig::stored();
    let mut ids = Vec::new();
    for epoch in 0..4 {
        let pipeline = rig.start_store_only();
        assert_eq!(pipeline.probe().shipper(), ShipperState::StoreOnly);
        ids.extend(many(&pipeline.audit(), 10).await);
        if epoch % 2 == 0 {
            stop(pipeline).await;
        } else {
            let crashed = rig.after_crash();
            stop_now(pipeline).await;
            rig = crashed;
        }
    }
    assert_eq!(rig.stored_records().len(), 4 * 10 + 4 + 2, "nothing was forgotten");
    let pipeline = rig.start();
    ids.extend(many(&pipeline.audit(), 10).await);
    stop(pipeline).await;
    let records = rig.sink.records();
    let places: Vec<_> = records.iter().map(|record| (record.position.epoch, record.position.seq)).collect();
    assert!(places.is_sorted(), "epoch by epoch, in order");
    assert_eq!(verify_records(&records).len(), 5 * 10 + 5 + 3);
    let times = times_recorded(&records);
    assert!(ids.iter().all(|id| times[id] == 1));
}

#[tokio::test]
async fn i4_a_long_drain_stores_watermarks_while_it_runs() {
    let mut rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 40).await;
    stop(pipeline).await;
    rig.config.batch.records = 1;
    rig.sink.slow_down(Duration::from_millis(50));
    let pipeline = rig.start();
    let probe = pipeline.probe();
    until_async("a watermark is stored", SOON, || async {
        probe.reader().stats().unwrap().streams[0].delivered.0 > 0 || rig.sink.count() >= 40
    })
    .await;
    assert!(rig.sink.count() < 40, "no watermark was stored before the drain was over");
    stop_now(pipeline).await;
}

#[tokio::test]
async fn i5_lost_replies_deliver_nothing_twice() {
    let mut rig = Rig::stored();
    rig.config.batch.records = 5;
    rig.sink.turn(Mood::Lossy);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let pipeline = rig.start();
        ids.extend(many(&pipeline.audit(), 25).await);
        stop_now(pipeline).await;
    }
    stop(rig.start()).await;
    let records = rig.sink.records();
    assert_eq!(verify_records(&records).len(), 75 + 8);
    let times = times_recorded(&records);
    assert!(ids.iter().all(|id| times[id] == 1));
}

#[tokio::test]
async fn i5_a_late_commit_during_quarantine_is_not_a_fork() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    one(&pipeline.audit(), "poison").await;
    many(&pipeline.audit(), 6).await;
    stop(pipeline).await;
    rig.sink.refuse_tool("poison");
    rig.sink.commit_late();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    assert!(rig.sink.quarantined().is_empty());
    assert_eq!(verify_records(&rig.sink.records()).len(), 9 + 2);
}

#[tokio::test]
async fn a_reply_lost_to_an_idle_gateway_raises_no_alarm() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    rig.sink.lose_next_reply();
    one(&pipeline.audit(), "echo").await;
    until_async("the cursor was asked", SOON, || async { probe.gauge().delivered.0 == 2 }).await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    verify_records(&rig.sink.records());
}

/// Calls at once on a disk that dies at operation `at`, while the sink goes on; then a new start on what is left.
async fn dies_at(at: u64, mut rig: Rig) {
    rig.config.timeouts.store = Duration::from_millis(20);
    rig.config.batch.records = 3;
    let opened = rig.start();
    rig.disk.fail_from(rig.disk.operations() + at);
    let audit = opened.audit();
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let receipt = audit.begin(call("echo")).await.ok()?;
                let id = receipt.request_id();
                Some((id, receipt.finish(ok(), ()).await.is_ok()))
            })
        })
        .collect();
    let mut begun = Vec::new();
    for task in tasks {
        begun.extend(task.await.unwrap());
    }
    let ended = stop_now(opened).await;
    rig.disk.heal();
    rig.config.timeouts.store = SOON;
    assert_eq!(stop(rig.start()).await.lost, 0);
    let records = rig.sink.records();
    verify_records(&records);
    let times = times_recorded(&records);
    let missing = begun.iter().filter(|(id, _)| !times.contains_key(id)).count();
    let stored = rig.config.about.level == "stored";
    assert!(missing <= if stored { 0 } else { ended.lost }, "{missing} missing of {begun:?}, {ended:?}");
    if stored {
        for (id, released) in begun {
            let status = statuses(&records, id)[0];
            assert!(!released || status == Status::Ok, "{status} though its answer left");
        }
    }
}

#[tokio::test]
async fn i2_a_disk_failure_at_any_moment_of_delivery_loses_no_call() {
    for at in 1..=40 {
        dies_at(at, Rig::stored()).await;
        dies_at(at, Rig::queued(Duration::from_millis(1))).await;
    }
}

#[tokio::test]
async fn i5_delivered_records_still_in_the_outbox_are_not_redelivered() {
    let rig = Rig::stored();
    rig.sink.turn(Mood::Blocked);
    let pipeline = rig.start();
    many(&pipeline.audit(), 20).await;
    let crashed = rig.after_crash();
    rig.sink.turn(Mood::Healthy);
    delivered(&pipeline.probe()).await;
    stop_now(pipeline).await;
    let stored = crashed.stored_records();
    assert_eq!(stored.len(), 21, "the image knows nothing of the delivery");
    crashed.sink.cut_after(&stored[20].position);
    let before = crashed.sink.count();
    let pipeline = crashed.start();
    forgotten(&crashed, &pipeline.probe()).await;
    stop(pipeline).await;
    assert_eq!(crashed.sink.count(), before + 2);
    verify_records(&crashed.sink.records());
}

#[tokio::test]
async fn i6_outcomes_of_open_calls_fit_into_a_full_ring() {
    let mut rig = Rig::stored();
    rig.config.ring.records = 64;
    rig.config.timeouts.admission = Duration::from_millis(5);
    rig.sink.turn(Mood::Blocked);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    for _ in 0..3 {
        let mut open = Vec::new();
        while let Ok(receipt) = audit.begin(call("echo")).await {
            assert!(probe.gauge().records <= 64);
            open.push(receipt);
        }
        assert!(open.len() > 40);
        for receipt in open {
            receipt.finish(ok(), ()).await.unwrap().into_inner();
            assert!(probe.gauge().records <= 64, "{:?}", probe.gauge());
        }
    }
    rig.sink.turn(Mood::Healthy);
    stop(pipeline).await;
    verify_records(&rig.sink.records());
}

#[tokio::test]
async fn i9_a_batch_that_times_out_is_halved_and_sizes_grow_back() {
    let mut rig = Rig::stored();
    rig.config.batch.records = 16;
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 400).await;
    stop(pipeline).await;
    rig.sink.time_out_above(Some(3));
    let pipeline = rig.start();
    let probe = pipeline.probe();
    until_async("some are delivered", SOON, || async { rig.sink.count() > 20 }).await;
    rig.sink.time_out_above(None);
    delivered(&probe).await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    assert_eq!(verify_records(&rig.sink.records()).len(), 402 + 2);
    let batches = rig.sink.batches();
    assert_eq!(batches[0], 2, "16, 8 and 4 were too many");
    assert!(batches.contains(&16), "they grew back: {batches:?}");
}

#[tokio::test]
async fn i9_one_record_that_times_out_is_retried_not_quarantined() {
    let rig = Rig::stored();
    rig.sink.time_out_above(Some(0));
    let pipeline = rig.start();
    let probe = pipeline.probe();
    one(&pipeline.audit(), "echo").await;
    until_async("it is tried", SOON, || async { matches!(probe.shipper(), ShipperState::Retrying { .. }) }).await;
    rig.sink.time_out_above(None);
    delivered(&probe).await;
    stop(pipeline).await;
    assert!(rig.sink.quarantined().is_empty());
    verify_records(&rig.sink.records());
}

#[tokio::test]
async fn i9_refused_rows_are_quarantined_in_their_positions() {
    let rig = Rig::stored();
    rig.sink.refuse_tool("poison");
    // All in one batch, in which the refused ones have to be found.
    rig.sink.turn(Mood::Blocked);
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    for _ in 0..5 {
        many(&audit, 3).await;
        one(&audit, "poison").await;
    }
    rig.sink.turn(Mood::Healthy);
    delivered(&probe).await;
    stop(pipeline).await;
    assert_eq!((rig.sink.count(), rig.sink.quarantined().len()), (1 + 15 + 1, 5));
    let mut records = rig.sink.records();
    records.extend(rig.sink.quarantined());
    verify_records(&records);
}

#[tokio::test]
async fn i9_good_rows_after_many_refused_rows_are_delivered() {
    // Together: in one batch, the good ones before and behind. One by one: the good one comes when it is held already.
    for together in [true, false] {
        let rig = Rig::stored();
        rig.sink.refuse_tool("poison");
        rig.sink.turn(if together { Mood::Blocked } else { Mood::Healthy });
        let pipeline = rig.start();
        let (audit, probe) = (pipeline.audit(), pipeline.probe());
        for _ in 0..40 {
            one(&audit, "poison").await;
            if !together {
                until_async("it is quarantined, or held", SOON, || async {
                    probe.gauge().delivered == probe.gauge().stamped
                        || matches!(probe.shipper(), ShipperState::Held { .. })
                })
                .await;
            }
        }
        one(&audit, "echo").await;
        rig.sink.turn(Mood::Healthy);
        delivered(&probe).await;
        assert_eq!(probe.shipper(), ShipperState::Delivering);
        stop(pipeline).await;
        assert_eq!((rig.sink.count(), rig.sink.quarantined().len()), (3, 40), "together: {together}");
        let mut records = rig.sink.records();
        records.extend(rig.sink.quarantined());
        verify_records(&records);
    }
}

#[tokio::test]
async fn i9_a_refusal_of_all_rows_is_a_fault_of_the_schema() {
    for together in [true, false] {
        let rig = Rig::stored();
        rig.sink.turn(if together { Mood::Blocked } else { Mood::RefuseAll });
        let pipeline = rig.start();
        let (audit, probe) = (pipeline.audit(), pipeline.probe());
        for _ in 0..40 {
            one(&audit, "echo").await;
            if !together {
                // One record a batch, as a quiet gateway has it.
                until_async("it is quarantined, or held", SOON, || async {
                    probe.gauge().delivered == probe.gauge().stamped
                        || matches!(probe.shipper(), ShipperState::Held { .. })
                })
                .await;
            }
        }
        rig.sink.turn(Mood::RefuseAll);
        until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
        assert_eq!(rig.sink.quarantined().len(), 16, "together: {together}");
        // Mended, it goes on by itself.
        rig.sink.turn(Mood::Healthy);
        delivered(&probe).await;
        stop(pipeline).await;
        let mut records = rig.sink.records();
        records.extend(rig.sink.quarantined());
        assert_eq!(verify_records(&records).len(), 42);
    }
}

#[tokio::test]
async fn i9_a_later_failure_to_prepare_does_not_stop_delivery() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    assert_eq!(rig.sink.prepared(), 1);
    rig.sink.refuse_to_prepare();
    // A day later; nothing waits meanwhile.
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(25)).await;
    tokio::time::resume();
    for _ in 0..3 {
        one(&pipeline.audit(), "echo").await;
        until_async("it is delivered, or held", SOON, || async {
            probe.gauge().delivered == probe.gauge().stamped || matches!(probe.shipper(), ShipperState::Held { .. })
        })
        .await;
        assert_eq!(probe.shipper(), ShipperState::Delivering);
    }
    assert_eq!(rig.sink.prepared(), 2, "not tried at every batch");
    stop(pipeline).await;
    assert_eq!(verify_records(&rig.sink.records()).len(), 5);
}

#[tokio::test]
async fn a_stop_reports_how_far_it_delivered() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    many(&pipeline.audit(), 20).await;
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.last, ended.delivered), (0, Seq(22), Seq(22)));
    assert!(rig.stored_records().is_empty(), "what was delivered is forgotten before the end");
    rig.sink.turn(Mood::Blocked);
    let pipeline = rig.start();
    let refused = Outcome::failed(Status::Denied, "no");
    pipeline.audit().record_once(call("echo"), refused, ()).await.unwrap().into_inner();
    let ended = stop_now(pipeline).await;
    assert_eq!((ended.lost, ended.last, ended.delivered), (0, Seq(3), Seq(0)));
}
