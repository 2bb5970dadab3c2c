//! The column `context`: the circumstances of a call that have no column of their own.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::identity::Identity;
use super::ids::Digest;
use crate::audit::redact::ShortenedValue;

/// The largest `context`, in bytes. *Spec*: docs/trail.md. It is stored with each record.
pub const CONTEXT_BYTES_MAX: usize = 4096;

/// The largest `meta` in it, in bytes. *Chosen*: the usual keys of a request have half of it, and it leaves the other
/// members their room.
pub const META_BYTES_MAX: usize = 1024;

/// Most names of removed members. *Chosen*: real clients send one, `task`.
const REMOVED_MAX: usize = 4;

/// The longest text in it, in bytes; if that is not enough, the shorter ones apply to all texts. *Derived*: 8 texts,
/// two lists of [`LIST_MAX`] and one of [`REMOVED_MAX`] texts, and 8 shortened values of 120 bytes besides their paths,
/// in texts of 4 bytes, each byte of which JSON may write as six, are 2.3 KiB, and `meta` has 1 KiB. [`LIST_MAX`]
/// credentials of 110 bytes are smaller than shortened values, and a request has only one of both.
const TEXT_BYTES_MAX: [usize; 4] = [256, 64, 12, 4];

/// Most actors, authentication methods and credentials of backends that are recorded. *Chosen*: real tokens have one or
/// two, and a backend's own record names its credential.
const LIST_MAX: usize = 8;

/// The circumstances of a call. What the client says about itself is not verified; it is shown as such.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The statements of the credential.
    pub identity: Option<&'a Identity>,
    /// The name and version by which the client calls itself (`clientInfo`).
    pub client_info: Option<(&'a str, &'a str)>,
    /// The protocol revision.
    pub protocol: Option<&'a str>,
    /// The W3C trace id.
    pub trace_id: Option<&'a str>,
    /// The header `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// The protocol's own keys of `_meta`, as the text of a JSON object of at most [`META_BYTES_MAX`].
    pub meta: Option<&'a str>,
    /// Those of them that are in `request_extra` instead.
    pub meta_in_extra: &'a [&'static str],
    /// The names of what the client sent and the gateway did not forward.
    pub removed: &'a [String],
    /// The name by which the client called the tool or prompt, if it is not the backend's own.
    pub called_as: Option<&'a str>,
    /// The name of the credential with which the backend is called, and its subject if it is a token that names one.
    pub credential: Option<(&'a str, Option<&'a str>)>,
    /// The same for a request to several backends, of those that are called with a credential.
    pub credentials: &'a [BackendCredential],
    /// The values that were shortened in `request_args`, at most
    /// [`SHORTENED_MAX`](crate::audit::redact::SHORTENED_MAX).
    pub shortened_values: &'a [ShortenedValue],
    /// The sizes of `request_args` and `request_extra`, in bytes, if they are not recorded: those of refused requests
    /// are only recorded if they are short.
    pub omitted: Omitted,
}

/// The credential with which one of several backends is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCredential {
    /// The backend's alias.
    pub backend: String,
    /// The name of the credential.
    pub name: &'static str,
    /// Its subject, if it is a token that names one.
    pub subject: Option<String>,
}

impl BackendCredential {
    /// The JSON of the credential; `end` is the end to which a text is cut.
    fn cut(&self, end: &mut impl FnMut(&'static str, &str) -> usize) -> Credential<'_> {
        let mut text = |text: &'_ str| end("credentials", text);
        let (of_backend, of_subject) = (text(&self.backend), self.subject.as_deref().map_or(0, text));
        let subject = self.subject.as_deref().map(|subject| &subject[..of_subject]);
        Credential { backend: Some(&self.backend[..of_backend]), name: self.name, subject }
    }
}

/// The sizes of what is not recorded, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Omitted {
    /// Of `request_args`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_args: Option<usize>,
    /// Of `request_extra`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_extra: Option<usize>,
}

/// `context` as JSON; the order of the members is that of the text.
#[derive(Serialize)]
struct Json<'a> {
    authentication: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actors: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    amr: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_info: Option<ClientInfo<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    meta_in_extra: &'a [&'static str],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    called_as: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<Credential<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<Credential<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shortened_values: Vec<Shortened<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    omitted: Omitted,
    /// The members that were shortened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shortened: Vec<&'static str>,
}

