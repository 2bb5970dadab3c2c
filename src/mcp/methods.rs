//! The table of the methods that a client may send: the purpose of a request, the eras in which it is served, and its
//! recording. The configuration and the routing are made from this table.
//!
//! A method that is not in the table is unknown to the gateway: it is refused unless `server.pass_methods` names it.

use crate::mcp::protocol::{Era, TOOLS_CALL};

/// One method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSpec {
    /// The name as it is sent; methods are case-sensitive.
    pub name: &'static str,
    /// The purpose of a request.
    pub kind: MethodKind,
    /// The eras in which the method is served; in another era it is unknown.
    pub eras: &'static [Era],
    /// The rule for recording its requests.
    pub recording: Recording,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// A check whether the gateway responds; the gateway answers it itself.
    Ping,
    /// A new session.
    Initialize,
    /// The server's versions and capabilities.
    Discover,
    /// A list, without the items that the caller may not use.
    List(List),
    /// The use of one tool, resource or prompt.
    Targeted(TargetMember),
    /// The level of log messages, at every backend of the session.
    SetLevel,
    /// A stream of notifications.
    Listen,
}

/// The member of `params` that names the target of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetMember {
    /// `name`, of a tool.
    ToolName,
    /// `name`, of a prompt.
    PromptName,
    /// `uri`, of a resource.
    ResourceUri,
    /// `ref`, which names a prompt or a resource.
    Reference,
}

/// The rule for recording the requests of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Always.
    Always,
    /// If `audit.methods` names the method.
    Optional,
    /// Never. The gateway has no record for such a request, so a configuration that names the method is refused.
    Never,
}

/// A kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Tools.
    Tools,
    /// Resources.
    Resources,
    /// Resource templates.
    Templates,
    /// Prompts.
    Prompts,
}

const BOTH: &[Era] = &[Era::Legacy, Era::Modern];
const LEGACY: &[Era] = &[Era::Legacy];
const MODERN: &[Era] = &[Era::Modern];

/// All methods. *Spec*: MCP 2025-03-26 to 2026-07-28.
pub const METHODS: [MethodSpec; 15] = [
    method("initialize", MethodKind::Initialize, LEGACY, Recording::Always),
    method(TOOLS_CALL, MethodKind::Targeted(TargetMember::ToolName), BOTH, Recording::Always),
    method("resources/read", MethodKind::Targeted(TargetMember::ResourceUri), BOTH, Recording::Optional),
    method("prompts/get", MethodKind::Targeted(TargetMember::PromptName), BOTH, Recording::Optional),
    method("completion/complete", MethodKind::Targeted(TargetMember::Reference), BOTH, Recording::Optional),
    method("resources/subscribe", MethodKind::Targeted(TargetMember::ResourceUri), LEGACY, Recording::Optional),
    method("resources/unsubscribe", MethodKind::Targeted(TargetMember::ResourceUri), LEGACY, Recording::Optional),
    method(List::Tools.method(), MethodKind::List(List::Tools), BOTH, Recording::Optional),
    method(List::Resources.method(), MethodKind::List(List::Resources), BOTH, Recording::Optional),
    method(List::Templates.method(), MethodKind::List(List::Templates), BOTH, Recording::Optional),
    method(List::Prompts.method(), MethodKind::List(List::Prompts), BOTH, Recording::Optional),
    method("logging/setLevel", MethodKind::SetLevel, LEGACY, Recording::Optional),
    method("subscriptions/listen", MethodKind::Listen, MODERN, Recording::Never),
    method("server/discover", MethodKind::Discover, MODERN, Recording::Never),
    method("ping", MethodKind::Ping, LEGACY, Recording::Never),
];

/// The default of `audit.methods`. *Chosen*: each of these methods uses one resource or prompt, just as
/// `tools/call` uses one tool.
pub const RECORDED_BY_DEFAULT: &[&str] = &["resources/read", "prompts/get", "completion/complete"];

const fn method(name: &'static str, kind: MethodKind, eras: &'static [Era], recording: Recording) -> MethodSpec {
    MethodSpec { name, kind, eras, recording }
}

/// The method of this name, in any era.
#[must_use]
pub fn find(name: &str) -> Option<&'static MethodSpec> {
    METHODS.iter().find(|method| method.name == name)
}

/// The names of the methods that can be recorded.
pub fn recordable() -> impl Iterator<Item = &'static str> {
    METHODS.iter().filter(|method| method.recording != Recording::Never).map(|method| method.name)
}

impl MethodSpec {
    /// Returns `true` if the method is served in `era`.
    #[must_use]
    pub fn is_served_in(&self, era: Era) -> bool {
        self.eras.contains(&era)
    }

    /// The member of `params` whose value a modern client repeats in the header `Mcp-Name`. *Spec*: MCP 2026-07-28,
    /// Streamable HTTP.
    #[must_use]
    pub fn header_member(&self) -> Option<&'static str> {
        match self.name {
            TOOLS_CALL | "prompts/get" => Some("name"),
            "resources/read" => Some("uri"),
            _ => None,
        }
    }
}

impl List {
    /// The method that requests the list.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Prompts => "prompts/list",
        }
    }

    /// The member of the result that contains the items.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that has its name or URI.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_can_be_recorded() {
        for (idx, method) in METHODS.iter().enumerate() {
            assert_eq!(METHODS.iter().position(|other| other.name == method.name), Some(idx), "{}", method.name);
        }
        assert!(RECORDED_BY_DEFAULT.iter().all(|name| find(name).is_some_and(|m| m.recording == Recording::Optional)));
    }
}
