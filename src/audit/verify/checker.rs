//! The walk over all records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::confirmation::Confirmation;
use super::epochs::check_epochs;
use super::heads::{Heads, StreamHeads};
use super::kind::{FaultKind, UnprovenKind};
use super::missing::{Missing, MissingRecords};
use super::options::{Options, Origin};
use super::place::{Place, StreamId};
use super::progress::{Sequence, StreamProgress, Window};
use super::report::{Ending, Report, StreamReport};
use super::request_ids::RequestIds;
use super::statements::Statements;
use crate::audit::chain::{self, Head};
use crate::audit::lost::is_stand_in;
use crate::audit::record::{AuditRecord, Entry, Epoch, GatewayId, RequestId, Seq, StreamPosition, Timestamp};

/// Latest time of a record after the time of the check. *Spec*: docs/audit.md; clocks that are further apart make the
/// times of the trail useless anyway.
const FUTURE_MAX: Duration = Duration::from_mins(5);

/// Largest difference between a record's time and the time in its id. *Chosen*: the gateway reads the clock for both at
/// once; this allows for a clock that was stepped in between.
pub const ID_SLACK: Duration = Duration::from_hours(1);

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

/// A row of `audit_stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last delivered record.
    pub head: Head,
    /// When the row was made; in no hash.
    pub begun_at: Option<Timestamp>,
    /// When the cursor moved last; in no hash.
    pub delivered_at: Option<Timestamp>,
}

/// Checks records one by one.
#[derive(Debug)]
pub struct Checker {
    pub(super) origin: Origin,
    pub(super) options: Options,
    pub(super) statements: Statements,
    cursors: BTreeMap<StreamId, Cursor>,
    streams: BTreeSet<StreamId>,
    heads: Heads,
    /// The parts of streams to be checked; `None`: all of all streams.
    windows: Option<BTreeMap<StreamId, Window>>,
    current: Option<StreamProgress>,
    confirmation: Confirmation,
    missing: Missing,
    ids: RequestIds,
    pub(super) report: Report,
}

impl Checker {
    /// A checker of a trail of which `statements` are known.
    #[must_use]
    pub fn new(origin: Origin, options: Options, statements: Statements, heads: Heads) -> Self {
        let findings_max = options.findings_max;
        Self {
            origin,
            confirmation: Confirmation::new(origin, options.clone(), statements.registrar()),
            options,
            statements,
            cursors: BTreeMap::new(),
            streams: BTreeSet::new(),
            heads,
            windows: None,
            current: None,
            missing: Missing::new(findings_max),
            ids: RequestIds::new(0),
            report: Report::new(findings_max),
        }
    }

    /// Adds a stream that has at least one record in the store. Call it for all streams before the first record.
    pub fn add_stream(&mut self, stream: StreamId) {
        self.streams.insert(stream);
    }

    /// Adds a stream's cursor. Call it for all streams before the first record.
    pub fn add_cursor(&mut self, stream: StreamId, cursor: Cursor) {
        self.cursors.insert(stream, cursor);
    }

    /// Prepares to find request ids that are repeated among so many records. Without it none is found.
    pub fn expect_records(&mut self, records: u64) {
        self.ids = RequestIds::new(records);
    }

    /// Request ids that more than one record may have, for the caller to look up; `None` if there were more records
    /// than expected, or too many.
    #[must_use]
    pub fn repeated_candidates(&self) -> Option<&[(GatewayId, RequestId)]> {
        self.ids.candidates()
    }

    /// Limits the check to parts of streams. Records outside of these are not passed to [`Checker::check`], except the
    /// neighbours that the windows include.
    pub fn limit_to(&mut self, windows: BTreeMap<StreamId, Window>) {
        self.cursors.retain(|stream, _| windows.contains_key(stream));
        self.heads.retain(|stream, seq| windows.get(&stream).is_some_and(|window| window.contains(seq)));
        self.windows = Some(windows);
    }

    /// Checks the numbers of the epochs. Call it after the streams were added.
    pub fn begin(&mut self) {
        let selected = |stream| self.windows.as_ref().is_none_or(|windows| windows.contains_key(&stream));
        check_epochs(&self.streams, &self.statements, selected, &mut self.report);
    }

    /// Reports a row whose position cannot exist, for example in epoch -1.
    pub fn stray_row(&mut self, what: String) {
        self.report.fault(FaultKind::Unreadable, Place::ALL, what);
    }

