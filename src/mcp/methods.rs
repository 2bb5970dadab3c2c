//! The tables of the methods and notifications that a client may send: the purpose of a request, the eras in which it
//! is served, its recording, and the members of its parameters. The configuration, the routing and the parameters that
//! are forwarded ([`crate::mcp::params`]) are made from these tables.
//!
//! A method that is not in the table is unknown to the gateway: it is refused unless `server.pass_methods` names it.

use crate::mcp::protocol::{
    CANCELLED, Era, INITIALIZED, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, META_PROGRESS_TOKEN,
    META_SUBSCRIPTION, META_TRACEPARENT, META_VERSION, PROGRESS, TOOLS_CALL,
};

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
    /// The members of `params`, besides `_meta`, which every method has.
    pub members: &'static [MemberSpec],
}

/// One member of the parameters of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// The name as it is sent; names are case-sensitive.
    pub name: &'static str,
    /// The eras in which the member exists; in another era it is unknown.
    pub eras: &'static [Era],
    /// The type of its value.
    pub value: JsonType,
    /// The handling of the member.
    pub role: MemberRole,
    /// The members of its value; empty if they are the backend's own names.
    pub inner: &'static [&'static str],
}

/// The handling of a member of `params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Forwarded and recorded in `request_args`: the name of the target, its arguments.
    Argument,
    /// Forwarded and recorded in `request_extra`.
    Extra,
    /// The state of an earlier answer, which the gateway has bound to its caller.
    State,
    /// The client's capabilities, forwarded without those of tasks.
    Capabilities,
    /// Removed: it asks for a task, in which the gateway does not take part.
    Task,
}

/// A type of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// A string.
    Text,
    /// A string or a number.
    Token,
    /// A number.
    Number,
    /// An object.
    Object,
}

/// A notification of clients that the gateway handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationSpec {
    /// The name as it is sent.
    pub name: &'static str,
    /// The members of `params`, besides `_meta`.
    pub members: &'static [MemberSpec],
}

/// A key of `_meta` that the protocol defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaKey {
    /// The key.
    pub name: &'static str,
    /// The type of its value.
    pub value: JsonType,
    /// The handling of the key.
    pub role: MetaRole,
}

/// The handling of a key of `_meta` that the protocol defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaRole {
    /// Forwarded as it is.
    Forwarded,
    /// Written by the gateway for the conversation with the backend, from the client's value or from its own.
    Written,
    /// The same, but only modern requests have it.
    WrittenModern,
    /// Removed: it concerns a task.
    Task,
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

const NAME: MemberSpec = member("name", JsonType::Text);
const URI: MemberSpec = member("uri", JsonType::Text);
const ARGUMENTS: MemberSpec = member("arguments", JsonType::Object);
/// The answers of a person to an `input_required` result, and the state of that result.
const INPUT_RESPONSES: MemberSpec =
    MemberSpec { eras: MODERN, role: MemberRole::Extra, ..member("inputResponses", JsonType::Object) };
const STATE: MemberSpec =
    MemberSpec { eras: MODERN, role: MemberRole::State, ..member("requestState", JsonType::Text) };
const TASK: MemberSpec = MemberSpec { role: MemberRole::Task, ..member("task", JsonType::Object) };

const INITIALIZE: &[MemberSpec] = &[
    member("protocolVersion", JsonType::Text),
    MemberSpec { role: MemberRole::Capabilities, ..member("capabilities", JsonType::Object) },
    member("clientInfo", JsonType::Object),
];
const CALL: &[MemberSpec] = &[NAME, ARGUMENTS, INPUT_RESPONSES, STATE, TASK];
const READ: &[MemberSpec] = &[URI, INPUT_RESPONSES, STATE];
const PROMPT: &[MemberSpec] = &[NAME, ARGUMENTS, INPUT_RESPONSES, STATE];
const COMPLETE: &[MemberSpec] = &[
    MemberSpec { inner: &["type", "name", "title", "uri"], ..member("ref", JsonType::Object) },
    MemberSpec { inner: &["name", "value"], ..member("argument", JsonType::Object) },
    MemberSpec { inner: &["arguments"], ..member("context", JsonType::Object) },
];
const LIST: &[MemberSpec] = &[member("cursor", JsonType::Text)];
const LISTEN: &[MemberSpec] =
    &[MemberSpec { inner: SUBSCRIPTION_FILTERS, ..member("notifications", JsonType::Object) }];

/// The filters of a subscription.
pub const SUBSCRIPTION_FILTERS: &[&str] =
    &["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"];

/// All methods. *Spec*: MCP 2025-03-26 to 2026-07-28.
pub const METHODS: [MethodSpec; 15] = [
    method("initialize", MethodKind::Initialize, LEGACY, Recording::Always, INITIALIZE),
    method(TOOLS_CALL, MethodKind::Targeted(TargetMember::ToolName), BOTH, Recording::Always, CALL),
    method("resources/read", MethodKind::Targeted(TargetMember::ResourceUri), BOTH, Recording::Optional, READ),
    method("prompts/get", MethodKind::Targeted(TargetMember::PromptName), BOTH, Recording::Optional, PROMPT),
    method("completion/complete", MethodKind::Targeted(TargetMember::Reference), BOTH, Recording::Optional, COMPLETE),
    method("resources/subscribe", MethodKind::Targeted(TargetMember::ResourceUri), LEGACY, Recording::Optional, &[URI]),
    method(
        "resources/unsubscribe",
        MethodKind::Targeted(TargetMember::ResourceUri),
        LEGACY,
        Recording::Optional,
        &[URI],
    ),
    method(List::Tools.method(), MethodKind::List(List::Tools), BOTH, Recording::Optional, LIST),
    method(List::Resources.method(), MethodKind::List(List::Resources), BOTH, Recording::Optional, LIST),
    method(List::Templates.method(), MethodKind::List(List::Templates), BOTH, Recording::Optional, LIST),
    method(List::Prompts.method(), MethodKind::List(List::Prompts), BOTH, Recording::Optional, LIST),
    method("logging/setLevel", MethodKind::SetLevel, LEGACY, Recording::Optional, &[member("level", JsonType::Text)]),
    method("subscriptions/listen", MethodKind::Listen, MODERN, Recording::Never, LISTEN),
    method("server/discover", MethodKind::Discover, MODERN, Recording::Never, &[]),
    method("ping", MethodKind::Ping, LEGACY, Recording::Never, &[]),
];

