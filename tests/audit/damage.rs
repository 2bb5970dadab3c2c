//! Damage aimed at what a restore might believe: tables, edges, ends. Each of these lost records once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::common::stored_records::{stored_back, stored_records};
use crate::common::wait::{SOON, until_async};
use crate::fault_disk::copy_of;
use crate::memory_sink::{MemorySink, Mood};
use crate::rig::{Rig, call, events, many, ok, one, stop, stop_now, verify_records};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::codec;
use gatepost::audit::lost::LostRuns;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Commit, Opening, Segment};
use gatepost::audit::record::{AuditRecord, Digest, Entry, RequestId, Seq, Status};
use gatepost::audit::sink::Sink;

/// The newest generation file.
fn newest(dir: &Path) -> PathBuf {
    let files = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "redb")).max().unwrap()
}

/// Where `needle` stands in `bytes`.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle).map(|(at, _)| at).collect()
}

fn frame(record: &AuditRecord) -> Vec<u8> {
    let mut frame = Vec::new();
    codec::encode_record(record, &mut frame).unwrap();
    frame
}

/// What a healthy sink has after a start on `rig`'s directory and a stop: all of it.
async fn all_delivered(rig: &Rig) -> Vec<AuditRecord> {
    let ended = crate::rig::drained(rig).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last), "nothing holds delivery");
    let records = rig.sink.records();
    verify_records(&records);
    records
}

fn flip(path: &Path, at: usize, bit: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= bit;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_record_lost_at_the_edge_of_a_segment_keeps_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::open(Arc::new(DiskFs), dir.path(), None).unwrap();
    let (gateway_id, epoch) = (opening.gateway_id, opening.epoch);
    let (mut head, mut segments) = (Head::START, Vec::new());
    for n in 0..4 {
        let entry = Entry::new(call("x"), ok(), Duration::ZERO);
        let position = chain::link(gateway_id, epoch, head, &entry);
        head = Head::after(&position);
        let mut frames = frame(&AuditRecord { position, entry });
        if n % 2 == 1 {
            let middle = frames.len() / 2;
            frames[middle] ^= 1;
        }
        segments.push(Segment::new(epoch, position.seq, position.seq, &frames));
    }
    let first = Commit { segments: &segments, head: Some(head), ..Commit::default() };
    let outbox = opening.begin(&first, 1 << 30).unwrap();
    let records = stored_records(&outbox.reader());
    assert_eq!(records.len(), 4);
    // Each loss is reported, once, and is in no record yet.
    let damages = outbox.take_damages();
    let mut lost = LostRuns::default();
    for damage in damages.iter().map(|found| &found.damage) {
        damage.runs.iter().for_each(|run| lost.add(gateway_id, *run));
        assert_eq!((damage.lost, damage.epoch, damage.file.as_str()), (1, Some(epoch), "outbox-000001.redb"));
    }
    assert_eq!((damages.len(), lost.count()), (2, 2));
    let [_, second, _, fourth] = &records[..] else { panic!("four") };
    assert!(lost.explains(second) && lost.explains(fourth) && !outbox.reader().is_recorded(second));
    // Lost ones are linked alike from the newest back, where what is before them is not read yet.
    assert_eq!(stored_back(&outbox.reader(), records.last()), records);
    assert_eq!(records[3].position.hash, head.hash, "what comes next is linked to it");
}

#[tokio::test]
async fn a_record_lost_at_the_edge_of_a_chunk_keeps_the_chain() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 1100).await;
    stop(pipeline).await;
    let stored = rig.stored_records();
    let file = newest(rig.dir.path());
    for seq in [1024, 1025] {
        let bytes = std::fs::read(&file).unwrap();
        for at in places(&bytes, &frame(&stored[seq - 1])) {
            flip(&file, at + 40, 1);
        }
    }
    let records = all_delivered(&rig).await;
    let whole = stored.iter().filter(|record| records.contains(record)).count();
    assert_eq!(whole, stored.len() - 2);
}

