//! The filter for records, and the limits of one result.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::record::{AuditRecord, Call, client_info};

/// Most records in one result. *Chosen*: use SQL or an export for more.
pub const LIMIT_MAX: usize = 10_000;

/// Most bytes of records in one result. *Chosen*: a thousand records with the longest ordinary arguments.
pub const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The method of the record of a read of the trail.
pub(super) const READ: &str = "gateway/read";

/// Selects records. A field that is not set matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The subject or the readable name; `*` stands for any characters.
    pub who: Option<String>,
    /// The application: its id, or the name by which it calls itself; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The current actor; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// The tool, prompt or resource, or `backend/tool` as tables show it.
    pub tool: Option<String>,
    /// The URI of a resource; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// The values of `response_status`, of which one matches. Empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
    /// The method.
    pub method: Option<String>,
    /// The call's id.
    pub request_id: Option<Uuid>,
    /// Earliest arrival, in microseconds since 1970.
    pub since_micros: Option<i64>,
    /// The epoch.
    pub epoch: Option<u64>,
    /// The seq.
    pub seq: Option<u64>,
    /// Arrival before this time, in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_micros: Option<i64>,
    /// Exact text within the recorded arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// The request to which the records belong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<Uuid>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The issuer of the caller's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The id of the caller's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The caller's address, with its port or without; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<Uuid>,
    /// True: without the records of reads of the trail.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hides_reads: bool,
    /// Only records before this one, to continue a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PageKey>,
    /// Only records after this epoch and seq, oldest first, in the order of their positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<(u64, u64)>,
    /// Most records in the result; at most [`LIMIT_MAX`]. The newest are returned.
    pub limit: usize,
}

/// A record's position in a result, which is ordered by time of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageKey {
    /// Arrival, microseconds since 1970.
    pub micros: i64,
    /// The record's epoch.
    pub epoch: u64,
    /// The record's seq.
    pub seq: u64,
    /// The record's gateway.
    pub gateway_id: Uuid,
}

impl Filter {
    /// Most records in the result, within [`LIMIT_MAX`].
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, LIMIT_MAX)
    }

    /// Returns true if `record` matches the filter.
    #[must_use]
    pub fn matches(&self, record: &AuditRecord) -> bool {
        fn is(want: Option<&String>, have: Option<&str>) -> bool {
            want.is_none_or(|want| have == Some(want))
        }
        let AuditRecord { position, entry } = record;
        let call = &entry.call;
        self.who.as_ref().is_none_or(|who| matched_by(who, call).is_some())
            && self.client.as_ref().is_none_or(|client| is_client(client, call))
            && self.actor.as_ref().is_none_or(|actor| matches(actor, call.actor_subject.as_deref()))
            && is(self.role.as_ref(), call.client_role.as_deref())
            && self.tool.as_ref().is_none_or(|tool| is_tool(tool, call))
            && self.resource.as_ref().is_none_or(|uri| matches(uri, call.resource_uri.as_deref()))
            && is(self.backend.as_ref(), call.backend_name.as_deref())
            && (self.status.is_empty() || self.status.iter().any(|status| status == entry.response_status.as_str()))
            && is(self.method.as_ref(), Some(&call.method))
            && !(self.hides_reads && &*call.method == READ)
            && self.request_id.is_none_or(|id| call.request_id.0 == id)
            && self.parent_id.is_none_or(|id| call.parent_id.is_some_and(|parent| parent.0 == id))
            && self.since_micros.is_none_or(|since| call.timestamp.micros() >= since)
            && self.epoch.is_none_or(|epoch| position.epoch.0 == epoch)
            && self.seq.is_none_or(|seq| position.seq.0 == seq)
            && self.until_micros.is_none_or(|until| call.timestamp.micros() < until)
            && self.args.as_ref().is_none_or(|text| call.request_args.as_ref().is_some_and(|args| args.contains(text)))
            && is(self.session_id.as_ref(), call.session_id.as_deref())
            && is(self.issuer.as_ref(), call.client_issuer.as_deref())
            && is(self.token_id.as_ref(), call.token_id.as_deref())
            && self.addr.as_ref().is_none_or(|addr| {
                addr_patterns(addr).iter().any(|pattern| matches(pattern, call.client_addr.as_deref()))
            })
            && self.gateway_id.is_none_or(|id| position.gateway_id.0 == id)
            // An outbox belongs to one gateway, and its order is that of the positions.
            && self.before.is_none_or(|key| (position.epoch.0, position.seq.0) < (key.epoch, key.seq))
            && self.after.is_none_or(|after| (position.epoch.0, position.seq.0) > after)
    }
}

