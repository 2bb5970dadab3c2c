//! Who may call what: roles to patterns over `backend/tool`, deny by default.
//!
//! One function, [`Policy::decide`], answers for listing and for calling. [`Policy::authorize`] turns a decision into a
//! [`Permit`]: the call exactly as it was decided on. A permit has no other constructor, and forwarding takes nothing
//! else, so that a call that was not authorized cannot be forwarded.

use std::collections::BTreeMap;

use crate::audit::record::Caller;
use crate::config::Role;

use super::auth::Principal;
use super::envelope::ToolCall;
use super::protocol::META_PREFIX;
use super::raw;

/// The roles, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    roles: BTreeMap<String, Patterns>,
}

/// A list of patterns; an empty one matches nothing.
#[derive(Debug, Default)]
pub struct Patterns(Vec<Pattern>);

/// A pattern that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: pattern {pattern:?} {fault}: write backend/tool, as in time/get_* or */*")]
pub struct PatternError {
    key: String,
    pattern: String,
    fault: &'static str,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tool.
    Tool,
    /// A resource, or a template of such.
    Resource,
    /// A prompt.
    Prompt,
}

/// A backend's tool, resource or prompt, whether or not it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// What it is.
    pub kind: Kind,
    /// The backend's alias.
    pub backend: &'a str,
    /// The tool, as the backend names it.
    pub tool: &'a str,
}

/// What the policy says of one tool and one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Allowed, by this role.
    Allowed {
        /// The first of the caller's roles that allows it.
        role: &'a str,
    },
    /// Denied.
    Denied,
}

/// A call that the policy refuses.
#[derive(Debug)]
pub struct Denied {
    /// Who called; all roles of the caller are named, since none decided.
    pub caller: Caller,
    /// The reason, for the caller and the record.
    pub reason: String,
}

/// Proof that a caller may make this very call: made by [`Policy::authorize`] only, demanded by `forward`.
///
/// It cannot be made up:
///
/// ```compile_fail,E0451
/// # use gatepost::audit::record::Caller;
/// use gatepost::gateway::rbac::Permit;
/// let permit = Permit {
///     kind: gatepost::gateway::rbac::Kind::Tool,
///     caller: Caller::anonymous(),
///     backend: "b".to_owned(),
///     tool: "t".to_owned(),
///     arguments: None,
///     params: "{}".to_owned(),
/// };
/// ```
#[derive(Debug)]
#[must_use = "a permit is for one call"]
pub struct Permit {
    kind: Kind,
    caller: Caller,
    backend: String,
    tool: String,
    arguments: Option<String>,
    params: String,
}

/// One `backend/tool` pattern; `*` in either half stands for any run of characters but `/`.
#[derive(Debug)]
struct Pattern {
    backend: String,
    tool: String,
}

impl Policy {
    /// Compiles the configured roles.
    ///
    /// # Errors
    /// Every pattern that is none.
    pub fn new(roles: &BTreeMap<String, Role>) -> Result<Self, Vec<PatternError>> {
        let mut faults = Vec::new();
        let mut compiled = BTreeMap::new();
        for (name, role) in roles {
            match Patterns::new(&format!("roles.{name}"), &role.allow) {
                Ok(patterns) => drop(compiled.insert(name.clone(), patterns)),
                Err(errors) => faults.extend(errors),
            }
        }
        if faults.is_empty() { Ok(Self { roles: compiled }) } else { Err(faults) }
    }

    /// Whether any of `roles` allows `target`: the one decision, for listing and for calling.
    #[must_use]
    pub fn decide<'a>(&self, roles: &'a [String], target: Target<'_>) -> Decision<'a> {
        let allows = |role: &&'a String| {
            // I10: a role that is not configured has no patterns, no pattern matches nothing, and nothing is denied.
            self.roles.get(*role).is_some_and(|patterns| patterns.matches(target))
        };
        roles.iter().find(allows).map_or(Decision::Denied, |role| Decision::Allowed { role })
    }

    /// Whether any of `roles` may use anything of `backend`.
    #[must_use]
    pub fn reaches(&self, roles: &[String], backend: &str) -> bool {
        roles.iter().filter_map(|role| self.roles.get(role)).any(|patterns| patterns.reach(backend))
    }

    /// Decides on `call`, and keeps what was decided on: the permit holds the parameters as they will be forwarded.
    ///
    /// # Errors
    /// [`Denied`] unless one of the caller's roles allows the tool.
    pub fn authorize(&self, principal: &Principal, target: Target<'_>, call: &ToolCall<'_>) -> Result<Permit, Denied> {
        let arguments = call.arguments.map(raw::one_line);
        let params = upstream_params(target.tool, arguments.as_deref(), call.meta);
        self.authorize_request(principal, target, Some(&params), arguments.as_deref())
    }

    /// Decides on any request: `params` is its parameters as they will be forwarded, `arguments` what is decided on and
    /// recorded of them, both as JSON text.
    ///
    /// # Errors
    /// [`Denied`] unless one of the caller's roles allows the target.
    pub fn authorize_request(
        &self,
        principal: &Principal,
        target: Target<'_>,
        params: Option<&str>,
        arguments: Option<&str>,
    ) -> Result<Permit, Denied> {
        let Target { kind, backend, tool } = target;
        match self.decide(&principal.roles, target) {
            Decision::Allowed { role } => Ok(Permit {
                kind,
                caller: principal.caller(Some(role)),
                backend: backend.to_owned(),
                tool: tool.to_owned(),
                params: params.unwrap_or("{}").to_owned(),
                arguments: arguments.map(str::to_owned),
            }),
            Decision::Denied => {
                let roles = principal.roles.join(",");
                let reason = if roles.is_empty() {
                    format!("the token names no role, and nothing but a role may call {backend}/{tool}")
                } else {
                    format!("role {roles} may not call {backend}/{tool}")
                };
                Err(Denied { caller: principal.caller((!roles.is_empty()).then_some(&roles)), reason })
            }
        }
    }
}

