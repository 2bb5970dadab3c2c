//! What the settings must be to each other.

use std::collections::BTreeSet;

use super::{Backend, Condition, Config, Key, OnFailure, path};

/// Longest alias of a backend, in bytes. *Derived*: clients take tool names of 64; this leaves `__` and 30 for the tool.
const ALIAS_BYTES_MAX: usize = 32;

/// Longest name of a role, in bytes. *Chosen*: it stands in every record.
const ROLE_BYTES_MAX: usize = 128;

/// How many arguments of the longest size the ring must hold. *Chosen*: an intent and a record of two calls.
const RING_ARGS_MIN: usize = 4;

/// Issuers of callers who come without a JWT. A JWT of such an issuer would pass for one of them.
const RESERVED: [&str; 2] = ["static", "mtls"];

/// A name that the operator chose, in `section`.
pub(super) fn name(section: &str, name: &str) -> Result<(), String> {
    if section == "roles" {
        let fits = !name.is_empty() && name.len() <= ROLE_BYTES_MAX && !name.contains(char::is_control);
        return if fits {
            Ok(())
        } else {
            Err(format!("a role's name has 1 to {ROLE_BYTES_MAX} bytes and no controls"))
        };
    }
    let written = "write a lower-case letter or digit, then letters, digits and '-'";
    if name.len() > ALIAS_BYTES_MAX {
        return Err(format!("the alias is {} bytes, limit {ALIAS_BYTES_MAX}: {written}", name.len()));
    }
    // Tools are named alias__tool: without '_' in the alias the first '__' always ends it.
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !begins || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(format!("the alias is not as clients take it: {written}"));
    }
    if name == "all" { Err("the alias stands for all backends: choose another".to_owned()) } else { Ok(()) }
}

/// Everything that involves more than one setting; each fault is told with its key.
pub(super) fn together(config: &Config, fault: &mut dyn FnMut(&str, String)) {
    keys(config, fault);
    issuers(config, fault);
    patterns(config, fault);
    backends(config, fault);
    let server = config.server.listen;
    let asks_certificates = config.server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    if !server.ip().is_loopback() && !config.auth.believes_tokens() && !asks_certificates {
        let message = format!(
            "{server} can be reached by others and nobody is believed: add [[auth.keys]] or [[auth.issuers]], or listen on loopback"
        );
        fault("server.listen", message);
    }
    if !config.auth.certificates.is_empty() && !asks_certificates {
        let message = "is of no use without server.tls.client_ca_file: set that, or leave this out";
        fault("auth.certificates", message.to_owned());
    }
    if config.ops.listen == Some(server) && server.port() != 0 {
        fault("ops.listen", format!("{server} is server.listen too: choose another port"));
    }
    let (ring, args) = (config.audit.ring_bytes_max, config.audit.args_bytes_max);
    if ring / RING_ARGS_MIN < args {
        let message = format!(
            "{ring} bytes is less than {RING_ARGS_MIN} times audit.args_bytes_max ({args}): raise it, or lower the other"
        );
        fault("audit.ring_bytes_max", message);
    }
}

fn backends(config: &Config, fault: &mut dyn FnMut(&str, String)) {
    for (alias, backend) in &config.backends {
        let path = path::join("backends", alias);
        match (backend.command.is_empty(), &backend.url) {
            (true, None) => fault(&format!("{path}.command"), "is missing: set it, or url".to_owned()),
            (false, Some(_)) => fault(&format!("{path}.url"), "goes without command: keep one".to_owned()),
            _ => {}
        }
        if backend.url.is_none() && !(backend.header_env.is_empty() && backend.header_file.is_empty()) {
            fault(&path, "has headers and no url: a stdio server takes env".to_owned());
        }
        for name in backend.header_env.keys().filter(|name| backend.header_file.contains_key(*name)) {
            fault(&format!("{path}.header_env.{name}"), "stands in header_file too: keep one".to_owned());
        }
        if backend.idle_timeout > backend.call_timeout && backend.idle_timeout != Backend::default().idle_timeout {
            fault(&format!("{path}.idle_timeout"), "is longer than call_timeout: lower it".to_owned());
        }
    }
}

fn keys(config: &Config, fault: &mut dyn FnMut(&str, String)) {
    let mut seen = BTreeSet::new();
    for (idx, key) in config.auth.keys.iter().enumerate() {
        let path = format!("auth.keys[{idx}]");
        if let Err(message) = source(key) {
            fault(&path, message);
        }
        if let Some(kid) = &key.kid
            && !seen.insert((&key.issuer, kid))
        {
            fault(&format!("{path}.kid"), format!("{kid:?} names an earlier key of this issuer too: choose another"));
        }
    }
}

