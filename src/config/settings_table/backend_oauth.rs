//! The settings of a backend's OAuth client.

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{SettingSpec, setting};
use crate::config::value_type::ValueType;

/// `[backends.NAME.oauth]`.
pub(super) const BACKEND_OAUTH: &[SettingSpec] = &[
    setting(
        "backends.*.oauth.token_url",
        ValueType::WebUrl,
        Required,
        "The token endpoint of the authorization server from which the gateway gets the tokens of its requests to `url` \
         ([authorization.md](authorization.md#credentials-for-backends)). Redirects are not followed.",
    ),
    setting("backends.*.oauth.client_id", ValueType::Text, Required, "The gateway's client id there."),
    setting(
        "backends.*.oauth.client_secret_file",
        ValueType::Path,
        Required,
        "File with the client's secret; white space around it is ignored. It is read again when it changes.",
    ),
    setting(
        "backends.*.oauth.client_auth",
        ValueType::Choice(&["basic", "post"]),
        Value("\"basic\""),
        "How id and secret are sent: in the header `Authorization`, or in the body.",
    ),
    setting(
        "backends.*.oauth.audience",
        ValueType::Text,
        Unset,
        "The parameter `audience`: the name that the authorization server has for the backend.",
    ),
    setting(
        "backends.*.oauth.resource",
        ValueType::Text,
        Unset,
        "The parameter `resource` (RFC 8707): the backend's URI. Set what your server reads, or both.",
    ),
    setting("backends.*.oauth.scope", ValueType::Text, Unset, "The parameter `scope`: words, separated by spaces."),
    setting(
        "backends.*.oauth.on_behalf",
        ValueType::Flag,
        Value("false"),
        "`true` makes requests of callers on their behalf: the caller's token is exchanged for one for the backend (RFC \
         8693), and is itself never sent there. Callers without a token of an issuer are refused. Only the gateway's own \
         requests (probes, lists) use the client credentials. `shared` is excluded.",
    ),
    setting(
        "backends.*.oauth.subject_issuers",
        ValueType::Texts,
        Unset,
        "The issuers whose tokens may be exchanged: the token server gets them, and could use them here. Callers with the \
         token of another issuer are refused. Required with `on_behalf` if there are several issuers.",
    ),
    setting(
        "backends.*.oauth.same_subject",
        ValueType::Flag,
        Value("true"),
        "`true` refuses an exchanged token that is a JWT with another `sub` than the caller's, or with none that can be \
         read. `false` is for servers that name a subject differently for each audience.",
    ),
];