#[derive(Serialize)]
struct Shortened<'a> {
    path: &'a str,
    bytes: usize,
    digest: Digest,
}

#[derive(Serialize)]
struct Credential<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct ClientInfo<'a> {
    name: &'a str,
    version: &'a str,
}

impl Context<'_> {
    /// The JSON text of the column, at most [`CONTEXT_BYTES_MAX`] long. Texts that were shortened are named in its
    /// member `shortened`. NUL, which Postgres does not accept in a `json` either, becomes U+FFFD.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::new();
        for text_bytes_max in TEXT_BYTES_MAX {
            json = self.cut(text_bytes_max);
            if json.len() <= CONTEXT_BYTES_MAX {
                break;
            }
        }
        json
    }

    fn cut(&self, text_bytes_max: usize) -> String {
        let mut shortened = Vec::new();
        let mut note = |name: &'static str| {
            if !shortened.contains(&name) {
                shortened.push(name);
            }
        };
        let mut text = |name: &'static str, text: &'_ str| {
            let end = text.floor_char_boundary(text_bytes_max);
            if end < text.len() {
                note(name);
            }
            end
        };
        let identity = self.identity;
        let list = identity.map_or(&[][..], |identity| &identity.actors);
        let actors = list.iter().take(LIST_MAX).map(|actor| &actor[..text("actors", actor)]).collect();
        let methods = identity.map_or(&[][..], |identity| &identity.amr);
        let amr = methods.iter().take(LIST_MAX).map(|method| &method[..text("amr", method)]).collect();
        let acr = identity.and_then(|identity| identity.acr.as_deref()).map(|acr| &acr[..text("acr", acr)]);
        let client_info = self.client_info.map(|(name, version)| ClientInfo {
            name: &name[..text("client_info", name)],
            version: &version[..text("client_info", version)],
        });
        let protocol = self.protocol.map(|protocol| &protocol[..text("protocol", protocol)]);
        let trace_id = self.trace_id.map(|id| &id[..text("trace_id", id)]);
        let user_agent = self.user_agent.map(|agent| &agent[..text("user_agent", agent)]);
        let removed = self.removed.iter().take(REMOVED_MAX).map(|name| &name[..text("removed", name)]).collect();
        let called_as = self.called_as.map(|name| &name[..text("called_as", name)]);
        let credential = self.credential.map(|(name, subject)| (name, subject.map(|it| &it[..text("credential", it)])));
        let credentials = self.credentials.iter().take(LIST_MAX).map(|known| known.cut(&mut text)).collect();
        // A text that is not JSON has no place in the column.
        let meta = self.meta.and_then(|meta| serde_json::from_str(meta).ok());
        let meta_in_extra = self.meta_in_extra;
        let shortened_values = self.shortened_values.iter().map(|value| Shortened {
            path: &value.path[..text("shortened_values", &value.path)],
            bytes: value.bytes,
            digest: value.digest,
        });
        let shortened_values = shortened_values.collect();
        let lists = [
            ("removed", self.removed.len() > REMOVED_MAX),
            ("credentials", self.credentials.len() > LIST_MAX),
            ("actors", list.len() > LIST_MAX),
            ("amr", methods.len() > LIST_MAX),
        ];
        lists.into_iter().filter(|(_, is_cut)| *is_cut).for_each(|(name, _)| note(name));
        let authentication = identity.map(|identity| identity.authentication).unwrap_or_default().as_str();
        let json = Json {
            authentication,
            actors,
            acr,
            amr,
            client_info,
            protocol,
            trace_id,
            user_agent,
            meta,
            meta_in_extra,
            removed,
            called_as,
            credential: credential.map(|(name, subject)| Credential { backend: None, name, subject }),
            credentials,
            shortened_values,
            omitted: self.omitted,
            shortened,
        };
        // Texts and lists of texts always serialize.
        without_nul(serde_json::to_string(&json).unwrap_or_default())
    }
}

