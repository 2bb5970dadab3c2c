//! Identifiers, positions and digests in a record. Each is a newtype, so that one cannot be used in place of another.

use std::fmt;

use aws_lc_rs::digest;
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The largest microsecond count of a [`Timestamp`]. *Spec*: `timestamptz` in Postgres ends at 294276-12-31 and chrono
/// at 262142-12-31. The tighter bound is used, so that every reader can display the value.
const MICROS_MAX: i64 = 8_210_266_876_799_999_999;
/// The smallest one: 4714-11-24 BC. *Spec*: the first day of `timestamptz`.
const MICROS_MIN: i64 = -210_866_803_200_000_000;

/// RFC 3339 in UTC, with microseconds.
const TIMESTAMP_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

/// Identifies one gateway: a UUID that is made with its outbox directory, or set by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GatewayId(pub Uuid);

/// Counts the openings of an outbox, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A record's sequence number in its stream, from 1, without gaps. `Seq::ZERO` means "none yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// Identifies one call: a UUID v7 made at arrival, returned to the client and written in every log line of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub Uuid);

/// A SHA-256 digest. Displayed and serialised as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// Random bytes that keep the values behind a commitment from being guessed. Displayed and serialised like a digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

/// Wall-clock microseconds since 1970-01-01 UTC, within the range of Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Seq {
    /// Before the first record of a stream.
    pub const ZERO: Self = Self(0);

    /// The sequence number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl RequestId {
    /// A new id. Ids sort by the time at which they were made, to the millisecond. The time is the clock's, also after
    /// the clock was set back: `Uuid::now_v7` would continue from the latest time so far, and the time in an id would
    /// not be the one of its record.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl Digest {
    /// Thirty-two zero bytes: the chain's value before the first record of a stream.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut copied = [0; 32];
        copied.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(copied)
    }
}

impl Salt {
    /// Fresh random bytes.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl Timestamp {
    /// The wall clock now.
    #[must_use]
    pub fn now() -> Self {
        Self::from_micros(Utc::now().timestamp_micros())
    }

    /// A timestamp from microseconds since 1970, clamped to the range of both Postgres and chrono.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(MICROS_MIN, MICROS_MAX))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// The same time as a chrono value, for sqlx.
    #[must_use]
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Displays and serialises a type of 32 bytes as 64 lower-case hexadecimal digits.
macro_rules! hexadecimal {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut bytes = [0; 32];
                let text = String::deserialize(deserializer)?;
                hex::decode_to_slice(text, &mut bytes).map_err(serde::de::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

hexadecimal!(Digest);
hexadecimal!(Salt);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_datetime().format(TIMESTAMP_FORMAT))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Not `parse_from_rfc3339`, which takes no year of five digits.
        let time = NaiveDateTime::parse_from_str(&text, TIMESTAMP_FORMAT).map_err(serde::de::Error::custom)?;
        Ok(Self::from_micros(time.and_utc().timestamp_micros()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_clamped_to_the_range_of_postgres_and_chrono() {
        for micros in [i64::MIN, i64::MAX, 0] {
            let clamped = Timestamp::from_micros(micros);
            assert_eq!(clamped.to_datetime().timestamp_micros(), clamped.micros());
        }
    }

    #[test]
    fn digest_is_displayed_as_lower_case_hexadecimal() {
        let digest = Digest(std::array::from_fn(|idx| 0xe0 + u8::try_from(idx).unwrap()));
        assert_eq!(digest.to_string(), "e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    }

    #[test]
    fn digests_and_timestamps_are_read_back_from_json() {
        let digest = Digest::of(b"x");
        assert_eq!(serde_json::from_value::<Digest>(serde_json::json!(digest)).unwrap(), digest);
        for bad in ["", "00", &"0".repeat(65), &"g".repeat(64)] {
            assert!(serde_json::from_value::<Digest>(serde_json::json!(bad)).is_err(), "{bad}");
        }
        for micros in [MICROS_MIN, -1, 0, 1_700_000_000_000_001, MICROS_MAX] {
            let json = serde_json::json!(Timestamp::from_micros(micros));
            assert_eq!(serde_json::from_value::<Timestamp>(json.clone()).unwrap().micros(), micros, "{json}");
        }
    }
}
