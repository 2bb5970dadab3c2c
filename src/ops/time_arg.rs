//! Times as people write them: an age or a date.

use chrono::DateTime;

use crate::audit::record::Timestamp;

/// Parses an age (`90s`, `2h`, `7d`) or an RFC 3339 timestamp. Returns microseconds since 1970.
///
/// # Errors
/// A message for the person who wrote it, if `text` is neither.
pub fn parse_time_arg(text: &str) -> Result<i64, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        return Ok(Timestamp::now().micros().saturating_sub(age));
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        format!("{text:?} is neither an age (90s, 2h, 7d) nor an RFC 3339 timestamp (for example 2026-11-26T10:00:00Z)")
    })?;
    Ok(time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_timestamps_are_parsed_and_nothing_else_is() {
        assert_eq!(parse_time_arg("2026-11-26T10:00:00.000001+01:00"), Ok(1_795_683_600_000_001));
        let then = parse_time_arg("1h").unwrap();
        let hour = Timestamp::now().micros() - then;
        assert!((3_600_000_000..3_700_000_000).contains(&hour));
        for bad in ["yesterday", "2026-11-26", "2h ago", "", "-1h"] {
            assert!(parse_time_arg(bad).unwrap_err().contains("2026-11-26T10:00:00Z"), "{bad}");
        }
    }
}
