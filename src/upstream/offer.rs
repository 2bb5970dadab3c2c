//! A backend's answer to the handshake, and the capabilities that it declares.

use std::sync::Arc;

use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;
use crate::mcp::protocol::META_SERVER;

/// Longest instructions that are kept of a backend, in bytes. *Chosen*: ten times of what servers have; a model reads
/// them with every conversation.
const INSTRUCTIONS_BYTES_MAX: usize = 64 * 1024;

/// The capability of log messages.
pub const LOGGING: &str = "logging";

/// The capabilities that a backend declared. *Spec*, "Operation": only what was declared may be used; a server that is
/// asked for more may keep silent, or end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer(Option<Arc<[String]>>);

impl Offer {
    /// The capabilities in the result of `initialize` or `server/discover`. Without them, all are taken for declared.
    pub(super) fn of(result: &Object<'_>) -> Self {
        let declared = result.get("capabilities").filter(|value| json::is_object(value)).and_then(Object::parse);
        Self(declared.map(|declared| declared.members().map(|member| member.key.to_string()).collect()))
    }

    /// Returns true if the capability `name` was declared.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|declared| declared.iter().any(|known| known == name))
    }

    /// Returns true if `list` may be asked for. A server that declares nothing at all is asked for its tools: some have
    /// tools and declare `{}`.
    #[must_use]
    pub fn has_list(&self, list: List) -> bool {
        let capability = match list {
            List::Tools if self.0.as_ref().is_some_and(|declared| declared.is_empty()) => return true,
            List::Tools => "tools",
            List::Resources | List::Templates => "resources",
            List::Prompts => "prompts",
        };
        self.has(capability)
    }
}

/// The answer of a backend to a handshake, as far as the gateway passes it on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The declared capabilities.
    pub offer: Offer,
    /// Its capabilities, JSON text of an object.
    pub capabilities: String,
    /// Its instructions for the model, JSON text of a string.
    pub instructions: Option<String>,
    /// Its name and version, JSON text of an object.
    pub server_info: Option<String>,
}

impl Greeting {
    /// Reads the result of `initialize`, or of `server/discover`. Instructions that are longer than
    /// [`INSTRUCTIONS_BYTES_MAX`] are left out.
    pub(super) fn of(result: &Object<'_>) -> Self {
        let text = |value: &str| Some(value.to_owned());
        let meta = result.object("_meta").unwrap_or_default();
        let server_info = result.get("serverInfo").or_else(|| meta.get(META_SERVER));
        let instructions = result.get("instructions").filter(|value| json::string(value).is_some());
        Self {
            offer: Offer::of(result),
            capabilities: result.get("capabilities").filter(|value| json::is_object(value)).unwrap_or("{}").to_owned(),
            instructions: instructions.filter(|value| value.len() <= INSTRUCTIONS_BYTES_MAX).and_then(text),
            server_info: server_info.filter(|value| json::is_object(value)).and_then(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_declared_is_offered() {
        for (result, tools, resources, logging) in [
            (r#"{"capabilities":{"tools":{}}}"#, true, false, false),
            (r#"{"capabilities":{"resources":{},"logging":{}}}"#, false, true, true),
            (r#"{"capabilities":{}}"#, true, false, false),
            ("{}", true, true, true),
            (r#"{"capabilities":null}"#, true, true, true),
        ] {
            let offer = Offer::of(&Object::parse(result).unwrap());
            let found = (offer.has_list(List::Tools), offer.has_list(List::Templates), offer.has(LOGGING));
            assert_eq!(found, (tools, resources, logging), "{result}");
        }
    }

    #[test]
    fn i6_long_instructions_are_left_out() {
        for (length, is_kept) in [(INSTRUCTIONS_BYTES_MAX - 2, true), (INSTRUCTIONS_BYTES_MAX - 1, false)] {
            let result = format!(r#"{{"capabilities":{{"tools":{{}}}},"instructions":"{}"}}"#, "x".repeat(length));
            let greeting = Greeting::of(&Object::parse(&result).unwrap());
            assert_eq!((greeting.instructions.is_some(), greeting.offer.has_list(List::Tools)), (is_kept, true));
        }
    }
}
