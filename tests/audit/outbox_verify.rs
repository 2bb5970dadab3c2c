//! `gatepost outbox verify` finds each kind of fault, and none on what a gateway left, however it ended.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::BINARY;
use crate::rig::{Rig, call, call_with, many, ok, stop};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::codec;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Commit, Opening, Outbox, Segment};
use gatepost::audit::record::{AuditRecord, Call, Entry, Epoch, GatewayId, RequestId, Seq};
use tempfile::TempDir;

/// Runs `outbox verify`: exit code, standard output, standard error.
fn verify(dir: &Path) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(BINARY).args(["outbox", "verify", "--dir"]).arg(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn finds(dir: &Path, what: &str) {
    let before = image(dir);
    let (code, stdout, stderr) = verify(dir);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains(what), "{stderr}");
    assert!(stderr.contains("outbox-00000"), "the file is named: {stderr}");
    assert!(!stdout.contains("no fault"), "{stdout}");
    assert!(image(dir) == before, "the evidence was changed");
}

fn passes(dir: &Path) -> String {
    passes_with(dir, "")
}

fn passes_with(dir: &Path, said: &str) -> String {
    let before = image(dir);
    let (code, stdout, stderr) = verify(dir);
    assert_eq!((code, stderr.as_str()), (Some(0), said), "{stdout}");
    assert!(stdout.ends_with("no fault\n"), "{stdout}");
    assert!(image(dir) == before, "the evidence was changed");
    stdout
}

/// The generation files and their bytes.
fn image(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("outbox-"))
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// A stream made by hand: a few linked records.
struct Stream {
    dir: TempDir,
    gateway_id: GatewayId,
    records: Vec<AuditRecord>,
}

const EPOCH: Epoch = Epoch(1);

impl Stream {
    fn new() -> Self {
        let (gateway_id, mut head, mut records) = (GatewayId(uuid::Uuid::from_u128(7)), Head::START, Vec::new());
        for n in 0..9 {
            let opened = || Call::gateway_event("opened", &serde_json::json!({ "format": 2, "level": "stored" }));
            let call = if n == 0 { opened() } else { call_with("echo", &format!("{{\"n\":{n}}}")) };
            let entry = Entry::new(call, ok(), Duration::from_millis(1));
            let position = chain::link(gateway_id, EPOCH, head, &entry);
            head = Head::after(&position);
            records.push(AuditRecord { position, entry });
        }
        Self { dir: tempfile::tempdir().unwrap(), gateway_id, records }
    }

    fn head(&self, count: usize) -> Head {
        Head::after(&self.records[count - 1].position)
    }

