//! Checks that involve more than one setting.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::auth::Key;
use super::backend::Backend;
use super::backend_oauth::BackendOAuth;
use super::check_evidence;
use super::check_sign_in;
use super::path;
use super::pins::Pin;
use super::role::Condition;
use super::sections::{Config, OnFailure};
use super::value_type::{is_loopback, issuer_url};
use crate::mcp::names::{NAME_CHARS_MAX, SEPARATOR, is_plain};

/// The number of records of the largest size that must fit the ring. *Chosen*: an intent and a record of two calls; a
/// call may use seven eighths of the ring.
const RING_RECORDS_MIN: usize = 4;

/// The part of the outbox that delivered records may use at most, as a divisor. *Chosen*: half of it, so that an outage
/// is not shortened by what is kept.
const KEEP_PART: u64 = 2;

/// The number of bodies of the largest size that must fit `server.request_bytes_max`. *Derived*: a body counts twice,
/// and one caller may occupy half.
const REQUEST_BODIES_MIN: usize = 4;

/// The issuers recorded for callers without a JWT. A JWT of such an issuer would pass for one of them.
const RESERVED_ISSUERS: [&str; 2] = ["static", "mtls"];

/// The kinds of names in a certificate, as its subject begins (`src/auth/certificate.rs`).
const SUBJECT_KINDS: [&str; 3] = ["uri:", "dns:", "cn:"];

/// Takes the key and message of an error.
type Report<'a> = &'a mut dyn FnMut(&str, String);

/// Checks everything that involves more than one setting.
pub(super) fn check(config: &Config, report: Report<'_>) {
    keys(config, report);
    issuers(config, report);
    patterns(config, report);
    backends(config, report);
    check_evidence::check(config, report);
    check_sign_in::check(config, report);
    let server = config.server.listen;
    let requests_certificates = config.server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    if !server.ip().is_loopback() && !config.auth.accepts_tokens() && !requests_certificates {
        let message = format!(
            "{server} is reachable from other machines, and there is no way to authenticate callers: \
             add [[auth.keys]] or [[auth.issuers]], or listen on loopback"
        );
        report("server.listen", message);
    }
    if !config.auth.certificates.is_empty() && !requests_certificates {
        let message = "has no effect without server.tls.client_ca_file: set that, or remove this section";
        report("auth.certificates", message.to_owned());
    }
    for subject in config.auth.certificates.keys() {
        if !SUBJECT_KINDS.iter().any(|kind| subject.starts_with(kind) && subject.len() > kind.len()) {
            let message = format!(
                "{subject:?} does not say what kind of name it is: write \"uri:{subject}\", \"dns:{subject}\" or, for \
                 the common name, \"cn:{subject}\""
            );
            report("auth.certificates", message);
        }
    }
    if config.server.tls.as_ref().is_some_and(|tls| tls.client_crl_file.is_some()) && !requests_certificates {
        let message = "has no effect without server.tls.client_ca_file: set that, or remove this setting";
        report("server.tls.client_crl_file", message.to_owned());
    }
    if config.ops.listen == Some(server) && server.port() != 0 {
        report("ops.listen", format!("{server} is also server.listen: use another port"));
    }
    let (all, body) = (config.server.request_bytes_max, config.server.body_bytes_max);
    if all / REQUEST_BODIES_MIN < body {
        let message = format!(
            "{all} bytes is less than {REQUEST_BODIES_MIN} times server.body_bytes_max ({body}): raise it, or lower that"
        );
        report("server.request_bytes_max", message);
    }
    // A record has no more of a request than its body has.
    let params = config.audit.params_bytes_max.min(config.server.body_bytes_max);
    let (ring, record) = (config.audit.ring_bytes_max, params + config.audit.response_bytes_max);
    if let Some(keep) = config.audit.keep_bytes_max.filter(|keep| *keep > config.audit.outbox_bytes_max / KEEP_PART) {
        let message = format!(
            "{keep} bytes is more than half of audit.outbox_bytes_max ({}): lower it, or raise that",
            config.audit.outbox_bytes_max
        );
        report("audit.keep_bytes_max", message);
    }
    if ring / RING_RECORDS_MIN < record {
        let message = format!(
            "{ring} bytes is less than {RING_RECORDS_MIN} times audit.params_bytes_max and audit.response_bytes_max \
             together ({record}): raise it, or lower those"
        );
        report("audit.ring_bytes_max", message);
    }
}

