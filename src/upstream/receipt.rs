//! The receipt in a reply: the position and the hash of its record, by which a client can show later that the trail has
//! the record.
//!
//! ```text
//! "io.gatepost/receipt": {"gateway": uuid, "epoch": integer, "seq": integer, "hash": 64 hexadecimal digits}
//! ```
//!
//! It is in `_meta` of a result, and in `data._meta` of an error. `response_digest` covers the value without it.

use std::borrow::Cow;

use crate::audit::record::StreamPosition;
use crate::mcp::fold::folded;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{META_RECEIPT, OWN_PREFIX};

/// The result object `result`, JSON text, with the receipt of the record at `position` as the last member of its
/// `_meta`.
pub(super) fn in_result(result: String, position: &StreamPosition) -> String {
    in_meta(&result, &receipt(position)).unwrap_or(result)
}

/// The same for the error object `error`. An error whose `data` is not an object stays as it is.
pub(super) fn in_error(error: String, position: &StreamPosition) -> String {
    in_data(&error, &receipt(position)).unwrap_or(error)
}

/// `meta`, a `_meta` of a backend, without the members that are the gateway's own.
pub(super) fn without_own<'m>(meta: &'m Object<'_>) -> Cow<'m, str> {
    meta.without(|key| folded(key).starts_with(OWN_PREFIX))
}

/// The error object `error` of a backend without the members of its `data._meta` that are the gateway's own.
pub(super) fn error_without_own(error: String) -> String {
    let cleaned = || {
        let object = Object::parse(&error)?;
        let data = object.object("data")?;
        let meta = data.object("_meta")?;
        let kept = without_own(&meta);
        matches!(kept, Cow::Owned(_)).then(|| object.replaced("data", &data.replaced("_meta", &kept)))
    };
    cleaned().unwrap_or(error)
}

fn receipt(position: &StreamPosition) -> String {
    let StreamPosition { gateway_id, epoch, seq, hash, .. } = position;
    format!(r#"{{"gateway":"{gateway_id}","epoch":{epoch},"seq":{seq},"hash":"{hash}"}}"#)
}

/// The text of an object with the receipt in its `_meta`.
fn in_meta(object: &str, receipt: &str) -> Option<String> {
    let object = Object::parse_path(object, &["_meta"])?;
    let meta = object.object("_meta").unwrap_or_default();
    Some(object.with(&[("_meta", &appended(meta.text(), META_RECEIPT, receipt))]))
}

fn in_data(error: &str, receipt: &str) -> Option<String> {
    let error = Object::parse(error)?;
    let data = match error.get("data") {
        None => in_meta("{}", receipt)?,
        Some(data) => in_meta(data, receipt)?,
    };
    Some(match error.get("data") {
        None => appended(error.text(), "data", &data),
        Some(_) => error.replaced("data", &data),
    })
}

/// The text of an object with one more member at its end.
fn appended(object: &str, key: &str, value: &str) -> String {
    let (before, is_empty) = match object.strip_suffix('}') {
        Some(before) => (before.trim_end(), before.trim_end() == "{"),
        None => ("{", true),
    };
    let comma = if is_empty { "" } else { "," };
    format!("{before}{comma}{}:{value}}}", json::quoted(key))
}

#[cfg(test)]
mod tests {
    use crate::audit::record::{Digest, Epoch, GatewayId, Seq};

    use super::*;

    const RECEIPT: &str = concat!(
        r#"{"gateway":"00000000-0000-0000-0000-000000000000","epoch":2,"seq":7,"hash":""#,
        "0000000000000000000000000000000000000000000000000000000000000000\"}"
    );

    fn position() -> StreamPosition {
        let (gateway_id, prev_hash, hash) = (GatewayId(uuid::Uuid::nil()), Digest::ZERO, Digest::ZERO);
        StreamPosition { gateway_id, epoch: Epoch(2), seq: Seq(7), prev_hash, hash }
    }

    #[test]
    fn a_result_has_the_receipt_last_in_meta_and_keeps_every_other_byte() {
        let with = |result: &str| in_result(result.to_owned(), &position());
        for (result, want) in [
            (r#"{ "a": 1.0 }"#, format!(r#"{{"_meta":{{"io.gatepost/receipt":{RECEIPT}}}, "a": 1.0 }}"#)),
            (
                r#"{"_meta":{"x" : 1 } ,"a":[ ]}"#,
                format!(r#"{{"_meta":{{"x" : 1,"io.gatepost/receipt":{RECEIPT}}} ,"a":[ ]}}"#),
            ),
            ("{}", format!(r#"{{"_meta":{{"io.gatepost/receipt":{RECEIPT}}}}}"#)),
        ] {
            assert_eq!(with(result), want, "{result}");
        }
    }

    #[test]
    fn an_error_has_it_in_its_data_unless_that_is_no_object() {
        let with = |error: &str| in_error(error.to_owned(), &position());
        for (error, want) in [
            (
                r#"{"code":1,"message":"m"}"#,
                format!(r#"{{"code":1,"message":"m","data":{{"_meta":{{"io.gatepost/receipt":{RECEIPT}}}}}}}"#),
            ),
            (
                r#"{"data":{"a":1},"code":1}"#,
                format!(r#"{{"data":{{"_meta":{{"io.gatepost/receipt":{RECEIPT}}},"a":1}},"code":1}}"#),
            ),
            (r#"{"code":1,"data":"text"}"#, r#"{"code":1,"data":"text"}"#.to_owned()),
            (r#"{"code":1,"data":null}"#, r#"{"code":1,"data":null}"#.to_owned()),
        ] {
            assert_eq!(with(error), want, "{error}");
        }
    }

    #[test]
    fn a_backend_cannot_write_members_of_the_gateway() {
        let forged = r#"{"io.gatepost/receipt":{},"x":1,"IO.Gatepost/request_id":"y"}"#;
        assert_eq!(without_own(&Object::parse(forged).unwrap()), r#"{"x":1}"#);
        let error = format!(r#"{{"code":1,"data":{{"_meta":{forged}}}}}"#);
        assert_eq!(error_without_own(error), r#"{"code":1,"data":{"_meta":{"x":1}}}"#);
        for kept in [r#"{"data":{"_meta":{"x": 1}}}"#, r#"{"data":{"_meta":7}}"#, r#"{"data":null}"#, "{}"] {
            assert_eq!(error_without_own(kept.to_owned()), kept);
        }
    }
}