    /// Reports two records of a gateway with the same request id.
    pub fn repeated_id(&mut self, place: Place, what: String) {
        self.report.fault(FaultKind::Repeated, place, what);
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
        let time = record.content.as_ref().ok().map(|entry| entry.call.timestamp);
        let sequence = self.check_position(&mut current, position, time);
        if let Ok(entry) = &record.content {
            // I2: each call has one record.
            self.ids.add(position.gateway_id, entry.call.request_id);
            if self.check_content(&mut current, position, entry) {
                self.check_time(position, entry);
            }
            self.check_meaning(&mut current, position, entry, sequence);
        } else if let Err(reason) = &record.content {
            let kind = if record.quarantined { FaultKind::Quarantine } else { FaultKind::Unreadable };
            self.report.fault(kind, Place::at(position), reason.clone());
            current.is_broken = true;
        }
        if record.quarantined {
            current.counts.quarantined += 1;
            let what = "is in audit_quarantine, where no query finds it: nothing proves that Postgres refused it";
            self.report.unproven(UnprovenKind::Quarantined, Place::at(position), what.to_owned());
        } else if let Some(time) = time {
            self.missing.saw(time);
        }
        current.counts.records += 1;
        if std::mem::take(&mut current.is_broken) {
            self.confirmation.break_chain(stream, current.head.seq);
        }
        if sequence != Sequence::Repeated {
            current.head = Head::after(position);
            current.last_time = time.or(current.last_time);
            self.confirmation.pass(position, &mut self.report);
            self.compare_heads(&mut current, position);
        }
        self.current = Some(current);
    }

