//! Who may do what: roles to patterns over tools, resources and prompts, deny by default.
//!
//! One function, [`Policy::decide`], answers for listing and for calling. [`Policy::authorize`] and
//! [`Policy::authorize_request`] turn a decision into a [`Permit`]: the call exactly as it was decided on. A permit has no
//! other constructor, and forwarding takes nothing else, so that a call that was not authorized cannot be forwarded.
//!
//! What a caller's roles deny is denied, whichever of them does and whatever the others allow. Else one role must allow
//! it by itself, with its own conditions on the arguments. `docs/authorization.md` is the operator's side of this.

mod condition;
mod pattern;

use std::collections::BTreeMap;

use condition::Condition;
use pattern::Effect;
pub use pattern::{PatternError, Patterns};

use crate::audit::record::Caller;
use crate::auth::Principal;
use crate::config::Role;
use crate::mcp::envelope::ToolCall;
use crate::mcp::json;
use crate::mcp::protocol::META_PREFIX;

/// The roles, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    roles: BTreeMap<String, Rules>,
}

/// What a call is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tool, by its name.
    Tool,
    /// A resource, or a template of such, by its URI.
    Resource,
    /// A prompt, by its name.
    Prompt,
}

/// What tells a client that its list of a kind may have changed.
pub const LISTS_CHANGED: [(Kind, &str); 3] = [
    (Kind::Tool, "notifications/tools/list_changed"),
    (Kind::Prompt, "notifications/prompts/list_changed"),
    (Kind::Resource, "notifications/resources/list_changed"),
];

/// Something of a backend's, whether or not it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// What it is.
    pub kind: Kind,
    /// The backend's alias.
    pub backend: &'a str,
    /// The tool's or prompt's name, or the resource's URI, as the backend has it.
    pub tool: &'a str,
}

/// What is asked of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Whether the caller sees it: conditions are left to the call.
    Listing,
    /// Whether the caller may use it with these arguments, JSON text.
    Call(Option<&'a str>),
}

/// What the policy says of one target and one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Allowed, by this role.
    Allowed {
        /// The first of the caller's roles that allows it.
        role: &'a str,
    },
    /// Denied.
    Denied(Cause<'a>),
}

/// Why the policy denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause<'a> {
    /// No role of the caller allows it.
    NoRule,
    /// This role denies it.
    Rule {
        /// The first of the caller's roles that denies it.
        role: &'a str,
    },
    /// A role allows it, with other arguments.
    Condition {
        /// The first of the caller's roles that would allow it.
        role: &'a str,
        /// Its first condition that does not hold.
        condition: String,
    },
}

/// A call that the policy refuses.
#[derive(Debug)]
pub struct Denied {
    /// Who called; all roles of the caller are named, since none decided.
    pub caller: Caller,
    /// The reason, for the caller and the record.
    pub reason: String,
}

/// Proof that a caller may make this very call: made by [`Policy`] only, demanded by `forward`.
///
/// It cannot be made up:
///
/// ```compile_fail,E0451
/// # use gatepost::audit::record::Caller;
/// use gatepost::rbac::Permit;
/// let permit = Permit {
///     caller: Caller::anonymous(),
///     kind: gatepost::rbac::Kind::Tool,
///     backend: "b".to_owned(),
///     tool: "t".to_owned(),
///     arguments: None,
///     params: "{}".to_owned(),
/// };
/// ```
#[derive(Debug)]
#[must_use = "a permit is for one call"]
pub struct Permit {
    caller: Caller,
    kind: Kind,
    backend: String,
    tool: String,
    arguments: Option<String>,
    params: String,
}

/// One role's rules, compiled.
#[derive(Debug)]
struct Rules {
    allow: Patterns,
    deny: Patterns,
    /// Resources and prompts, where the role says anything of them; else who has all tools of a backend has all of it.
    other: Option<(Patterns, Patterns)>,
    deny_resources: Patterns,
    deny_prompts: Patterns,
    conditions: Vec<Condition>,
}

