//! Damaged outbox files: nothing is lost in silence, and the gateway always starts.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::rng::Rng;
use crate::fault_disk::copy_of;
use crate::rig::{Rig, events, judged, many, one, stop, verify_records};
use gatepost::audit::record::{AuditRecord, RequestId};
use gatepost::audit::verify::UnprovenKind;

/// Bits flipped, one a run. *Chosen*: about a third of a minute in a debug build; `ROT_SEEDS` asks for more.
const SEEDS: u64 = 150;

/// Starts on `dir` with a sink that takes everything, stops, and gives what arrived.
async fn drained(dir: tempfile::TempDir) -> Vec<AuditRecord> {
    let rig = Rig::on(dir);
    let pipeline = rig.start();
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    rig.sink.records()
}

/// The gap records among these.
fn gaps(records: &[AuditRecord]) -> usize {
    records.iter().filter(|record| record.entry.call.method == "gateway/gap").count()
}

fn by_id(records: &[AuditRecord]) -> BTreeMap<RequestId, &AuditRecord> {
    records.iter().map(|record| (record.entry.call.request_id, record)).collect()
}

fn quarantined(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("quarantine")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn i4_a_flipped_bit_never_loses_a_record_silently() {
    // Two epochs, undelivered: a sealed file and the newest one.
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 40).await;
    stop(pipeline).await;
    let pipeline = rig.start_store_only();
    for _ in 0..20 {
        one(&pipeline.audit(), "echo").await;
    }
    stop(pipeline).await;
    let (files, stored) = (rig.generations(), rig.stored_records());
    assert_eq!((files.len(), stored.len()), (2, 64));
    let seeds = std::env::var("ROT_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let mut noticed = 0;
    for seed in 0..seeds {
        let image = copy_of(rig.dir.path());
        let file = image.path().join(&files[usize::try_from(seed % 2).unwrap()]);
        let mut bytes = std::fs::read(&file).unwrap();
        let bit = Rng::new(seed).index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, bytes).unwrap();
        let path = image.path().to_owned();
        let rig = Rig::on(image);
        let ended = crate::rig::drained(&rig).await;
        assert_eq!((ended.lost, ended.delivered), (0, ended.last), "seed {seed}: all is delivered");
        let records = rig.sink.records();
        verify_records(&records);
        let report = judged(&records);
        assert_eq!(report.faults, [], "seed {seed}: genuine losses are never faults");
        let now = by_id(&records);
        let lost = stored.iter().filter(|record| now.get(&record.entry.call.request_id) != Some(record)).count();
        let told = gaps(&records);
        let is_unproven = report.unproven.iter().any(|part| part.kind == UnprovenKind::LostContents);
        assert_eq!(is_unproven, told > 0, "seed {seed}: {:?}", report.unproven);
        assert!(lost == 0 || told > 0, "seed {seed}: {lost} records are lost and nothing says so");
        if quarantined(&path) > 0 {
            noticed += 1;
            assert!(lost <= 1, "seed {seed}: one bit cost {lost} records");
        }
    }
    assert!(noticed > 0, "no flipped bit was noticed: this test has no teeth");
}

#[tokio::test]
async fn a_cut_or_foreign_file_is_set_aside_and_the_gateway_starts() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 200).await;
    stop(pipeline).await;
    let stored = rig.stored_records();
    let name = &rig.generations()[0];
    let whole = std::fs::read(rig.dir.path().join(name)).unwrap();
    let damaged: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("foreign", vec![b'x'; 8192]),
        ("cut to half", whole[..whole.len() / 2].to_vec()),
        ("header gone", [&[0; 4096], &whole[4096..]].concat()),
    ];
    for (what, bytes) in damaged {
        let image = copy_of(rig.dir.path());
        std::fs::write(image.path().join(name), &bytes).unwrap();
        let rig = Rig::on(image);
        stop(rig.start()).await;
        let records = rig.sink.records();
        let kept = stored.iter().filter(|record| records.contains(record)).count();
        let aside = rig.dir.path().join("quarantine").join(format!("{name}.1"));
        assert_eq!(std::fs::read(&aside).unwrap(), bytes, "{what}: it is kept as it was found");
        let [gap] = &events(&records, "damage").into_iter().collect::<Vec<_>>()[..] else {
            panic!("{what}: the new epoch does not name the damaged file");
        };
        assert_eq!(gap["file"], format!("{name}.1"));
        if what == "header gone" {
            assert_eq!(kept, stored.len(), "{what}: every frame is whole");
        }
        // The epoch of a file that tells nothing is not used again.
        let epoch = records.last().unwrap().position.epoch.0;
        assert_eq!(epoch, 2, "{what}");
        verify_records(&records);
    }
}

#[tokio::test]
async fn a_damaged_directory_is_read_without_changing_it() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    one(&pipeline.audit(), "echo").await;
    stop(pipeline).await;
    let file = rig.dir.path().join(&rig.generations()[0]);
    std::fs::write(&file, b"rotten").unwrap();
    let reader = gatepost::audit::outbox::Reader::offline(
        std::sync::Arc::new(gatepost::audit::outbox::fs::DiskFs),
        rig.dir.path(),
    )
    .unwrap();
    assert!(reader.stats().is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"rotten");
    assert_eq!(quarantined(rig.dir.path()), 0);
    assert!(!drained(copy_of(rig.dir.path())).await.is_empty());
}
