//! Role-based access control: roles map to patterns over tools, resources and prompts. Access is denied by default.
//!
//! One function, [`Policy::decide`], decides for listing and for calling. [`Policy::authorize`] turns a decision
//! into a [`Permit`], which holds the exact call that was decided on. A permit has no other constructor, and forwarding
//! requires one, so that a call that was not authorized cannot be forwarded.
//!
//! A target is denied if any of the caller's roles denies it. Otherwise one role alone must allow it, including that
//! role's conditions on the arguments. `docs/authorization.md` describes the rules for operators.

mod condition;
mod decision;
mod pattern;
mod target;
mod tools;

use std::collections::BTreeMap;

use condition::{Condition, Tested};
pub use decision::{Access, Asking, DEFAULT_RULE, Decision, Denial, DenialReason, DeniedAnswer, Rule};
use pattern::Effect;
pub use pattern::{PatternError, Patterns};
pub use target::{Target, TargetKind};
use tools::ToolRules;

use crate::audit::record::Caller;
use crate::auth::Principal;
use crate::config::{Backend, Role};
use crate::mcp::json;
use crate::mcp::params::Params;
use crate::mcp::shared_text::SharedText;

/// The compiled roles of the configuration, and the hidden and renamed tools of its backends.
#[derive(Debug, Default)]
pub struct Policy {
    roles: BTreeMap<String, RoleRules>,
    /// By alias, of those backends that have any.
    tools: BTreeMap<String, ToolRules>,
}

/// The notification for each kind that the client's list of it may have changed.
pub const LIST_CHANGED_METHODS: [(TargetKind, &str); 3] = [
    (TargetKind::Tool, "notifications/tools/list_changed"),
    (TargetKind::Prompt, "notifications/prompts/list_changed"),
    (TargetKind::Resource, "notifications/resources/list_changed"),
];

/// Proof that the caller may make exactly this call. Only [`Policy`] creates one, and forwarding requires one.
///
/// Other code cannot construct a permit:
///
/// ```compile_fail,E0451
/// # use gatepost::audit::record::Caller;
/// use gatepost::rbac::Permit;
/// let permit = Permit {
///     caller: Caller::anonymous(),
///     kind: gatepost::rbac::TargetKind::Tool,
///     backend: "b".to_owned(),
///     name: "t".to_owned(),
///     params: Default::default(),
///     decided_by: "default".to_owned(),
/// };
/// ```
#[derive(Debug)]
#[must_use = "a permit is valid for one call"]
pub struct Permit {
    caller: Caller,
    kind: TargetKind,
    backend: String,
    name: String,
    params: Params,
    decided_by: String,
}

/// The compiled rules of one role.
#[derive(Debug)]
struct RoleRules {
    allow: Patterns,
    deny: Patterns,
    /// The patterns over resources and prompts, if the role has either. Without them, a role that allows all tools of a
    /// backend allows its resources and prompts too.
    other: Option<(Patterns, Patterns)>,
    deny_resources: Patterns,
    deny_prompts: Patterns,
    conditions: Vec<Condition>,
}

