//! Untrusted text as people see it.
//!
//! Clients and backends choose much of the text in a record: the name of a tool, its arguments, an error message. Some
//! characters have no glyph of their own and change how the text around them looks: U+202E reverses it, U+200B splits a
//! word invisibly, ESC drives the terminal. Every place that shows such text to a person, in the terminal, in the
//! console or in the log, passes it through [`escape_hidden`] or [`excerpt`]. What programs read (JSON, CSV) is
//! not escaped.
//!
//! A text is never hidden as a whole: an excerpt has at least the first character, and a text of white space alone is
//! escaped.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Mark at the end of an excerpt that is shorter than its text.
const ELLIPSIS: &str = "...";

/// Characters that are escaped, besides the control characters (Cc).
///
/// *Spec*: Unicode 17.0, general categories Cf, Zl and Zp, and the property `Default_Ignorable_Code_Point` (variation
/// selectors, fillers, tags and the unassigned code points reserved for more of them). U+2800 has neither and is blank.
const HIDDEN: [(char, char); 26] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// The text with each hidden character written as an escape: `\n`, `\r`, `\t` or `\u{202e}`.
#[must_use]
pub fn escape_hidden(text: &str) -> Cow<'_, str> {
    let blank = is_blank(text);
    if !blank && !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut out, c, blank);
    }
    Cow::Owned(out)
}

/// The same for text of several lines: its line feeds stay.
#[must_use]
pub fn escape_hidden_lines(text: &str) -> String {
    text.split('\n').map(escape_hidden).collect::<Vec<_>>().join("\n")
}

/// The beginning of the text, escaped, in at most `chars_max` characters. A text that does not fit ends in `...`; no
/// escape is cut.
#[must_use]
pub fn excerpt(text: &str, chars_max: usize) -> String {
    let blank = is_blank(text);
    let (mut out, mut chars, mut cut) = (String::new(), 0, 0);
    for c in text.chars() {
        chars += push(&mut out, c, blank);
        if cut == 0 || chars + ELLIPSIS.len() <= chars_max {
            cut = out.len();
        }
        if chars > chars_max {
            out.truncate(cut);
            out.push_str(ELLIPSIS);
            return out;
        }
    }
    out
}

/// True if the text is white space alone.
fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Returns true if the character has no glyph of its own.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Writes one character, escaped if it is hidden or `always`; returns how many characters that took.
fn push(out: &mut String, c: char, always: bool) -> usize {
    if !always && !is_hidden(c) {
        out.push(c);
        return 1;
    }
    let before = out.len();
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Writing to a string cannot fail.
        other => write!(out, "{}", other.escape_unicode()).unwrap_or_default(),
    }
    // An escape is ASCII.
    out.len() - before
}

#[cfg(test)]
mod tests {
    use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

    use super::*;

    /// A word in which `c` would be hidden.
    fn shown(c: char) -> String {
        escape_hidden(&format!("a{c}b")).into_owned()
    }

    #[test]
    fn every_control_format_and_separator_character_is_escaped() {
        use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
        let hidden = |c: &char| matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator);
        let all: Vec<char> = ('\0'..=char::MAX).filter(hidden).collect();
        assert!(all.len() > 200, "the crate knows {} such characters", all.len());
        for c in all {
            assert!(!shown(c).contains(c), "U+{:04X} is raw", u32::from(c));
        }
        assert_eq!(shown('\u{202e}'), "a\\u{202e}b");
        assert_eq!(
            ["\n", "\r", "\t", "\u{1b}[1m", "\u{9b}"].map(escape_hidden),
            ["\\n", "\\r", "\\t", "\\u{1b}[1m", "\\u{9b}"]
        );
    }

    #[test]
    fn characters_without_a_glyph_are_escaped_whatever_their_category() {
        let bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        let zero_width = "\u{ad}\u{180e}\u{200b}\u{200c}\u{200d}\u{2060}\u{2061}\u{2062}\u{2063}\u{2064}\u{feff}";
        let fillers = "\u{34f}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{2800}\u{3164}\u{ffa0}\u{1d173}";
        let selectors = "\u{180b}\u{180f}\u{fe00}\u{fe0f}\u{e0001}\u{e0020}\u{e007f}\u{e0100}\u{e01ef}\u{e0fff}";
        for c in [bidi, zero_width, fillers, selectors].concat().chars() {
            assert!(!shown(c).contains(c), "U+{:04X} is raw", u32::from(c));
        }
    }

    #[test]
    fn visible_text_of_any_script_is_unchanged() {
        let text = "na\u{ef}ve e\u{301} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} \u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{65e5}\u{672c}\u{3000}\u{8a9e} \u{1f600} \\u{202e}";
        assert!(matches!(escape_hidden(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn an_excerpt_is_cut_between_characters_and_says_so() {
        assert_eq!(excerpt(&"x".repeat(40), 40), "x".repeat(40));
        for c in ['x', '\u{e9}', '\u{65e5}', '\u{1f600}'] {
            let cut = excerpt(&c.to_string().repeat(41), 40);
            assert_eq!(cut, format!("{}...", c.to_string().repeat(37)));
        }
        assert_eq!(excerpt("ab\u{202e}cdef", 12), "ab...", "an escape is not cut");
        assert_eq!(excerpt("ab\u{202e}cdef", 13), "ab\\u{202e}...");
        assert_eq!(excerpt("ab\u{202e}cdef", 14), "ab\\u{202e}cdef");
    }

    #[test]
    fn no_text_is_hidden_as_a_whole() {
        for text in [" ", "\u{a0}\u{3000}", "\u{2800}", "\u{200b}", "\u{3164}\u{3164}", "\u{e0041}"] {
            assert!(escape_hidden(text).starts_with("\\u{"), "{text:?}");
        }
        assert_eq!(escape_hidden(""), "");
        for max in 0..12 {
            assert_eq!(excerpt("\u{1f600}\u{1f600}", max).chars().next(), Some('\u{1f600}'), "{max}");
        }
        assert_eq!(excerpt("\u{10ffff}\u{e0fff}!", 3), "\u{10ffff}...");
    }

    #[test]
    fn line_feeds_separate_lines_where_lines_are_shown() {
        assert_eq!(escape_hidden_lines("a\n\u{202e}b\r\n"), "a\n\\u{202e}b\\r\n");
    }
}
