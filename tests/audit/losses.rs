//! Lost records have damage records that name them, whatever was damaged and whenever it is found.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until_async};
use crate::fault_disk::{Disk, copy_of};
use crate::memory_sink::Mood;
use crate::rig::{Rig, call, delivered, drained, events, judged, many, ok, one, stop, stop_now, verify_records};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::codec;
use gatepost::audit::lost::{LostRuns, RUNS_PER_RECORD, is_stand_in};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Commit, Opening, Reader, Segment};
use gatepost::audit::record::{AuditRecord, Entry, Epoch, Seq};
use gatepost::audit::ring::Phase;
use gatepost::audit::shipper::ShipperState;

fn frame(record: &AuditRecord) -> Vec<u8> {
    let mut frame = Vec::new();
    codec::encode_record(record, &mut frame).unwrap();
    frame
}

/// Where the copies of a record are in `bytes`.
fn places(bytes: &[u8], record: &AuditRecord) -> Vec<usize> {
    let frame = frame(record);
    let windows = bytes.windows(frame.len()).enumerate();
    windows.filter(|(_, window)| *window == frame).map(|(at, _)| at + frame.len() / 2).collect()
}

/// Flips a bit of each copy of these records in `file`.
fn rot(file: &Path, records: &[AuditRecord]) {
    let mut bytes = std::fs::read(file).unwrap();
    for record in records {
        let places = places(&bytes, record);
        assert!(!places.is_empty(), "{:?} is not in {}", record.position, file.display());
        for at in places {
            bytes[at] ^= 1;
        }
    }
    std::fs::write(file, bytes).unwrap();
}

fn file(rig: &Rig, number: usize) -> PathBuf {
    rig.dir.path().join(format!("outbox-{number:06}.redb"))
}

fn stand_ins(records: &[AuditRecord]) -> Vec<(u64, u64)> {
    let lost = records.iter().filter(|record| is_stand_in(record));
    lost.map(|record| (record.position.epoch.0, record.position.seq.0)).collect()
}

/// Stores an epoch of `count` records, `in_segment` of them in each segment, of which some rotted before redb took
/// their checksums: only the frames' own tell.
fn stored_rotten(rig: &Rig, count: u64, in_segment: usize, is_rotten: impl Fn(u64) -> bool) -> Vec<AuditRecord> {
    let opening = Opening::open(Arc::new(DiskFs), rig.dir.path(), None).unwrap();
    let (gateway_id, epoch, mut head) = (opening.gateway_id, opening.epoch, Head::START);
    let mut records = Vec::new();
    for _ in 0..count {
        let entry = Entry::new(call("x"), ok(), Duration::ZERO);
        let position = chain::link(gateway_id, epoch, head, &entry);
        head = Head::after(&position);
        records.push(AuditRecord { position, entry });
    }
    let segment = |records: &[AuditRecord]| {
        let rotten = |record: &AuditRecord| {
            let mut frame = frame(record);
            let middle = frame.len() / 2;
            frame[middle] ^= u8::from(is_rotten(record.position.seq.0));
            frame
        };
        let (first, last) = (records[0].position.seq, records[records.len() - 1].position.seq);
        Segment::new(epoch, first, last, &records.iter().flat_map(rotten).collect::<Vec<_>>())
    };
    let segments: Vec<_> = records.chunks(in_segment).map(segment).collect();
    let first = Commit { segments: &segments, head: Some(head), ..Commit::default() };
    drop(opening.begin(&first, 1 << 30).unwrap());
    records
}

/// Two epochs that are stored and not delivered; returns the records of the first.
async fn two_epochs(rig: &Rig) -> Vec<AuditRecord> {
    for _ in 0..2 {
        let pipeline = rig.start_store_only();
        many(&pipeline.audit(), 5).await;
        stop(pipeline).await;
    }
    let mut records = rig.stored_records();
    records.retain(|record| record.position.epoch == Epoch(1));
    assert_eq!(records.len(), 7);
    records
}

