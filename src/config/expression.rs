//! Regular expressions in the configuration: anchored, and bounded in size.

use regex::{Regex, RegexBuilder};

/// Largest compiled expression, in bytes. *Measured* (release build, 2 cores, November 2026): the worst expression of
/// this size takes 0.1 s for a text of 4096 bytes, because time grows with the product of both; an ordinary one takes
/// microseconds. `\w+` fits; `\w{1,8}` does not, because of its Unicode tables.
const COMPILED_BYTES_MAX: usize = 128 * 1024;

/// Deepest nesting. *Chosen*: a deeper expression is unreadable.
const NESTING_MAX: u32 = 32;

/// Compiles `text` into an expression that matches only whole texts.
///
/// # Errors
/// Why it is not an expression, or is too large, and what to do.
pub fn anchored(text: &str) -> Result<Regex, String> {
    let compile = |text: &str| {
        RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).nest_limit(NESTING_MAX).build().map_err(|error| {
            match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!(
                        "{text:?} compiles to more than {limit} bytes: use fewer repetitions, or [a-z] instead of \\w"
                    )
                }
                error => {
                    let error = error.to_string();
                    let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    format!("{text:?} is not a regular expression ({reason}): use one like \"[a-z]+\"")
                }
            }
        })
    };
    // By itself first: otherwise `a)|(b` would break out of the group that anchors it.
    compile(text)?;
    compile(&format!(r"\A(?:{text})\z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_text() {
        for (expression, text, matches) in [
            ("a|ab", "ab", true),
            ("a|ab", "abc", false),
            ("b", "ab", false),
            ("(?m)^a$", "a\nb", false),
            ("a", "a\n", false),
            ("(?i)READ", "read", true),
            ("", "", true),
            ("", "a", false),
            (r"\w+", "caf\u{e9}", true),
        ] {
            assert_eq!(anchored(expression).unwrap().is_match(text), matches, "{expression} on {text:?}");
        }
    }

    #[test]
    fn invalid_and_oversized_expressions_are_refused_with_a_remedy() {
        for expression in ["a)|(b", "(", "[a", "(?x)a # b", r"\w{1000}", &"(".repeat(40), r"(a)\1"] {
            assert!(anchored(expression).unwrap_err().contains(": use "), "{expression}");
        }
    }
}
