//! Moments as people write them: an age or a date, and the place in an answer.

use std::fmt::Display;

use chrono::DateTime;
use serde_json::Value;
use uuid::Uuid;

use crate::audit::query::PageKey;
use crate::audit::record::Timestamp;

/// An age, as `90s`, `2h` or `7d`, or a moment in RFC 3339; in microseconds since 1970.
///
/// # Errors
/// In words, where it is neither.
pub fn moment(text: &str) -> Result<i64, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        return Ok(Timestamp::now().micros().saturating_sub(age));
    }
    let moment = DateTime::parse_from_rfc3339(text)
        .map_err(|_| format!("{text:?} is neither an age, as 90s, 2h or 7d, nor a moment, as 2026-11-26T10:00:00Z"))?;
    Ok(moment.timestamp_micros())
}

/// `TIME/EPOCH/SEQ/GATEWAY`, as an answer that was cut names it.
///
/// # Errors
/// In words, where it is none.
pub fn key(text: &str) -> Result<PageKey, String> {
    let parse = || {
        let mut parts = text.split('/');
        let micros = DateTime::parse_from_rfc3339(parts.next()?).ok()?.timestamp_micros();
        let (epoch, seq) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gateway_id: Uuid = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(PageKey { micros, epoch, seq, gateway_id })
    };
    parse().ok_or_else(|| format!("{text:?} is no TIME/EPOCH/SEQ/GATEWAY as an answer with more behind it gives"))
}

/// The same of a record.
#[must_use]
pub fn key_of(record: &Value) -> String {
    let part = |name: &str| match record.get(name) {
        Some(Value::String(text)) => text.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    };
    let parts: [&dyn Display; 4] = [&part("timestamp"), &part("epoch"), &part("seq"), &part("gateway_id")];
    parts.map(ToString::to_string).join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_dates_are_moments_and_nothing_else_is() {
        assert_eq!(moment("2026-11-26T10:00:00.000001+01:00"), Ok(1_795_683_600_000_001));
        let then = moment("1h").unwrap();
        let hour = Timestamp::now().micros() - then;
        assert!((3_600_000_000..3_700_000_000).contains(&hour));
        for bad in ["yesterday", "2026-11-26", "2h ago", "", "-1h"] {
            assert!(moment(bad).unwrap_err().contains("2026-11-26T10:00:00Z"), "{bad}");
        }
    }

    #[test]
    fn the_key_of_a_record_is_read_again() {
        let id = Uuid::from_u128(7);
        let record = serde_json::json!({
            "timestamp": "2026-11-26T09:00:00.000001Z", "epoch": 3, "seq": 9, "gateway_id": id,
        });
        let expected = PageKey { micros: 1_795_683_600_000_001, epoch: 3, seq: 9, gateway_id: id };
        assert_eq!(key(&key_of(&record)), Ok(expected));
        assert!(key("3/9").is_err());
    }
}