/// Lets the sink look, at each stand-in, whether the damage record that explains it is on the disk.
fn watch_the_order(rig: &Rig) -> Arc<Mutex<Vec<String>>> {
    let (disk, dir): (Disk, _) = (rig.disk.clone(), rig.dir.path().to_owned());
    let wrong = Arc::<Mutex<Vec<String>>>::default();
    let found = Arc::clone(&wrong);
    rig.sink.inspect(move |record| {
        if !is_stand_in(record) {
            return;
        }
        let image = disk.crash_image(&dir);
        let mut lost = LostRuns::default();
        let reader = Reader::offline(Arc::new(DiskFs), image.path()).unwrap();
        for record in stored_records(&reader) {
            lost.add_record(&record);
        }
        if !lost.explains(record) {
            found.lock().unwrap().push(format!("{:?}", record.position));
        }
    });
    wrong
}

/// Starts, delivers everything, stops, and checks that each loss is explained.
async fn all_delivered(rig: &Rig) -> Vec<AuditRecord> {
    let wrong = watch_the_order(rig);
    let ended = drained(rig).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    assert_eq!(*wrong.lock().unwrap(), [""; 0], "delivered before the damage record was stored");
    let records = rig.sink.records();
    verify_records(&records);
    // Epochs that a test made by hand have no opening record.
    let begins = |record: &AuditRecord| record.position.seq == Seq(1) && record.entry.call.method == "tools/call";
    if !records.iter().any(begins) {
        assert_eq!(judged(&records).faults, []);
    }
    records
}

#[tokio::test]
async fn i4_a_damage_record_is_stored_before_a_stand_in_is_delivered() {
    for queued in [false, true] {
        let rig = || if queued { Rig::queued(Duration::from_hours(1)) } else { Rig::stored() };
        // A file that is restored while the gateway runs.
        let sealed = rig();
        let records = two_epochs(&sealed).await;
        rot(&file(&sealed, 1), &records[2..4]);
        assert_eq!(stand_ins(&all_delivered(&sealed).await), [(1, 3), (1, 4)]);
        // The newest file, which is restored when the gateway starts.
        let newest = rig();
        let pipeline = newest.start_store_only();
        many(&pipeline.audit(), 5).await;
        stop(pipeline).await;
        rot(&file(&newest, 1), &newest.stored_records()[1..3]);
        assert_eq!(stand_ins(&all_delivered(&newest).await), [(1, 2), (1, 3)]);
        // Records in a file that is whole.
        let segments = rig();
        stored_rotten(&segments, 9, 3, |seq| seq == 1 || seq == 6 || seq == 7);
        assert_eq!(stand_ins(&all_delivered(&segments).await), [(1, 1), (1, 6), (1, 7)]);
    }
}

#[tokio::test]
async fn damage_in_the_file_of_the_current_epoch_is_recorded_in_it() {
    let mut rig = Rig::stored();
    // A file has some ten records, and the ring forgets them.
    (rig.config.outbox_bytes_max, rig.config.ring.records) = (16 * 1024 * 1024, 16);
    rig.sink.turn(Mood::Down);
    let pipeline = rig.start();
    let pad = format!("\"{}\"", "x".repeat(200_000));
    for _ in 0..35 {
        let call = crate::rig::call_with("echo", &pad);
        pipeline.audit().begin(call).await.unwrap().finish(ok(), ()).await.unwrap().into_inner();
    }
    assert!(rig.generations().len() > 3, "{:?}", rig.generations());
    let second = std::fs::read(file(&rig, 2)).unwrap();
    let mut stored = stored_records(pipeline.probe().reader());
    stored.retain(|record| !places(&second, record).is_empty());
    assert!(stored.len() > 1);
    rot(&file(&rig, 2), &stored[1..2]);
    let wrong = watch_the_order(&rig);
    rig.sink.turn(Mood::Healthy);
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    assert_eq!(*wrong.lock().unwrap(), [""; 0]);
    let records = rig.sink.records();
    verify_records(&records);
    assert_eq!(stand_ins(&records), [(1, stored[1].position.seq.0)]);
    assert!(records.iter().all(|record| record.position.epoch == Epoch(1)));
}

#[tokio::test]
async fn damage_that_is_found_after_the_closing_record_waits_for_the_next_start() {
    let mut rig = Rig::stored();
    rig.config.batch.records = 1;
    stored_rotten(&rig, 9, 1, |seq| seq == 8);
    rig.sink.turn(Mood::Down);
    let pipeline = rig.start();
    let probe = pipeline.probe();
    let stopping = tokio::spawn(stop(pipeline));
    until_async("the epoch is closed", SOON, || async { probe.phase() >= Phase::Closed }).await;
    rig.sink.turn(Mood::Healthy);
    let ended = stopping.await.unwrap();
    // The current epoch is delivered, and of the damaged one what comes before the lost record.
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let places: Vec<_> = rig.sink.records().iter().map(|record| record.position.epoch.0).collect();
    assert_eq!(places, [1, 1, 1, 1, 1, 1, 1, 2, 2]);
    assert_ne!(probe.shipper(), ShipperState::StoreOnly);
    let records = all_delivered(&rig).await;
    assert_eq!(stand_ins(&records), [(1, 8)]);
    assert_eq!(records.len(), 9 + 2 + 3);
}

