//! The checks, record by record.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::{Ending, FaultKind, Report, StreamId, StreamReport};
use crate::audit::chain::{self, Head};
use crate::audit::lost::{self, LostRuns};
use crate::audit::record::{AuditRecord, Entry, Epoch, Seq, Status, StreamPosition};

/// One record, as it was read from the trail.
#[derive(Clone, Debug)]
pub struct TrailRecord {
    /// The position, from the record's columns.
    pub position: StreamPosition,
    /// The contents, or the reason why they cannot be read.
    pub content: Result<Entry, String>,
    /// True if the record is in quarantine.
    pub quarantined: bool,
}

/// The store that the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Postgres, which has every stream from its first record on, and cursors.
    Postgres,
    /// An outbox, which removes the beginning of a stream once it is delivered, and has no cursors.
    Outbox,
}

/// Checks records one by one.
#[derive(Debug)]
pub struct Checker {
    origin: Origin,
    cursors: BTreeMap<StreamId, Head>,
    current: Option<StreamProgress>,
    /// The end of the stream before the current one.
    previous: Option<(StreamId, Head)>,
    /// What damage records anywhere in the trail say about lost records.
    lost: LostRuns,
    report: Report,
}

/// The state of the current stream.
#[derive(Debug)]
struct StreamProgress {
    stream: StreamId,
    head: Head,
    counts: StreamReport,
    /// The number of interrupted calls in the opening record, once that was read.
    announced: Option<u64>,
    interrupted: u64,
    closed: bool,
}

impl Checker {
    /// A checker that lists the first `faults_max` faults and counts all.
    #[must_use]
    pub fn new(origin: Origin, faults_max: usize) -> Self {
        let (cursors, lost, report) = (BTreeMap::new(), LostRuns::default(), Report::new(faults_max));
        Self { origin, cursors, current: None, previous: None, lost, report }
    }

    /// Adds a stream's last delivered position. Call it for all streams before the first record.
    pub fn add_cursor(&mut self, stream: StreamId, head: Head) {
        self.cursors.insert(stream, head);
    }

    /// Adds what the damage records of the whole trail say. Call it before the first record.
    pub fn add_losses(&mut self, lost: LostRuns) {
        self.lost = lost;
    }

    /// Checks the next record, in the order of (gateway, epoch, seq).
    pub fn check(&mut self, record: &TrailRecord) {
        let position = &record.position;
        let stream = (position.gateway_id, position.epoch);
        if self.current.as_ref().is_none_or(|current| current.stream != stream) {
            self.end_stream();
            self.begin_stream(stream, position);
        }
        let Some(mut current) = self.current.take() else { return };
        let sequence = self.check_position(&current, position);
        if let Some(entry) = self.check_content(record) {
            self.check_meaning(&mut current, position, entry, sequence);
        }
        if record.quarantined {
            current.counts.quarantined += 1;
        }
        current.counts.records += 1;
        if sequence != Sequence::Repeated {
            current.head = Head::after(position);
        }
        self.current = Some(current);
    }