    /// Ends the last stream and returns the report.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end_stream();
        self.pass_streams(|_| true);
        if self.report.streams_count == 0 {
            let what = format!("there is nothing to check: {} has no records", self.origin.store());
            self.report.unproven(UnprovenKind::Empty, Place::ALL, what);
        }
        let Self { mut report, mut confirmation, missing, statements, .. } = self;
        missing.report(&mut report);
        confirmation.finish(&mut report);
        let is_confirmed = |position: &StreamPosition| confirmation.covers_decision(position);
        report.add_retired(statements.retired().summary(is_confirmed));
        report.decide(statements.decisions(), is_confirmed);
        report.add_mentions(statements.restored().map(|(place, what)| (UnprovenKind::Restored, place, what)));
        report.judge();
        report
    }

    fn begin_stream(&mut self, stream: StreamId, first: &StreamPosition) {
        self.pass_streams(|other| *other < stream);
        let window = self.windows.as_ref().and_then(|windows| windows.get(&stream)).copied().unwrap_or(Window::ALL);
        let before = Head { seq: Seq(first.seq.0.saturating_sub(1)), hash: first.prev_hash };
        let head = match self.origin {
            Origin::Postgres if window.first <= Seq(1) => Head::START,
            // The records before a window are not read.
            Origin::Postgres => match self.statements.retired_mut().pass_within(stream, window.first, first.seq) {
                Some(run) => Head { seq: run.last, hash: run.last_hash },
                None => Head { seq: Seq(window.first.0 - 1), ..before },
            },
            // Those before the first one in an outbox were delivered or pruned.
            Origin::Outbox => before,
        };
        if head.seq > Seq::ZERO && self.windows.is_none() {
            let what = format!("records before seq {} are no longer in the outbox", first.seq);
            if self.statements.was_pruned(stream, head) {
                self.report.mention(UnprovenKind::Begins, Place::stream(stream), what + ", as gateway/pruned says");
            } else {
                self.report.unproven(UnprovenKind::Begins, Place::stream(stream), what);
            }
        }
        let end = self.statements.end_of(stream);
        self.current = Some(StreamProgress::new(stream, window, head, end, self.heads.take(stream)));
    }

    /// I3: positions rise by one, and each record is linked to the one before it.
    fn check_position(
        &mut self,
        current: &mut StreamProgress,
        position: &StreamPosition,
        time: Option<Timestamp>,
    ) -> Sequence {
        let (stream, seq) = (current.stream, position.seq);
        self.pass_retired(current, seq);
        if seq <= current.head.seq {
            let what = "this seq has more than one record: at most one of them is the gateway's";
            self.report.fault(FaultKind::Duplicate, Place::at(position), what.to_owned());
            return Sequence::Repeated;
        }
        let expected = current.head.seq.next();
        if seq > expected {
            // At level `queued`, records that were delivered from the ring are not in the outbox.
            let delivered = self.cursors.get(&stream).is_some_and(|cursor| cursor.head.seq.next() >= seq);
            if self.origin == Origin::Postgres || !delivered {
                let (kind, last) = (FaultKind::Gap, Seq(seq.0 - 1));
                let (after, before) = (current.last_time, time);
                let missing = MissingRecords { kind, stream, first: expected, last, after, before };
                self.missing.add(missing, &mut self.report);
            }
            current.is_broken = true;
            return Sequence::AfterGap;
        }
        if position.prev_hash != current.head.hash {
            let what = "prev_hash is not the hash of the record before it: one of the two was replaced";
            self.report.fault(FaultKind::Link, Place::at(position), what.to_owned());
            current.is_broken = true;
        }
        Sequence::Next
    }

    /// Checks that the contents match the hash, or that a damage record names the record as lost. Returns true if the
    /// contents match.
    fn check_content(&mut self, current: &mut StreamProgress, position: &StreamPosition, entry: &Entry) -> bool {
        let is_own = entry.call.method == "gateway/gap";
        let gap = is_own.then(|| AuditRecord { position: *position, entry: entry.clone() });
        if let Some(stand_in) = gap.filter(is_stand_in) {
            current.counts.lost += 1;
            // The lost record may be one of the interrupted calls, or the opening record itself.
            current.announced = None;
            current.is_lost = true;
            if self.statements.explains_loss(&stand_in) {
                let what = "the contents are lost: the gateway's disk damaged them, as a damage record says";
                self.report.unproven(UnprovenKind::LostContents, Place::at(position), what.to_owned());
                current.is_broken = !self.statements.binds(&stand_in);
            } else {
                let what = "says that the record here is lost, but no damage record names it: a record was replaced";
                self.report.fault(FaultKind::Lost, Place::at(position), what.to_owned());
                current.is_broken = true;
            }
            return false;
        }
        current.is_lost = false;
        let is_unchanged = chain::hash_matches(position, entry);
        if !is_unchanged {
            let what = "the record was changed: its contents do not match its hash";
            self.report.fault(FaultKind::Changed, Place::at(position), what.to_owned());
            current.is_broken = true;
        }
        is_unchanged
    }

    /// Checks that the record is not of the future, and that the time in its id is its time.
    fn check_time(&mut self, position: &StreamPosition, entry: &Entry) {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let time = entry.call.timestamp.micros();
        if time > self.options.now.micros().saturating_add(micros(FUTURE_MAX)) {
            let what = "the time is more than 5 minutes in the future: it was made up, or a clock is wrong";
            self.report.fault(FaultKind::Time, Place::at(position), what.to_owned());
        }
        let made = entry.call.request_id.0.get_timestamp().map(|made| made.to_unix());
        let Some((seconds, nanos)) = made else { return };
        let made = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000) + i64::from(nanos / 1_000);
        if made.abs_diff(time) > micros(ID_SLACK).unsigned_abs() {
            let what = "the time is not the one in the request id: one of the two was made up";
            self.report.fault(FaultKind::Time, Place::at(position), what.to_owned());
        }
    }

    /// Compares the record with heads from outside, and with the ends that later records name.
    fn compare_heads(&mut self, current: &mut StreamProgress, position: &StreamPosition) {
        for head in current.expected.remove(&position.seq).unwrap_or_default() {
            if head.hash == position.hash {
                self.confirmation.confirm(position, head.source, &mut self.report);
                current.confirmed = position.seq;
                continue;
            }
            let (kind, source) = head.source();
            let what = format!("{source} has another hash: the stream was rewritten up to here");
            self.report.fault(kind, Place::at(position), what);
        }
        for (named, by) in current.named_ends() {
            if named.seq == position.seq && named.hash != position.hash {
                let what = format!(
                    "epoch {by} names another hash: this epoch was rewritten, or that record was; compare a copy"
                );
                self.report.fault(FaultKind::End, Place::at(position), what);
            }
        }
    }

    fn end_stream(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        self.pass_retired(&mut current, Seq(u64::MAX));
        let (stream, head) = (current.stream, current.head);
        let faults = self.report.faults_count + self.missing.count();
        let mut is_bound = true;
        if current.window.is_to_the_end() {
            let cursor = self.cursors.remove(&stream);
            let cut = match self.origin {
                Origin::Postgres => self.check_cursor(&current, cursor),
                // What was delivered is not in the outbox any more.
                Origin::Outbox => cursor.is_some_and(|cursor| cursor.head.seq > head.seq),
            };
            if let Some(end) = current.end {
                self.check_end(&current, &end, cut);
            } else if self.lacks_end(stream) && current.confirmed < head.seq {
                is_bound = false;
                let what = "the record that names the end of this epoch is not in the trail";
                self.report.unproven(UnprovenKind::EndUnknown, Place::stream(stream), what.to_owned());
            }
            // In a stream that is not closed, interrupted calls may still be delivered.
            if let Some(announced) = current.announced
                && (current.interrupted > announced || current.closed && current.interrupted < announced)
            {
                let found = current.interrupted;
                let what = format!("gateway/opened counts {announced} interrupted calls, but there are {found}");
                self.report.fault(FaultKind::Count, Place::stream(stream), what);
            }
        } else {
            self.cursors.remove(&stream);
            if let Some(last) = current.window.last.filter(|last| head.seq < *last) {
                let (kind, first, after) = (FaultKind::Gap, head.seq.next(), current.last_time);
                self.report_missing(MissingRecords { kind, stream, first, last, after, before: None });
            }
        }
        if !is_bound || faults < self.report.faults_count + self.missing.count() {
            self.confirmation.break_chain(stream, head.seq);
        }
        self.report_missing_heads(stream, head, std::mem::take(&mut current.expected));
        current.counts.last = head.seq;
        current.counts.ended = if current.closed { Ending::Closed } else { Ending::Open };
        self.report.stream(current.counts);
    }

    /// Passes the streams that have a cursor or an expected head, and no records, if `passed` accepts their place.
    fn pass_streams(&mut self, passed: impl Fn(&StreamId) -> bool) {
        while let Some(first) = self.cursors.first_entry().filter(|first| passed(first.key())) {
            let (stream, cursor) = first.remove_entry();
            if self.origin == Origin::Postgres {
                self.check_empty_stream(stream, cursor);
            }
        }
        while let Some((stream, heads)) = self.heads.take_passed(&passed) {
            self.report_missing_heads(stream, Head::START, heads);
        }
    }

    /// Passes over the retired runs that follow the last record and end before `next`.
    fn pass_retired(&mut self, current: &mut StreamProgress, next: Seq) {
        let stream = current.stream;
        while let Some(run) = self.statements.retired_mut().pass(stream, current.head, next) {
            // The number of interrupted calls is no longer known, nor is what a head within the run confirms.
            (current.announced, current.closed, current.is_lost) = (None, false, false);
            current.expected.retain(|seq, _| *seq <= run.first || *seq >= run.last);
            self.confirmation.enter(stream.0, &mut self.report);
            for (seq, hash) in [(run.first, run.first_hash), (run.last, run.last_hash)] {
                let (gateway_id, epoch) = stream;
                let position = StreamPosition { gateway_id, epoch, seq, prev_hash: run.before, hash };
                self.compare_heads(current, &position);
            }
            current.head = Head { seq: run.last, hash: run.last_hash };
        }
    }

    /// Checks a stream that has a cursor and no records.
    fn check_empty_stream(&mut self, stream: StreamId, cursor: Cursor) {
        let Cursor { head, begun_at, delivered_at } = cursor;
        if self.statements.retired().has(stream) {
            let expected = self.heads.take(stream);
            let end = self.statements.end_of(stream);
            self.current = Some(StreamProgress::new(stream, Window::ALL, Head::START, end, expected));
            self.cursors.insert(stream, cursor);
            self.end_stream();
            return;
        }
        if head.seq > Seq::ZERO {
            let (kind, first, last) = (FaultKind::Tail, Seq(1), head.seq);
            let missing = MissingRecords { kind, stream, first, last, after: begun_at, before: delivered_at };
            self.missing.add(missing, &mut self.report);
        } else if !self.options.live.contains(&stream) {
            let what = "has a cursor and no records: the epoch began and delivered nothing, or was made up";
            self.report.unproven(UnprovenKind::EmptyStream, Place::stream(stream), what.to_owned());
        }
        self.report.stream(StreamReport::new(stream.0, stream.1));
    }

    pub(super) fn cursor(&self, stream: StreamId) -> Option<Cursor> {
        self.cursors.get(&stream).copied()
    }

    pub(super) fn report_missing(&mut self, missing: MissingRecords) {
        self.missing.add(missing, &mut self.report);
    }

    /// True if the gateway has a later epoch in the trail, whose opening record is not known.
    fn lacks_end(&self, stream: StreamId) -> bool {
        let later = (stream.0, stream.1.next())..=(stream.0, Epoch(u64::MAX));
        self.streams.range(later).next().is_some_and(|next| self.statements.opening(*next).is_none())
    }

    /// True if the store is a replica that may not have what another server had at `time`.
    fn is_settling(&self, time: Timestamp) -> bool {
        let settle = i64::try_from(self.options.settle.as_micros()).unwrap_or(i64::MAX);
        self.options.replica && time.micros().saturating_add(settle) > self.options.now.micros()
    }

    /// Reports heads from outside that are not in a stream which ends at `head`.
    fn report_missing_heads(&mut self, stream: StreamId, head: Head, expected: StreamHeads) {
        for (seq, heads) in expected {
            for missing in heads {
                let (kind, source) = missing.source();
                let what = format!("is a head in {source} and is missing: records up to it were removed");
                let place = Place::seqs(stream, seq, seq);
                if seq > head.seq && self.is_settling(missing.time) {
                    let what =
                        format!("is a head in {source} and not yet on this replica; its time is within --settle");
                    self.report.unproven(UnprovenKind::Settling, place, what);
                } else {
                    self.report.fault(kind, place, what);
                }
            }
        }
    }
}
