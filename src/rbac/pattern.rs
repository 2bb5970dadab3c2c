//! Patterns `backend/name` over tools, resources and prompts.
//!
//! In patterns over tools and prompts `*` matches any characters except `/`; in a rule that denies, any characters. In
//! a pattern over resources the second half is matched against the whole URI, and `*` matches any characters.
//!
//! A URI is compared as it is written and never normalised, because each backend has its own reading of `..` or `%2e`.
//! Therefore a URI that may identify another resource than it seems to ([`is_ambiguous`]) matches only `*` among the
//! rules that allow, and every rule that denies anything of its backend.

use crate::rbac::target::{Target, TargetKind};

/// A list of patterns. An empty list matches nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

/// The effect of a rule, which decides how its patterns match: a doubtful match denies and never allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// An invalid pattern or condition of the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct PatternError {
    pub(super) key: String,
    pub(super) message: String,
}

/// One pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    backend: String,
    name: String,
}

impl Patterns {
    /// Compiles the patterns at `key` of the configuration.
    ///
    /// # Errors
    /// Every invalid pattern.
    pub fn new(key: &str, patterns: &[String]) -> Result<Self, Vec<PatternError>> {
        let (mut compiled, mut errors) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match Pattern::new(pattern) {
                Ok(pattern) => compiled.push(pattern),
                Err(reason) => {
                    let message =
                        format!("pattern {pattern:?} {reason}: write backend/name, for example time/get_* or */*");
                    errors.push(PatternError { key: key.to_owned(), message });
                }
            }
        }
        if errors.is_empty() { Ok(Self(compiled)) } else { Err(errors) }
    }

    /// Returns true if there is no pattern.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a pattern matches the tool `target`. Resources and prompts never match.
    #[must_use]
    pub fn matches(&self, target: Target<'_>) -> bool {
        target.kind == TargetKind::Tool && self.match_name(target, Effect::Allow).is_some()
    }

    /// Returns true if a pattern matches the tool or prompt `name` of `backend`; `*` matches any characters. Nothing is
    /// allowed or denied by it.
    #[must_use]
    pub fn name(&self, backend: &str, name: &str) -> bool {
        self.match_name(Target { kind: TargetKind::Tool, backend, name }, Effect::Deny).is_some()
    }

    /// The index of the first pattern that matches the name of `target`, a tool or prompt.
    pub(super) fn match_name(&self, target: Target<'_>, effect: Effect) -> Option<usize> {
        // A name may contain `/`, at which `*` stops in a rule that allows, but not in one that denies.
        let stop = (effect == Effect::Allow).then_some(b'/');
        self.0.iter().position(|pattern| {
            pattern.names_backend(target.backend) && glob(pattern.name.as_bytes(), target.name.as_bytes(), stop)
        })
    }

    /// The index of the first pattern that matches the URI of `target`.
    pub(super) fn match_uri(&self, target: Target<'_>, effect: Effect) -> Option<usize> {
        let is_ambiguous = is_ambiguous(target.name);
        let matches = |pattern: &Pattern| match effect {
            Effect::Allow if is_ambiguous => pattern.names_all(),
            Effect::Allow => glob(pattern.name.as_bytes(), target.name.as_bytes(), None),
            Effect::Deny if is_ambiguous => true,
            // The case of schemes and hosts does not matter (RFC 3986 6.2.2.1), and denying too much is safe.
            Effect::Deny => {
                let (pattern, uri) = (pattern.name.to_ascii_lowercase(), target.name.to_ascii_lowercase());
                glob(pattern.as_bytes(), uri.as_bytes(), None)
            }
        };
        self.0.iter().position(|pattern| pattern.names_backend(target.backend) && matches(pattern))
    }

    /// Returns true if a pattern matches anything of `backend`.
    pub(super) fn reach(&self, backend: &str) -> bool {
        self.0.iter().any(|pattern| pattern.names_backend(backend))
    }

    /// The index of the first pattern that matches everything of `backend`, for example `backend/*` or `*/*`.
    pub(super) fn name_all_of(&self, backend: &str) -> Option<usize> {
        self.0.iter().position(|pattern| pattern.names_all() && pattern.names_backend(backend))
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, &'static str> {
        let (backend, name) = pattern.split_once('/').ok_or("has no /")?;
        if backend.is_empty() {
            return Err("has an empty backend");
        }
        if name.is_empty() {
            return Err("has an empty name");
        }
        if pattern.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("contains a space or control character");
        }
        Ok(Self { backend: backend.to_owned(), name: name.to_owned() })
    }

    fn names_backend(&self, backend: &str) -> bool {
        glob(self.backend.as_bytes(), backend.as_bytes(), Some(b'/'))
    }

    fn names_all(&self) -> bool {
        self.name.bytes().all(|byte| byte == b'*')
    }
}

/// Returns true if `text` matches `pattern`, in which `*` matches any bytes except `stop`. Takes constant memory, and
/// at worst time proportional to the product of both lengths.
fn glob(pattern: &[u8], text: &[u8], stop: Option<u8>) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(&want) if want == byte => {
                p += 1;
                t += 1;
            }
            _ => match last_star {
                Some((star, from)) if text.get(from).copied() != stop => {
                    last_star = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                _ => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

/// Returns true if a URI may identify another resource than it seems to, because a backend normalises it or decodes it
/// once more.
///
/// That is so if the URI has an empty segment or a segment `.` or `..`; a backslash, a control character, or a space at
/// either end; an escape of a percent sign, a slash, a backslash, a control character or a character that needs no
/// escape (RFC 3986 2.3); or a percent sign that does not begin a valid escape.
pub(super) fn is_ambiguous(uri: &str) -> bool {
    if uri.chars().any(|c| c.is_control() || c == '\\') || uri.trim() != uri {
        return true;
    }
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    // The first segment is the authority, which may be empty (file:///); the last one is empty after a final slash.
    let inner = path.split('/').skip(1);
    let is_dots = |segment: &str| {
        let name = segment.split(['?', '#', ';']).next().unwrap_or_default();
        name == "." || name == ".."
    };
    if uri.split(['/', ':']).any(is_dots) || inner.clone().take(inner.count().saturating_sub(1)).any(str::is_empty) {
        return true;
    }
    escapes(uri).any(|escape| {
        escape.is_none_or(|byte| byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\%".contains(&byte))
    })
}

/// The byte of each percent escape of `text`; `None` for a percent sign without two hexadecimal digits after it.
pub(super) fn escapes(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.split('%').skip(1).map(|escape| {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(digits, 16).ok()
    })
}
