//! The policy: everything in the configuration that decides who may do what, and what of it is recorded. It is in the
//! trail, and holds no secret.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::auth::{Auth, Issuer, Key};
use super::backend::Backend;
use super::ops::{Ops, SignIn};
use super::sections::{Audit, Config};

/// The parts of the policy that a reload replaces, as JSON pointers.
const RELOADED: [&str; 9] = [
    "/auth",
    "/roles",
    "/ops/console_role",
    "/audit/redact",
    "/audit/shorten",
    "/audit/record_responses",
    "/audit/on_failure",
    "/audit/continue_for",
    "/backends",
];

impl Config {
    /// The policy of this configuration.
    #[must_use]
    pub fn policy(&self) -> Value {
        json!({
            "roles": self.roles,
            "auth": auth(&self.auth),
            "server": {
                "pass_methods": self.server.pass_methods,
                "pass_params": self.server.pass_params,
                // The endpoints that tokens may be for.
                "public_url": self.server.public_url,
                "allowed_hosts": self.server.allowed_hosts,
            },
            "audit": audit(&self.audit),
            "backends": self.backends.iter().map(|(alias, backend)| (alias, tools(backend))).collect::<BTreeMap<_, _>>(),
            "ops": ops(&self.ops),
        })
    }

    /// The policy after a reload: of this configuration, with what needs a restart from the policy `in_force`.
    #[must_use]
    pub fn reloaded_policy(&self, in_force: &Value) -> Value {
        let (mut new, mut policy) = (self.policy(), in_force.clone());
        for part in RELOADED {
            if let (Some(new), Some(old)) = (new.pointer_mut(part), policy.pointer_mut(part)) {
                *old = new.take();
            }
        }
        policy
    }
}

/// The rules of the console: the role, and the provider whose ID tokens open it.
fn ops(ops: &Ops) -> Value {
    let mut rules = json!({ "console_role": ops.console_role });
    if let (Some(sign_in), Some(rules)) = (&ops.sign_in, rules.as_object_mut()) {
        let SignIn { issuer, client_id, scope, .. } = sign_in;
        rules.insert("sign_in".to_owned(), json!({ "issuer": issuer, "client_id": client_id, "scope": scope }));
    }
    rules
}

/// The rules of a backend's tools.
fn tools(backend: &Backend) -> Value {
    let mut tools = serde_json::Map::new();
    tools.insert("pin".to_owned(), json!(backend.pin));
    if let Some(file) = &backend.pins_file {
        tools.insert("pins_file".to_owned(), json!(file));
        tools.insert("pins".to_owned(), json!(backend.pins.clone().unwrap_or_default()));
    }
    if !backend.hide.is_empty() {
        tools.insert("hide".to_owned(), json!(backend.hide));
    }
    if !backend.rename.is_empty() {
        tools.insert("rename".to_owned(), json!(backend.rename));
    }
    Value::Object(tools)
}

/// I8: no keys, and of files only their names.
fn auth(auth: &Auth) -> Value {
    let issuer = |issuer: &Issuer| {
        let Issuer { issuer, algorithms, audiences, role_claim, name_claim, roles, role_prefix, .. } = issuer;
        json!({
            "issuer": issuer,
            "algorithms": algorithms,
            "audiences": audiences,
            "role_claim": role_claim,
            "name_claim": name_claim,
            "roles": roles,
            "role_prefix": role_prefix,
        })
    };
    let key =
        |Key { kid, algorithm, issuer, .. }: &Key| json!({ "kid": kid, "algorithm": algorithm, "issuer": issuer });
    json!({
        "audiences": auth.audiences,
        "role_claim": auth.role_claim,
        "role_map": auth.role_map,
        "required_scope": auth.required_scope,
        "tokens_file": auth.tokens_file,
        "certificates": auth.certificates,
        "keys": auth.keys.iter().map(key).collect::<Vec<_>>(),
        "issuers": auth.issuers.iter().map(issuer).collect::<Vec<_>>(),
    })
}

fn audit(audit: &Audit) -> Value {
    json!({
        "enabled": audit.enabled,
        "methods": audit.methods,
        "level": audit.level,
        "on_failure": audit.on_failure,
        "continue_for": audit.continue_for,
        "refusals_singly_max": audit.refusals_singly_max,
        "params_bytes_max": audit.params_bytes_max,
        "shorten": audit.shorten,
        "record_responses": audit.record_responses,
        "record_answers": audit.record_answers,
        "response_bytes_max": audit.response_bytes_max,
        "redact": audit.redact,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Some(Path::new("g.toml")), []).unwrap()
    }

    #[test]
    fn i8_the_policy_has_rules_and_no_secrets() {
        let policy = config(
            "[backends.b]\ncommand = [\"x\"]\nenv = { K = \"hunter2\" }\n[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n\
             [[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"i\"\nsecret_env = \"hunter2\"\n\
             [roles.\"a.b\"]\nallow = [\"b/*\"]\n[[roles.\"a.b\".when]]\ntool = \"b/x\"\npointer = \"/p\"\nequals = 1\n\
             [auth.role_map]\nstaff = [\"a.b\"]\n",
        )
        .policy();
        assert!(!policy.to_string().contains("hunter2"), "{policy}");
        assert_eq!(policy["roles"]["a.b"]["allow"][0], "b/*");
        assert_eq!(
            policy["roles"]["a.b"]["when"][0],
            json!({ "tool": "b/x", "from": "arguments", "pointer": "/p", "equals": 1 })
        );
        assert_eq!(policy["auth"]["role_map"], json!({ "staff": ["a.b"] }));
    }

    #[test]
    fn a_reload_changes_only_what_takes_effect() {
        let old = config("[backends.b]\ncommand = [\"x\"]\n[server]\npass_methods = [\"x/old\"]\n").policy();
        let new = config(
            "[backends.b]\ncommand = [\"x\"]\n[auth]\nrole_claim = \"new\"\n[server]\npass_methods = [\"x/new\"]\n[roles.r]\nallow = [\"b/*\"]\n\
             [audit]\nredact = [\"/p\"]\nmethods = [\"prompts/get\"]\n",
        );
        let reloaded = new.reloaded_policy(&old);
        assert_eq!((&reloaded["server"], &reloaded["audit"]["methods"]), (&old["server"], &old["audit"]["methods"]));
        assert_eq!(reloaded["auth"]["role_claim"], "new");
        assert_eq!((&reloaded["roles"]["r"]["allow"], &reloaded["audit"]["redact"]), (&json!(["b/*"]), &json!(["/p"])));
        assert_eq!(config("[backends.b]\ncommand = [\"x\"]\n").reloaded_policy(&old), old);
    }
}
