//! The statements that the records of gateways make about their own streams, and the ends of streams.

use serde_json::Value;

use super::checker::{Checker, Cursor};
use super::kind::{FaultKind, UnprovenKind};
use super::missing::MissingRecords;
use super::place::Place;
use super::progress::{Sequence, StreamProgress};
use super::statements::EpochEnd;
use crate::audit::chain;
use crate::audit::record::{Entry, Seq, Status, StreamPosition, Timestamp};
use crate::counts::plural;

/// Largest difference between a gateway's clock and the server's that a column outside every hash may show.
/// *Chosen*: as for the time of a record in the future.
const CLOCKS_MICROS: i64 = 5 * 60 * 1_000_000;

impl Checker {
    /// Checks the statements that the gateway's own records make about their stream.
    pub(super) fn check_meaning(
        &mut self,
        current: &mut StreamProgress,
        position: &StreamPosition,
        entry: &Entry,
        sequence: Sequence,
    ) {
        let (method, place) = (entry.call.method.as_str(), Place::at(position));
        if current.closed && sequence != Sequence::Repeated {
            let what = "follows gateway/closed, after which a gateway writes nothing: it was added";
            self.report.fault(FaultKind::Event, place, what.to_owned());
        }
        let opens = method == "gateway/opened";
        if self.statements.is_registrar(position.gateway_id) != method.starts_with("trail/") {
            let what =
                format!("{method:?} cannot be in this stream: the registrar's stream has decisions, and no other has");
            self.report.fault(FaultKind::Event, place, what);
        } else if method.starts_with("trail/") || current.is_lost {
            // The registrar opens no epochs, and of a lost record nothing is known.
        } else if position.seq == Seq(1) && !opens {
            let what =
                format!("the stream begins with {method:?} instead of gateway/opened: its beginning was replaced");
            self.report.fault(FaultKind::Event, place, what);
        } else if position.seq > Seq(1) && opens {
            let what = "gateway/opened is not the first record of the stream: it was added";
            self.report.fault(FaultKind::Event, place, what.to_owned());
        }
        current.counts.gaps += u64::from(method == "gateway/gap");
        current.interrupted += u64::from(entry.response_status == Status::Interrupted);
        if position.seq == Seq(1) && opens {
            self.check_opening(current, position, entry);
        }
        if method == "gateway/closed" {
            current.closed = true;
            let count = details(entry).and_then(|details| details.get("records")?.as_u64());
            if count != Some(position.seq.0) {
                let count = count.map_or_else(|| "no".to_owned(), |count| count.to_string());
                let what = format!("gateway/closed counts {count} records, but its seq is {}", position.seq);
                self.report.fault(FaultKind::Count, place, what);
            }
        }
    }

    fn check_opening(&mut self, current: &mut StreamProgress, position: &StreamPosition, entry: &Entry) {
        let details = details(entry).unwrap_or_default();
        current.announced = details.get("interrupted").and_then(Value::as_u64);
        let format = details.get("format").and_then(Value::as_u64);
        if format != Some(chain::FORMAT) {
            let format = format.map_or_else(|| "no record format".to_owned(), |it| format!("record format {it}"));
            let known = chain::FORMAT;
            let what = format!("the stream has {format}; this version knows {known}: use the version that wrote it");
            self.report.fault(FaultKind::Format, Place::at(position), what);
        }
        let begun_at = self.cursor(current.stream).and_then(|cursor| cursor.begun_at);
        self.check_column("begun_at", current, begun_at, Some(entry.call.timestamp));
    }

