//! Tasks, in which the gateway does not take part: removed from what clients and backends announce.

use std::borrow::Cow;

use crate::mcp::fold::folded;
use crate::mcp::json::Object;
use crate::mcp::protocol::TASKS_EXTENSION;

/// The member with the capability of tasks.
const TASKS: &str = "tasks";
const EXTENSIONS: &str = "extensions";

/// The capabilities `json`, an object, without that of tasks and without their extension; and whether either was there.
/// Another spelling of their names is removed too.
pub(crate) fn without_tasks(json: &str) -> (Cow<'_, str>, bool) {
    let Some(object) = Object::parse(json) else { return (Cow::Borrowed(json), false) };
    let is_extension = |key: &str| folded(key) == TASKS_EXTENSION;
    let extensions = object.object(EXTENSIONS);
    let extensions = extensions.filter(|extensions| extensions.members().any(|entry| is_extension(&entry.key)));
    if extensions.is_none() && !object.members().any(|entry| folded(&entry.key) == TASKS) {
        return (Cow::Borrowed(json), false);
    }
    let kept = object.without(|key| folded(key) == TASKS).into_owned();
    let kept = match extensions {
        Some(extensions) => {
            let value = extensions.without(is_extension).into_owned();
            Object::parse(&kept).map_or_else(|| kept.clone(), |kept| kept.replaced(EXTENSIONS, &value))
        }
        None => kept,
    };
    (Cow::Owned(kept), true)
}

/// The result of a handshake, with capabilities [`without_tasks`].
pub(crate) fn announced_without_tasks(result: Object<'static>) -> Object<'static> {
    let capabilities = result.get("capabilities").map(without_tasks);
    match capabilities {
        Some((kept, true)) => Object::owned(&result.replaced("capabilities", &kept)),
        _ => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_removed_from_what_is_announced() {
        for (json, want) in [
            (r#"{"tools":{ },"tasks":{"list":{}}}"#, r#"{"tools":{ }}"#),
            (r#"{"Tasks":{},"tools":{}}"#, r#"{"tools":{}}"#),
            (
                r#"{"extensions":{"io.modelcontextprotocol/tasks":{},"com.example/x":{"a": 1}},"roots":{}}"#,
                r#"{"extensions":{"com.example/x":{"a": 1}},"roots":{}}"#,
            ),
            (r#"{"tasks":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#, r#"{"extensions":{}}"#),
        ] {
            assert_eq!(without_tasks(json), (Cow::Borrowed(want), true), "{json}");
        }
        for json in ["{}", r#"{ "tools":{}, "extensions":{"a":{}} }"#, "7", r#"{"extensions":7}"#] {
            assert_eq!(without_tasks(json), (Cow::Borrowed(json), false), "{json}");
        }
    }

    #[test]
    fn a_result_that_announces_no_tasks_keeps_its_bytes() {
        let result = r#"{ "capabilities":{ "tools":{} } , "x":1.0 }"#;
        assert_eq!(announced_without_tasks(Object::owned(result)).text(), result);
        let with = r#"{"capabilities":{"tasks":{},"tools":{}}, "x":1.0}"#;
        let want = r#"{"capabilities":{"tools":{}}, "x":1.0}"#;
        assert_eq!(announced_without_tasks(Object::owned(with)).text(), want);
    }
}
