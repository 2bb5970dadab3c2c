//! Positions in a search result, from which the next page continues: TIME/EPOCH/SEQ/GATEWAY.

use chrono::DateTime;
use uuid::Uuid;

use super::record_ref::EpochSeq;
use crate::audit::query::PageKey;
use crate::audit::record::AuditRecord;

/// Parses what [`page_key`] made.
///
/// # Errors
/// A message for the person who wrote it, if `text` is not a page key.
pub fn parse_page_key(text: &str) -> Result<PageKey, String> {
    let parse = || {
        let mut parts = text.split('/');
        let micros = DateTime::parse_from_rfc3339(parts.next()?).ok()?.timestamp_micros();
        let (epoch, seq) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gateway_id: Uuid = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(PageKey { micros, epoch, seq, gateway_id })
    };
    parse().ok_or_else(|| format!("{text:?} is not TIME/EPOCH/SEQ/GATEWAY, as printed when more results exist"))
}

/// The key of the page that ends before `record`.
#[must_use]
pub fn page_key(record: &AuditRecord) -> String {
    format!("{}/{}/{}", record.entry.call.timestamp, EpochSeq::of(record), record.position.gateway_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn a_page_key_is_parsed_back() {
        let record = sample::record(3, 9, "echo");
        let micros = record.entry.call.timestamp.micros();
        let expected = PageKey { micros, epoch: 3, seq: 9, gateway_id: record.position.gateway_id.0 };
        assert_eq!(parse_page_key(&page_key(&record)), Ok(expected));
        assert!(parse_page_key("3/9").is_err());
    }
}
