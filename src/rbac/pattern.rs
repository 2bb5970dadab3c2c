//! Patterns over `backend/name`: which tools, resources and prompts a rule names.
//!
//! For tools and prompts `*` stands for any run of characters but `/`, or, where it denies, any at all. For resources the second half is
//! a pattern over the whole URI, in which `*` stands for any run of characters, `/` included.
//!
//! A URI is compared as it is written, never normalised: what a backend makes of `..` or `%2e` only the backend knows.
//! So a URI that could mean another one than it says ([`is_ambiguous`]) matches no rule that allows but `*`, and every
//! rule that denies anything of its backend.

use crate::rbac::{Kind, Target};

/// A list of patterns over tools; an empty one matches nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

/// What a pattern is asked for: what is not clear is not allowed, and is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// A rule of a role that is none.
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
    /// Compiles the patterns that stand under `key` of the configuration.
    ///
    /// # Errors
    /// Every pattern that is none.
    pub fn new(key: &str, patterns: &[String]) -> Result<Self, Vec<PatternError>> {
        let (mut compiled, mut faults) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match Pattern::new(pattern) {
                Ok(pattern) => compiled.push(pattern),
                Err(fault) => {
                    let message = format!("pattern {pattern:?} {fault}: write backend/name, as in time/get_* or */*");
                    faults.push(PatternError { key: key.to_owned(), message });
                }
            }
        }
        if faults.is_empty() { Ok(Self(compiled)) } else { Err(faults) }
    }

    /// Whether one of them matches the tool `target`; a resource or prompt they never match.
    #[must_use]
    pub fn matches(&self, target: Target<'_>) -> bool {
        target.kind == Kind::Tool && self.match_name(target, Effect::Allow)
    }

    /// Whether one of them matches the name of `target`, a tool or prompt.
    pub(super) fn match_name(&self, target: Target<'_>, effect: Effect) -> bool {
        // A name may hold `/`. What `*` allows ends there, what it denies does not.
        let stop = (effect == Effect::Allow).then_some(b'/');
        self.0.iter().any(|pattern| {
            pattern.names_backend(target.backend) && glob(pattern.name.as_bytes(), target.tool.as_bytes(), stop)
        })
    }

    /// Whether one of them matches the URI of `target`.
    pub(super) fn match_uri(&self, target: Target<'_>, effect: Effect) -> bool {
        let is_ambiguous = is_ambiguous(target.tool);
        let matches = |pattern: &Pattern| match effect {
            Effect::Allow if is_ambiguous => pattern.names_all(),
            Effect::Allow => glob(pattern.name.as_bytes(), target.tool.as_bytes(), None),
            Effect::Deny if is_ambiguous => true,
            // Schemes and hosts are the same in any case (RFC 3986 6.2.2.1); denying too much is safe.
            Effect::Deny => {
                let (pattern, uri) = (pattern.name.to_ascii_lowercase(), target.tool.to_ascii_lowercase());
                glob(pattern.as_bytes(), uri.as_bytes(), None)
            }
        };
        self.0.iter().any(|pattern| pattern.names_backend(target.backend) && matches(pattern))
    }

    /// Whether one of them matches anything of `backend`.
    pub(super) fn reach(&self, backend: &str) -> bool {
        self.0.iter().any(|pattern| pattern.names_backend(backend))
    }

    /// Whether one of them names everything of `backend`, as `backend/*` and `*/*` do.
    pub(super) fn name_all_of(&self, backend: &str) -> bool {
        self.0.iter().any(|pattern| pattern.names_all() && pattern.names_backend(backend))
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, &'static str> {
        let (backend, name) = pattern.split_once('/').ok_or("has no /")?;
        if backend.is_empty() {
            return Err("names no backend");
        }
        if name.is_empty() {
            return Err("names nothing of the backend");
        }
        if pattern.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("holds a space or control character");
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

/// Whether `text` matches `pattern`, where `*` stands for any run of bytes but `stop`. Constant in memory, at worst the
/// product of both lengths in time.
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

/// Whether a URI could mean another one than it says: a backend that normalises it, or decodes it once more, would read
/// something else than was compared.
///
/// So does a URI with a segment `.` or `..` or an empty one, a backslash, a control character or a space at its ends, a
/// percent sign that stands for itself, for a slash, a backslash, a control character, or for a character that needs
/// none (RFC 3986 2.3), and one that begins no valid escape.
pub(super) fn is_ambiguous(uri: &str) -> bool {
    if uri.chars().any(|c| c.is_control() || c == '\\') || uri.trim() != uri {
        return true;
    }
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    // The first segment is the authority, which may be empty, as in file:///; the last one is empty after a slash.
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

/// What each percent sign of `text` stands for; `None` for one that two hexadecimal digits do not follow.
pub(super) fn escapes(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.split('%').skip(1).map(|escape| {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(digits, 16).ok()
    })
}