impl<'a> Target<'a> {
    /// A backend's tool.
    #[must_use]
    pub fn tool(backend: &'a str, name: &'a str) -> Self {
        Self { kind: Kind::Tool, backend, tool: name }
    }

    /// A backend's resource.
    #[must_use]
    pub fn resource(backend: &'a str, uri: &'a str) -> Self {
        Self { kind: Kind::Resource, backend, tool: uri }
    }

    /// A backend's prompt.
    #[must_use]
    pub fn prompt(backend: &'a str, name: &'a str) -> Self {
        Self { kind: Kind::Prompt, backend, tool: name }
    }
}

impl Policy {
    /// Compiles the configured roles.
    ///
    /// # Errors
    /// Every rule that is none.
    pub fn new(roles: &BTreeMap<String, Role>) -> Result<Self, Vec<PatternError>> {
        let mut faults = Vec::new();
        let mut compiled = BTreeMap::new();
        for (name, role) in roles {
            match Rules::new(name, role) {
                Ok(role) => drop(compiled.insert(name.clone(), role)),
                Err(errors) => faults.extend(errors),
            }
        }
        if faults.is_empty() { Ok(Self { roles: compiled }) } else { Err(faults) }
    }

    /// Whether `roles` may have `target`: the one decision, for listing and for calling, for tools, resources and
    /// prompts.
    #[must_use]
    pub fn decide<'a>(&self, roles: &'a [String], target: Target<'_>, asked: Asked<'_>) -> Decision<'a> {
        // I10: a role that is not configured has no rules, no rule matches nothing, and nothing is denied.
        let known = || roles.iter().filter_map(|name| Some((name.as_str(), self.roles.get(name)?)));
        if let Some((role, _)) = known().find(|(_, rules)| rules.deny(target)) {
            return Decision::Denied(Cause::Rule { role });
        }
        let mut cause = Cause::NoRule;
        for (role, rules) in known().filter(|(_, rules)| rules.allow(target)) {
            let unmet = match asked {
                Asked::Listing => None,
                Asked::Call(arguments) => rules.unmet(target, arguments),
            };
            match unmet {
                None => return Decision::Allowed { role },
                Some(condition) if cause == Cause::NoRule => {
                    cause = Cause::Condition { role, condition: condition.name() };
                }
                Some(_) => {}
            }
        }
        Decision::Denied(cause)
    }

    /// Whether `roles` see `target` in a list: whether they may have it with some arguments.
    #[must_use]
    pub fn shows(&self, roles: &[String], target: Target<'_>) -> bool {
        matches!(self.decide(roles, target, Asked::Listing), Decision::Allowed { .. })
    }

    /// Whether `roles` may see other things of `kind` in lists than by `before`. Says so too where rules changed and
    /// their meaning did not.
    #[must_use]
    pub fn shows_other(&self, before: &Self, roles: &[String], kind: Kind) -> bool {
        roles.iter().any(|role| {
            let [now, then] = [self, before].map(|policy| policy.roles.get(role).map(|rules| rules.view(kind)));
            now != then
        })
    }

    /// Whether any of `roles` may use anything of `backend`: to whom it does not reach, it is as one that is not there.
    #[must_use]
    pub fn reaches(&self, roles: &[String], backend: &str) -> bool {
        let mut known = roles.iter().filter_map(|role| self.roles.get(role));
        known.clone().all(|rules| !rules.deny.name_all_of(backend)) && known.any(|rules| rules.reach(backend))
    }

    /// Whether one of `roles` may use everything of `backend`, and none is denied any of it: who may, may ask the backend
    /// for what the gateway does not understand.
    #[must_use]
    pub fn has_all(&self, roles: &[String], backend: &str) -> bool {
        let mut known = roles.iter().filter_map(|role| self.roles.get(role));
        known.clone().all(|rules| !rules.deny_any_of(backend)) && known.any(|rules| rules.allow_all_of(backend))
    }

    /// Decides on `call`, and keeps what was decided on: the permit holds the parameters as they will be forwarded.
    ///
    /// # Errors
    /// [`Denied`] unless one of the caller's roles allows the tool with these arguments and none denies it.
    pub fn authorize(&self, principal: &Principal, target: Target<'_>, call: &ToolCall<'_>) -> Result<Permit, Denied> {
        let arguments = call.arguments.map(json::one_line);
        let params = upstream_params(target.tool, arguments.as_deref(), call.meta);
        self.authorize_request(principal, target, Some(&params), arguments.as_deref())
    }

    /// Decides on a request of any method, and keeps what was decided on.
    ///
    /// `params` are the parameters as they will be forwarded, JSON text; none stand for `{}`. `arguments` are the part of
    /// them that conditions look at and that is recorded, as it stands there.
    ///
    /// # Errors
    /// [`Denied`] unless one of the caller's roles allows `target` with these arguments and none denies it.
    pub fn authorize_request(
        &self,
        principal: &Principal,
        target: Target<'_>,
        params: Option<&str>,
        arguments: Option<&str>,
    ) -> Result<Permit, Denied> {
        let params = params.unwrap_or("{}");
        // What was authorized is what is forwarded.
        debug_assert!(target.kind != Kind::Tool || forwards(params, target.tool, arguments), "other arguments");
        let Target { kind, backend, tool } = target;
        match self.decide(&principal.roles, target, Asked::Call(arguments)) {
            Decision::Allowed { role } => Ok(Permit {
                caller: principal.caller(Some(role)),
                kind,
                backend: backend.to_owned(),
                tool: tool.to_owned(),
                params: params.to_owned(),
                arguments: arguments.map(str::to_owned),
            }),
            Decision::Denied(cause) => {
                let roles = principal.roles.join(",");
                let reason = reason(&roles, target, &cause);
                Err(Denied { caller: principal.caller((!roles.is_empty()).then_some(&roles)), reason })
            }
        }
    }
}

