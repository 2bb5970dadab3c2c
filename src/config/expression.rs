//! Regular expressions of the configuration: anchored, and bounded in size.

use regex::{Regex, RegexBuilder};

/// Largest compiled expression, in bytes. *Measured* (release build, 2 cores, November 2026): the worst expression of this
/// size takes 0.1 s for a text of 4096 bytes, since time grows with the product of both; one of everyday's takes
/// microseconds. `\w+` fits, `\w{1,8}` does not, for its Unicode tables.
const COMPILED_BYTES_MAX: usize = 128 * 1024;

/// Deepest nesting. *Chosen*: nobody reads a deeper one.
const NESTING_MAX: u32 = 32;

/// The expression `text`, which has to match the whole of what it is matched against.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn anchored(text: &str) -> Result<Regex, String> {
    let compile = |text: &str| {
        RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).nest_limit(NESTING_MAX).build().map_err(|error| {
            match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("{text:?} needs more than {limit} bytes: write fewer repetitions, or [a-z] in place of \\w")
                }
                error => {
                    let error = error.to_string();
                    let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    format!("{text:?} is no regular expression ({reason}): write one as in \"[a-z]+\"")
                }
            }
        })
    };
    // By itself first: `a)|(b` would otherwise break out of the group that anchors it.
    compile(text)?;
    compile(&format!(r"\A(?:{text})\z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_text() {
        for (expression, text, held) in [
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
            assert_eq!(anchored(expression).unwrap().is_match(text), held, "{expression} on {text:?}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused_with_a_remedy() {
        for expression in ["a)|(b", "(", "[a", "(?x)a # b", r"\w{1000}", &"(".repeat(40), r"(a)\1"] {
            assert!(anchored(expression).unwrap_err().contains(": write "), "{expression}");
        }
    }
}