fn backends(config: &Config, report: Report<'_>) {
    for (alias, backend) in &config.backends {
        let path = path::join("backends", alias);
        match (backend.command.is_empty(), &backend.url) {
            (true, None) => report(&format!("{path}.command"), "is missing: set command or url".to_owned()),
            (false, Some(_)) => report(&format!("{path}.url"), "excludes command: set only one of them".to_owned()),
            _ => {}
        }
        if backend.url.is_none() && !(backend.header_env.is_empty() && backend.header_file.is_empty()) {
            report(&path, "has headers but no url: use env for a stdio server".to_owned());
        }
        let has_process = backend.cwd.is_some() || backend.env_file.is_some() || !backend.env_from.is_empty();
        if backend.command.is_empty() && has_process {
            report(&path, "has cwd, env_file or env_from but no command: they are for stdio servers".to_owned());
        }
        let is_restricted = backend.user.is_some() || backend.write.is_some() || !backend.walls;
        if backend.command.is_empty() && is_restricted {
            report(&path, "has user, write or walls but no command: they are for stdio servers".to_owned());
        }
        if backend.pin == Pin::Refuse && backend.pins_file.is_none() {
            let message = "is refuse without pins_file: set the file that `gatepost audit pins accept` writes";
            report(&format!("{path}.pin"), message.to_owned());
        }
        if let Some(oauth) = &backend.oauth {
            backend_oauth(backend, oauth, &mut |key, message| report(&format!("{path}.{key}"), message.to_owned()));
            subject_issuers(config, oauth, &format!("{path}.oauth.subject_issuers"), report);
        }
        tool_names(alias, backend, report);
        for name in backend.header_env.keys().filter(|name| backend.header_file.contains_key(*name)) {
            report(&format!("{path}.header_env.{name}"), "is also in header_file: keep one of them".to_owned());
        }
        if backend.idle_timeout > backend.call_timeout && backend.idle_timeout != Backend::default().idle_timeout {
            report(&format!("{path}.idle_timeout"), "is longer than call_timeout: lower it".to_owned());
        }
    }
}

/// An OAuth client fits its backend. Keys are below `backends.NAME`.
fn backend_oauth(backend: &Backend, oauth: &BackendOAuth, fault: &mut dyn FnMut(&str, &str)) {
    match backend.url.as_deref().map(Url::parse) {
        None => fault("oauth", "has no effect without url: use env for a stdio server"),
        Some(Ok(url)) if url.scheme() == "http" && !is_loopback(&url) => {
            fault("url", "is not encrypted, and oauth sends tokens there: use https, or a loopback host");
        }
        // A text that is not a URL was reported already.
        Some(_) => {}
    }
    let mut headers = backend.header_env.keys().chain(backend.header_file.keys());
    if headers.any(|name| name.eq_ignore_ascii_case("authorization")) {
        fault("oauth", "excludes the header Authorization in header_env and header_file: keep one of them");
    }
    if oauth.on_behalf && backend.shared {
        fault(
            "shared",
            "excludes oauth.on_behalf: in a shared conversation one caller's login is another's: keep one of them",
        );
    }
    let is_resource = |text: &String| Url::parse(text).is_ok_and(|url| url.fragment().is_none());
    if !oauth.resource.iter().all(is_resource) {
        fault("oauth.resource", "is not an absolute URI without a fragment: write the backend's, or set audience");
    }
}

