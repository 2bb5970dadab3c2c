//! Words of a fixed set: choices, and the methods of MCP.

use super::text::plain;
use crate::config::path::nearest;
use crate::mcp::fold::folded;
use crate::mcp::methods;

/// One of `words`.
pub(super) fn choice(words: &[&str], text: &str) -> Result<(), String> {
    if words.contains(&text) {
        return Ok(());
    }
    let error = format!("{text:?} is unknown");
    let nearest = nearest(text, words.iter().map(|word| (*word).to_owned()));
    let suggestion = nearest.map(|nearest| format!("did you mean {nearest}? ")).unwrap_or_default();
    Err(format!("{error}: {suggestion}use one of {}", words.join(", ")))
}

/// A method that can be recorded. An unknown one would be configured and never recorded.
pub(super) fn recorded_method(text: &str) -> Result<(), String> {
    plain(text)?;
    if methods::recordable().any(|name| name == text) {
        return Ok(());
    }
    if methods::find(text).is_some() {
        return Err(format!("{text:?} cannot be recorded: remove it"));
    }
    let nearest = nearest(text, methods::METHODS.iter().map(|method| method.name.to_owned()));
    let advice = nearest.map_or("remove it".to_owned(), |nearest| format!("did you mean {nearest}?"));
    Err(format!("{text:?} is not a method of MCP: {advice}"))
}

/// A method that the gateway does not know, or the beginning of one and `*`.
pub(super) fn passed_method(text: &str) -> Result<(), String> {
    plain(text)?;
    if methods::find(text).is_some() || methods::find_notification(text).is_some() {
        return Err(format!("{text:?} is a method that the gateway handles itself: remove it"));
    }
    if methods::is_of_tasks(text) {
        return Err(format!("{text:?} is a method of tasks, which the gateway does not relay: remove it"));
    }
    Ok(())
}

/// A method, `/`, and a member of its parameters that it does not have.
pub(super) fn passed_param(text: &str) -> Result<(), String> {
    plain(text)?;
    let parts = text.rsplit_once('/').filter(|(_, member)| !member.is_empty());
    let spec = parts.and_then(|(method, member)| Some((methods::find(method)?, member)));
    let Some((spec, member)) = spec else {
        return Err(format!("{text:?} is not a method of MCP, a slash and a member: for example tools/call/hint"));
    };
    if spec.drops_unknown_members() {
        return Err(format!("the gateway answers {} itself, and forwards no other members: remove it", spec.name));
    }
    let known = spec.members.iter().map(|member| member.name).chain(["_meta"]);
    match known.into_iter().find(|known| folded(known) == folded(member)) {
        Some(known) => Err(format!("{member:?} is, or looks like, the member {known:?} of {}: remove it", spec.name)),
        None => Ok(()),
    }
}