    /// Checks the cursor against the stream's last record. Returns true if records are missing at the end.
    pub(super) fn check_cursor(&mut self, current: &StreamProgress, cursor: Option<Cursor>) -> bool {
        let (stream, head) = (current.stream, current.head);
        let at_head = Place::seqs(stream, head.seq, head.seq);
        let Some(Cursor { head: cursor, delivered_at, .. }) = cursor else {
            let what = "audit_stream has no row for this stream: its records were added, or the row was removed";
            self.report.fault(FaultKind::Cursor, Place::stream(stream), what.to_owned());
            return false;
        };
        self.check_column("delivered_at", current, delivered_at, current.last_time);
        if cursor.seq > head.seq {
            let (kind, first, last) = (FaultKind::Tail, head.seq.next(), cursor.seq);
            let missing = MissingRecords { kind, stream, first, last, after: current.last_time, before: delivered_at };
            self.report_missing(missing);
            return true;
        }
        if cursor.seq < head.seq {
            let what = "is after the cursor, which moves with the rows: it was not delivered by the gateway";
            let place = Place::seqs(stream, cursor.seq.next(), head.seq);
            self.report.fault(FaultKind::Cursor, place, what.to_owned());
        } else if cursor.hash != head.hash {
            let what = "audit_stream.head_hash is not the hash of the last record: one of the two was changed";
            self.report.fault(FaultKind::Cursor, at_head, what.to_owned());
        }
        false
    }

    /// Reports a time outside every hash that cannot be right: before `record` was made, or in the future.
    fn check_column(
        &mut self,
        column: &str,
        current: &StreamProgress,
        value: Option<Timestamp>,
        record: Option<Timestamp>,
    ) {
        let (Some(value), Some(record)) = (value, record) else { return };
        let too_early = value.micros() < record.micros().saturating_sub(CLOCKS_MICROS);
        if too_early || value.micros() > self.options.now.micros().saturating_add(CLOCKS_MICROS) {
            let what = format!(
                "audit_stream.{column} is {value}, which cannot be right beside a record of {record}: the column is in \
                 no hash and was changed, or a clock was wrong"
            );
            self.report.unproven(UnprovenKind::Column, Place::stream(current.stream), what);
        }
    }

    /// Checks the end of an epoch against what later records say. `cut`: records are known to be missing there.
    pub(super) fn check_end(&mut self, current: &StreamProgress, end: &EpochEnd, cut: bool) {
        let (stream, head) = (current.stream, current.head);
        let last = end.takeover.filter(|_| !end.exact).map_or(end.known, |takeover| takeover.end);
        let by = end.takeover.filter(|_| !end.exact).map_or(end.named_by, |takeover| takeover.at.epoch);
        if head.seq < last.seq && !cut {
            let count = last.seq.0 - head.seq.0;
            let verb = if count == 1 { "is" } else { "are" };
            let what = format!(
                "{} {verb} missing at the end: epoch {by} says that this epoch ended at {}",
                plural(count, "record"),
                last.seq
            );
            self.report.fault(FaultKind::End, Place::seqs(stream, head.seq.next(), last.seq), what);
        }
        let is_fixed = end.exact || end.takeover.is_some();
        if head.seq > last.seq && is_fixed {
            let place = Place::seqs(stream, last.seq.next(), head.seq);
            let what =
                format!("is after seq {}, at which this epoch ended, as epoch {by} says: it was added", last.seq);
            self.report.fault(FaultKind::End, place, what);
        }
        let queued = if is_fixed { last.seq } else { head.seq }.min(head.seq);
        let proven = end.known.seq.max(current.confirmed);
        if !end.exact && queued > proven {
            let place = Place::seqs(stream, proven.next(), queued);
            let what = format!(
                "is after seq {}, the last one that the gateway knew when it opened epoch {}: only the database vouches \
                 for it",
                end.known.seq, end.named_by
            );
            self.report.unproven(UnprovenKind::Queued, place, what);
        }
        if end.unknown && !end.exact && current.confirmed < head.seq {
            let what = "the end is not known: a damaged file may have had more records";
            self.report.unproven(UnprovenKind::EndUnknown, Place::stream(stream), what.to_owned());
        }
    }
}

/// The arguments of a record of the gateway.
fn details(entry: &Entry) -> Option<Value> {
    serde_json::from_str(entry.call.request_args.as_deref()?).ok()
}
