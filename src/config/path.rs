//! Paths of keys: how they are written, and which is most like one that is unknown.

use super::knobs::KNOBS;

/// The path of `key` below `at`; a key that is not bare is quoted and escaped.
pub(super) fn join(at: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

/// The key or section most like an unknown one: a sibling with a like name, the same name elsewhere, or a like path.
pub(super) fn nearest_key(path: &str, shape: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let above = |path: &str| path.rsplit_once('.').map_or(String::new(), |(above, _)| above.to_owned());
    let sections = KNOBS.iter().map(|knob| above(knob.path).trim_end_matches(".*").trim_end_matches("[]").to_owned());
    let keys = KNOBS.iter().map(|knob| knob.path.to_owned());
    let score = |candidate: &str| {
        let like = strsim::normalized_damerau_levenshtein(candidate, shape);
        let name = strsim::normalized_damerau_levenshtein(&last(candidate), &last(shape));
        if above(candidate) == above(shape) { like.max(name) } else { like.max(name * 0.9) }
    };
    let best = sections.chain(keys).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default();
    // Under a chosen name the suggestion bears that name.
    if above(&best) == above(shape) { join(&above(path), &last(&best)) } else { best.replace('*', "NAME") }
}

/// The candidate most like `name`.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    let score = |candidate: &String| strsim::normalized_damerau_levenshtein(candidate, name);
    candidates.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default()
}
