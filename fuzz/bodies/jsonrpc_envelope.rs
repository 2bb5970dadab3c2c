//! Parses any bytes as a message: what is accepted equals what `serde_json` reads without the envelope's rules, and is
//! passed on byte for byte.

use std::collections::HashMap;

use gatepost::mcp::envelope::{self, Incoming, METHOD_BYTES_MAX};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The size limit of a message. *Chosen*: larger than most inputs of a fuzzer, and small enough for one to reach.
const BYTES_MAX: usize = 64 * 1024;

/// A message, read without the envelope's rules.
#[derive(Deserialize)]
struct Plain<'a> {
    jsonrpc: String,
    #[serde(borrow, default, deserialize_with = "some")]
    id: Option<&'a RawValue>,
    method: String,
    #[serde(borrow, default, deserialize_with = "some")]
    params: Option<&'a RawValue>,
}

/// Keeps a `null` instead of turning it into `None`.
fn some<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

pub fn run(data: &[u8]) {
    for is_whole in [true, false] {
        let hint = envelope::hint(data, is_whole);
        assert!(hint.method.is_none_or(|method| method.len() <= METHOD_BYTES_MAX), "the recorded method is bounded");
    }
    let message = match envelope::parse(data, BYTES_MAX).and_then(Incoming::message) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty() && error.code() < 0);
            assert!(error.to_string().len() < 1024, "a message of bounded length");
            return;
        }
    };
    assert!(data.len() <= BYTES_MAX);
    let plain: Plain<'_> = serde_json::from_slice(data).expect("what is accepted is JSON for serde_json too");
    assert_eq!(plain.jsonrpc, "2.0");
    assert_eq!(message.method, plain.method);
    assert_eq!(message.id.as_ref().map(envelope::Id::as_json), plain.id.map(RawValue::get));
    assert_eq!(message.params_text(), plain.params.map(RawValue::get), "byte for byte");
    if let Some(params) = message.params_text() {
        let within = data.as_ptr_range();
        assert!(within.contains(&params.as_ptr()), "params borrow from the message");
    }
    unambiguous(&serde_json::from_slice(data).expect("an object"));
    if let Some(params) = message.params() {
        for (key, value) in serde_json::from_str::<HashMap<String, &RawValue>>(params.text()).ok().into_iter().flatten()
        {
            assert_eq!(params.get(&key), Some(value.get()), "byte for byte");
        }
    }
}

/// Asserts that no key of the protocol occurs a second time in another case, which some parsers would accept.
fn unambiguous(members: &HashMap<String, &RawValue>) {
    let keys: Vec<_> = members.keys().map(|key| key.to_ascii_lowercase()).collect();
    for known in ["jsonrpc", "id", "method", "params"] {
        assert!(keys.iter().filter(|key| *key == known).count() <= 1, "{known} occurs twice");
    }
}
