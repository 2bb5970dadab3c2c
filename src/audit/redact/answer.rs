//! Redaction of a person's answer by the schema that asked for it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::path::Path;

/// Deepest nesting of a schema that is read. *Chosen*: twice the depth at which `serde_json` refuses text.
const DEPTH_MAX: usize = 256;

/// The members of an answer that a schema marks as secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SecretMembers {
    /// Those at these paths, which begin at every value.
    Named(Vec<Path>),
    /// Everything.
    All,
}

impl SecretMembers {
    /// Reads `schema`, JSON text. A member is secret if the schema of its value, or a part of that, has
    /// `format: password` or `writeOnly: true`. Text that is not JSON marks nothing.
    pub(super) fn of_schema(schema: &str) -> Self {
        let Ok(schema) = serde_json::from_str::<Value>(schema) else { return Self::Named(Vec::new()) };
        let mut names = BTreeSet::new();
        let is_all = is_secret(&schema, &schema, &mut names, DEPTH_MAX);
        if is_all { Self::All } else { Self::Named(names.iter().map(|name| Path::member(name)).collect()) }
    }
}

/// True if a value of `schema`, a part of `root`, is secret as a whole. Adds the names of secret members to `names`.
fn is_secret(schema: &Value, root: &Value, names: &mut BTreeSet<String>, depth: usize) -> bool {
    // A schema that refers to itself adds nothing new after its first round.
    let Some(depth) = depth.checked_sub(1) else { return false };
    let Value::Object(members) = schema else { return false };
    let mut is_whole = false;
    for (keyword, value) in members {
        match (keyword.as_str(), value) {
            ("format", Value::String(format)) => is_whole |= format.eq_ignore_ascii_case("password"),
            ("writeOnly", Value::Bool(is_write_only)) => is_whole |= is_write_only,
            ("$ref", Value::String(target)) => {
                let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
                is_whole |= target.is_some_and(|target| is_secret(target, root, names, depth / 2));
            }
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    if is_secret(property, root, names, depth) {
                        names.insert(name.clone());
                    }
                }
            }
            // Their names are not known: any member may be secret.
            ("patternProperties", Value::Object(patterns)) => {
                for property in patterns.values() {
                    is_whole |= is_secret(property, root, names, depth);
                }
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(parts)) => {
                for part in parts {
                    is_whole |= is_secret(part, root, names, depth);
                }
            }
            (
                "items" | "additionalProperties" | "unevaluatedProperties" | "contains" | "if" | "then" | "else",
                part,
            ) => {
                is_whole |= is_secret(part, root, names, depth);
            }
            _ => {}
        }
    }
    is_whole
}