    /// Opens the outbox and begins the epoch with the first three records. Every commit after it begins a new file.
    fn begin(&self) -> Outbox {
        let opening = Opening::open(Arc::new(DiskFs), self.dir.path(), Some(self.gateway_id)).unwrap();
        assert_eq!(opening.epoch, EPOCH);
        let first = [segment(&self.records[..3])];
        opening.begin(&Commit { segments: &first, head: Some(self.head(3)), ..Commit::default() }, 8).unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn segment(records: &[AuditRecord]) -> Segment {
    let first = records.first().unwrap().position;
    let mut segment = Segment::begin(first.epoch, first.seq, 0);
    for record in records {
        segment.push(record).unwrap();
    }
    segment
}

/// Stores the first three records as they are and `changed` in the place of the next three.
fn with_next(stream: &Stream, changed: &Segment) {
    let mut outbox = stream.begin();
    let commit = Commit { segments: std::slice::from_ref(changed), head: Some(stream.head(6)), ..Commit::default() };
    outbox.commit(&commit).unwrap();
}

fn intent(call: &Call) -> (RequestId, Arc<[u8]>) {
    (call.request_id, codec::encode_intent(call).unwrap().into())
}

#[test]
fn a_whole_stream_in_two_files_passes() {
    let stream = Stream::new();
    with_next(&stream, &segment(&stream.records[3..6]));
    let report = passes(stream.path());
    assert!(report.contains("6 records in 2 files"), "{report}");
}

#[test]
fn a_changed_argument_is_found() {
    let stream = Stream::new();
    let mut changed = stream.records[3..6].to_vec();
    changed[1].entry.call.request_args = Some("{\"n\":400}".to_owned());
    with_next(&stream, &segment(&changed));
    finds(stream.path(), "outbox-000002.redb, 1/5: the record was changed");
}

#[test]
fn swapped_records_are_found() {
    let stream = Stream::new();
    let mut swapped = segment(&[4, 3, 5].map(|idx: usize| stream.records[idx].clone()));
    swapped = Segment::new(swapped.epoch, Seq(4), Seq(6), swapped.frames());
    with_next(&stream, &swapped);
    finds(stream.path(), "outbox-000002.redb, 1/4: record 5 is in the place of 4");
    // Also where each was given the other's place.
    let stream = Stream::new();
    let mut renamed = stream.records[3..6].to_vec();
    let (one, other) = (renamed[0].entry.clone(), renamed[1].entry.clone());
    (renamed[0].entry, renamed[1].entry) = (other, one);
    with_next(&stream, &segment(&renamed));
    finds(stream.path(), "1/4: the record was changed");
}

#[test]
fn a_record_taken_out_is_found() {
    let stream = Stream::new();
    let mut shorter = segment(&[3, 5].map(|idx: usize| stream.records[idx].clone()));
    shorter = Segment::new(shorter.epoch, shorter.first, Seq(6), shorter.frames());
    with_next(&stream, &shorter);
    finds(stream.path(), "1/5: record 6 is in the place of 5");
    let stream = Stream::new();
    with_next(&stream, &segment(&stream.records[4..6]));
    finds(stream.path(), "1/5: records 4 to 4 are missing before it");
}

#[test]
fn a_record_linked_to_another_predecessor_is_found() {
    let (stream, other) = (Stream::new(), Stream::new());
    with_next(&stream, &segment(&other.records[3..6]));
    finds(stream.path(), "1/4: the chain is broken");
}

#[test]
fn a_duplicated_seq_is_found() {
    let stream = Stream::new();
    let again = [segment(&stream.records[3..6]), segment(&stream.records[4..5])];
    let mut outbox = stream.begin();
    outbox.commit(&Commit { segments: &again, head: Some(stream.head(6)), ..Commit::default() }).unwrap();
    drop(outbox);
    finds(stream.path(), "1/5: a record with this seq was already found");
}

#[test]
fn a_cut_tail_of_an_open_stream_is_found_by_later_records() {
    // A file behind it tells.
    let stream = Stream::new();
    let mut outbox = stream.begin();
    for (segment, head) in [(segment(&stream.records[3..5]), 6), (segment(&stream.records[6..9]), 9)] {
        let head = Some(stream.head(head));
        outbox.commit(&Commit { segments: &[segment], head, ..Commit::default() }).unwrap();
    }
    drop(outbox);
    finds(stream.path(), "outbox-000002.redb, 1/5: the end is cut");
    // The segment's key tells.
    let stream = Stream::new();
    let mut shorter = segment(&stream.records[3..5]);
    shorter = Segment::new(shorter.epoch, shorter.first, Seq(6), shorter.frames());
    with_next(&stream, &shorter);
    finds(stream.path(), "1/6: segment 4 should end at 6 but ends before 6");
    // The epoch was closed, and its last record is not there.
    let stream = Stream::new();
    let mut outbox = stream.begin();
    let next = [segment(&stream.records[3..6])];
    outbox.commit(&Commit { segments: &next, head: Some(stream.head(6)), closes: true, ..Commit::default() }).unwrap();
    drop(outbox);
    finds(stream.path(), "1/6: the end is cut: the epoch was closed");
}

#[tokio::test]
async fn a_flipped_bit_in_a_generation_and_a_cut_file_are_found() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 20).await;
    stop(pipeline).await;
    passes(rig.dir.path());
    let file = rig.dir.path().join(&rig.generations()[0]);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    // In every frame: pages that redb has left hold old ones, on which nothing depends.
    let frames = whole.windows(4).enumerate().filter(|(_, window)| *window == b"GPRF");
    frames.for_each(|(at, _)| flipped[at + 40] ^= 1);
    std::fs::write(&file, flipped).unwrap();
    finds(rig.dir.path(), "outbox-000001.redb: ");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    finds(rig.dir.path(), "outbox-000001.redb: ");
    // A bit that rotted before redb took its checksum: only the frame's own tells.
    let stream = Stream::new();
    let sound = segment(&stream.records[3..6]);
    let mut frames = sound.frames().to_vec();
    frames[60] ^= 1;
    with_next(&stream, &Segment::new(sound.epoch, sound.first, sound.last(), &frames));
    finds(stream.path(), "1/4: byte 0 of segment 4: frame checksum");
}

#[test]
fn an_intent_without_a_record_is_found() {
    let stream = Stream::new();
    let (lost, open) = (call("echo"), call("echo"));
    let mut outbox = stream.begin();
    let (second, third) = ([segment(&stream.records[3..4])], [segment(&stream.records[4..6])]);
    let begun = [intent(&lost), intent(&open)];
    let commit = Commit { segments: &second, head: Some(stream.head(4)), begun: &begun, ..Commit::default() };
    outbox.commit(&commit).unwrap();
    let ended = [lost.request_id];
    let commit = Commit { segments: &third, head: Some(stream.head(6)), ended: &ended, ..Commit::default() };
    outbox.commit(&commit).unwrap();
    drop(outbox);
    finds(stream.path(), &format!("call {} was open in outbox-000002.redb and has neither", lost.request_id));
}

#[tokio::test]
async fn a_killed_gateways_outbox_passes_and_so_does_the_next_epoch() {
    let rig = Rig::stored();
    let first = rig.start_store_only();
    let open = first.audit().begin(call("echo")).await.unwrap();
    many(&first.audit(), 5).await;
    let crashed = rig.after_crash();
    let report = passes(crashed.dir.path());
    assert!(report.contains("1 open call; if the gateway died"), "{report}");
    let pipeline = crashed.start_store_only();
    many(&pipeline.audit(), 5).await;
    stop(pipeline).await;
    let report = passes(crashed.dir.path());
    assert!(report.contains("closed") && report.contains("open: its end cannot be checked"), "{report}");
    open.finish(ok(), ()).await.unwrap().into_inner();
    stop(first).await;
}

#[tokio::test]
async fn an_outbox_whose_records_are_partly_delivered_passes() {
    let rig = Rig::queued(Duration::from_millis(1));
    let pipeline = rig.start();
    many(&pipeline.audit(), 50).await;
    crate::rig::delivered(&pipeline.probe()).await;
    many(&pipeline.audit(), 50).await;
    stop(pipeline).await;
    let pipeline = rig.start_store_only();
    many(&pipeline.audit(), 5).await;
    stop(pipeline).await;
    let said = "gatepost: the gateway delivers to Postgres: delivered records are there, and this reads the others\n";
    passes_with(rig.dir.path(), said);
}

#[test]
fn a_directory_without_an_outbox_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let (code, stdout, stderr) = verify(dir.path());
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("is not an outbox directory") && stderr.contains("--dir"), "{stderr}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 1, "nothing was made in it");
}
