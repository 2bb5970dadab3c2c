//! Paths of keys, and the suggestions for unknown keys and words.

use super::settings_table::SETTINGS;

/// The path of `key` below `at`; a key that TOML does not allow bare is quoted and escaped.
pub(super) fn join(at: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

/// The key or section most similar to an unknown one: a sibling with a similar name, the same name elsewhere, or a
/// similar path.
pub(super) fn nearest_key(path: &str, shape: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let above = |path: &str| path.rsplit_once('.').map_or(String::new(), |(above, _)| above.to_owned());
    let sections =
        SETTINGS.iter().map(|spec| above(spec.path).trim_end_matches(".*").trim_end_matches("[]").to_owned());
    let keys = SETTINGS.iter().map(|spec| spec.path.to_owned());
    let score = |candidate: &str| {
        let path = strsim::normalized_damerau_levenshtein(candidate, shape);
        let name = strsim::normalized_damerau_levenshtein(&last(candidate), &last(shape));
        if above(candidate) == above(shape) { path.max(name) } else { path.max(name * 0.9) }
    };
    let best = sections.chain(keys).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default();
    // Below a name that the operator chose, the suggestion has that name.
    if above(&best) == above(shape) { join(&above(path), &last(&best)) } else { best.replace('*', "NAME") }
}

/// The candidate most similar to `name`.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    let score = |candidate: &String| strsim::normalized_damerau_levenshtein(candidate, name);
    candidates.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default()
}