/// The notifications of clients. Others are unknown to the gateway. *Spec*: MCP 2025-03-26 to 2026-07-28.
pub const NOTIFICATIONS: [NotificationSpec; 4] = [
    NotificationSpec { name: INITIALIZED, members: &[] },
    NotificationSpec {
        name: CANCELLED,
        members: &[member("requestId", JsonType::Token), member("reason", JsonType::Text)],
    },
    NotificationSpec {
        name: PROGRESS,
        members: &[
            member("progressToken", JsonType::Token),
            member("progress", JsonType::Number),
            member("total", JsonType::Number),
            member("message", JsonType::Text),
        ],
    },
    NotificationSpec { name: "notifications/roots/list_changed", members: &[] },
];

/// The keys of `_meta` that the protocol defines. *Spec*: MCP 2025-03-26 to 2026-07-28; the keys of W3C Trace Context
/// and Baggage by its SEP-414.
pub const META_KEYS: [MetaKey; 10] = [
    meta(META_PROGRESS_TOKEN, JsonType::Token, MetaRole::Written),
    meta(META_VERSION, JsonType::Text, MetaRole::WrittenModern),
    meta(META_CAPABILITIES, JsonType::Object, MetaRole::WrittenModern),
    meta(META_CLIENT, JsonType::Object, MetaRole::WrittenModern),
    meta(META_LOG_LEVEL, JsonType::Text, MetaRole::WrittenModern),
    meta(META_TRACEPARENT, JsonType::Text, MetaRole::Written),
    meta("tracestate", JsonType::Text, MetaRole::Forwarded),
    meta("baggage", JsonType::Text, MetaRole::Forwarded),
    meta(META_SUBSCRIPTION, JsonType::Token, MetaRole::Forwarded),
    meta("io.modelcontextprotocol/related-task", JsonType::Object, MetaRole::Task),
];

/// The default of `audit.methods`. *Chosen*: each of these methods uses one resource or prompt, just as
/// `tools/call` uses one tool.
pub const RECORDED_BY_DEFAULT: &[&str] = &["resources/read", "prompts/get", "completion/complete"];

const fn method(
    name: &'static str,
    kind: MethodKind,
    eras: &'static [Era],
    recording: Recording,
    members: &'static [MemberSpec],
) -> MethodSpec {
    MethodSpec { name, kind, eras, recording, members }
}

const fn member(name: &'static str, value: JsonType) -> MemberSpec {
    MemberSpec { name, eras: BOTH, value, role: MemberRole::Argument, inner: &[] }
}

const fn meta(name: &'static str, value: JsonType, role: MetaRole) -> MetaKey {
    MetaKey { name, value, role }
}

/// The method of this name, in any era.
#[must_use]
pub fn find(name: &str) -> Option<&'static MethodSpec> {
    METHODS.iter().find(|method| method.name == name)
}

/// The notification of this name.
#[must_use]
pub fn find_notification(name: &str) -> Option<&'static NotificationSpec> {
    NOTIFICATIONS.iter().find(|notification| notification.name == name)
}

/// Returns `true` if the method or notification belongs to tasks, in which the gateway does not take part.
#[must_use]
pub fn is_of_tasks(method: &str) -> bool {
    method.strip_prefix("notifications/").unwrap_or(method).starts_with("tasks/")
}

/// The names of the methods that can be recorded.
pub fn recordable() -> impl Iterator<Item = &'static str> {
    METHODS.iter().filter(|method| method.recording != Recording::Never).map(|method| method.name)
}

impl JsonType {
    /// Returns `true` if the value `json`, a valid JSON text, is of this type.
    #[must_use]
    pub fn is_of(self, json: &str) -> bool {
        let is_number = || json.starts_with('-') || json.starts_with(|first: char| first.is_ascii_digit());
        match self {
            Self::Text => json.starts_with('"'),
            Self::Token => json.starts_with('"') || is_number(),
            Self::Number => is_number(),
            Self::Object => json.starts_with('{'),
        }
    }

    /// The type with its article, for messages.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Token => "a string or a number",
            Self::Number => "a number",
            Self::Object => "an object",
        }
    }
}

impl MethodSpec {
    /// Returns `true` if unknown members of `params` are dropped instead of refused: the gateway answers the request
    /// itself, or only with what it has filtered.
    #[must_use]
    pub fn drops_unknown_members(&self) -> bool {
        match self.kind {
            MethodKind::Ping | MethodKind::Initialize | MethodKind::Discover | MethodKind::List(_) => true,
            MethodKind::Targeted(_) | MethodKind::SetLevel | MethodKind::Listen => false,
        }
    }

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

    /// The notification that the list has changed.
    #[must_use]
    pub const fn changed_method(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Resources | Self::Templates => "notifications/resources/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
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
