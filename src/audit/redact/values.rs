//! The values that were redacted in one call, and their removal from its other texts.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem;

use super::reader::{TokenKind, spliced, tokens};
use super::view::View;
use super::walk::unquoted;

/// The text that replaces a redacted value.
pub(super) const REPLACEMENT: &str = "[redacted]";

/// The JSON text that replaces a redacted value.
pub const REDACTED: &str = r#""[redacted]""#;

/// The shortest value that is looked for in other texts, in characters. *Spec*: docs/trail.md, "Redaction". A shorter
/// one occurs by chance.
const VALUE_CHARS_MIN: usize = 4;

/// The longest value that the automaton of [`Finder`] has, in bytes. *Chosen*: passwords and tokens are shorter;
/// longer values, for example documents, are looked for one by one.
const SHORT_BYTES_MAX: usize = 256;

/// Most bytes of all short values. *Chosen*: the automaton takes about 30 times as much memory while a text is read.
const SHORT_BYTES_SUM_MAX: usize = 64 * 1024;

/// Most long values. *Chosen*: a text is read once for each of them.
const LONG_COUNT_MAX: usize = 32;

/// The values that were redacted in one call. They are kept while the call is open and are never written anywhere:
/// `Debug` shows their number only.
#[derive(Clone, Default)]
pub struct RedactedValues {
    short: BTreeSet<String>,
    short_bytes: usize,
    long: BTreeSet<String>,
    numbers: Vec<f64>,
    /// There were more values than are kept.
    is_overfull: bool,
    /// The text that replaces a value, if it is not the usual one.
    replacement: Option<String>,
}

/// Finds the values of a call in texts.
struct Finder<'v> {
    values: &'v RedactedValues,
    /// `None`: it could not be built.
    short: Option<AhoCorasick>,
    long: Vec<memmem::Finder<'v>>,
}

impl RedactedValues {
    /// The values `texts`, each of which is replaced by `replacement`.
    #[must_use]
    pub fn replaced_by<'t>(replacement: String, texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut values = Self { replacement: Some(replacement), ..Self::default() };
        texts.into_iter().for_each(|text| values.insert(text));
        values
    }

    fn replacement(&self) -> &str {
        self.replacement.as_deref().unwrap_or(REPLACEMENT)
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty() && !self.is_overfull
    }

    /// Adds the strings and numbers in `json`, a value that was redacted. The names of members are not secret, and
    /// `true`, `false` and `null` occur everywhere.
    pub(super) fn add(&mut self, json: &str) {
        for (kind, range) in tokens(json) {
            let token = json.get(range).unwrap_or_default();
            match kind {
                TokenKind::Name => {}
                TokenKind::Text => {
                    let text = unquoted(token);
                    let trimmed = text.trim();
                    if trimmed.len() < text.len() {
                        self.insert(trimmed);
                    }
                    self.insert(&text);
                }
                TokenKind::Number => self.add_number(token),
            }
        }
    }

    /// Adds the values of `other`.
    pub fn extend(&mut self, other: &Self) {
        other.short.iter().chain(&other.long).for_each(|text| self.insert(text));
        self.numbers.extend(&other.numbers);
        self.is_overfull |= other.is_overfull;
    }

    fn add_number(&mut self, token: &str) {
        self.insert(token);
        // A program may write 1e6 as 1000000.
        let Ok(number) = token.parse::<f64>() else { return };
        let plain = number.to_string();
        if plain.len() <= SHORT_BYTES_MAX {
            self.insert(&plain);
        }
        if plain.chars().count() >= VALUE_CHARS_MIN && self.numbers.len() < SHORT_BYTES_MAX {
            self.numbers.push(number);
        }
    }

    fn insert(&mut self, text: &str) {
        let is_short = text.chars().nth(VALUE_CHARS_MIN - 1).is_none();
        if is_short || text == REPLACEMENT || self.short.contains(text) || self.long.contains(text) {
            return;
        }
        if text.len() > SHORT_BYTES_MAX {
            let is_kept = self.long.len() < LONG_COUNT_MAX;
            self.is_overfull |= !is_kept || !self.long.insert(text.to_owned());
        } else if self.short_bytes + text.len() > SHORT_BYTES_SUM_MAX {
            self.is_overfull = true;
        } else {
            self.short_bytes += text.len();
            self.short.insert(text.to_owned());
        }
    }

    /// Returns `text` with each occurrence of a value replaced, however it is escaped. If there are more values than
    /// can be looked for, the whole text is replaced.
    #[must_use]
    pub fn replaced_in_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.is_empty() {
            return Cow::Borrowed(text);
        }
        match Finder::new(self).occurrences(View::of(text)) {
            Some(spans) if spans.is_empty() => Cow::Borrowed(text),
            Some(spans) => Cow::Owned(replaced(text, spans, self.replacement())),
            None => Cow::Borrowed(REPLACEMENT),
        }
    }

    /// Returns `json`, JSON text, with each occurrence of a value in its strings, names and numbers replaced, however
    /// it is escaped. If there are more values than can be looked for, the whole text is replaced.
    #[must_use]
    pub fn replaced_in_json<'t>(&self, json: &'t str) -> Cow<'t, str> {
        if self.is_empty() {
            return Cow::Borrowed(json);
        }
        let finder = Finder::new(self);
        let mut edits = Vec::new();
        for (kind, range) in tokens(json) {
            let token = json.get(range.clone()).unwrap_or_default();
            let new = match kind {
                TokenKind::Number => self.is_number(token, &finder).then(|| REDACTED.to_owned()),
                TokenKind::Name | TokenKind::Text => finder.replaced_in_literal(token),
            };
            edits.extend(new.map(|new| (range, new)));
        }
        if edits.is_empty() { Cow::Borrowed(json) } else { Cow::Owned(spliced(json, &edits)) }
    }

    fn is_number(&self, token: &str, finder: &Finder<'_>) -> bool {
        let number = token.parse::<f64>().ok();
        number.is_some_and(|number| self.numbers.contains(&number))
            || finder.occurrences(View::of(token)).is_none_or(|spans| !spans.is_empty())
    }
}