impl Rules {
    fn new(name: &str, role: &Role) -> Result<Self, Vec<PatternError>> {
        let mut faults = Vec::new();
        let mut compile = |key: &str, patterns: &[String]| {
            Patterns::new(&format!("roles.{name}.{key}"), patterns).unwrap_or_else(|errors| {
                faults.extend(errors);
                Patterns::default()
            })
        };
        let listed = |patterns: &Option<Vec<String>>| patterns.clone().unwrap_or_default();
        let says_other = role.resources.is_some() || role.prompts.is_some();
        let mut rules = Self {
            allow: compile("allow", &role.allow),
            deny: compile("deny", &role.deny),
            other: says_other
                .then(|| (compile("resources", &listed(&role.resources)), compile("prompts", &listed(&role.prompts)))),
            deny_resources: compile("deny_resources", &role.deny_resources),
            deny_prompts: compile("deny_prompts", &role.deny_prompts),
            conditions: Vec::new(),
        };
        for (idx, condition) in role.when.iter().enumerate() {
            match Condition::new(&format!("roles.{name}.when[{idx}]"), condition) {
                Ok(condition) => rules.conditions.push(condition),
                Err(errors) => faults.extend(errors),
            }
        }
        if faults.is_empty() { Ok(rules) } else { Err(faults) }
    }

    fn allow(&self, target: Target<'_>) -> bool {
        match (target.kind, &self.other) {
            (Kind::Tool, _) => self.allow.matches(target),
            (Kind::Resource, Some((resources, _))) => resources.match_uri(target, Effect::Allow),
            (Kind::Prompt, Some((_, prompts))) => prompts.match_name(target, Effect::Allow),
            (Kind::Resource | Kind::Prompt, None) => self.allow.name_all_of(target.backend),
        }
    }

    fn deny(&self, target: Target<'_>) -> bool {
        match target.kind {
            Kind::Tool => self.deny.match_name(target, Effect::Deny),
            // Who is denied all tools of a backend is denied the rest of it.
            Kind::Resource | Kind::Prompt if self.deny.name_all_of(target.backend) => true,
            Kind::Resource => self.deny_resources.match_uri(target, Effect::Deny),
            Kind::Prompt => self.deny_prompts.match_name(target, Effect::Deny),
        }
    }