    /// Ends the last stream and returns the report.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end_stream();
        self.end_streams_without_records(|_| true);
        self.report
    }

    fn begin_stream(&mut self, stream: StreamId, first: &StreamPosition) {
        let head = match self.origin {
            Origin::Postgres => Head::START,
            // Delivered records were removed, so the position before the first remaining record is taken from it.
            Origin::Outbox => Head { seq: Seq(first.seq.0.saturating_sub(1)), hash: first.prev_hash },
        };
        if head.seq > Seq::ZERO {
            self.report
                .note(format!("epoch {}: records before seq {} are no longer in the outbox", stream.1, first.seq));
        }
        let counts = StreamReport::new(stream.0, stream.1);
        self.current = Some(StreamProgress { stream, head, counts, announced: None, interrupted: 0, closed: false });
    }

    /// I3: positions rise by one, and each record is linked to the one before it.
    fn check_position(&mut self, current: &StreamProgress, position: &StreamPosition) -> Sequence {
        let (stream, seq) = (current.stream, position.seq);
        if seq <= current.head.seq {
            self.report.fault(FaultKind::Duplicate, stream, Some(seq), "this seq has more than one record".to_owned());
            return Sequence::Repeated;
        }
        let expected = current.head.seq.next();
        if seq > expected {
            let missing = match Seq(seq.0 - 1) {
                last if last == expected => format!("seq {last} is missing"),
                last => format!("seq {expected} to {last} are missing"),
            };
            // At level `queued`, records that were delivered from the ring are not in the outbox.
            let delivered = self.cursors.get(&stream).is_some_and(|cursor| cursor.seq.next() >= seq);
            if self.origin == Origin::Postgres || !delivered {
                self.report.fault(FaultKind::Gap, stream, Some(expected), missing);
            }
            return Sequence::AfterGap;
        }
        if position.prev_hash != current.head.hash {
            let what = "prev_hash is not the hash of the record before it".to_owned();
            self.report.fault(FaultKind::Link, stream, Some(seq), what);
        }
        Sequence::Next
    }

    /// Returns true if this record replaces a lost record, and a damage record explains it (docs/trail.md).
    fn is_lost(&self, position: &StreamPosition, entry: &Entry) -> bool {
        entry.call.method == "gateway/gap"
            && self.lost.explains(&AuditRecord { position: *position, entry: entry.clone() })
    }

    /// Checks that the contents can be read and match the hash. Returns them if they can be read.
    fn check_content<'a>(&mut self, record: &'a TrailRecord) -> Option<&'a Entry> {
        let (position, stream) = (&record.position, (record.position.gateway_id, record.position.epoch));
        match &record.content {
            Err(reason) => {
                self.report.fault(FaultKind::Unreadable, stream, Some(position.seq), reason.clone());
                None
            }
            Ok(entry) if self.is_lost(position, entry) => Some(entry),
            Ok(entry) if !claims_loss(position, entry) && chain::hash_matches(position, entry) => Some(entry),
            Ok(entry) => {
                let what = "the record was changed: its contents do not match its hash".to_owned();
                self.report.fault(FaultKind::Changed, stream, Some(position.seq), what);
                Some(entry)
            }
        }
    }

    /// Checks the statements that the gateway's own records make about their streams.
    fn check_meaning(
        &mut self,
        current: &mut StreamProgress,
        position: &StreamPosition,
        entry: &Entry,
        sequence: Sequence,
    ) {
        let (stream, seq) = (current.stream, position.seq);
        if current.closed && sequence != Sequence::Repeated {
            let what = "a record follows gateway/closed".to_owned();
            self.report.fault(FaultKind::Event, stream, Some(seq), what);
        }
        let opens = entry.call.method == "gateway/opened";
        if self.is_lost(position, entry) {
            current.counts.lost += 1;
            // The lost record may be one of the interrupted calls, or the opening record itself.
            current.announced = None;
        } else if seq == Seq(1) && !opens {
            let what = format!("the stream begins with {:?} instead of gateway/opened", entry.call.method);
            self.report.fault(FaultKind::Event, stream, Some(seq), what);
        } else if seq > Seq(1) && opens {
            self.report.fault(
                FaultKind::Event,
                stream,
                Some(seq),
                "gateway/opened is not the first record of the stream".to_owned(),
            );
        }
        current.counts.gaps += u64::from(entry.call.method == "gateway/gap");
        current.interrupted += u64::from(entry.response_status == Status::Interrupted);
        let details = || serde_json::from_str::<Value>(entry.call.request_args.as_deref()?).ok();
        if seq == Seq(1) && opens {
            let details = details().unwrap_or_default();
            current.announced = details.get("interrupted").and_then(Value::as_u64);
            let format = details.get("format").and_then(Value::as_u64);
            if format != Some(chain::FORMAT) {
                let format = format.map_or_else(|| "no record format".to_owned(), |it| format!("record format {it}"));
                let what = format!(
                    "the stream has {format}; this version knows {}: use the version that wrote it",
                    chain::FORMAT
                );
                self.report.fault(FaultKind::Format, stream, Some(seq), what);
            }
            self.check_previous_epoch(stream, &details);
        }
        if entry.call.method == "gateway/closed" {
            current.closed = true;
            let count = details().and_then(|details| details.get("records")?.as_u64());
            if count != Some(seq.0) {
                let count = count.map_or_else(|| "no".to_owned(), |count| count.to_string());
                let what = format!("gateway/closed counts {count} records, but its seq is {seq}");
                self.report.fault(FaultKind::Count, stream, Some(seq), what);
            }
        }
    }

    /// Checks the previous epoch against the opening record, which names its end.
    fn check_previous_epoch(&mut self, stream: StreamId, details: &Value) {
        let number = |key: &str| details.get(key).and_then(Value::as_u64);
        let Some(previous) = number("previous_epoch").map(Epoch) else { return };
        let known = self.previous.filter(|((gateway_id, _), _)| *gateway_id == stream.0);
        let Some(((_, epoch), head)) = known else {
            let what = format!("gateway {}: epochs up to {previous} are not in this trail", stream.0);
            self.report.note(what);
            return;
        };
        let seq = Seq(number("previous_seq").unwrap_or(0));
        let hash = details.get("previous_hash").and_then(Value::as_str).unwrap_or_default();
        if epoch != previous {
            let what = format!("the previous epoch, {previous}, with last seq {seq}, is missing");
            self.report.fault(FaultKind::Epoch, stream, Some(Seq(1)), what);
        } else if seq > head.seq {
            let what = format!("epoch {epoch} ended at seq {seq} or later, but its last record is {}", head.seq);
            self.report.fault(FaultKind::Tail, (stream.0, epoch), Some(head.seq.next()), what);
        } else if seq == head.seq && hash != head.hash.to_string() {
            let what = format!("epoch {epoch} ends with another hash than this record names");
            self.report.fault(FaultKind::Link, stream, Some(Seq(1)), what);
        }
    }

    fn end_stream(&mut self) {
        let Some(StreamProgress { stream, head, mut counts, announced, interrupted, closed }) = self.current.take()
        else {
            return;
        };
        self.end_streams_without_records(|other| *other < stream);
        if self.origin == Origin::Postgres {
            let cursor = self.cursors.remove(&stream);
            self.check_end(stream, head, cursor);
        }
        // In a stream that is not closed, interrupted calls may still be delivered.
        if let Some(announced) = announced
            && (interrupted > announced || closed && interrupted < announced)
        {
            let what = format!("gateway/opened counts {announced} interrupted calls, but there are {interrupted}");
            self.report.fault(FaultKind::Count, stream, None, what);
        }
        counts.last = head.seq;
        counts.ended = if closed { Ending::Closed } else { Ending::Open };
        self.report.stream(counts);
        self.previous = Some((stream, head));
    }

    /// Ends the streams that have a cursor and no records, if `passed` says that their position was passed.
    fn end_streams_without_records(&mut self, passed: impl Fn(&StreamId) -> bool) {
        while let Some(first) = self.cursors.first_entry().filter(|first| passed(first.key())) {
            let (empty, cursor) = first.remove_entry();
            if self.origin == Origin::Outbox {
                continue;
            }
            if cursor.seq > Seq::ZERO {
                let what = format!("the cursor is at seq {}, but the stream has no records", cursor.seq);
                self.report.fault(FaultKind::Tail, empty, None, what);
            }
            self.report.stream(StreamReport::new(empty.0, empty.1));
        }
    }

    /// Checks the cursor against the stream's last record.
    fn check_end(&mut self, stream: StreamId, head: Head, cursor: Option<Head>) {
        let (kind, seq, what) = match cursor {
            None => (FaultKind::Cursor, None, "audit_stream has no row for this stream".to_owned()),
            Some(cursor) if cursor.seq > head.seq => {
                let what = format!(
                    "seq {} to {} were delivered and are missing at the end of the stream",
                    head.seq.next(),
                    cursor.seq
                );
                (FaultKind::Tail, Some(head.seq.next()), what)
            }
            Some(cursor) if cursor.seq < head.seq => {
                let what =
                    format!("the cursor is at seq {}: later records were not delivered by the gateway", cursor.seq);
                (FaultKind::Cursor, Some(cursor.seq.next()), what)
            }
            Some(cursor) if cursor.hash != head.hash => {
                let what = "audit_stream.head_hash is not the hash of the last record".to_owned();
                (FaultKind::Cursor, Some(head.seq), what)
            }
            Some(_) => return,
        };
        self.report.fault(kind, stream, seq, what);
    }
}

