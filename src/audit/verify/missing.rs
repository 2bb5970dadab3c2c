//! Records that are missing, and the months that are missing as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::FaultKind;
use super::place::{Place, StreamId};
use super::report::Report;
use crate::audit::record::{Seq, Timestamp};
use crate::counts::plural;

/// A day.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Records that are missing between two times.
#[derive(Clone, Debug)]
pub(super) struct MissingRecords {
    pub(super) kind: FaultKind,
    pub(super) stream: StreamId,
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// The time of the record before them, if it is known.
    pub(super) after: Option<Timestamp>,
    /// The time of the record after them, if it is known.
    pub(super) before: Option<Timestamp>,
}

/// Everything that is missing, until the whole trail was read.
#[derive(Debug)]
pub(super) struct Missing {
    found: Vec<MissingRecords>,
    found_max: usize,
    /// The months that have a record.
    months: BTreeSet<(i32, u32)>,
    /// The day of the last record that was seen, since 1970.
    day: Option<i64>,
}

impl MissingRecords {
    fn place(&self) -> Place {
        Place::seqs(self.stream, self.first, self.last)
    }

    fn count(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }

    fn what(&self) -> String {
        let count = self.count();
        let records = plural(count, "record");
        let verb = if count == 1 { "is" } else { "are" };
        let time = match (self.after, self.before) {
            (Some(after), Some(before)) if after <= before => format!(", of a time between {after} and {before}"),
            (Some(after), _) => format!(", later than {after}"),
            (None, Some(before)) => format!(", earlier than {before}"),
            (None, None) => String::new(),
        };
        match self.kind {
            FaultKind::Tail => {
                format!("{records} up to the cursor {verb} missing at the end of the stream{time}: deleted rows")
            }
            _ => format!("{records} {verb} missing{time}: deleted rows"),
        }
    }

    /// A month from which records are missing, and of which `months` has none.
    fn whole_month(&self, months: &BTreeSet<(i32, u32)>) -> Option<(i32, u32)> {
        let (from, to) = (self.after.or(self.before)?, self.before.or(self.after)?);
        let (mut at, end) = (month(from), month(to));
        while at <= end {
            if !months.contains(&at) {
                return Some(at);
            }
            at = if at.1 == 12 { (at.0 + 1, 1) } else { (at.0, at.1 + 1) };
        }
        None
    }
}

impl Missing {
    /// Holds at most `found_max` findings; further ones are reported one by one.
    pub(super) fn new(found_max: usize) -> Self {
        Self { found: Vec::new(), found_max, months: BTreeSet::new(), day: None }
    }

    /// Number of findings.
    pub(super) fn count(&self) -> u64 {
        self.found.len() as u64
    }

    /// A record of this time is there.
    pub(super) fn saw(&mut self, time: Timestamp) {
        let day = time.micros().div_euclid(DAY_MICROS);
        if self.day != Some(day) {
            self.day = Some(day);
            self.months.insert(month(time));
        }
    }

    pub(super) fn add(&mut self, missing: MissingRecords, report: &mut Report) {
        if self.found.len() < self.found_max {
            self.found.push(missing);
        } else {
            report.fault(missing.kind, missing.place(), missing.what());
        }
    }

    /// Reports all of it: months that are missing as a whole as one fault each.
    pub(super) fn report(self, report: &mut Report) {
        let mut by_month: BTreeMap<(i32, u32), Vec<MissingRecords>> = BTreeMap::new();
        for missing in self.found {
            match missing.whole_month(&self.months) {
                Some(month) => by_month.entry(month).or_default().push(missing),
                None => report.fault(missing.kind, missing.place(), missing.what()),
            }
        }
        for ((year, month), found) in by_month {
            let [one] = &found[..] else {
                let records = found.iter().map(MissingRecords::count).sum();
                let (records, streams) = (plural(records, "record"), plural(found.len() as u64, "stream"));
                let what = format!(
                    "all rows of {year:04}-{month:02} are missing: {records} in {streams}; was the partition \
                     audit_log_{year:04}_{month:02} dropped or detached?"
                );
                report.fault(FaultKind::Gap, Place::ALL, what);
                continue;
            };
            report.fault(one.kind, one.place(), one.what());
        }
    }
}

/// The month of a time: the year and the month from 1, in UTC. Partitions of `audit_log` are by month.
fn month(time: Timestamp) -> (i32, u32) {
    use chrono::Datelike as _;
    let date = time.to_datetime();
    (date.year(), date.month())
}
