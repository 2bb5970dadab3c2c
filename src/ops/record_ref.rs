//! References to records, as people write them: a request id, EPOCH/SEQ or GATEWAY/EPOCH/SEQ.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::query::Filter;
use crate::audit::record::AuditRecord;

/// Most records shown for one request id or one position. *Chosen*: several gateways may have the same epoch and seq,
/// and a person does not compare more of them.
const MATCHES_MAX: usize = 10;

/// A record's epoch and seq in the stream of its gateway, written `3/1024`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EpochSeq {
    /// The epoch.
    pub epoch: u64,
    /// The seq in it.
    pub seq: u64,
}

impl EpochSeq {
    /// The position of `record`.
    #[must_use]
    pub fn of(record: &AuditRecord) -> Self {
        Self { epoch: record.position.epoch.0, seq: record.position.seq.0 }
    }
}

impl fmt::Display for EpochSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

impl FromStr for EpochSeq {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
        let (epoch, seq) = parts.ok_or_else(|| format!("{text:?} is not EPOCH/SEQ, for example 3/1024"))?;
        Ok(Self { epoch, seq })
    }
}

/// The filter that matches the records `text` refers to.
///
/// # Errors
/// A message for the person who wrote it, if `text` is not a reference.
pub fn parse_record_ref(text: &str) -> Result<Filter, String> {
    if let Ok(id) = text.parse::<Uuid>() {
        return Ok(Filter { request_id: Some(id), limit: MATCHES_MAX, ..Filter::default() });
    }
    let parse = || {
        let mut parts = text.rsplit('/');
        let (seq, epoch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gateway_id = parts.next().map(str::parse::<Uuid>).transpose().ok()?;
        let filter = Filter { gateway_id, epoch: Some(epoch), seq: Some(seq), limit: MATCHES_MAX, ..Filter::default() };
        parts.next().is_none().then_some(filter)
    };
    parse().ok_or_else(|| {
        format!("{text:?} is neither a request id nor EPOCH/SEQ (for example 3/1024) nor GATEWAY/EPOCH/SEQ")
    })
}

/// The reference GATEWAY/EPOCH/SEQ to `record`.
#[must_use]
pub fn record_ref(record: &AuditRecord) -> String {
    format!("{}/{}", record.position.gateway_id, EpochSeq::of(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_by_id_or_position_and_by_nothing_else() {
        let id = Uuid::from_u128(7);
        assert_eq!(parse_record_ref(&id.to_string()).unwrap().request_id, Some(id));
        let filter = parse_record_ref(&format!("{id}/3/9")).unwrap();
        assert_eq!((filter.gateway_id, filter.epoch, filter.seq), (Some(id), Some(3), Some(9)));
        assert_eq!(parse_record_ref("3/9").unwrap().gateway_id, None);
        for bad in ["", "3", "3/x", "x/3/9", "a/b/3/9", "3/9/", "-1/9"] {
            assert!(parse_record_ref(bad).unwrap_err().contains("is neither a request id nor EPOCH/SEQ"), "{bad}");
        }
    }

    #[test]
    fn positions_are_ordered_by_epoch_first() {
        let position = |text: &str| text.parse::<EpochSeq>().unwrap();
        assert!(position("1/9") < position("2/1") && position("2/1") < position("2/2"));
        assert_eq!(position("2/1").to_string(), "2/1");
        assert!("12".parse::<EpochSeq>().unwrap_err().contains("is not EPOCH/SEQ"));
    }
}
