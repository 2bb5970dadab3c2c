//! Somebody else writes under this gateway's id, or the database went back: I4 and I5.

use crate::common::wait::{SOON, until_async};
use crate::fault_disk::copy_of;
use crate::memory_sink::Mood;
use crate::rig::{Rig, delivered, events, forgotten, many, one, stop, stop_now, verify_records};
use gatepost::audit::chain::Head;
use gatepost::audit::record::{AuditRecord, Epoch};
use gatepost::audit::shipper::ShipperState;

#[tokio::test]
async fn i5_a_copied_outbox_is_a_fork_and_changes_nothing() {
    let first = Rig::stored();
    stop(first.start()).await;
    for late in [false, true] {
        let mut second = Rig::on(copy_of(first.dir.path()));
        second.sink = first.sink.clone();
        let pipeline = first.start();
        many(&pipeline.audit(), 20).await;
        delivered(&pipeline.probe()).await;
        let theirs = first.sink.records();
        if late {
            // The second one's epoch was only stored; it is an old one when its sink is configured.
            let pipeline = second.start_store_only();
            many(&pipeline.audit(), 10).await;
            stop(pipeline).await;
        }
        let forked = second.start();
        many(&forked.audit(), 10).await;
        let probe = forked.probe();
        until_async("it is forked", SOON, || async { matches!(probe.shipper(), ShipperState::Forked { .. }) }).await;
        many(&forked.audit(), 10).await;
        let calls = if late { 30 } else { 20 };
        let ended = stop(forked).await;
        assert_eq!(ended.lost, 0);
        assert_eq!(first.sink.records(), theirs, "the first one's rows are as they were");
        let kept = second.stored_records();
        let kept = kept.iter().filter(|record| record.entry.call.method == "tools/call").count();
        assert_eq!(kept, calls, "I4: the second one keeps what was not delivered");
        stop(pipeline).await;
        verify_records(&first.sink.records());
    }
}

#[tokio::test]
async fn i5_a_copy_that_ends_before_the_cursor_is_a_fork() {
    let first = Rig::stored();
    stop(first.start()).await;
    let mut second = Rig::on(copy_of(first.dir.path()));
    second.sink = first.sink.clone();
    let pipeline = second.start_store_only();
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    // The first one delivers more of the same epoch than the second one has.
    let pipeline = first.start();
    many(&pipeline.audit(), 20).await;
    stop(pipeline).await;
    let forked = second.start();
    let probe = forked.probe();
    until_async("it is forked", SOON, || async { matches!(probe.shipper(), ShipperState::Forked { .. }) }).await;
    stop(forked).await;
    let kept = second.stored_records();
    assert_eq!(kept.iter().filter(|record| record.entry.call.method == "tools/call").count(), 3);
}

#[tokio::test]
async fn i4_an_older_epoch_with_a_hole_is_kept_and_later_ones_ship() {
    let rig = Rig::stored();
    // Epoch 1 is delivered in part and forgotten as far; then the database is restored to what it was before.
    let pipeline = rig.start();
    many(&pipeline.audit(), 3).await;
    forgotten(&rig, &pipeline.probe()).await;
    rig.sink.turn(Mood::Down);
    many(&pipeline.audit(), 3).await;
    stop_now(pipeline).await;
    rig.sink.turn(Mood::Healthy);
    let last = rig.sink.records().last().unwrap().position;
    let gateway_id = last.gateway_id;
    rig.sink.set_cursor(gateway_id, Epoch(1), Head::START);
    let pipeline = rig.start();
    let probe = pipeline.probe();
    let alarm = || match probe.shipper() {
        ShipperState::Forked { error } => error,
        other => panic!("no alarm: {other:?}"),
    };
    many(&pipeline.audit(), 5).await;
    delivered(&probe).await;
    assert!(alarm().contains("epoch 1") && alarm().contains("resolve-fork"), "{}", alarm());
    // The alarm outlasts another one.
    rig.sink.turn(Mood::Down);
    one(&pipeline.audit(), "echo").await;
    until_async("it is tried", SOON, || async { matches!(probe.shipper(), ShipperState::Retrying { .. }) }).await;
    let ShipperState::Retrying { error } = probe.shipper() else { panic!("delivered though the sink is down") };
    assert!(error.contains("epoch 1"), "{error}");
    rig.sink.turn(Mood::Healthy);
    delivered(&probe).await;
    assert!(alarm().contains("epoch 1"));
    let epochs =
        |records: Vec<AuditRecord>| -> Vec<_> { records.iter().map(|record| record.position.epoch.0).collect() };
    assert_eq!(epochs(rig.sink.records()), [[1; 4].as_slice(), &[2; 7]].concat());
    // Once it fits, it is shipped in place, beside the current epoch.
    rig.sink.set_cursor(gateway_id, Epoch(1), Head::after(&last));
    until_async("the alarm is lowered", SOON, || async { probe.shipper() == ShipperState::Delivering }).await;
    one(&pipeline.audit(), "echo").await;
    stop(pipeline).await;
    assert!(rig.stored_records().is_empty());
    assert_eq!(verify_records(&rig.sink.records()).len(), 4 + 4 + 9);
}

#[tokio::test]
async fn i4_forked_current_epoch_is_shipped_in_place_once_its_cursor_fits() {
    for older in [false, true] {
        let rig = Rig::stored();
        let mut pipeline = rig.start();
        let (gateway_id, epoch) = pipeline.probe().stream();
        many(&pipeline.audit(), 3).await;
        delivered(&pipeline.probe()).await;
        let ours = Head::after(&rig.sink.records().last().unwrap().position);
        let theirs = Head { seq: ours.seq.next(), hash: gatepost::audit::record::Digest::of(b"foreign") };
        rig.sink.set_cursor(gateway_id, epoch, theirs);
        many(&pipeline.audit(), 3).await;
        if older {
            stop_now(pipeline).await;
            pipeline = rig.start();
        }
        let probe = pipeline.probe();
        until_async("it is forked", SOON, || async { matches!(probe.shipper(), ShipperState::Forked { .. }) }).await;
        assert_eq!(rig.sink.records().len(), 4);
        rig.sink.set_cursor(gateway_id, epoch, ours);
        until_async("the alarm is lowered", SOON, || async { probe.shipper() == ShipperState::Delivering }).await;
        one(&pipeline.audit(), "echo").await;
        assert_eq!(stop(pipeline).await.lost, 0);
        assert!(rig.stored_records().is_empty(), "nothing is stranded");
        verify_records(&rig.sink.records());
    }
}

#[tokio::test]
async fn i4_a_record_damaged_after_its_delivery_is_not_a_fork() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    let stored = rig.stored_records();
    // All was delivered, which the outbox does not know; then the last record rots.
    let position = stored.last().unwrap().position;
    rig.sink.set_cursor(position.gateway_id, position.epoch, Head::after(&position));
    let (file, last) = (rig.dir.path().join(&rig.generations()[0]), b"gateway/closed");
    let mut bytes = std::fs::read(&file).unwrap();
    let windows = bytes.windows(last.len()).enumerate();
    let rots: Vec<_> = windows.filter(|(_, window)| window == last).map(|(at, _)| at).collect();
    for at in rots {
        bytes[at] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    one(&pipeline.audit(), "echo").await;
    delivered(&probe).await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    assert!(rig.stored_records().is_empty());
    let records = rig.sink.records();
    assert!(records.iter().all(|record| record.position.epoch != position.epoch), "nothing is delivered again");
    assert_eq!(events(&records, "damage")[0]["lost"], 1);
}