impl Permit {
    /// Who may make the call, and the role that decided.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The backend's alias.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The tool, as the backend names it.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The arguments as they are forwarded, as JSON text.
    #[must_use]
    pub fn arguments(&self) -> Option<&str> {
        self.arguments.as_deref()
    }

    /// The parameters for the backend, as JSON text.
    #[must_use]
    pub fn params(&self) -> &str {
        &self.params
    }
}

impl Patterns {
    /// Compiles the patterns that stand under `key` of the configuration.
    ///
    /// # Errors
    /// Every pattern that is none.
    pub fn new(key: &str, patterns: &[String]) -> Result<Self, Vec<PatternError>> {
        let (mut compiled, mut faults) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match Pattern::new(pattern) {
                Ok(pattern) => compiled.push(pattern),
                Err(fault) => faults.push(PatternError { key: key.to_owned(), pattern: pattern.clone(), fault }),
            }
        }
        if faults.is_empty() { Ok(Self(compiled)) } else { Err(faults) }
    }

    /// Whether one of them matches anything of `backend`.
    fn reach(&self, backend: &str) -> bool {
        self.0.iter().any(|pattern| glob(pattern.backend.as_bytes(), backend.as_bytes()))
    }

    /// Whether one of them matches `target`.
    #[must_use]
    pub fn matches(&self, target: Target<'_>) -> bool {
        self.0.iter().any(|pattern| pattern.matches(target))
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, &'static str> {
        let (backend, tool) = pattern.split_once('/').ok_or("has no /")?;
        if backend.is_empty() {
            return Err("names no backend");
        }
        if tool.is_empty() {
            return Err("names no tool");
        }
        if pattern.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("holds a space or control character");
        }
        Ok(Self { backend: backend.to_owned(), tool: tool.to_owned() })
    }

    fn matches(&self, target: Target<'_>) -> bool {
        let Target { kind, backend, tool } = target;
        // Who may call every tool of a backend may read and ask it everything else.
        let is_named = if kind == Kind::Tool { glob(self.tool.as_bytes(), tool.as_bytes()) } else { self.tool == "*" };
        glob(self.backend.as_bytes(), backend.as_bytes()) && is_named
    }
}

