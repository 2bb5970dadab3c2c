//! Every numbered invariant is cited on the line that enforces it and named by a test.

use std::collections::BTreeSet;
use std::path::Path;

use crate::clean;
use crate::rust::{self, Source};

/// `library` is the text of `src/lib.rs`, which numbers the invariants; `tests` are the integration tests.
fn invariants_are_enforced_and_tested(library: &str, sources: &[Source], tests: &[Source]) -> Vec<String> {
    let ids: BTreeSet<u32> = library
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("//!").trim().strip_prefix("* **I")?.split("**").next()?.parse().ok()
        })
        .collect();
    let mut wrong = Vec::new();
    if ids.is_empty() {
        wrong.push("src/lib.rs numbers no invariant".to_owned());
    }
    let cited: BTreeSet<u32> =
        sources.iter().flat_map(|source| source.code().comments).filter_map(|comment| cites(&comment)).collect();
    for id in &ids {
        if !cited.contains(id) {
            wrong.push(format!("I{id}: no line of src carries the comment `// I{id}:`"));
        }
        let in_tests = tests.iter().any(|source| names(&source.text, *id));
        if !in_tests && !sources.iter().any(|source| names(source.tests(), *id)) {
            wrong.push(format!("I{id}: no test names it, as `fn i{id}_...` or by a comment with `I{id}`"));
        }
    }
    wrong.extend(cited.difference(&ids).map(|id| format!("I{id} is cited, but src/lib.rs does not number it")));
    wrong
}

/// The invariant that a comment `// I4: ...` cites. Doc comments explain; they enforce nothing.
fn cites(comment: &str) -> Option<u32> {
    comment.strip_prefix("// I")?.split_once(':')?.0.parse().ok()
}

/// Whether a text of tests names an invariant: `I4` as a word, or `i4` as a part of a function's name.
fn names(text: &str, id: u32) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_word(c))
        .any(|word| word == format!("I{id}") || word.split('_').any(|part| part == format!("i{id}")))
}

#[test]
fn every_invariant_is_cited_in_src_and_named_by_a_test() {
    let library = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let tests: Vec<Source> =
        rust::sources("tests").into_iter().filter(|source| !source.path.starts_with("tests/tidy")).collect();
    clean(&invariants_are_enforced_and_tested(&library, &rust::sources("src"), &tests));
}

#[test]
fn an_invariant_without_line_or_test_is_noticed() {
    let library = "//! * **I1** One.\n//! * **I10** Ten.\n";
    let check = |source: &str, test: &str| {
        let (source, test) = (Source::new("src/a.rs", source), Source::new("tests/a.rs", test));
        invariants_are_enforced_and_tested(library, &[source], &[test]).len()
    };
    let whole = "// I1: why\nfn f() {} // I10: why\n";
    assert_eq!(check(whole, "fn i1_holds() {} // I10"), 0);
    assert_eq!(check(whole, "// I10"), 1, "I10 does not stand for I1");
    assert_eq!(check("// I1: why\n", "fn i1_holds() {} fn i10_holds() {}"), 1);
    assert_eq!(check("/// I1: why\nconst A: &str = \"// I10: no\";", "// I1 I10"), 2, "only a comment on a line cites");
    assert_eq!(check("// I1: a\n// I10: b\n// I11: c\n", "// I1 I10"), 1);
    let in_tests = "// I1: a\n#[cfg(test)]\nmod tests {\n// I10: b\nfn i1_holds() {} }\n";
    assert_eq!(check(in_tests, "// I10"), 1, "a test enforces nothing");
    assert_eq!(invariants_are_enforced_and_tested("", &[], &[]).len(), 1);
}
