//! The policy in the trail: the text whose digest the record of each request has.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::entry::Call;
use super::ids::Digest;
use crate::mcp::canonical::canonical;

/// Longest policy that is in the record that states it, and longest part of one in a `gateway/policy` record, in bytes
/// before they are escaped. *Chosen*: policies of hundreds of rules fit, and each record is small beside a ring.
const PART_BYTES_MAX: usize = 64 * 1024;

/// A policy, in canonical form (RFC 8785), and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    text: String,
    digest: Digest,
}

impl PolicyText {
    /// The policy `json`.
    #[must_use]
    pub fn new(json: &Value) -> Self {
        let json = json.to_string();
        // The text is made by the gateway: it has a canonical form.
        let text = canonical(&json).unwrap_or(json);
        Self { digest: Digest::of(text.as_bytes()), text }
    }

    /// The SHA-256 digest of the text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// States the policy in the details of an event: its digest, and the policy, or the number of the `gateway/policy`
    /// records that have it in parts.
    pub fn state_in(&self, details: &mut Map<String, Value>) {
        details.insert("policy_digest".to_owned(), self.digest.to_string().into());
        match self.parts().len() {
            1 => details.insert("policy".to_owned(), serde_json::from_str(&self.text).unwrap_or_default()),
            parts => details.insert("policy_parts".to_owned(), parts.into()),
        };
    }

    /// The `gateway/policy` events with the parts of the policy; none if the record that states it has the whole.
    pub fn events(&self) -> impl Iterator<Item = Call> {
        let parts = self.parts();
        let count = parts.len();
        let parts = if count == 1 { Vec::new() } else { parts };
        parts.into_iter().enumerate().map(move |(idx, part)| {
            let text = self.text.get(part).unwrap_or_default().to_owned();
            let part = Piece { policy_digest: self.digest.to_string(), part: idx + 1, parts: count, text };
            let details = serde_json::to_value(part).unwrap_or_default();
            Call::gateway_event("policy", &details).with_definitions(Some(self.digest), None)
        })
    }

    /// Cuts the text between characters.
    fn parts(&self) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = 0;
        while start < self.text.len() || parts.is_empty() {
            let end = self.text.floor_char_boundary(start.saturating_add(PART_BYTES_MAX));
            parts.push(start..end);
            start = end;
        }
        parts
    }

    /// The policy with this digest, from the details of the record that states it and those of the `gateway/policy`
    /// records, in any order. `None`: they do not have it.
    #[must_use]
    pub fn from_details(digest: Digest, stated: &str, parts: &[&str]) -> Option<Value> {
        let mut stated: Map<String, Value> = serde_json::from_str(stated).ok()?;
        if stated.get("policy_digest")?.as_str()? != digest.to_string() {
            return None;
        }
        let text = match stated.remove("policy") {
            Some(policy) => canonical(&policy.to_string())?,
            None => joined(digest, usize::try_from(stated.get("policy_parts")?.as_u64()?).ok()?, parts)?,
        };
        if Digest::of(text.as_bytes()) != digest {
            return None;
        }
        serde_json::from_str(&text).ok()
    }
}

/// The details of a `gateway/policy` record.
#[derive(Deserialize, Serialize)]
struct Piece {
    policy_digest: String,
    part: usize,
    parts: usize,
    text: String,
}

/// The text of the parts 1 to `count` of the policy with this digest.
fn joined(digest: Digest, count: usize, parts: &[&str]) -> Option<String> {
    let digest = digest.to_string();
    let mut found: Vec<Piece> = parts.iter().filter_map(|part| serde_json::from_str(part).ok()).collect();
    found.retain(|part| part.policy_digest == digest);
    // A policy that was stated twice has each part twice.
    found.sort_by_key(|part| part.part);
    found.dedup_by_key(|part| part.part);
    let is_whole = found.iter().map(|part| part.part).eq(1..=count);
    is_whole.then(|| found.into_iter().map(|part| part.text).collect())
}

impl Default for PolicyText {
    /// A policy that says nothing.
    fn default() -> Self {
        Self::new(&Value::Object(Map::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(policy: &PolicyText) -> (String, Vec<String>) {
        let mut details = Map::new();
        policy.state_in(&mut details);
        let parts = policy.events().filter_map(|event| event.request_args);
        (Value::Object(details).to_string(), parts.collect())
    }

    #[test]
    fn a_policy_is_read_from_the_records_that_state_it() {
        for length in [0, PART_BYTES_MAX - 20, PART_BYTES_MAX, 3 * PART_BYTES_MAX] {
            let json = serde_json::json!({ "b": "\u{20ac}".repeat(length / 3), "a": [1.0, "\n"] });
            let policy = PolicyText::new(&json);
            let (details, parts) = stated(&policy);
            let mut parts: Vec<_> = parts.iter().map(String::as_str).collect();
            assert_eq!(parts.is_empty(), policy.text.len() <= PART_BYTES_MAX, "{length}");
            parts.reverse();
            let read = PolicyText::from_details(policy.digest(), &details, &parts).unwrap();
            assert_eq!(PolicyText::new(&read), policy);
            assert_eq!(PolicyText::from_details(Digest::ZERO, &details, &parts), None);
            if parts.pop().is_some() {
                assert_eq!(PolicyText::from_details(policy.digest(), &details, &parts), None, "a part is missing");
            }
        }
    }
}