/// A gateway that delivered some and stored more, was closed, and its undelivered records.
async fn half_delivered() -> (Rig, Seq, Vec<AuditRecord>) {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    many(&pipeline.audit(), 5).await;
    until_async("all is delivered and forgotten", SOON, || async {
        probe.gauge().delivered == probe.gauge().stamped && stored_records(probe.reader()).is_empty()
    })
    .await;
    let delivered = probe.gauge().delivered;
    rig.sink.turn(Mood::Down);
    many(&pipeline.audit(), 30).await;
    stop_now(pipeline).await;
    drop(probe);
    let undelivered = rig.stored_records();
    assert_eq!(undelivered.len(), 31);
    (rig, delivered, undelivered)
}

/// A sink that stands where `records` end.
async fn sink_with(records: &[AuditRecord]) -> MemorySink {
    let mut sink = MemorySink::default();
    let position = records[0].position;
    sink.cursor(position.gateway_id, position.epoch).await.unwrap();
    sink.deliver(records).await.unwrap();
    sink
}

#[tokio::test]
async fn i3_i4_a_flipped_bit_in_a_table_loses_no_record() {
    let (rig, delivered, undelivered) = half_delivered().await;
    let before = rig.sink.records();
    let (first, last) = (&undelivered[0], undelivered.last().unwrap());
    let (gateway_id, epoch) = (first.position.gateway_id, first.position.epoch);
    let file = newest(rig.dir.path());
    let bytes = std::fs::read(&file).unwrap();
    let meta = [&epoch.0.to_le_bytes(), 1_u32.to_le_bytes().as_slice(), gateway_id.0.as_bytes()].concat();
    let watermark = [&delivered.0.to_le_bytes(), before.last().unwrap().position.hash.0.as_slice()].concat();
    let value = [&last.position.seq.0.to_le_bytes(), &frame(last)[..16]].concat();
    let key = [epoch.0.to_le_bytes(), first.position.seq.0.to_le_bytes()].concat();
    let at = |needle: &[u8], offset: usize, bit: u8| {
        places(&bytes, needle).into_iter().map(move |at| (at + offset, bit)).collect::<Vec<_>>()
    };
    let cases = [
        ("epoch", at(&meta, 2, 1)),
        ("gateway id", at(&meta, 12 + 3, 4)),
        ("watermark", at(&watermark, 4, 1)),
        ("end of the last segment", at(&value, 5, 1)),
        ("begin of the first segment", at(&key, 8, 16)),
        ("version of a commit slot", vec![(64, 1), (64, 2), (192, 1), (192, 2)]),
    ];
    for (what, flips) in cases {
        assert!(!flips.is_empty(), "{what} is not found in the file");
        for (at, bit) in flips {
            let image = copy_of(rig.dir.path());
            flip(&image.path().join(file.file_name().unwrap()), at, bit);
            let mut rig = Rig::on(image);
            rig.sink = sink_with(&before).await;
            // Down at first: whatever the file says, nothing may be forgotten without Postgres.
            rig.sink.turn(Mood::Down);
            let pipeline = rig.start();
            one(&pipeline.audit(), "echo").await;
            rig.sink.turn(Mood::Healthy);
            let ended = stop(pipeline).await;
            assert_eq!((ended.lost, ended.delivered), (0, ended.last), "{what} at {at}");
            let records = rig.sink.records();
            verify_records(&records);
            let kept = undelivered.iter().filter(|record| records.contains(record)).count();
            assert_eq!(kept, undelivered.len(), "{what} at {at}: every frame is whole");
            assert_eq!(records.last().unwrap().position.epoch, epoch.next(), "{what} at {at}");
        }
    }
}

