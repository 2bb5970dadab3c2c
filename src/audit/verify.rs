//! Whether streams are whole and unchanged: every check of a trail that needs nothing but the trail.
//!
//! A [`Checker`] is fed the cursors, then the records in the order of their places, and keeps one head and a few counts
//! of the stream at hand, so its memory does not grow with the records. It knows neither Postgres nor the outbox.
//!
//! What is checked: `seq` rises by one from 1, each place once; every record is linked to the one before it, and its
//! hash is that of its contents; what stands in quarantine repeats its bytes, in its place; an epoch begins with
//! `gateway/opened`, names the end of the epoch before it and has as many interrupted calls as it says; nothing stands
//! behind `gateway/closed`, which counts right; the cursor stands at the last record, with its hash.

mod report;

use std::collections::BTreeMap;

use serde_json::Value;

use super::chain::{self, Head};
use super::record::{Entry, Epoch, GatewayId, Seq, Status, StreamPosition};

pub use report::{Ending, Fault, FaultKind, Report, StreamReport};

/// A stream's name.
pub type StreamId = (GatewayId, Epoch);

/// One record as it was found.
#[derive(Clone, Debug)]
pub struct TrailRecord {
    /// What its columns say of its place.
    pub position: StreamPosition,
    /// Its contents, or why they cannot be read.
    pub content: Result<Entry, String>,
    /// Whether it stands in quarantine.
    pub quarantined: bool,
}

/// Where the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Postgres, which has every stream from its first record, and cursors.
    Postgres,
    /// An outbox, which forgets the head of a stream that was delivered, and has no cursors.
    Outbox,
}

/// Checks records one by one.
#[derive(Debug)]
pub struct Checker {
    origin: Origin,
    cursors: BTreeMap<StreamId, Head>,
    at: Option<At>,
    /// How the stream before the one at hand ended.
    before: Option<(StreamId, Head)>,
    report: Report,
}

/// The stream at hand.
#[derive(Debug)]
struct At {
    stream: StreamId,
    head: Head,
    counts: StreamReport,
    /// The interrupted calls that the opening record announces, once it was seen.
    announced: Option<u64>,
    interrupted: u64,
    closed: bool,
}

impl Checker {
    /// A checker that lists at most `faults_max` faults; it counts all.
    #[must_use]
    pub fn new(origin: Origin, faults_max: usize) -> Self {
        Self { origin, cursors: BTreeMap::new(), at: None, before: None, report: Report::new(faults_max) }
    }

    /// How far a stream was delivered; all of these come before the first record.
    pub fn add_cursor(&mut self, stream: StreamId, head: Head) {
        self.cursors.insert(stream, head);
    }

    /// The next record in the order of (gateway, epoch, seq).
    pub fn check(&mut self, item: &TrailRecord) {
        let position = &item.position;
        let stream = (position.gateway_id, position.epoch);
        if self.at.as_ref().is_none_or(|at| at.stream != stream) {
            self.end_stream();
            self.begin_stream(stream, position);
        }
        let Some(mut at) = self.at.take() else { return };
        let follows = self.position(&mut at, position);
        if let Some(entry) = self.content(item) {
            self.meaning(&mut at, position, entry, follows);
        }
        if item.quarantined {
            at.counts.quarantined += 1;
        }
        at.counts.records += 1;
        if follows != Follows::Repeats {
            at.head = Head::after(position);
        }
        self.at = Some(at);
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end_stream();
        self.end_empty(|_| true);
        self.report
    }

    fn begin_stream(&mut self, stream: StreamId, first: &StreamPosition) {
        let head = match self.origin {
            Origin::Postgres => Head::START,
            // What was delivered is forgotten: the first record here is believed as to what stands before it.
            Origin::Outbox => Head { seq: Seq(first.seq.0.saturating_sub(1)), hash: first.prev_hash },
        };
        if head.seq > Seq::ZERO {
            self.report.note(format!("epoch {}: records before seq {} are not here any more", stream.1, first.seq));
        }
        let counts = StreamReport::new(stream.0, stream.1);
        self.at = Some(At { stream, head, counts, announced: None, interrupted: 0, closed: false });
    }

