//! Phrases that are not English, or that say less than they could.

use crate::check;
use crate::rust::{self, Source};

/// Phrases, and what to write instead. Each is found as whole words in comments and string literals, in lower case.
const BANNED: [(&str, &str); 12] = [
    ("is no", "is not a"),
    ("are no", "are not"),
    ("was no", "was not a"),
    ("whoever", "name the actor: caller, client, operator"),
    ("somebody", "name the actor"),
    ("nobody", "name the actor"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("gives up", "cancels, releases, stops"),
    ("mended", "fixed"),
    ("bears", "has, contains"),
    ("by and by", "over time"),
];

/// Beginnings after which `is no`, `are no` and `was no` are right: "there is no file", "is no longer".
const EXISTS: [&str; 2] = ["there", "longer"];

/// How a doc comment does not begin: a clause where a noun belongs.
const CLAUSES: [&str; 7] = ["What", "How", "Whether", "Where", "Why", "Which", "Who"];

/// An example that is introduced by "as": write "for example".
const EXAMPLE: &str = ", as ";

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '`')).filter(|word| !word.is_empty()).collect()
}

/// The banned phrase that `text` has, and its remedy.
fn banned_phrase(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.to_lowercase();
    let words = words(&text);
    BANNED.into_iter().find(|(phrase, _)| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        words.windows(phrase.len()).enumerate().any(|(at, window)| {
            let before = at.checked_sub(1).and_then(|at| words.get(at));
            let after = words.get(at + phrase.len());
            let is_existence =
                phrase.last() == Some(&"no") && [before, after].iter().flatten().any(|word| EXISTS.contains(word));
            window == phrase && !is_existence
        })
    })
}

/// Whether an example follows on "as": a literal or a figure.
fn has_example(text: &str) -> bool {
    text.match_indices(EXAMPLE)
        .any(|(at, as_)| text[at + as_.len()..].starts_with(['`', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']))
}

fn phrases_are_english(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let code = source.code();
        for text in code.comments.iter().chain(&code.strings) {
            if let Some((phrase, instead)) = banned_phrase(text) {
                wrong.push(format!("{}: \"{phrase}\" (write: {instead}): {}", source.path, text.trim()));
            }
            if has_example(text) {
                wrong.push(format!("{}: \"as\" (write: for example): {}", source.path, text.trim()));
            }
        }
        let mut before = "";
        for line in source.without_tests().lines().map(str::trim) {
            let begins = |marks: &str| line.strip_prefix(marks).filter(|_| !before.starts_with(marks.trim_end()));
            if let Some(first) = begins("/// ").or_else(|| begins("//! "))
                && CLAUSES.contains(&first.split([' ', ',']).next().unwrap())
            {
                wrong.push(format!("{}: a doc comment begins with a clause: {line}", source.path));
            }
            before = line;
        }
    }
    wrong
}

#[test]
fn phrases_are_plain_english() {
    check("banned phrases", &phrases_are_english(&rust::sources("src")));
    let fake = [
        Source::new("src/a.rs", "// This is no token.\nconst A: &str = \"the values are no numbers\";"),
        Source::new("src/b.rs", "// There is no token, and it is no longer asked for."),
        Source::new("src/c.rs", "/// What a token is.\n/// How it is read.\nfn a() {} // an age, as 90s; known as `x`"),
        Source::new("src/d.rs", "/// A token.\n///\n/// Whether it is read is told by nobody\nfn a() {}"),
        Source::new("src/e.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n/// What this is no test of.\n}"),
    ];
    assert_eq!(phrases_are_english(&fake).len(), 5, "{:#?}", phrases_are_english(&fake));
}