impl<'v> Finder<'v> {
    fn new(values: &'v RedactedValues) -> Self {
        let short = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&values.short);
        let long = values.long.iter().map(memmem::Finder::new).collect();
        Self { values, short: short.ok(), long }
    }

    /// The string `quoted` without the values; `None`: it has none.
    fn replaced_in_literal(&self, quoted: &str) -> Option<String> {
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        let view = View::of(inner);
        // A value begins and ends at whole characters of the string, never inside of an escape.
        let view = view.without_escapes().unwrap_or(view);
        match self.occurrences(view) {
            Some(spans) if spans.is_empty() => None,
            Some(spans) => Some(format!("\"{}\"", replaced(inner, spans, self.values.replacement()))),
            None => Some(REDACTED.to_owned()),
        }
    }

    /// The places of the values in the text of `view`. `None`: the text cannot be searched.
    fn occurrences(&self, view: View<'_>) -> Option<Vec<Range<usize>>> {
        let short = self.short.as_ref().filter(|_| !self.values.is_overfull)?;
        let mut spans = Vec::new();
        let search = |view: &View<'_>, spans: &mut Vec<Range<usize>>| {
            let text = view.text();
            spans.extend(short.find_iter(text).map(|found| view.origin(found.range())));
            for finder in &self.long {
                let length = finder.needle().len();
                spans.extend(finder.find_iter(text).map(|at| view.origin(at..at + length)));
            }
        };
        view.each(|view| search(view, &mut spans))?;
        Some(spans)
    }
}

/// `text` with `replacement` in place of each of the spans, which may overlap.
fn replaced(text: &str, mut spans: Vec<Range<usize>>, replacement: &str) -> String {
    spans.sort_unstable_by_key(|span| span.start);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for span in spans {
        match edits.last_mut() {
            Some((last, _)) if span.start < last.end => last.end = last.end.max(span.end),
            _ => edits.push((span, replacement.to_owned())),
        }
    }
    spliced(text, &edits)
}

impl fmt::Debug for RedactedValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: they are secrets.
        write!(f, "RedactedValues({})", self.short.len() + self.long.len())
    }
}
