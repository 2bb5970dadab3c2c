//! Opens a generation file that was changed or cut anywhere: the gateway starts, and no record is lost silently.
//!
//! The input is a list of changes to a valid file, five bytes each: an offset (u32, little-endian) and a byte to XOR
//! there. A single byte at the end cuts the file.

use std::fs;
use std::sync::{Arc, OnceLock};

use gatepost::audit::chain::Head;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Commit, Opening, Segment};
use gatepost::audit::record::{AuditRecord, Epoch, Seq};

use super::samples::{GATEWAY, directory, records};

/// Records in the file, in segments of [`SEGMENT`] records.
const COUNT: u64 = 12;
const SEGMENT: usize = 4;
/// The quota in bytes. *Chosen*: the smallest that can be configured.
const QUOTA: u64 = 64 * 1024 * 1024;
const NAME: &str = "outbox-000001.redb";

struct Good {
    file: Vec<u8>,
    records: Vec<AuditRecord>,
}

pub fn run(data: &[u8]) {
    static GOOD: OnceLock<Good> = OnceLock::new();
    let good = GOOD.get_or_init(good);
    let dir = directory();
    let (mut file, mut rest, mut changed) = (good.file.clone(), data, 0);
    while let Some(([at @ .., bits], behind)) = rest.split_first_chunk::<5>() {
        let at = u32::from_le_bytes(*at) as usize % file.len();
        file[at] ^= bits;
        changed += usize::from(*bits != 0);
        rest = behind;
    }
    if let Some(cut) = rest.first().filter(|_| rest.len() == 1) {
        file.truncate(file.len() * usize::from(*cut) / 256);
        changed += 1;
    }
    fs::write(dir.path().join(NAME), &file).unwrap();
    let opening = Opening::open(Arc::new(DiskFs), dir.path(), Some(GATEWAY)).expect("the gateway starts");
    let said = opening.damages.len();
    let outbox = opening.begin(&Commit::default(), QUOTA).expect("an epoch begins");
    let reader = outbox.reader();
    let (mut found, mut after) = (Vec::new(), Head::START);
    loop {
        let read = reader.read(Epoch(1), after).expect("remaining records can be read");
        let Some(last) = read.last() else { break };
        after = Head::after(&last.position);
        found.extend(read);
    }
    let lost = good.records.iter().filter(|record| !found.contains(record)).count();
    let gaps = found.iter().filter(|record| record.entry.call.method == "gateway/gap").count();
    assert!(
        lost == 0 || gaps + said + outbox.take_damages().len() > 0,
        "{lost} records are lost and nothing reports it"
    );
    assert!(changed > 0 || lost == 0, "an unchanged file is read completely");
    for record in &found {
        let own = good.records.iter().any(|good| good == record);
        assert!(own || record.entry.call.method == "gateway/gap", "a record that was never written: {record:?}");
    }
}

fn good() -> Good {
    let dir = directory();
    let opening = Opening::open(Arc::new(DiskFs), dir.path(), Some(GATEWAY)).unwrap();
    let records = records(opening.epoch, COUNT, 300);
    let segments: Vec<Segment> = records.chunks(SEGMENT).map(segment).collect();
    let (first, rest) = segments.split_first().unwrap();
    let head = |segment: &Segment| Some(head_at(&records, segment.last()));
    let commit = Commit { segments: std::slice::from_ref(first), head: head(first), ..Commit::default() };
    let mut outbox = opening.begin(&commit, QUOTA).unwrap();
    for segment in rest {
        let commit = Commit { segments: std::slice::from_ref(segment), head: head(segment), ..Commit::default() };
        outbox.commit(&commit).unwrap();
    }
    drop(outbox);
    Good { file: fs::read(dir.path().join(NAME)).unwrap(), records }
}

/// A segment of consecutive `records`.
pub fn segment(records: &[AuditRecord]) -> Segment {
    let first = records.first().unwrap().position;
    let mut segment = Segment::begin(first.epoch, first.seq, 0);
    for record in records {
        segment.push(record).unwrap();
    }
    segment
}

fn head_at(records: &[AuditRecord], seq: Seq) -> Head {
    Head::after(&records.iter().find(|record| record.position.seq == seq).unwrap().position)
}
