//! The rule that decided about a request, found by its place in the policy.

use serde_json::Value;

use crate::rbac::DEFAULT_RULE;

/// The text of the rule at the place `decided_by` in `policy`: its JSON, or what it means. `None`: the policy has no
/// such rule.
pub(super) fn rule_text(policy: &Value, decided_by: &str) -> Option<String> {
    if decided_by == DEFAULT_RULE {
        return Some("no rule of the caller's roles allows it".to_owned());
    }
    find(policy, decided_by).map(ToString::to_string)
}

/// The value at `path`, such as `roles.reader.allow[2]`. Names may contain dots and brackets, so that each name that
/// fits is tried.
fn find<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Array(items) => {
            let (idx, rest) = path.strip_prefix('[')?.split_once(']')?;
            find(items.get(idx.parse::<usize>().ok()?)?, rest)
        }
        Value::Object(members) => {
            let path = path.strip_prefix('.').unwrap_or(path);
            members.iter().find_map(|(name, member)| {
                let rest = path.strip_prefix(name.as_str())?;
                if rest.is_empty() || rest.starts_with(['.', '[']) { find(member, rest) } else { None }
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_found_whatever_the_role_is_called() {
        let policy = json!({ "roles": {
            "a": { "allow": ["b/1", "b/2"] },
            "a.allow[0]": { "deny": ["b/3"] },
            "a.b c": { "when": [{ "tool": "b/x" }] },
        }, "backends": { "b": { "pin": "refuse", "hide": ["rm*"] } } });
        let text = |path| rule_text(&policy, path);
        assert_eq!(text("roles.a.allow[1]").unwrap(), "\"b/2\"");
        assert_eq!(text("roles.a.allow[0].deny[0]").unwrap(), "\"b/3\"");
        assert_eq!(text("roles.a.b c.when[0]").unwrap(), r#"{"tool":"b/x"}"#);
        assert_eq!(text("backends.b.pin").unwrap(), "\"refuse\"");
        assert_eq!(text("backends.b.hide[0]").unwrap(), "\"rm*\"");
        assert_eq!(text("default").unwrap(), "no rule of the caller's roles allows it");
        for missing in ["roles.a.allow[2]", "roles.x.allow[0]", "roles.a.allow[x]", "roles.a.allow[0]x", "other"] {
            assert_eq!(text(missing), None, "{missing}");
        }
    }
}
