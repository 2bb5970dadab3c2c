//! The conversion of a request's parameters between the two eras.

use crate::mcp::json::Object;
use crate::mcp::protocol::{Era, META_PREFIX};
use crate::mcp::shared_text::SharedText;

use super::message::modern_meta;

/// Converts the parameters of a request in the era `from` to the era `to`: adds or removes the stateless era's own keys
/// in `_meta`.
#[must_use]
pub fn convert_params(from: Era, to: Era, params: Option<SharedText>) -> Option<SharedText> {
    match (from, to) {
        (Era::Legacy, Era::Modern) => {
            let params = params.unwrap_or_default();
            let object = Object::parse_path(&params, &["_meta"]).unwrap_or_default();
            let meta = modern_meta(&object.object("_meta").unwrap_or_default());
            Some(params.derived(object.with(&[("_meta", &meta)])))
        }
        (Era::Modern, Era::Legacy) => {
            let params = params?;
            Some(params.derived(without_protocol_meta(&params)))
        }
        _ => params,
    }
}

/// `params` without the protocol's own keys in `_meta`, and without `_meta` if no other key is in it.
fn without_protocol_meta(params: &str) -> String {
    let Some(object) = Object::parse_path(params, &["_meta"]) else { return params.to_owned() };
    let is_protocol = |key: &str| key.starts_with(META_PREFIX);
    let meta = object.object("_meta").filter(|meta| meta.members().any(|entry| !is_protocol(&entry.key)));
    match meta {
        Some(meta) => object.replaced("_meta", &meta.without(is_protocol)),
        None => object.without(|key| key == "_meta").into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_converted_between_the_eras() {
        let text = |text: &str| Some(SharedText::new(text.to_owned()));
        let params = text(r#"{"name": "x","_meta":{"progressToken":1}}"#);
        let modern = convert_params(Era::Legacy, Era::Modern, params).unwrap();
        assert!(
            modern.contains("\"2026-07-28\"") && modern.contains(r#""progressToken":1"#) && modern.contains(r#""x""#)
        );
        let legacy = convert_params(Era::Modern, Era::Legacy, Some(modern)).unwrap();
        assert!(!legacy.contains("modelcontextprotocol") && legacy.contains(r#""progressToken":1"#), "{legacy:?}");
        let modern = convert_params(Era::Legacy, Era::Modern, None);
        let bare = convert_params(Era::Modern, Era::Legacy, modern);
        assert_eq!(bare.as_deref(), Some("{}"));
        let same = r#"{ "a":1 }"#;
        assert_eq!(convert_params(Era::Legacy, Era::Legacy, text(same)).as_deref(), Some(same));
    }
}