    /// I3: places rise by one, and each is linked to the one before.
    fn position(&mut self, at: &mut At, position: &StreamPosition) -> Follows {
        let (stream, seq) = (at.stream, position.seq);
        if seq <= at.head.seq {
            self.report.fault(FaultKind::Duplicate, stream, Some(seq), "this seq is there more than once".to_owned());
            return Follows::Repeats;
        }
        let expected = at.head.seq.next();
        if seq > expected {
            let missing = match Seq(seq.0 - 1) {
                last if last == expected => format!("seq {last} is missing"),
                last => format!("seq {expected} to {last} are missing"),
            };
            // Level `queued` stores only what it does not deliver at once.
            let delivered = self.cursors.get(&stream).is_some_and(|cursor| cursor.seq.next() >= seq);
            if self.origin == Origin::Postgres || !delivered {
                self.report.fault(FaultKind::Gap, stream, Some(expected), missing);
            }
            return Follows::Gap;
        }
        if position.prev_hash != at.head.hash {
            let what = "prev_hash is not the hash of the record before it".to_owned();
            self.report.fault(FaultKind::Link, stream, Some(seq), what);
        }
        Follows::Next
    }

    /// The contents, if they can be read; whether they are those that were hashed.
    fn content<'a>(&mut self, item: &'a TrailRecord) -> Option<&'a Entry> {
        let (position, stream) = (&item.position, (item.position.gateway_id, item.position.epoch));
        match &item.content {
            Err(why) => {
                self.report.fault(FaultKind::Unreadable, stream, Some(position.seq), why.clone());
                None
            }
            Ok(entry) if stands_in(position, entry) || chain::holds(position, entry) => Some(entry),
            Ok(entry) => {
                let what = "the record was changed: its contents do not have its hash".to_owned();
                self.report.fault(FaultKind::Changed, stream, Some(position.seq), what);
                Some(entry)
            }
        }
    }

    /// What the gateway's own records say of their streams.
    fn meaning(&mut self, at: &mut At, position: &StreamPosition, entry: &Entry, follows: Follows) {
        let (stream, seq) = (at.stream, position.seq);
        if at.closed && follows != Follows::Repeats {
            let what = "a record stands behind gateway/closed".to_owned();
            self.report.fault(FaultKind::Event, stream, Some(seq), what);
        }
        let opens = entry.call.method == "gateway/opened";
        if stands_in(position, entry) {
            at.counts.lost += 1;
            // What is lost may have been one of those that the opening record counts, or that record itself.
            at.announced = None;
        } else if seq == Seq(1) && !opens {
            let what = format!("the stream begins with {:?}, not with gateway/opened", entry.call.method);
            self.report.fault(FaultKind::Event, stream, Some(seq), what);
        } else if seq > Seq(1) && opens {
            self.report.fault(FaultKind::Event, stream, Some(seq), "gateway/opened stands in mid-stream".to_owned());
        }
        at.counts.gaps += u64::from(entry.call.method == "gateway/gap");
        at.interrupted += u64::from(entry.response_status == Status::Interrupted);
        let details = || serde_json::from_str::<Value>(entry.call.request_args.as_deref()?).ok();
        if seq == Seq(1) && opens {
            let details = details().unwrap_or_default();
            at.announced = details.get("interrupted").and_then(Value::as_u64);
            self.opened(stream, &details);
        }
        if entry.call.method == "gateway/closed" {
            at.closed = true;
            let count = details().and_then(|details| details.get("records")?.as_u64());
            if count != Some(seq.0) {
                let what = format!("gateway/closed counts {count:?} records and stands at seq {seq}");
                self.report.fault(FaultKind::Count, stream, Some(seq), what);
            }
        }
    }

    /// An epoch's opening record names the end of the epoch before it.
    fn opened(&mut self, stream: StreamId, details: &Value) {
        let number = |key: &str| details.get(key).and_then(Value::as_u64);
        let Some(previous) = number("previous_epoch").map(Epoch) else { return };
        let known = self.before.filter(|((gateway_id, _), _)| *gateway_id == stream.0);
        let Some(((_, epoch), head)) = known else {
            let what =
                format!("gateway {}: epochs up to {previous} are not here, and nothing is known of them", stream.0);
            self.report.note(what);
            return;
        };
        let seq = Seq(number("previous_seq").unwrap_or(0));
        let hash = details.get("previous_hash").and_then(Value::as_str).unwrap_or_default();
        if epoch != previous {
            let what = format!("the epoch before this one is {previous}, whose last seq is {seq}; it is not here");
            self.report.fault(FaultKind::Epoch, stream, Some(Seq(1)), what);
        } else if seq > head.seq {
            let what = format!("epoch {epoch} ended at seq {seq} or later, and its records here end at {}", head.seq);
            self.report.fault(FaultKind::Tail, (stream.0, epoch), Some(head.seq.next()), what);
        } else if seq == head.seq && hash != head.hash.to_string() {
            let what = format!("epoch {epoch} ended with another hash than this record names");
            self.report.fault(FaultKind::Link, stream, Some(Seq(1)), what);
        }
    }

    fn end_stream(&mut self) {
        let Some(mut at) = self.at.take() else { return };
        let (stream, head) = (at.stream, at.head);
        self.end_empty(|other| *other < stream);
        if self.origin == Origin::Postgres {
            let cursor = self.cursors.remove(&stream);
            self.compare(stream, head, cursor);
        }
        // Those of a stream that is still being delivered may come yet.
        if let Some(announced) = at.announced
            && (at.interrupted > announced || at.closed && at.interrupted < announced)
        {
            let what = format!("gateway/opened counts {announced} interrupted calls, {} are here", at.interrupted);
            self.report.fault(FaultKind::Count, stream, None, what);
        }
        at.counts.last = head.seq;
        at.counts.ended = if at.closed { Ending::Closed } else { Ending::Open };
        self.report.stream(at.counts);
        self.before = Some((stream, head));
    }

    /// Cursors of streams that were passed have no record.
    fn end_empty(&mut self, passed: impl Fn(&StreamId) -> bool) {
        while let Some(first) = self.cursors.first_entry().filter(|first| passed(first.key())) {
            let (empty, cursor) = first.remove_entry();
            if self.origin == Origin::Outbox {
                continue;
            }
            if cursor.seq > Seq::ZERO {
                let what = format!("the cursor stands at seq {}, and there is no record at all", cursor.seq);
                self.report.fault(FaultKind::Tail, empty, None, what);
            }
            self.report.stream(StreamReport::new(empty.0, empty.1));
        }
    }

    fn compare(&mut self, stream: StreamId, head: Head, cursor: Option<Head>) {
        let (kind, seq, what) = match cursor {
            None => (FaultKind::Cursor, None, "audit_stream has no row of this stream".to_owned()),
            Some(cursor) if cursor.seq > head.seq => {
                let what = format!(
                    "seq {} to {} were delivered and are missing: the tail is cut",
                    head.seq.next(),
                    cursor.seq
                );
                (FaultKind::Tail, Some(head.seq.next()), what)
            }
            Some(cursor) if cursor.seq < head.seq => {
                let what = format!(
                    "the cursor stands at seq {}: what is behind it was not delivered by the gateway",
                    cursor.seq
                );
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

/// How a place stands to the head before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    Next,
    Gap,
    Repeats,
}

/// Whether this is the gap record of a lost one, which bears and names the hash of that one (docs/trail.md).
fn stands_in(position: &StreamPosition, entry: &Entry) -> bool {
    let named = || {
        let details: Value = serde_json::from_str(entry.call.request_args.as_deref()?).ok()?;
        (details.get("lost")?.as_u64()? > 0).then_some(())?;
        Some(details.get("hash")?.as_str()?.to_owned())
    };
    entry.call.method == "gateway/gap" && named().is_some_and(|hash| hash == position.hash.to_string())
}
