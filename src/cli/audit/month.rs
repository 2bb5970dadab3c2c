//! Months, by which records are retired: `2026-08`, in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{Datelike, NaiveDate};

use crate::audit::record::Timestamp;

/// A month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Month {
    first_day: NaiveDate,
}

impl Month {
    /// The month of a time.
    pub(super) fn of(time: Timestamp) -> Self {
        let day = time.to_datetime().date_naive();
        Self { first_day: day.with_day(1).unwrap_or(day) }
    }

    /// The month that an age before `now` falls into.
    pub(super) fn before(now: Timestamp, age: Duration) -> Self {
        let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        Self::of(Timestamp::from_micros(now.micros().saturating_sub(micros)))
    }

    /// Its first moment.
    pub(super) fn begin(self) -> Timestamp {
        Timestamp::from_micros(self.first_day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first_day.format("%Y-%m"))
    }
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let has_length = text.len() == "2026-08".len();
        let day = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok().filter(|_| has_length);
        day.map(|first_day| Self { first_day }).ok_or_else(|| format!("{text:?} is not a month, for example 2026-08"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_parsed_and_computed_in_utc() {
        let month: Month = "2026-08".parse().unwrap();
        assert_eq!(month.begin().to_string(), "2026-08-01T00:00:00.000000Z");
        assert_eq!(Month::of(month.begin()), month);
        assert_eq!(Month::of(Timestamp::from_micros(month.begin().micros() - 1)).to_string(), "2026-07");
        let day = Duration::from_hours(24);
        assert_eq!(Month::before(month.begin(), 31 * day).to_string(), "2026-07");
        assert_eq!(Month::before(month.begin(), 32 * day).to_string(), "2026-06");
        for bad in ["", "2026", "2026-13", "2026-8", "2026-08-01", "08-2026", "2026-08 "] {
            assert!(bad.parse::<Month>().unwrap_err().contains("is not a month"), "{bad}");
        }
    }
}
