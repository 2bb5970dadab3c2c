//! Times as people write them, on the command line and in the console: an age, a day, a time of day, or a timestamp.

use std::str::FromStr;

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Utc};

use crate::audit::record::Timestamp;

/// The forms of a time, for help and messages.
pub const TIME_FORMS: &str = "an age (90s, 2h, 7d), a day (today, yesterday, 2026-11-24), a time of today (09:00), both \
    (2026-11-24 09:00, yesterday 09:00) or an RFC 3339 timestamp (2026-11-24T09:00:00Z)";

/// The time zone of a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zone {
    /// UTC.
    #[default]
    Utc,
    /// That of the environment: `TZ`, or the machine's.
    Local,
}

impl Zone {
    /// A time in RFC 3339, with microseconds.
    #[must_use]
    pub fn rfc_3339(self, time: Timestamp) -> String {
        match self {
            Self::Utc => time.to_string(),
            Self::Local => time.to_datetime().with_timezone(&Local).format("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(),
        }
    }

    /// The moment of a date and time of day in this zone: the first of two, where clocks were set back.
    ///
    /// # Errors
    /// There was no such time: clocks were set forward, or the date is out of range.
    fn moment(self, time: NaiveDateTime) -> Result<i64, String> {
        let moment = match self {
            Self::Utc => Some(Utc.from_utc_datetime(&time).timestamp_micros()),
            Self::Local => Local.from_local_datetime(&time).earliest().map(|time| time.timestamp_micros()),
        };
        moment.ok_or_else(|| format!("there was no {time} in this time zone: clocks were set forward"))
    }

    fn today(self) -> NaiveDate {
        match self {
            Self::Utc => Utc::now().date_naive(),
            Self::Local => Local::now().date_naive(),
        }
    }
}

/// A time that a person wrote. A day alone is its first moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeArg {
    /// A moment, in microseconds since 1970: an age before now, or a timestamp.
    Moment(i64),
    /// A day and a time of day, in the reader's zone.
    Clock(Day, NaiveTime),
}

/// A day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// Days before today.
    Before(u64),
    /// A date.
    Date(NaiveDate),
}

impl TimeArg {
    /// Microseconds since 1970.
    ///
    /// # Errors
    /// There was no such time in the zone.
    pub fn micros(self, zone: Zone) -> Result<i64, String> {
        match self {
            Self::Moment(micros) => Ok(micros),
            Self::Clock(Day::Date(date), time) => zone.moment(date.and_time(time)),
            Self::Clock(Day::Before(days), time) => {
                let date = zone.today().checked_sub_days(Days::new(days));
                zone.moment(date.unwrap_or_default().and_time(time))
            }
        }
    }
}

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(age) = humantime::parse_duration(text) {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            return Ok(Self::Moment(Timestamp::now().micros().saturating_sub(age)));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Moment(time.timestamp_micros()));
        }
        let found = match (day(text), time_of_day(text), text.split_once(['T', ' '])) {
            (Some(day), ..) => Some((day, NaiveTime::MIN)),
            (None, Some(time), _) => Some((Day::Before(0), time)),
            (None, None, parts) => parts.and_then(|(date, time)| Some((day(date)?, time_of_day(time)?))),
        };
        let wrong = || format!("{text:?} is not a time: write {TIME_FORMS}");
        found.map(|(day, time)| Self::Clock(day, time)).ok_or_else(wrong)
    }
}

fn day(text: &str) -> Option<Day> {
    match text {
        "today" => Some(Day::Before(0)),
        "yesterday" => Some(Day::Before(1)),
        _ => {
            let has_length = text.len() == "2026-11-24".len();
            NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| has_length).map(Day::Date)
        }
    }
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    let has_length = text.len() >= "09:00".len();
    let parsed = ["%H:%M", "%H:%M:%S%.f"].into_iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok());
    parsed.filter(|_| has_length)
}

/// Parses a time in UTC. Returns microseconds since 1970.
///
/// # Errors
/// A message for the person who wrote it, with the accepted forms.
pub fn parse_time_arg(text: &str) -> Result<i64, String> {
    text.parse::<TimeArg>()?.micros(Zone::Utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_timestamps_are_parsed() {
        assert_eq!(parse_time_arg("2026-11-26T10:00:00.000001+01:00"), Ok(1_795_683_600_000_001));
        let then = parse_time_arg("1h").unwrap();
        let hour = Timestamp::now().micros() - then;
        assert!((3_600_000_000..3_700_000_000).contains(&hour));
    }

    #[test]
    fn days_and_times_of_day_are_in_utc() {
        let micros = |text: &str| parse_time_arg(text).unwrap();
        assert_eq!(micros("2026-11-26"), micros("2026-11-26T00:00:00Z"));
        assert_eq!(micros("2026-11-26 09:30"), micros("2026-11-26T09:30:00Z"));
        assert_eq!(micros("2026-11-26T09:30:01.5"), micros("2026-11-26T09:30:01.500000Z"));
        let day = 24 * 3_600_000_000;
        // The day may end between the two.
        assert!([0, day].contains(&(micros("today") - micros("yesterday") - day)));
        assert!([0, day].contains(&(micros("09:00") - micros("today") - 9 * 3_600_000_000)));
        assert!([0, day].contains(&(micros("today 09:00") - micros("yesterday 09:00") - day)));
        assert!(
            micros("today") <= Timestamp::now().micros() && micros("today") + day > Timestamp::now().micros() - day
        );
    }

    #[test]
    fn other_texts_are_refused_with_the_forms_that_are_accepted() {
        for bad in ["tomorrow", "2026-13-01", "2026-11-26T", "26-11-26", "2h ago", "", "-1h", "9", "25:00", "09:00Z"] {
            let error = parse_time_arg(bad).unwrap_err();
            assert!(error.contains("yesterday") && error.contains("2026-11-24T09:00:00Z"), "{bad}: {error}");
        }
    }
}
