//! The keys of `_meta` that the gateway writes into the parameters of a request, for the era of the backend.
//!
//! Everything else in the parameters is as it was authorized and recorded: the digest in a record covers the parameters
//! without these keys (docs/trail.md).

use std::borrow::Cow;

use crate::audit::record::RequestId;
use crate::mcp::json;
use crate::mcp::params::Params;
use crate::mcp::protocol::{
    Era, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, META_PROGRESS_TOKEN, META_REQUEST_ID, META_TRACEPARENT,
    META_VERSION, MODERN_VERSION,
};
use crate::mcp::shared_text::SharedText;

use super::message::own_info;

/// The text of `params` for a backend that speaks `era`. `traceparent` takes the place of the client's own;
/// `request_id` is that of a recorded request. `None`: the request has no parameters.
#[must_use]
pub fn forwarded(
    params: &Params,
    era: Era,
    traceparent: Option<&str>,
    request_id: Option<RequestId>,
) -> Option<SharedText> {
    let client = |key: &'static str| params.written(key).map(|value| (key, Cow::Borrowed(value)));
    let mut added: Vec<(&str, Cow<'_, str>)> = client(META_PROGRESS_TOKEN).into_iter().collect();
    if era == Era::Modern {
        let own = |key, value: &dyn Fn() -> String| client(key).unwrap_or_else(|| (key, value().into()));
        added.push((META_VERSION, json::quoted(MODERN_VERSION).into()));
        added.push(own(META_CAPABILITIES, &|| "{}".to_owned()));
        added.push(own(META_CLIENT, &own_info));
        added.extend(client(META_LOG_LEVEL));
    }
    match traceparent {
        Some(parent) => added.push((META_TRACEPARENT, json::quoted(parent).into())),
        None => added.extend(client(META_TRACEPARENT)),
    }
    added.extend(request_id.map(|id| (META_REQUEST_ID, json::quoted(&id.to_string()).into())));
    let added: Vec<(&str, &str)> = added.iter().map(|(key, value)| (*key, value.as_ref())).collect();
    params.text(&added)
}

#[cfg(test)]
mod tests {
    use crate::mcp::envelope;
    use crate::mcp::methods;
    use crate::mcp::params::ParamRules;

    use super::*;

    fn params(era: Era, json: &str) -> Params {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{json}}}"#);
        let body = SharedText::new(body);
        let message = envelope::parse_text(&body).unwrap().message().unwrap();
        let rules = ParamRules::of_request(methods::find("tools/call"), era, "tools/call", &[]);
        Params::read(&message, &body, &rules).unwrap()
    }

    const MODERN: &str = r#"{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","a": 1,
        "io.modelcontextprotocol/clientCapabilities":{ "roots":{},"tasks":{}},"progressToken":7,"traceparent":"p"}}"#;

    #[test]
    fn a_backend_of_either_era_gets_the_keys_of_its_own() {
        let modern = params(Era::Modern, MODERN);
        assert_eq!(
            forwarded(&modern, Era::Legacy, None, None).as_deref(),
            Some(r#"{"name":"x","_meta":{"a":1,"progressToken":7,"traceparent":"p"}}"#)
        );
        let to_modern = forwarded(&modern, Era::Modern, Some("q"), None).unwrap();
        let info = own_info();
        let want = format!(
            r#"{{"name":"x","_meta":{{"a":1,"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{"roots":{{}}}},"io.modelcontextprotocol/clientInfo":{info},"traceparent":"q"}}}}"#
        );
        assert_eq!(&*to_modern, want);
        let legacy = params(Era::Legacy, r#"{"name":"x"}"#);
        assert_eq!(forwarded(&legacy, Era::Legacy, None, None).as_deref(), Some(r#"{"name":"x"}"#));
        let want = format!(
            r#"{{"name":"x","_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{info}}}}}"#
        );
        assert_eq!(forwarded(&legacy, Era::Modern, None, None).as_deref(), Some(want.as_str()));
    }

    #[test]
    fn the_request_id_is_the_gateways_own() {
        let id = RequestId(uuid::Uuid::nil());
        let call = params(Era::Legacy, r#"{"name":"x","_meta":{"io.gatepost/request_id":"forged"}}"#);
        assert_eq!(call.removed(), ["io.gatepost/request_id"]);
        let want = r#"{"name":"x","_meta":{"io.gatepost/request_id":"00000000-0000-0000-0000-000000000000"}}"#;
        assert_eq!(forwarded(&call, Era::Legacy, None, Some(id)).as_deref(), Some(want));
    }
}