#[tokio::test]
async fn i2_finished_calls_do_not_come_back_from_stale_bytes() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    let (gateway_id, epoch) = probe.stream();
    let open = pipeline.audit().begin(call("open")).await.unwrap();
    for _ in 0..6 {
        let tasks = (0..8).map(|_| {
            let audit = pipeline.audit();
            tokio::spawn(async move { many(&audit, 12).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        until_async("all is delivered and forgotten", SOON, || async {
            probe.gauge().delivered == probe.gauge().stamped && stored_records(probe.reader()).is_empty()
        })
        .await;
        let finished: BTreeSet<RequestId> =
            rig.sink.records().iter().map(|record| record.entry.call.request_id).collect();
        let image = copy_of(rig.dir.path());
        let file = newest(image.path());
        let bytes = std::fs::read(&file).unwrap();
        let meta = [&epoch.0.to_le_bytes(), 1_u32.to_le_bytes().as_slice(), gateway_id.0.as_bytes()].concat();
        for at in places(&bytes, &meta) {
            let image = copy_of(image.path());
            flip(&image.path().join(file.file_name().unwrap()), at + 2, 1);
            let opening = Opening::open(Arc::new(DiskFs), image.path(), None).unwrap();
            let twice = opening.interrupted.iter().filter(|call| finished.contains(&call.request_id)).count();
            assert_eq!(twice, 0, "finished calls become interrupted");
        }
    }
    open.finish(ok(), ()).await.unwrap().into_inner();
    stop(pipeline).await;
}

#[tokio::test]
async fn i3_an_unreadable_file_is_reported_even_after_failed_starts() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 3).await;
    stop(pipeline).await;
    std::fs::write(newest(rig.dir.path()), vec![b'x'; 8192]).unwrap();
    for _ in 0..3 {
        let opening = Opening::open(Arc::new(DiskFs), rig.dir.path(), None).unwrap();
        assert_eq!((opening.epoch.0, opening.damages.len()), (2, 1));
    }
    let records = all_delivered(&rig).await;
    assert_eq!(events(&records, "damage").len(), 1);
    assert_eq!(rig.dir.path().join("quarantine").read_dir().unwrap().count(), 2, "it is kept and described once");
    // Also where nothing but the set-aside file is left of it.
    let rig = Rig::on(copy_of(rig.dir.path()));
    std::fs::create_dir(rig.dir.path().join("quarantine")).unwrap();
    std::fs::write(rig.dir.path().join("quarantine/outbox-000009.redb.1"), b"x").unwrap();
    let opening = Opening::open(Arc::new(DiskFs), rig.dir.path(), None).unwrap();
    assert_eq!(opening.epoch.0, 10);
}

#[tokio::test]
async fn a_long_lost_end_costs_no_record_before_it() {
    let rig = Rig::stored();
    let opening = Opening::open(Arc::new(DiskFs), rig.dir.path(), None).unwrap();
    let (gateway_id, epoch) = (opening.gateway_id, opening.epoch);
    let (mut head, mut frames) = (Head::START, Vec::new());
    for _ in 0..1000 {
        let entry = Entry::new(call("x"), ok(), Duration::ZERO);
        let position = chain::link(gateway_id, epoch, head, &entry);
        head = Head::after(&position);
        codec::encode_record(&AuditRecord { position, entry }, &mut frames).unwrap();
    }
    // As many records behind them as a large file holds, whose bytes are gone.
    let end = Head { seq: Seq(67_000), hash: Digest::of(b"the last record") };
    let segments =
        [Segment::new(epoch, Seq(1), Seq(1000), &frames), Segment::new(epoch, Seq(1001), end.seq, &[7; 100])];
    let first = Commit { segments: &segments, head: Some(end), ..Commit::default() };
    drop(opening.begin(&first, 1 << 30).unwrap());
    let file = newest(rig.dir.path());
    // The next epoch says where this one ended.
    stop(rig.start_store_only()).await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let pipeline = rig.start();
    // Some 66,000 records are made, hashed and delivered until then, beside other tests.
    until_async("the damage is told of", 10 * SOON, || async {
        events(&rig.sink.records(), "damage").iter().any(|gap| gap["kept"] == 1000 && gap["lost"] == 66_000)
    })
    .await;
    stop(pipeline).await;
    let records = rig.sink.records();
    verify_records(&records);
    let of_epoch = records.iter().filter(|record| record.position.epoch == epoch);
    let (calls, gaps): (Vec<_>, Vec<_>) = of_epoch.partition(|record| record.entry.call.method == "tools/call");
    assert_eq!((calls.len(), gaps.len()), (1000, 66_000));
    // The end is the one that the next epoch named when it began.
    let opened = &events(&records, "opened")[0];
    assert_eq!(opened["previous_hash"], gaps.last().unwrap().position.hash.to_string());
    assert!(records.iter().all(|record| record.entry.response_status != Status::Interrupted));
}
