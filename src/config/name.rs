//! Names that the operator chooses: aliases of backends, and names of roles.

/// Longest alias of a backend, in bytes. *Derived*: many clients accept tool names of up to 64; this leaves 30 for the
/// tool after `__`.
const ALIAS_BYTES_MAX: usize = 32;

/// Aliases that no backend may have. A call of `gateway__closed` would be shown as `gateway/closed`, and could be taken
/// for a record of the gateway's own. *Derived*: the first parts of those records' methods, and the program's name.
const RESERVED_ALIASES: [&str; 4] = ["gateway", "session", "console", "gatepost"];

/// Longest name of a role, in bytes. *Chosen*: it is part of every record.
const ROLE_BYTES_MAX: usize = 128;

/// Checks the alias of a backend.
///
/// # Errors
/// The rule that it breaks, and what to do.
pub fn check_alias(alias: &str) -> Result<(), String> {
    let rule = "use lower-case letters, digits and '-', starting with a letter or digit";
    if alias.len() > ALIAS_BYTES_MAX {
        return Err(format!("alias is {} bytes long, limit {ALIAS_BYTES_MAX}: {rule}", alias.len()));
    }
    // Tools are named alias__tool: without '_' in the alias, the first '__' always ends it.
    let is_start = alias.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !is_start || !alias.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(format!("alias is invalid: {rule}"));
    }
    match alias {
        "all" => Err("alias is reserved for all backends: choose another".to_owned()),
        alias if RESERVED_ALIASES.contains(&alias) => {
            Err("alias is reserved for the gateway's own records: choose another".to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks the name of a role.
pub(super) fn check_role(name: &str) -> Result<(), String> {
    let is_valid = !name.is_empty() && name.len() <= ROLE_BYTES_MAX && !name.contains(char::is_control);
    if is_valid {
        Ok(())
    } else {
        Err(format!("role name is invalid: use 1 to {ROLE_BYTES_MAX} bytes without control characters"))
    }
}
