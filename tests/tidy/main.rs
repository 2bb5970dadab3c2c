//! Rules that the compiler does not check: directions of imports, places of dependencies, invariants, sizes, words,
//! citations, and the command table of `README.md`.
//!
//! Each rule is a function from sources to complaints. It runs on the repository, and on small sources that break it,
//! so that a rule that detects nothing fails too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, unreachable_pub, missing_docs)]

mod calls;
mod citations;
mod dependencies;
mod imports;
mod invariants;
mod readme;
mod rust;
mod sizes;
mod words;

use rust::Source;

/// Fails if `rule` has complaints.
fn check(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}\n{}\n", complaints.join("\n"));
}

fn clean(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// All Rust sources of the repository.
fn all() -> Vec<Source> {
    [rust::sources("src"), rust::sources("tests"), rust::sources("benches"), rust::sources("fuzz")].concat()
}
