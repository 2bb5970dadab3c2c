//! Paths of keys, and the suggestions for unknown keys and words.

use super::settings_table::SETTINGS;

/// The least similarity of a known word that is suggested. *Chosen*: a slip or two in a short word; less is another
/// word.
const SIMILARITY_MIN: f64 = 0.5;

/// The same for a key: words such as `server` are part of many. *Chosen*: `mcpServers` is not a slip of `server`.
const KEY_SIMILARITY_MIN: f64 = 0.6;

/// The path of `key` below `at`; a key that TOML does not allow bare is quoted and escaped.
pub(super) fn join(at: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

/// Advice on an unknown key: what to write instead, the key or section most similar to it, or the keys that there are.
/// `shape` is its path as [`SETTINGS`] writes it.
pub(super) fn advice(path: &str, shape: &str) -> String {
    match shape {
        "backends.*.args" => return "put arguments in command: command = [\"PROGRAM\", \"ARGUMENT\"]".to_owned(),
        "mcpServers" => return "write each server as [backends.NAME], with command or url".to_owned(),
        _ => {}
    }
    if let Some(nearest) = nearest_key(path, shape) {
        return format!("did you mean {nearest}?");
    }
    let section = shape.rsplit_once('.').map_or(String::new(), |(above, _)| format!("{above}."));
    let mut keys: Vec<&str> = Vec::new();
    for below in SETTINGS.iter().filter_map(|spec| spec.path.strip_prefix(&section)) {
        let key = below.split('.').next().unwrap_or(below).trim_end_matches("[]");
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    format!("use one of {}", keys.join(", "))
}

/// The key or section most similar to an unknown one, if one is similar: a sibling with a similar name, the same name
/// elsewhere, or, for a key outside a section, a similar path.
fn nearest_key(path: &str, shape: &str) -> Option<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let above = |path: &str| path.rsplit_once('.').map_or(String::new(), |(above, _)| above.to_owned());
    let sections =
        SETTINGS.iter().map(|spec| above(spec.path).trim_end_matches(".*").trim_end_matches("[]").to_owned());
    let keys = SETTINGS.iter().map(|spec| spec.path.to_owned());
    let score = |candidate: &str| {
        let name = strsim::normalized_damerau_levenshtein(&last(candidate), &last(shape));
        let path = strsim::normalized_damerau_levenshtein(candidate, shape);
        match above(candidate) == above(shape) {
            true => name,
            false if shape.contains('.') => name * 0.9,
            false => path.max(name * 0.9),
        }
    };
    let best = sections.chain(keys).max_by(|a, b| score(a).total_cmp(&score(b)))?;
    if score(&best) < KEY_SIMILARITY_MIN {
        return None;
    }
    // Below a name that the operator chose, the suggestion has that name.
    Some(if above(&best) == above(shape) { join(&above(path), &last(&best)) } else { best.replace('*', "NAME") })
}

/// The candidate most similar to `name`, if one is similar.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let score = |candidate: &String| strsim::normalized_damerau_levenshtein(candidate, name);
    let best = candidates.max_by(|a, b| score(a).total_cmp(&score(b)));
    best.filter(|best| score(best) >= SIMILARITY_MIN)
}