/// The column by which [`Filter::who`] matches a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhoMatch {
    /// `client_subject`.
    Subject,
    /// `client_name`.
    Name,
}

/// The column by which `who` matches `call`, the subject first.
#[must_use]
pub fn matched_by(who: &str, call: &Call) -> Option<WhoMatch> {
    let name = || matches(who, call.client_name.as_deref()).then_some(WhoMatch::Name);
    if matches(who, Some(&call.client_subject)) { Some(WhoMatch::Subject) } else { name() }
}

/// The patterns of an address: as it is, and with any port. *Spec*: `SocketAddr`, whose text a record has.
pub(super) fn addr_patterns(addr: &str) -> [String; 2] {
    let with_port = if addr.contains(':') { format!("[{addr}]:*") } else { format!("{addr}:*") };
    [addr.to_owned(), with_port]
}

/// Returns true if `text` is `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: Option<&str>) -> bool {
    let Some(text) = text else { return false };
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    true
}

fn is_client(client: &str, call: &Call) -> bool {
    let own_name = || {
        let context: serde_json::Value = serde_json::from_str(call.context.as_deref()?).ok()?;
        client_info(&context.get("client_info")?.to_string())
    };
    matches(client, call.client_id.as_deref()) || own_name().is_some_and(|(name, _)| matches(client, Some(&name)))
}

/// A tool's own name may contain a slash. A resource is found as a tool is: its `tool_name` is NULL.
fn is_tool(tool: &str, call: &Call) -> bool {
    let name = call.tool_name.as_deref().or(call.resource_uri.as_deref());
    let is_both = |(backend, tool): (&str, &str)| call.backend_name.as_deref() == Some(backend) && name == Some(tool);
    name == Some(tool) || tool.split_once('/').is_some_and(is_both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in [("ann", "ann"), ("*", ""), ("a*", "ann"), ("*n", "ann"), ("a*n*", "ann"), ("**", "x")] {
            assert!(matches(pattern, Some(text)), "{pattern} {text}");
        }
        for (pattern, text) in [("ann", "ann2"), ("a*", "bann"), ("a*b", "a"), ("*a*a*", "a"), ("a.n", "ann")] {
            assert!(!matches(pattern, Some(text)), "{pattern} {text}");
        }
        assert!(!matches("*", None), "NULL");
    }

    #[test]
    fn an_address_is_found_with_and_without_its_port() {
        let is_found = |addr: &str, text: &str| addr_patterns(addr).iter().any(|pattern| matches(pattern, Some(text)));
        for (addr, text) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.7", "10.0.0.7:5000"),
            ("10.0.0.7:5000", "10.0.0.7:5000"),
            ("10.0.0.*", "10.0.0.7:5000"),
            ("fe80::1", "[fe80::1]:5000"),
            ("10.0.0.0/24", "10.0.0.0/24"),
        ] {
            assert!(is_found(addr, text), "{addr} {text}");
        }
        for (addr, text) in [("10.0.0.7", "10.0.0.70:5000"), ("10.0.0.7", "110.0.0.7"), ("fe80::1", "[fe80::10]:1")] {
            assert!(!is_found(addr, text), "{addr} {text}");
        }
    }
}