/// JSON text with U+FFFD instead of each escaped NUL. An escaped backslash before `u0000` is none.
fn without_nul(json: String) -> String {
    if !json.contains("\\u0000") {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let length = if escape.starts_with("\\u0000") {
            out.push('\u{fffd}');
            6
        } else {
            out.push_str(&escape[..escape.ceil_char_boundary(2)]);
            escape.ceil_char_boundary(2)
        };
        rest = &escape[length..];
    }
    out.push_str(rest);
    out
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The name and version in a `clientInfo`, JSON text. `None` if it is not an object with a name.
#[must_use]
pub fn client_info(json: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Info {
        name: String,
        #[serde(default)]
        version: String,
    }
    let info: Info = serde_json::from_str(json).ok()?;
    Some((info.name, info.version))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parsed(context: &Context<'_>) -> Value {
        let json = context.to_json();
        assert!(json.len() <= CONTEXT_BYTES_MAX, "{}", json.len());
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn members_without_a_value_are_absent() {
        assert_eq!(Context::default().to_json(), r#"{"authentication":"none"}"#);
        let agent = Context { user_agent: Some("x/1"), client_info: Some(("c", "2")), ..Context::default() };
        let expected = r#"{"authentication":"none","client_info":{"name":"c","version":"2"},"user_agent":"x/1"}"#;
        assert_eq!(agent.to_json(), expected);
    }

    #[test]
    fn i6_whatever_the_caller_sends_it_stays_within_its_limit_and_says_what_was_shortened() {
        for text in ["x", "\0", "\u{1}", "\"", "é", "\u{1f600}"] {
            let long = text.repeat(5000);
            let many = vec![long.clone(); 100];
            let removed = many.clone();
            let meta = format!(r#"{{"baggage":"{}"}}"#, "x".repeat(META_BYTES_MAX - 14));
            let identity = Identity { actors: many.clone(), acr: Some(long.clone()), amr: many, ..Identity::default() };
            let value = ShortenedValue { path: long.clone(), bytes: usize::MAX, digest: Digest([255; 32]) };
            let values = vec![value; crate::audit::redact::SHORTENED_MAX];
            let credential = BackendCredential { backend: long.clone(), name: "exchange", subject: Some(long.clone()) };
            let several = Context { credentials: &vec![credential; 100], ..Context::default() };
            let of_list = Context {
                identity: Some(&identity),
                client_info: Some((&long, &long)),
                protocol: Some(&long),
                trace_id: Some(&long),
                user_agent: Some(&long),
                meta: Some(&meta),
                removed: &removed,
                ..several
            };
            let json = parsed(&of_list);
            assert_eq!(json["credentials"].as_array().unwrap().len(), LIST_MAX);
            assert!(json["shortened"].as_array().unwrap().contains(&"credentials".into()), "{json}");
            let context = Context {
                shortened_values: &values,
                omitted: Omitted { request_args: Some(usize::MAX), request_extra: Some(usize::MAX) },
                identity: Some(&identity),
                client_info: Some((&long, &long)),
                protocol: Some(&long),
                trace_id: Some(&long),
                user_agent: Some(&long),
                meta: Some(&meta),
                meta_in_extra: &["baggage", "tracestate", "io.modelcontextprotocol/clientCapabilities"],
                removed: &removed,
                called_as: Some(&long),
                credential: Some(("client_credentials", Some(&long))),
                credentials: &[],
            };
            let json = parsed(&context);
            let names = [
                "actors",
                "amr",
                "acr",
                "client_info",
                "protocol",
                "trace_id",
                "user_agent",
                "removed",
                "called_as",
                "credential",
                "shortened_values",
            ];
            assert_eq!(json["shortened"], serde_json::json!(names), "{text:?}");
            assert!(!context.to_json().contains("\\u0000"), "Postgres refuses it");
        }
    }

    #[test]
    fn nul_is_replaced_and_a_backslash_before_its_digits_is_not() {
        for (text, want) in [("a\0b", "a\u{fffd}b"), ("a\\u0000b", "a\\u0000b"), ("\\\0\0", "\\\u{fffd}\u{fffd}")] {
            let context = Context { user_agent: Some(text), ..Context::default() };
            assert_eq!(parsed(&context)["user_agent"], want, "{text:?}");
        }
        let meta = Context { meta: Some(r#"{"baggage":"\u0000\\u0000é"}"#), ..Context::default() };
        assert_eq!(parsed(&meta)["meta"]["baggage"], "\u{fffd}\\u0000é");
    }

    #[test]
    fn client_info_has_a_name() {
        let info = |json| client_info(json);
        assert_eq!(info(r#"{"name":"a","version":"1"}"#), Some(("a".to_owned(), "1".to_owned())));
        assert_eq!(info(r#"{"name":"a"}"#), Some(("a".to_owned(), String::new())));
        assert_eq!(info(r#"{"name":1}"#), None);
        assert_eq!(info("[]"), None);
    }
}
