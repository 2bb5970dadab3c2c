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

/// The same for the error object `error`, in its `data`. An error whose `data` is not an object, or is empty, stays as
/// it is.
pub(super) fn in_error(error: String, position: &StreamPosition) -> String {
    in_data(&error, &receipt(position)).unwrap_or(error)
}

/// The text of a reply's result or error without its receipt: what `response_digest` covers. `None`: it has none.
#[must_use]
pub fn without_receipt(text: &str) -> Option<String> {
    let key = format!("{}:{{", json::quoted(META_RECEIPT));
    let begin = text.rfind(&key)?;
    let end = begin + text.get(begin..)?.find('}')? + 1;
    let (before, after) = (text.get(..begin)?, text.get(end..)?);
    // What the receipt brought with it: `data` of an error, or `_meta`.
    for (opening, closing) in [(",\"data\":{\"_meta\":{", "}}"), (",\"_meta\":{", "}")] {
        if let (Some(before), Some(after)) = (before.strip_suffix(opening), after.strip_prefix(closing)) {
            return Some(format!("{before}{after}"));
        }
    }
    Some(format!("{}{after}", before.strip_suffix(',').unwrap_or(before)))
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

/// The text of an object with the receipt in its `_meta`, which is not empty then, or is added at the end. `None`: the
/// text is not an object, or could not be restored from the result.
fn in_meta(object: &str, receipt: &str) -> Option<String> {
    let object = Object::parse_path(object, &["_meta"])?;
    match object.get("_meta") {
        None if object.is_empty() => None,
        None => Some(appended(object.text(), "_meta", &appended("{}", META_RECEIPT, receipt))),
        Some(_) => {
            let meta = object.object("_meta").filter(|meta| !meta.is_empty())?;
            Some(object.replaced("_meta", &appended(meta.text(), META_RECEIPT, receipt)))
        }
    }
}

fn in_data(error: &str, receipt: &str) -> Option<String> {
    let error = Object::parse(error)?;
    if let Some(data) = error.get("data") {
        return Some(error.replaced("data", &in_meta(data, receipt)?));
    }
    let meta = appended("{}", META_RECEIPT, receipt);
    Some(appended(error.text(), "data", &appended("{}", "_meta", &meta)))
}

/// The text of an object with one more member at its end.
fn appended(object: &str, key: &str, value: &str) -> String {
    let before = object.strip_suffix('}').unwrap_or("{");
    let comma = if before.trim_end() == "{" { "" } else { "," };
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
    fn the_receipt_is_added_last_and_can_be_removed_again() {
        let meta = format!(r#""_meta":{{"io.gatepost/receipt":{RECEIPT}}}"#);
        for (result, want) in [
            (r#"{ "a": 1.0 }"#, format!(r#"{{ "a": 1.0 ,{meta}}}"#)),
            (
                r#"{"_meta":{"x" : 1} ,"a":[ ]}"#,
                format!(r#"{{"_meta":{{"x" : 1,"io.gatepost/receipt":{RECEIPT}}} ,"a":[ ]}}"#),
            ),
            ("{}", "{}".to_owned()),
        ] {
            assert_eq!(in_result(result.to_owned(), &position()), want, "{result}");
            assert_eq!(without_receipt(&want), (want != result).then(|| result.to_owned()), "{result}");
        }
        for (error, want) in [
            (r#"{"code":1,"message":"m"}"#, format!(r#"{{"code":1,"message":"m","data":{{{meta}}}}}"#)),
            (r#"{"data":{"a":1},"code":1}"#, format!(r#"{{"data":{{"a":1,{meta}}},"code":1}}"#)),
            (
                r#"{"data":{"_meta":{"b":2}}}"#,
                format!(r#"{{"data":{{"_meta":{{"b":2,"io.gatepost/receipt":{RECEIPT}}}}}}}"#),
            ),
            (r#"{"code":1,"data":"text"}"#, r#"{"code":1,"data":"text"}"#.to_owned()),
            (r#"{"code":1,"data":null}"#, r#"{"code":1,"data":null}"#.to_owned()),
            (r#"{"code":1,"data":{}}"#, r#"{"code":1,"data":{}}"#.to_owned()),
            (r#"{"code":1,"data":{"_meta":{}}}"#, r#"{"code":1,"data":{"_meta":{}}}"#.to_owned()),
        ] {
            assert_eq!(in_error(error.to_owned(), &position()), want, "{error}");
            assert_eq!(without_receipt(&want), (want != error).then(|| error.to_owned()), "{error}");
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