#[tokio::test]
async fn a_second_damage_of_the_same_place_is_explained_too() {
    for count in [0, 3, 4] {
        let mut rig = Rig::stored();
        let records = two_epochs(&rig).await;
        rot(&file(&rig, 1), &records[2..3]);
        // Restored, and delivered in part: without the lost record, up to it, and beyond.
        rig.config.batch.records = 1;
        rig.sink.hold_after(count);
        let pipeline = rig.start();
        let probe = pipeline.probe();
        until_async("it is held", SOON, || async {
            matches!(probe.shipper(), ShipperState::Held { .. }) && rig.sink.count() == count
        })
        .await;
        stop_now(pipeline).await;
        drop(probe);
        let restored: Vec<_> =
            rig.stored_records().into_iter().filter(|record| record.position.epoch == Epoch(1)).collect();
        rot(&file(&rig, 1), &restored[2..5]);
        rig.sink.hold_after(usize::MAX);
        let records = all_delivered(&rig).await;
        let expected: &[u64] = if count == 4 { &[3, 5] } else { &[3, 4, 5] };
        assert_eq!(stand_ins(&records), expected.iter().map(|seq| (1, *seq)).collect::<Vec<_>>(), "{count}");
    }
}

#[tokio::test]
async fn damage_is_recorded_again_if_its_record_may_be_lost() {
    for wholly in [false, true] {
        let rig = Rig::stored();
        let records = two_epochs(&rig).await;
        rot(&file(&rig, 1), &records[2..3]);
        // The damage record is stored in the third epoch, and the lost record is delivered.
        rig.sink.hold_after(7);
        let pipeline = rig.start();
        until_async("the first epoch is delivered", SOON, || async { rig.sink.count() == 7 }).await;
        stop_now(pipeline).await;
        assert_eq!(stand_ins(&rig.sink.records()), [(1, 3)]);
        let stored = rig.stored_records();
        let damage: Vec<_> =
            stored.iter().filter(|record| record.entry.call.method == "gateway/damage").cloned().collect();
        assert_eq!(damage.len(), 1);
        let third = file(&rig, 3);
        if wholly {
            std::fs::write(&third, vec![b'x'; 8192]).unwrap();
        } else {
            rot(&third, &damage);
        }
        rig.sink.hold_after(usize::MAX);
        let records = all_delivered(&rig).await;
        assert!(stand_ins(&records).contains(&(1, 3)));
        let epochs: Vec<_> = events(&records, "damage").iter().map(|damage| damage["epoch"].clone()).collect();
        assert!(epochs.contains(&1.into()) && epochs.len() == 2, "{epochs:?}");
    }
}

#[tokio::test]
async fn damage_is_recorded_again_after_a_kill_before_it_was_recorded() {
    let rig = Rig::stored();
    let records = two_epochs(&rig).await;
    rot(&file(&rig, 1), &records[2..3]);
    // The reader of a gateway restores the file; its scribe never gets a turn.
    let opening = Opening::open(Arc::new(DiskFs), rig.dir.path(), None).unwrap();
    let entry = Entry::new(call("x"), ok(), Duration::ZERO);
    let position = chain::link(opening.gateway_id, opening.epoch, Head::START, &entry);
    let (epoch, record) = (opening.epoch, AuditRecord { position, entry });
    let segment = Segment::new(epoch, Seq(1), Seq(1), &frame(&record));
    let first = Commit { segments: &[segment], head: Some(Head::after(&position)), ..Commit::default() };
    let outbox = opening.begin(&first, 1 << 30).unwrap();
    assert_eq!(stand_ins(&outbox.reader().read(Epoch(1), Head::START).unwrap()), [(1, 3)]);
    drop(outbox);
    assert_eq!(stand_ins(&all_delivered(&rig).await), [(1, 3)]);
}

