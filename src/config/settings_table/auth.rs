//! The settings of authentication.

use std::time::Duration;

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{HOURS_24, SettingSpec, duration, ms, setting};
use crate::config::value_type::ValueType;

/// The algorithms that a published key may verify.
const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// `[auth]`, `[[auth.keys]]` and `[[auth.issuers]]`.
pub(super) const AUTH: &[SettingSpec] = &[
    setting(
        "auth.audiences",
        ValueType::Texts,
        Value("[\"gatepost\"]"),
        "Values of `aud` that are accepted at every endpoint and by the console, besides the URL of the endpoint. A token \
         must have an accepted one, so that a token for another service is not accepted here. `gatepost token` uses the \
         first.",
    ),
    setting(
        "auth.role_claim",
        ValueType::Text,
        Value("\"role\""),
        "The claim that contains the caller's role (a string) or roles (a list): its name, a path such as \
         `realm_access.roles`, or a JSON pointer such as `/https:~1~1example.com~1roles` for names with dots.",
    ),
    setting(
        "auth.role_map",
        ValueType::Lists,
        Value("{}"),
        "The roles that a value of the role claim stands for, for example `\"5f2c...\" = [\"reader\"]` for the id of a \
         group. If it is not empty, other values give no role.",
    ),
    setting(
        "auth.required_scope",
        ValueType::Word,
        Unset,
        "A scope that every token must have; a token without it gets 403 `insufficient_scope`. Unset: none.",
    ),
    setting(
        "auth.leeway",
        duration(ms(0), Duration::from_mins(5)),
        Value("\"30s\""),
        "Clock difference tolerated on `exp` and `nbf`. More than minutes would revive expired tokens.",
    ),
    setting(
        "auth.tokens_file",
        ValueType::Path,
        Unset,
        "TOML file with static tokens: `[[tokens]]` with `sha256`, `subject` and `roles`, in the form that `gatepost token hash` \
         prints them; it never contains the tokens themselves. Only its owner may read it. It is read again when it \
         changes. The issuer is `static`.",
    ),
    setting(
        "auth.certificates",
        ValueType::Lists,
        Value("{}"),
        "The roles of each client certificate, by its subject with its kind, for example `\"uri:spiffe://example/ci\" = \
         [\"dev\"]`, `\"dns:ci.example\"` or `\"cn:ci\"`. A certificate that is not listed has no role.",
    ),
    setting(
        "auth.keys[].kid",
        ValueType::Text,
        Unset,
        "The `kid` of the tokens that this key verifies. Unset: it is tried for tokens without one.",
    ),
    setting(
        "auth.keys[].algorithm",
        ValueType::Choice(&["HS256", "RS256", "ES256", "EdDSA"]),
        Required,
        "The one algorithm of this key; a token that names another is refused. HS256 is for development.",
    ),
    setting("auth.keys[].issuer", ValueType::Text, Required, "The `iss` that a token verified by this key must have."),
    setting(
        "auth.keys[].secret_file",
        ValueType::Path,
        Unset,
        "HS256: file with the secret, at least 32 bytes; a newline at its end is ignored.",
    ),
    setting(
        "auth.keys[].secret_env",
        ValueType::Word,
        Unset,
        "HS256: environment variable with the secret, at least 32 bytes.",
    ),
    setting(
        "auth.keys[].public_key_file",
        ValueType::Path,
        Unset,
        "RS256, ES256, EdDSA: PEM file with the public key. The private key stays with the issuer.",
    ),
    setting(
        "auth.issuers[].issuer",
        ValueType::Text,
        Required,
        "The `iss` of its tokens. Its keys verify only this issuer's tokens, and only its keys do. Without `jwks_url` and \
         `jwks_file`, it is an `https://` URL, and its keys are where its metadata says \
         (`/.well-known/openid-configuration` or `/.well-known/oauth-authorization-server`); the metadata must name this \
         issuer exactly, and is read again with the keys.",
    ),
    setting(
        "auth.issuers[].jwks_file",
        ValueType::Path,
        Unset,
        "File with its JWKS. The file is checked for changes at most once a second and read again when it changes; if \
         it cannot be read, the previous keys stay in use.",
    ),
    setting(
        "auth.issuers[].jwks_url",
        ValueType::WebUrl,
        Unset,
        "The URL of its JWKS. It is fetched at the first token, when it is older than `jwks_ttl`, and for an unknown \
         `kid`, at most once in 10 s, and up to 4 times earlier for an unknown `kid`. A token with an unknown `kid` \
         gets 401 if the set was fetched since, and otherwise 503 with `Retry-After`. While the issuer is down the \
         previous keys stay in use.",
    ),
    setting(
        "auth.issuers[].jwks_ttl",
        duration(ms(1000), HOURS_24),
        Value("\"10m\""),
        "The age at which a fetched JWKS is fetched again, in the background: a key that the issuer withdrew is \
         accepted for this long.",
    ),
    setting(
        "auth.issuers[].algorithms",
        ValueType::Choices(ALGORITHMS),
        Value("[\"RS256\", \"ES256\", \"EdDSA\"]"),
        "The algorithms that its keys may have; each key verifies exactly one. HMAC is excluded: a published key is \
         not a secret.",
    ),
    setting(
        "auth.issuers[].audiences",
        ValueType::Texts,
        Unset,
        "Values of `aud` that are accepted in its tokens, in place of `auth.audiences`.",
    ),
    setting(
        "auth.issuers[].role_claim",
        ValueType::Text,
        Unset,
        "The claim with the roles in its tokens. Unset: `auth.role_claim`.",
    ),
    setting(
        "auth.issuers[].name_claim",
        ValueType::Text,
        Unset,
        "The claim with a name of the subject that people can read, for example `preferred_username` or `email`; \
         recorded as `client_name` beside the subject. Name a claim that users cannot edit. Unset: no name.",
    ),
    setting(
        "auth.issuers[].roles",
        ValueType::Texts,
        Unset,
        "The roles that its tokens may have; others are ignored. Unset: all. Set it for each issuer that you do not \
         trust with every role.",
    ),
    setting(
        "auth.issuers[].role_prefix",
        ValueType::Text,
        Unset,
        "The text that is put before each role of its tokens, for example `partner-`. `roles` names them with it.",
    ),
];