/// No issuer's tokens are sent to the token server of another one by accident.
fn subject_issuers(config: &Config, oauth: &BackendOAuth, path: &str, report: Report<'_>) {
    let keys = config.auth.keys.iter().map(|key| key.issuer.as_str());
    let known: BTreeSet<_> = keys.chain(config.auth.issuers.iter().map(|issuer| issuer.issuer.as_str())).collect();
    if oauth.on_behalf && oauth.subject_issuers.is_empty() && known.len() > 1 {
        let names = known.into_iter().collect::<Vec<_>>().join(", ");
        report(
            path,
            format!(
                "is missing: there are several issuers ({names}), and their tokens would be sent to token_url; list \
                 those for which that is right"
            ),
        );
        return;
    }
    if !oauth.on_behalf && !oauth.subject_issuers.is_empty() {
        report(path, "has no effect without on_behalf: set that, or remove this setting".to_owned());
    }
    for issuer in oauth.subject_issuers.iter().filter(|issuer| !known.contains(issuer.as_str())) {
        report(path, format!("auth.keys and auth.issuers have no {issuer:?}: correct it, or add the issuer"));
    }
}

/// Each listed name is of one tool, is not hidden, and fits with its alias where all backends are served.
fn tool_names(alias: &str, backend: &Backend, report: Report<'_>) {
    let mut tools: BTreeMap<&str, &str> = BTreeMap::new();
    for (own, listed) in &backend.rename {
        let path = path::join(&format!("backends.{alias}.rename"), own);
        let at_all = format!("{alias}{SEPARATOR}{listed}");
        if let Some(other) = tools.insert(listed, own) {
            report(&path, format!("{listed:?} is also the name of {other:?}: choose another for one of them"));
        } else if at_all.len() > NAME_CHARS_MAX {
            let message = format!(
                "{at_all:?}, the name where all backends are served, has {} characters, limit {NAME_CHARS_MAX}: shorten it",
                at_all.len()
            );
            report(&path, message);
        } else if !is_plain(&at_all) {
            let message = "has the form that the gateway gives to names that clients refuse: choose another";
            report(&path, format!("{listed:?} {message}"));
        }
        if backend.hide.contains(own) {
            report(&path, "is also in hide, and is not listed at all: remove it in one of them".to_owned());
        }
    }
}

fn keys(config: &Config, report: Report<'_>) {
    let mut seen = BTreeSet::new();
    for (idx, key) in config.auth.keys.iter().enumerate() {
        let path = format!("auth.keys[{idx}]");
        if let Err(message) = key_source(key) {
            report(&path, message);
        }
        if let Some(kid) = &key.kid
            && !seen.insert((&key.issuer, kid))
        {
            report(
                &format!("{path}.kid"),
                format!("{kid:?} is the kid of an earlier key of this issuer: choose another"),
            );
        }
    }
}

fn issuers(config: &Config, report: Report<'_>) {
    let keys = config.auth.keys.iter().enumerate().map(|(idx, key)| (format!("auth.keys[{idx}]"), &key.issuer));
    let issuers = config.auth.issuers.iter().enumerate();
    let issuers = issuers.map(|(idx, issuer)| (format!("auth.issuers[{idx}]"), &issuer.issuer));
    for (path, issuer) in keys.chain(issuers) {
        if RESERVED_ISSUERS.contains(&issuer.as_str()) {
            let message = format!("{issuer:?} is reserved for callers without a JWT: choose another");
            report(&format!("{path}.issuer"), message);
        }
    }
    let mut seen = BTreeSet::new();
    for (idx, issuer) in config.auth.issuers.iter().enumerate() {
        let path = format!("auth.issuers[{idx}]");
        match (&issuer.jwks_file, &issuer.jwks_url) {
            (None, None) if !issuer.issuer.is_empty() && issuer_url(&issuer.issuer).is_none() => {
                let message = "has no keys: set jwks_url or jwks_file, or make issuer an https:// URL whose metadata names \
                               them";
                report(&path, message.to_owned());
            }
            (Some(_), Some(_)) => report(&path, "has both jwks_file and jwks_url: keep one".to_owned()),
            _ => {}
        }
        for role in issuer.roles.iter().flatten().filter(|role| !config.roles.contains_key(*role)) {
            report(
                &format!("{path}.roles"),
                format!("{role:?} is not a role: add [roles.{role}], or correct the name"),
            );
        }
        if !seen.insert(&issuer.issuer) && !issuer.issuer.is_empty() {
            let message = format!("{:?} is the issuer of an earlier section: remove one of them", issuer.issuer);
            report(&format!("{path}.issuer"), message);
        }
    }
}