    /// The rules that decide what of `kind` is listed.
    fn view(&self, kind: Kind) -> [Option<&Patterns>; 4] {
        let other = self.other.as_ref();
        let allow = other.is_none().then_some(&self.allow);
        match kind {
            Kind::Tool => [Some(&self.allow), Some(&self.deny), None, None],
            Kind::Resource => {
                [allow, Some(&self.deny), other.map(|(resources, _)| resources), Some(&self.deny_resources)]
            }
            Kind::Prompt => [allow, Some(&self.deny), other.map(|(_, prompts)| prompts), Some(&self.deny_prompts)],
        }
    }

    /// Whether they allow anything of `backend`, denials aside.
    fn reach(&self, backend: &str) -> bool {
        let other = self.other.as_ref();
        self.allow.reach(backend)
            || other.is_some_and(|(resources, prompts)| resources.reach(backend) || prompts.reach(backend))
    }

    fn allow_all_of(&self, backend: &str) -> bool {
        let other = self.other.as_ref();
        self.allow.name_all_of(backend)
            && other.is_none_or(|(resources, prompts)| resources.name_all_of(backend) && prompts.name_all_of(backend))
            && !self.conditions.iter().any(|condition| condition.is_on_any_of(backend))
    }

    fn deny_any_of(&self, backend: &str) -> bool {
        [&self.deny, &self.deny_resources, &self.deny_prompts].into_iter().any(|patterns| patterns.reach(backend))
    }

    /// The first condition on a call of `target` that does not hold.
    fn unmet(&self, target: Target<'_>, arguments: Option<&str>) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.is_on(target) && !condition.holds(arguments))
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

    /// The tool's or prompt's name, or the resource's URI, as the backend has it.
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

/// The reason of a denial, for the caller and the record.
fn reason(roles: &str, target: Target<'_>, cause: &Cause<'_>) -> String {
    let Target { kind, backend, tool } = target;
    let (verb, noun) = match kind {
        Kind::Tool => ("call", ""),
        Kind::Resource => ("read", "resource "),
        Kind::Prompt => ("get", "prompt "),
    };
    match cause {
        Cause::NoRule if roles.is_empty() => {
            format!("the token names no role, and nothing but a role may {verb} {noun}{backend}/{tool}")
        }
        Cause::NoRule => format!("role {roles} may not {verb} {noun}{backend}/{tool}"),
        Cause::Rule { role } => format!("role {roles} may not {verb} {noun}{backend}/{tool}: {role} denies it"),
        Cause::Condition { role, condition } => {
            format!("role {role} may {verb} {noun}{backend}/{tool} only where its condition on {condition} holds")
        }
    }
}

/// Whether `params` call `tool` with exactly `arguments`.
fn forwards(params: &str, tool: &str, arguments: Option<&str>) -> bool {
    let members = json::members(params).unwrap_or_default();
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    find("name").and_then(json::raw_string).as_deref() == Some(tool)
        && find("arguments").map(serde_json::value::RawValue::get) == arguments.map(str::trim)
}

/// The parameters for a backend: the decided name, the arguments' text untouched, and of `_meta` what does not belong
/// to the client's own leg. The progress token stays behind as long as progress is not relayed.
fn upstream_params(tool: &str, arguments: Option<&str>, meta: Option<&str>) -> String {
    let name = json::quoted(tool);
    let meta = meta.map(json::one_line).unwrap_or_default();
    let meta = json::members(&meta).unwrap_or_default();
    let kept: Vec<(&str, &str)> = meta
        .iter()
        .filter(|member| !member.key.starts_with(META_PREFIX) && member.key != "progressToken")
        .map(|member| (member.key.as_str(), member.value.get()))
        .collect();
    let meta = (!kept.is_empty()).then(|| json::object(kept));
    let members = [("name", Some(name.as_str())), ("arguments", arguments), ("_meta", meta.as_deref())];
    json::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

#[cfg(test)]
mod tests;