fn issuers(config: &Config, fault: &mut dyn FnMut(&str, String)) {
    let keys = config.auth.keys.iter().enumerate().map(|(idx, key)| (format!("auth.keys[{idx}]"), &key.issuer));
    let issuers = config.auth.issuers.iter().enumerate();
    let issuers = issuers.map(|(idx, issuer)| (format!("auth.issuers[{idx}]"), &issuer.issuer));
    for (path, issuer) in keys.chain(issuers) {
        if RESERVED.contains(&issuer.as_str()) {
            let message = format!("{issuer:?} stands for callers without a JWT: choose another");
            fault(&format!("{path}.issuer"), message);
        }
    }
    let mut seen = BTreeSet::new();
    for (idx, issuer) in config.auth.issuers.iter().enumerate() {
        let path = format!("auth.issuers[{idx}]");
        match (&issuer.jwks_file, &issuer.jwks_url) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => fault(&path, "has no keys: set jwks_url or jwks_file".to_owned()),
            (Some(_), Some(_)) => fault(&path, "has jwks_file and jwks_url: keep one".to_owned()),
        }
        if !seen.insert(&issuer.issuer) && !issuer.issuer.is_empty() {
            let message = format!("{:?} is an earlier issuer too: leave one out", issuer.issuer);
            fault(&format!("{path}.issuer"), message);
        }
    }
}

/// Exactly one place to load the key from, and one that fits the algorithm.
fn source(key: &Key) -> Result<(), String> {
    let set = [
        ("secret_file", key.secret_file.is_some()),
        ("secret_env", key.secret_env.is_some()),
        ("public_key_file", key.public_key_file.is_some()),
    ];
    let set: Vec<&str> = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
    let (algorithm, fitting): (_, &[&str]) = match key.algorithm.as_str() {
        // An unknown or missing algorithm is a fault already; nothing can be said of its source.
        "" => return Ok(()),
        "HS256" => ("HS256", &["secret_file", "secret_env"]),
        other => (other, &["public_key_file"]),
    };
    let wanted = fitting.join(" or ");
    match set.as_slice() {
        [one] if fitting.contains(one) => Ok(()),
        [] => Err(format!("has no key material: {algorithm} takes {wanted}, set it")),
        [one] => Err(format!("{one} does not fit {algorithm}, which takes {wanted}: set that instead")),
        several => Err(format!("has {}: keep one, {algorithm} takes {wanted}", several.join(" and "))),
    }
}

/// A pattern that names a backend names one that is there: a slip would otherwise deny in silence, or fail to.
fn patterns(config: &Config, fault: &mut dyn FnMut(&str, String)) {
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
                backend(config, &format!("{role_key}.{key}[{idx}]"), pattern, fault);
            }
        }
        for (idx, condition) in role.when.iter().enumerate() {
            let key = format!("{role_key}.when[{idx}]");
            backend(config, &format!("{key}.tool"), &condition.tool, fault);
            if let Err(message) = one_test(condition) {
                fault(&key, message);
            }
        }
    }
    for (idx, pattern) in config.audit.continue_for.iter().enumerate() {
        backend(config, &format!("audit.continue_for[{idx}]"), pattern, fault);
    }
    if (config.audit.on_failure == OnFailure::Continue) == config.audit.continue_for.is_empty() {
        let message = "goes with a list in audit.continue_for: `continue` demands one, `refuse` takes none";
        fault("audit.on_failure", message.to_owned());
    }
}

/// The backend that a pattern names.
fn backend(config: &Config, key: &str, pattern: &str, fault: &mut dyn FnMut(&str, String)) {
    let Some((backend, _)) = pattern.split_once('/') else { return };
    if backend.contains('*') || config.backends.contains_key(backend) {
        return;
    }
    let score = |alias: &&String| strsim::normalized_damerau_levenshtein(alias, backend);
    let nearest = config.backends.keys().max_by(|a, b| score(a).total_cmp(&score(b)));
    let message = match nearest {
        Some(alias) => format!("{pattern:?} names the unknown backend {backend:?}: did you mean {alias}?"),
        None => format!("{pattern:?} names the unknown backend {backend:?}: add [backends.{backend}]"),
    };
    fault(key, message);
}

/// A condition has exactly one test: none would hold for everything or nothing, and nobody can tell which was meant.
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
        several => Err(format!("has {}: keep one, and write another [[...when]] for the next", several.join(" and "))),
    }
}