/// A position relative to the head before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    /// The next position.
    Next,
    /// A later position; records are missing.
    AfterGap,
    /// A position that was read before.
    Repeated,
}

/// Returns true if this record says that it replaces a lost record.
fn claims_loss(position: &StreamPosition, entry: &Entry) -> bool {
    entry.call.method == "gateway/gap" && lost::is_stand_in(&AuditRecord { position: *position, entry: entry.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::record::{Call, GatewayId, Outcome};

    #[test]
    fn a_stream_of_an_unknown_record_format_is_a_fault() {
        for (details, says) in [
            (json!({ "format": chain::FORMAT }), None),
            (json!({ "format": 3 }), Some("the stream has record format 3; this version knows 2")),
            (json!({}), Some("the stream has no record format; this version knows 2")),
        ] {
            let call = Call::gateway_event("opened", &details);
            let entry = Entry::new(call, Outcome::of(Status::Ok), std::time::Duration::ZERO);
            let position = chain::link(GatewayId(uuid::Uuid::nil()), Epoch(1), Head::START, &entry);
            let mut checker = Checker::new(Origin::Outbox, 10);
            checker.check(&TrailRecord { position, content: Ok(entry), quarantined: false });
            let found = checker.finish().faults;
            let found: Vec<_> = found.iter().map(|fault| (fault.kind, fault.what.as_str())).collect();
            match says {
                None => assert_eq!(found, []),
                Some(says) => {
                    assert!(matches!(found[..], [(FaultKind::Format, what)] if what.starts_with(says)), "{found:?}");
                }
            }
        }
    }
}