#[tokio::test]
async fn many_runs_are_named_in_several_records_and_none_is_cut() {
    let rig = Rig::stored();
    let runs = RUNS_PER_RECORD as u64 * 2 + 10;
    stored_rotten(&rig, 2 * runs, 2 * RUNS_PER_RECORD * 3, |seq| seq % 2 == 0);
    let ended = drained(&rig).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let records = rig.sink.records();
    verify_records(&records);
    let damages = events(&records, "damage");
    let named: Vec<_> = damages.iter().map(|damage| damage["runs"].as_array().unwrap().len()).collect();
    assert_eq!(named, [RUNS_PER_RECORD, RUNS_PER_RECORD, 10]);
    let more: Vec<_> = damages.iter().map(|damage| damage["more"].as_bool()).collect();
    assert_eq!(more, [Some(true), Some(true), None]);
}

#[tokio::test]
async fn a_stand_in_that_no_damage_explains_is_lost_itself() {
    // Somebody writes a gap record of their own into a file, with whatever they like in it.
    let rig = Rig::stored();
    let records = stored_rotten(&rig, 5, 5, |_| false);
    let image = Rig::stored();
    let mut forged = records.clone();
    let details = format!("{{\"lost\":1,\"hash\":\"{}\",\"note\":\"planted\"}}", records[2].position.hash);
    let call = &mut forged[2].entry.call;
    (call.method, call.request_args) = ("gateway/gap".into(), Some(details));
    let opening = Opening::open(Arc::new(DiskFs), image.dir.path(), Some(records[0].position.gateway_id)).unwrap();
    let frames = forged.iter().flat_map(frame).collect::<Vec<_>>();
    let segments = [Segment::new(Epoch(1), Seq(1), Seq(5), &frames)];
    let head = Head::after(&records[4].position);
    drop(opening.begin(&Commit { segments: &segments, head: Some(head), ..Commit::default() }, 1 << 30).unwrap());
    let delivered = all_delivered(&image).await;
    assert_eq!(stand_ins(&delivered), [(1, 3)]);
    assert!(delivered.iter().all(|record| !format!("{record:?}").contains("planted")));
    assert_eq!(events(&delivered, "damage")[0]["cause"], "a gap record that no damage explains");
}

#[tokio::test]
async fn an_epoch_that_cannot_be_read_is_named_as_a_range() {
    let rig = Rig::stored();
    two_epochs(&rig).await;
    std::fs::write(file(&rig, 2), vec![b'x'; 8192]).unwrap();
    let records = all_delivered(&Rig::on(copy_of(rig.dir.path()))).await;
    let opened = events(&records, "opened");
    let third = opened.last().unwrap();
    assert_eq!((third["previous_epoch"].as_u64(), records.last().unwrap().position.epoch), (Some(1), Epoch(3)));
    let mut lost = LostRuns::default();
    for record in &records {
        lost.add_record(record);
    }
    let gateway_id = records[0].position.gateway_id;
    assert!(lost.explains_epochs(gateway_id, Epoch(2), Epoch(2)));
    assert!(!lost.explains_epochs(gateway_id, Epoch(1), Epoch(2)), "the first epoch was closed");
    assert!(lost.has_unknown_end(gateway_id, Epoch(2)) && !lost.has_unknown_end(gateway_id, Epoch(1)));
}

#[tokio::test]
async fn a_lost_first_record_is_linked_to_what_was_delivered_before_it() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    many(&pipeline.audit(), 5).await;
    crate::rig::forgotten(&rig, &pipeline.probe()).await;
    rig.sink.turn(Mood::Down);
    many(&pipeline.audit(), 5).await;
    stop_now(pipeline).await;
    rig.sink.turn(Mood::Healthy);
    let stored = rig.stored_records();
    let first = stored[0].position.seq.0;
    assert!(first > 1);
    let newest = rig.dir.path().join(rig.generations().last().unwrap());
    rot(&newest, &stored[..2]);
    assert_eq!(stand_ins(&all_delivered(&rig).await), [(1, first), (1, first + 1)]);
}

#[tokio::test]
async fn the_rest_of_a_damaged_file_is_delivered_while_others_wait() {
    let rig = Rig::stored();
    let records = two_epochs(&rig).await;
    rot(&file(&rig, 1), &records[6..]);
    let pipeline = rig.start();
    one(&pipeline.audit(), "echo").await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    verify_records(&rig.sink.records());
    assert_eq!(stand_ins(&rig.sink.records()), [(1, 7)]);
}