impl Policy {
    /// Compiles the configured roles.
    ///
    /// # Errors
    /// Every invalid rule.
    pub fn new(roles: &BTreeMap<String, Role>) -> Result<Self, Vec<PatternError>> {
        let mut errors = Vec::new();
        let mut compiled = BTreeMap::new();
        for (name, role) in roles {
            match RoleRules::new(name, role) {
                Ok(role) => drop(compiled.insert(name.clone(), role)),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(Self { roles: compiled, tools: BTreeMap::new() }) } else { Err(errors) }
    }

    /// This policy with the hidden and renamed tools of the `backends`.
    ///
    /// # Errors
    /// Every invalid pattern.
    pub fn with_tools(mut self, backends: &BTreeMap<String, Backend>) -> Result<Self, Vec<PatternError>> {
        let mut errors = Vec::new();
        for (alias, backend) in backends {
            match ToolRules::new(alias, backend) {
                Ok(rules) if rules.is_empty() => {}
                Ok(rules) => drop(self.tools.insert(alias.clone(), rules)),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// The name under which the tool `own` of `backend` is listed. `None`: another tool is listed under its name.
    #[must_use]
    pub fn listed_tool<'a>(&'a self, backend: &str, own: &'a str) -> Option<&'a str> {
        self.tools.get(backend).map_or(Some(own), |tools| tools.listed_name(own))
    }

    /// The own name of the tool of `backend` that is listed as `listed`. `None`: the tool of this name is listed under
    /// another.
    #[must_use]
    pub fn own_tool<'a>(&'a self, backend: &str, listed: &'a str) -> Option<&'a str> {
        self.tools.get(backend).map_or(Some(listed), |tools| tools.own_name(listed))
    }

    /// The index of the pattern that hides `target` from everyone.
    fn hidden(&self, target: Target<'_>) -> Option<usize> {
        let tools = self.tools.get(target.backend).filter(|_| target.kind == TargetKind::Tool)?;
        tools.hidden_by(target)
    }

    /// Decides whether `roles` have access to `target`. Every decision on tools, resources and prompts, for listing and
    /// for calling, is made here.
    #[must_use]
    pub fn decide<'a>(&self, roles: &'a [String], target: Target<'_>, access: Access<'_>) -> Decision<'a> {
        if let Some(idx) = self.hidden(target) {
            return Decision::Denied(DenialReason::Hidden { backend: target.backend.to_owned(), idx });
        }
        // I10: a role that is not configured has no rules, an empty rule matches nothing, and the default is to deny.
        let known = || roles.iter().filter_map(|name| Some((name.as_str(), self.roles.get(name)?)));
        if let Some((role, rule)) = known().find_map(|(role, rules)| Some((role, rules.deny(target)?))) {
            return Decision::Denied(DenialReason::Rule { role, rule });
        }
        let mut reason = DenialReason::NoRule;
        for (role, rules) in known() {
            let Some(rule) = rules.allow(target) else { continue };
            let unmet = match access {
                Access::List => None,
                Access::Call { arguments, answers } => {
                    rules.unmet(target, Tested { is_call: true, arguments, answers })
                }
                Access::Answer(answers) => {
                    rules.unmet(target, Tested { is_call: false, arguments: None, answers: Some(answers) })
                }
            };
            match unmet {
                None => return Decision::Allowed { role, rule },
                Some((idx, condition)) if reason == DenialReason::NoRule => {
                    let rule = Rule { list: "when", idx };
                    reason = DenialReason::Condition { role, condition: condition.name(), rule };
                }
                Some(_) => {}
            }
        }
        Decision::Denied(reason)
    }

    /// Decides whether the reply of a client with `roles` to a question of `backend` may be handed on. `result` is the
    /// answer, JSON text; `asking` is the call during which the backend asked. Only conditions on answers decide: that
    /// the caller may call the tool was decided when it called. If the call is not known, the conditions on all calls
    /// of the backend must hold.
    ///
    /// # Errors
    /// [`DeniedAnswer`]: no role allows the answer.
    pub fn judge_reply(
        &self,
        roles: &[String],
        backend: &str,
        asking: Asking<'_>,
        result: &str,
    ) -> Result<(), DeniedAnswer> {
        let answers = json::object([("answer", result)]);
        let denied = |role: &str, idx: usize, condition: &Condition| DeniedAnswer {
            reason: format!("role {role} may hand on the answer only if its condition on {} holds", condition.name()),
            decided_by: Rule { list: "when", idx }.of_role(role),
        };
        match asking {
            Asking::Other => Ok(()),
            Asking::Tool(name) => match self.decide(roles, Target::tool(backend, name), Access::Answer(&answers)) {
                Decision::Denied(DenialReason::Condition { role, condition, rule }) => Err(DeniedAnswer {
                    reason: format!("role {role} may hand on the answer only if its condition on {condition} holds"),
                    decided_by: rule.of_role(role),
                }),
                // I10: the right to call the tool was taken away in the meantime.
                decision @ Decision::Denied(_) => Err(DeniedAnswer {
                    reason: format!("role {} may not call {backend}/{name} any more", roles.join(",")),
                    decided_by: decision.decided_by(),
                }),
                Decision::Allowed { .. } => Ok(()),
            },
            Asking::Unknown => {
                let known = roles.iter().filter_map(|name| Some((name, self.roles.get(name)?)));
                let mut unmet = known.map(|(role, rules)| (role, rules.unmet_at(backend, &answers)));
                match unmet.find_map(|(role, unmet)| unmet.map(|(idx, condition)| denied(role, idx, condition))) {
                    Some(denied) => Err(denied),
                    None => Ok(()),
                }
            }
        }
    }

    /// Returns true if `roles` see `target` in a list, that is, may use it with some arguments.
    #[must_use]
    pub fn shows(&self, roles: &[String], target: Target<'_>) -> bool {
        matches!(self.decide(roles, target, Access::List), Decision::Allowed { .. })
    }

    /// Returns true if a list of `kind` for `roles` may differ from that of the policy `before`. Compares the rules, so
    /// that two spellings of the same rule count as a difference.
    #[must_use]
    pub fn lists_differ(&self, before: &Self, roles: &[String], kind: TargetKind) -> bool {
        let differ = |role: &String| {
            let [now, then] =
                [self, before].map(|policy| policy.roles.get(role).map(|rules| rules.list_patterns(kind)));
            now != then
        };
        let mut aliases = self.tools.keys().chain(before.tools.keys());
        roles.iter().any(differ)
            || kind == TargetKind::Tool
                && aliases.any(|alias| self.tools.get(alias) != before.tools.get(alias) && self.reaches(roles, alias))
    }

    /// Returns true if `roles` may use anything of `backend`. For a caller that may not, the backend does not exist.
    #[must_use]
    pub fn reaches(&self, roles: &[String], backend: &str) -> bool {
        let mut known = roles.iter().filter_map(|role| self.roles.get(role));
        known.clone().all(|rules| rules.deny.name_all_of(backend).is_none()) && known.any(|rules| rules.reach(backend))
    }

    /// The rule that keeps a caller from a backend of which it may use nothing, as it is recorded.
    #[must_use]
    pub fn hidden_by(&self, roles: &[String], backend: &str) -> String {
        let denies = |role: &String| {
            let idx = self.roles.get(role)?.deny.name_all_of(backend)?;
            Some(Rule { list: "deny", idx }.of_role(role))
        };
        roles.iter().find_map(denies).unwrap_or_else(|| DEFAULT_RULE.to_owned())
    }

    /// The rule by which one of `roles` allows everything of `backend`, as it is recorded, if none denies or hides any
    /// of it.
    /// Such a caller may also send the backend requests of methods that the gateway does not know.
    #[must_use]
    pub fn all_of(&self, roles: &[String], backend: &str) -> Option<String> {
        let mut known = roles.iter().filter_map(|role| Some((role, self.roles.get(role)?)));
        let hides_any = self.tools.get(backend).is_some_and(|tools| !tools.hides_none());
        if hides_any || known.clone().any(|(_, rules)| rules.deny_any_of(backend)) {
            return None;
        }
        known.find_map(|(role, rules)| Some(rules.allow_all_of(backend)?.of_role(role)))
    }

    /// Decides on a request of any method.
    ///
    /// `params` are the parameters that will be forwarded. `arguments` is the part of them, unchanged, that conditions
    /// test and that is recorded; so are `answers`, the member `inputResponses`.
    ///
    /// # Errors
    /// [`Denial`], unless one of the caller's roles allows `target` with these arguments and none denies it.
    pub fn authorize(
        &self,
        principal: &Principal,
        target: Target<'_>,
        params: Params,
        arguments: Option<&str>,
        answers: Option<&str>,
    ) -> Result<Permit, Box<Denial>> {
        // The arguments that are authorized are the arguments that are forwarded.
        debug_assert!(target.kind != TargetKind::Tool || forwards(&params, target.name, arguments), "other arguments");
        let Target { kind, backend, name } = target;
        let decision = self.decide(&principal.roles, target, Access::Call { arguments, answers });
        let decided_by = decision.decided_by();
        match decision {
            Decision::Allowed { role, .. } => Ok(Permit {
                caller: principal.caller(Some(role)),
                kind,
                backend: backend.to_owned(),
                name: name.to_owned(),
                params,
                decided_by,
            }),
            Decision::Denied(reason) => {
                let roles = principal.roles.join(",");
                let reason = denial_message(principal, &roles, target, &reason);
                let caller = principal.caller((!roles.is_empty()).then_some(&roles));
                Err(Box::new(Denial { caller, reason, decided_by }))
            }
        }
    }
}

impl RoleRules {
    fn new(name: &str, role: &Role) -> Result<Self, Vec<PatternError>> {
        let mut errors = Vec::new();
        let mut compile = |key: &str, patterns: &[String]| {
            Patterns::new(&format!("roles.{name}.{key}"), patterns).unwrap_or_else(|found| {
                errors.extend(found);
                Patterns::default()
            })
        };
        let listed = |patterns: &Option<Vec<String>>| patterns.clone().unwrap_or_default();
        let has_other = role.resources.is_some() || role.prompts.is_some();
        let mut rules = Self {
            allow: compile("allow", &role.allow),
            deny: compile("deny", &role.deny),
            other: has_other
                .then(|| (compile("resources", &listed(&role.resources)), compile("prompts", &listed(&role.prompts)))),
            deny_resources: compile("deny_resources", &role.deny_resources),
            deny_prompts: compile("deny_prompts", &role.deny_prompts),
            conditions: Vec::new(),
        };
        for (idx, condition) in role.when.iter().enumerate() {
            match Condition::new(&format!("roles.{name}.when[{idx}]"), condition) {
                Ok(condition) => rules.conditions.push(condition),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(rules) } else { Err(errors) }
    }

    /// The first rule that allows the target.
    fn allow(&self, target: Target<'_>) -> Option<Rule> {
        let (list, idx) = match (target.kind, &self.other) {
            (TargetKind::Tool, _) => ("allow", self.allow.match_name(target, Effect::Allow)),
            (TargetKind::Resource, Some((resources, _))) => ("resources", resources.match_uri(target, Effect::Allow)),
            (TargetKind::Prompt, Some((_, prompts))) => ("prompts", prompts.match_name(target, Effect::Allow)),
            (TargetKind::Resource | TargetKind::Prompt, None) => ("allow", self.allow.name_all_of(target.backend)),
        };
        idx.map(|idx| Rule { list, idx })
    }

    /// The first rule that denies the target.
    fn deny(&self, target: Target<'_>) -> Option<Rule> {
        // A role that denies all tools of a backend denies its resources and prompts too.
        let all = || self.deny.name_all_of(target.backend);
        let all = (target.kind != TargetKind::Tool).then(all).flatten();
        let (list, idx) = match (target.kind, all) {
            (TargetKind::Tool, _) => ("deny", self.deny.match_name(target, Effect::Deny)),
            (TargetKind::Resource | TargetKind::Prompt, Some(idx)) => ("deny", Some(idx)),
            (TargetKind::Resource, None) => ("deny_resources", self.deny_resources.match_uri(target, Effect::Deny)),
            (TargetKind::Prompt, None) => ("deny_prompts", self.deny_prompts.match_name(target, Effect::Deny)),
        };
        idx.map(|idx| Rule { list, idx })
    }

    /// The patterns that decide which targets of `kind` are listed.
    fn list_patterns(&self, kind: TargetKind) -> [Option<&Patterns>; 4] {
        let other = self.other.as_ref();
        let allow = other.is_none().then_some(&self.allow);
        match kind {
            TargetKind::Tool => [Some(&self.allow), Some(&self.deny), None, None],
            TargetKind::Resource => {
                [allow, Some(&self.deny), other.map(|(resources, _)| resources), Some(&self.deny_resources)]
            }
            TargetKind::Prompt => {
                [allow, Some(&self.deny), other.map(|(_, prompts)| prompts), Some(&self.deny_prompts)]
            }
        }
    }

    /// Returns true if the rules that allow match anything of `backend`.
    fn reach(&self, backend: &str) -> bool {
        let other = self.other.as_ref();
        self.allow.reach(backend)
            || other.is_some_and(|(resources, prompts)| resources.reach(backend) || prompts.reach(backend))
    }

    /// The rule that allows everything of `backend` without conditions.
    fn allow_all_of(&self, backend: &str) -> Option<Rule> {
        let names_all = |patterns: &Patterns| patterns.name_all_of(backend).is_some();
        let is_limited =
            self.other.as_ref().is_some_and(|(resources, prompts)| !names_all(resources) || !names_all(prompts))
                || self.conditions.iter().any(|condition| condition.applies_to_any_of(backend));
        let idx = self.allow.name_all_of(backend).filter(|_| !is_limited)?;
        Some(Rule { list: "allow", idx })
    }

    fn deny_any_of(&self, backend: &str) -> bool {
        [&self.deny, &self.deny_resources, &self.deny_prompts].into_iter().any(|patterns| patterns.reach(backend))
    }

    /// The first condition on calls of `target` that does not hold for `tested`, and its position.
    fn unmet(&self, target: Target<'_>, tested: Tested<'_>) -> Option<(usize, &Condition)> {
        let mut conditions = self.conditions.iter().enumerate();
        conditions.find(|(_, condition)| condition.applies_to(target) && !condition.is_met(tested))
    }

    /// The first condition on any calls of `backend` that `answers` do not meet, and its position.
    fn unmet_at(&self, backend: &str, answers: &str) -> Option<(usize, &Condition)> {
        let mut conditions = self.conditions.iter().enumerate();
        let answers = Tested { is_call: false, arguments: None, answers: Some(answers) };
        conditions.find(|(_, condition)| condition.applies_to_any_of(backend) && !condition.is_met(answers))
    }
}

impl Permit {
    /// The caller, with the role that allowed the call.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The rule that allowed the call, as it is recorded.
    #[must_use]
    pub fn decided_by(&self) -> &str {
        &self.decided_by
    }

    /// The target's kind.
    #[must_use]
    pub fn kind(&self) -> TargetKind {
        self.kind
    }

    /// The backend's alias.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The backend's own name of the tool or prompt, or URI of the resource.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters that are forwarded.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }
}

/// The message of a denial, for the caller and for the record.
fn denial_message(principal: &Principal, roles: &str, target: Target<'_>, reason: &DenialReason<'_>) -> String {
    let Target { kind, backend, name } = target;
    let (verb, noun) = match kind {
        TargetKind::Tool => ("call", ""),
        TargetKind::Resource => ("read", "resource "),
        TargetKind::Prompt => ("get", "prompt "),
    };
    match reason {
        DenialReason::NoRule if roles.is_empty() => {
            let no_role = principal.no_role.as_deref().unwrap_or("the caller has no role");
            format!("{no_role}, and only a role may {verb} {noun}{backend}/{name}")
        }
        DenialReason::NoRule => format!("role {roles} may not {verb} {noun}{backend}/{name}"),
        DenialReason::Hidden { .. } => format!("no role may {verb} {noun}{backend}/{name}: it is hidden"),
        DenialReason::Rule { role, .. } => {
            format!("role {roles} may not {verb} {noun}{backend}/{name}: {role} denies it")
        }
        DenialReason::Condition { role, condition, .. } => {
            format!("role {role} may {verb} {noun}{backend}/{name} only if its condition on {condition} holds")
        }
    }
}

/// Returns true if `params` call the tool `name` with exactly `arguments`.
fn forwards(params: &Params, name: &str, arguments: Option<&str>) -> bool {
    params.string("name").as_deref() == Some(name) && params.get("arguments").map(SharedText::as_str) == arguments
}

#[cfg(test)]
mod tests;