/// A key has exactly one source, of the type that its algorithm uses.
fn key_source(key: &Key) -> Result<(), String> {
    let set = [
        ("secret_file", key.secret_file.is_some()),
        ("secret_env", key.secret_env.is_some()),
        ("public_key_file", key.public_key_file.is_some()),
    ];
    let set: Vec<&str> = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
    let (algorithm, fitting): (_, &[&str]) = match key.algorithm.as_str() {
        // An unknown or missing algorithm was reported already; which source fits it is unknown.
        "" => return Ok(()),
        "HS256" => ("HS256", &["secret_file", "secret_env"]),
        other => (other, &["public_key_file"]),
    };
    let expected = fitting.join(" or ");
    match set.as_slice() {
        [one] if fitting.contains(one) => Ok(()),
        [] => Err(format!("has no key: set {expected}, which {algorithm} uses")),
        [one] => Err(format!("{one} does not fit {algorithm}: set {expected} instead")),
        several => Err(format!("has {}: keep one, {algorithm} uses {expected}", several.join(" and "))),
    }
}

/// A pattern must not name a backend that does not exist: a misspelt one would silently deny too much or too little.
fn patterns(config: &Config, report: Report<'_>) {
    for (name, role) in &config.roles {
        let role_key = path::join("roles", name);
        let lists = [
            ("allow", Some(&role.allow)),
            ("deny", Some(&role.deny)),
            ("resources", role.resources.as_ref()),
            ("deny_resources", Some(&role.deny_resources)),
            ("prompts", role.prompts.as_ref()),
            ("deny_prompts", Some(&role.deny_prompts)),
        ];
        for (key, list) in lists {
            for (idx, pattern) in list.into_iter().flatten().enumerate() {
                pattern_backend(config, &format!("{role_key}.{key}[{idx}]"), pattern, report);
            }
        }
        for (idx, condition) in role.when.iter().enumerate() {
            let key = format!("{role_key}.when[{idx}]");
            pattern_backend(config, &format!("{key}.tool"), &condition.tool, report);
            if let Err(message) = one_test(condition) {
                report(&key, message);
            }
        }
    }
    for (idx, pattern) in config.audit.continue_for.iter().enumerate() {
        pattern_backend(config, &format!("audit.continue_for[{idx}]"), pattern, report);
    }
    if (config.audit.on_failure == OnFailure::Continue) == config.audit.continue_for.is_empty() {
        let message = "contradicts audit.continue_for: `continue` requires patterns there, `refuse` allows none";
        report("audit.on_failure", message.to_owned());
    }
}

/// Checks the backend that a pattern names.
fn pattern_backend(config: &Config, key: &str, pattern: &str, report: Report<'_>) {
    let Some((backend, _)) = pattern.split_once('/') else { return };
    if backend.contains('*') || config.backends.contains_key(backend) {
        return;
    }
    let message = if config.backends.is_empty() {
        format!("{pattern:?} names the unknown backend {backend:?}: add [backends.{backend}]")
    } else {
        let advice = path::nearest(backend, config.backends.keys().cloned()).map_or_else(
            || format!("use one of {}", config.backends.keys().cloned().collect::<Vec<_>>().join(", ")),
            |alias| format!("did you mean {alias}?"),
        );
        format!("{pattern:?} names the unknown backend {backend:?}: {advice}")
    };
    report(key, message);
}

/// A condition has exactly one test: without one, it is unclear whether it should match everything or nothing.
fn one_test(condition: &Condition) -> Result<(), String> {
    let set = [
        ("equals", condition.equals.is_some()),
        ("one_of", condition.one_of.is_some()),
        ("matches", condition.matches.is_some()),
        ("below", condition.below.is_some()),
    ];
    let all = set.map(|(name, _)| name).join(", ");
    let set: Vec<&str> = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
    match set.as_slice() {
        [_] => Ok(()),
        [] => Err(format!("has no test: set one of {all}")),
        several => {
            Err(format!("has {}: keep one, and write another [[...when]] for each other", several.join(" and ")))
        }
    }
}