/// Whether `text` matches `pattern`, where `*` stands for any run of bytes but `/`. Linear in memory, at worst the
/// product of both lengths in time.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(&want) if want == byte => {
                p += 1;
                t += 1;
            }
            _ => match last_star {
                Some((star, from)) if text.get(from) != Some(&b'/') => {
                    last_star = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                _ => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

/// The parameters for a backend: the decided name, the arguments' text untouched, and of `_meta` what does not belong
/// to the client's own leg. The progress token stays behind as long as progress is not relayed.
fn upstream_params(tool: &str, arguments: Option<&str>, meta: Option<&str>) -> String {
    let name = raw::quoted(tool);
    let meta = meta.map(raw::one_line).unwrap_or_default();
    let meta = raw::members(&meta).unwrap_or_default();
    let kept: Vec<(&str, &str)> = meta
        .iter()
        .filter(|member| !member.key.starts_with(META_PREFIX) && member.key != "progressToken")
        .map(|member| (member.key.as_str(), member.value.get()))
        .collect();
    let meta = (!kept.is_empty()).then(|| raw::object(kept));
    let members = [("name", Some(name.as_str())), ("arguments", arguments), ("_meta", meta.as_deref())];
    raw::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(roles: &[(&str, &[&str])]) -> Policy {
        let role = |allow: &[&str]| Role { allow: allow.iter().map(|&pattern| pattern.to_owned()).collect() };
        Policy::new(&roles.iter().map(|(name, allow)| ((*name).to_owned(), role(allow))).collect()).unwrap()
    }

    fn target<'a>(backend: &'a str, tool: &'a str) -> Target<'a> {
        Target { kind: Kind::Tool, backend, tool }
    }

    fn principal(roles: &[&str]) -> Principal {
        Principal {
            subject: "ann".to_owned(),
            issuer: "test".to_owned(),
            token_id: None,
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
        }
    }

    /// pattern, backend, tool, allowed
    const GOLDEN: [(&str, &str, &str, bool); 20] = [
        ("time/get_current_time", "time", "get_current_time", true),
        ("time/get_current_time", "time", "get_current_times", false),
        ("time/get_current_time", "times", "get_current_time", false),
        ("time/*", "time", "anything", true),
        ("time/*", "time", "a/b", false),
        ("time/a/b", "time", "a/b", true),
        ("time/*/b", "time", "a/b", true),
        ("*/*", "time", "x", true),
        ("*/x", "time", "x", true),
        ("*/x", "time", "y", false),
        ("time/get_*", "time", "get_", true),
        ("time/get_*", "time", "set_x", false),
        ("time/*_time", "time", "get_current_time", true),
        ("time/*_time", "time", "get_current_timer", false),
        ("time/g*t*e", "time", "get_current_time", true),
        ("time/g*t*x", "time", "get_current_time", false),
        ("t*/a", "time", "a", true),
        ("time/ECHO", "time", "echo", false),
        ("time/**", "time", "echo", true),
        ("time/e.ho", "time", "echo", false),
    ];

    #[test]
    fn patterns_match_as_the_golden_table_says() {
        for (pattern, backend, tool, allowed) in GOLDEN {
            let decision =
                policy(&[("r", &[pattern])]).decide(&["r".to_owned()], target(backend, tool)) != Decision::Denied;
            assert_eq!(decision, allowed, "{pattern} on {backend}/{tool}");
        }
    }

    #[test]
    fn i10_an_empty_or_missing_rule_denies() {
        let policy = policy(&[("empty", &[]), ("all", &["*/*"])]);
        for roles in [&[][..], &["empty"], &["unknown"], &["ALL"], &[""]] {
            assert_eq!(policy.decide(&principal(roles).roles, target("time", "x")), Decision::Denied, "{roles:?}");
        }
        assert_eq!(Policy::default().decide(&["all".to_owned()], target("time", "x")), Decision::Denied);
    }

    #[test]
    fn any_role_may_allow_and_the_one_that_did_is_kept() {
        let policy = policy(&[("reader", &["time/get_*"]), ("admin", &["*/*"])]);
        let principal = principal(&["reader", "admin"]);
        let call = ToolCall { name: "x".to_owned(), arguments: None, meta: None };
        let permit = policy.authorize(&principal, target("time", "get_x"), &call).unwrap();
        assert_eq!(permit.caller().role.as_deref(), Some("reader"));
        let permit = policy.authorize(&principal, target("time", "set_x"), &call).unwrap();
        assert_eq!(permit.caller().role.as_deref(), Some("admin"));
    }

    #[test]
    fn a_denial_names_every_role_of_the_caller() {
        let call = ToolCall { name: "x".to_owned(), arguments: None, meta: None };
        let denied = policy(&[]).authorize(&principal(&["a", "b"]), target("time", "x"), &call).unwrap_err();
        assert_eq!(denied.caller.role.as_deref(), Some("a,b"));
        assert_eq!(denied.reason, "role a,b may not call time/x");
        let denied = policy(&[]).authorize(&principal(&[]), target("time", "x"), &call).unwrap_err();
        assert_eq!(denied.caller.role, None);
    }

    #[test]
    fn every_bad_pattern_is_named() {
        let roles = BTreeMap::from([(
            "r".to_owned(),
            Role { allow: ["time", "/x", "time/", "a b/c", "ok/ok"].map(str::to_owned).to_vec() },
        )]);
        assert_eq!(Policy::new(&roles).unwrap_err().len(), 4);
    }

    #[test]
    fn the_permit_holds_the_exact_arguments_and_only_the_meta_that_may_pass() {
        let call = ToolCall {
            name: "example__echo".to_owned(),
            arguments: Some("{ \"t\":  1.0 }"),
            meta: Some(
                r#"{"io.modelcontextprotocol/protocolVersion":"x","progressToken":1,"traceparent":"00-a","x": [1]}"#,
            ),
        };
        let permit =
            policy(&[("r", &["*/*"])]).authorize(&principal(&["r"]), target("example", "echo"), &call).unwrap();
        let want = r#"{"name":"echo","arguments":{ "t":  1.0 },"_meta":{"traceparent":"00-a","x":[1]}}"#;
        assert_eq!(permit.params(), want);
    }
}
