//! What the compiler does not check: which way imports go, where each dependency may be named, that every invariant is
//! enforced on a line and held by a test, sizes, banned calls.
//!
//! Each rule is a function from sources to complaints. It is run on the repository, and on a small source that breaks
//! it, so that a rule without teeth fails too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

#[path = "tidy/rust.rs"]
mod rust;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rust::Source;

/// From (module and all below it) to (module and all below it): never. The reasons are in `src/lib.rs`.
const FORBIDDEN: [(&str, &str); 16] = [
    ("audit", "gateway"),
    ("audit", "upstream"),
    ("audit", "cli"),
    ("audit", "ops"),
    ("config", "gateway"),
    ("config", "upstream"),
    ("config", "cli"),
    ("config", "ops"),
    ("gateway", "cli"),
    ("gateway", "ops"),
    ("upstream", "cli"),
    ("audit::ring", "audit::outbox"),
    ("audit::outbox", "audit::ring"),
    ("audit::sink", "audit::ring"),
    ("audit::sink", "audit::outbox"),
    ("audit::outbox", "audit::sink"),
];

/// A crate and the only modules that may name it.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("redb", &["audit::outbox"]),
    ("sqlx", &["audit::sink", "audit::query"]),
    ("bincode", &["audit::codec"]),
    ("backoff", &["retry"]),
];

/// How a string literal begins that is a statement of SQL.
const SQL: [&str; 8] =
    ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "CREATE TABLE", "ALTER TABLE", "WITH moved", "SET "];

/// Names that say nothing of what a module holds.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "types", "helpers", "misc", "shared"];

/// Most lines of a source file without its tests. *Chosen*: STYLE section 2.
const LINES_MAX: usize = 500;
/// The same for `src/main.rs`, which only wires.
const MAIN_LINES_MAX: usize = 150;

fn in_module(module: &str, of: &str) -> bool {
    module == of || module.strip_prefix(of).is_some_and(|rest| rest.starts_with("::"))
}

fn imports_go_one_way(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for target in source.imports() {
            for (from, to) in FORBIDDEN {
                if in_module(&module, from) && in_module(&target, to) {
                    wrong.push(format!("{}: {module} names {target}: {from} must not know {to}", source.path));
                }
            }
        }
    }
    wrong
}

/// No module names itself again by way of others. A module and the modules below it are one family: they may name each
/// other.
fn imports_have_no_circle(sources: &[Source]) -> Vec<String> {
    let modules: BTreeSet<String> = sources.iter().map(Source::module).filter(|module| !module.is_empty()).collect();
    let owner = |path: &str| modules.iter().filter(|module| in_module(path, module)).max_by_key(|module| module.len());
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let from = source.module();
        let family = |to: &&String| in_module(&from, to) || in_module(to, &from);
        let targets =
            source.imports().iter().filter_map(|path| owner(path)).filter(|to| !family(to)).cloned().collect();
        edges.insert(from.clone(), targets);
    }
    // A module is finished when all that it names are; what is left over at the end is on or above a circle.
    while let Some(finished) = edges.iter().find(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()) {
        edges.remove(&finished);
        for to in edges.values_mut() {
            to.remove(&finished);
        }
    }
    edges.iter().map(|(from, to)| format!("{from} names {to:?}, and these name it again, by some way")).collect()
}

fn crates_stay_in_their_modules(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for (name, homes) in ONLY_IN {
            if source.tested_code().words().any(|word| word == name)
                && !homes.iter().any(|home| in_module(&module, home))
            {
                wrong.push(format!("{}: names {name}, which only {homes:?} may", source.path));
            }
        }
        let sql = |text: &String| SQL.iter().any(|begin| text.trim_start().starts_with(begin));
        let homes = ONLY_IN[1].1;
        if let Some(text) = source.tested_code().strings.iter().find(|text| sql(text))
            && !homes.iter().any(|home| in_module(&module, home))
        {
            wrong.push(format!("{}: {text:?} is SQL, which only {homes:?} may hold", source.path));
        }
    }
    wrong
}

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

fn files_are_small_and_named(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let path = &source.path;
        let (lines, limit) =
            (source.without_tests().lines().count(), if path == "src/main.rs" { MAIN_LINES_MAX } else { LINES_MAX });
        if lines > limit {
            wrong.push(format!("{path}: {lines} lines without tests, limit {limit}: split it by actor or format"));
        }
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        if name == "mod" {
            wrong.push(format!("{path}: write foo.rs beside foo/, not foo/mod.rs"));
        }
        if EMPTY_NAMES.contains(&name) {
            wrong.push(format!("{path}: the name {name} says nothing of what it holds"));
        }
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{path}: begins without a module doc"));
        }
    }
    wrong
}

fn text_is_ascii(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let strings = source.test_code().strings.concat();
        for (idx, line) in source.text.lines().enumerate() {
            let in_tests = idx >= source.without_tests().lines().count();
            if let Some(found) = line.chars().find(|c| !(c.is_ascii() || in_tests && strings.contains(*c))) {
                wrong.push(format!("{}:{}: {found:?} is not ASCII", source.path, idx + 1));
            }
        }
    }
    wrong
}

/// Holds for sources and tests alike.
fn no_banned_call(sources: &[Source]) -> Vec<String> {
    let banned =
        ["#[ignore", "#[should_panic", "todo!", "unimplemented!", "dbg!", "#![allow(warnings", "#[allow(warnings"];
    let mut wrong = Vec::new();
    for source in sources {
        for call in banned {
            if source.tested_code().text.contains(call) {
                wrong.push(format!("{}: {call} is banned", source.path));
            }
        }
    }
    wrong
}

/// Tests wait for something; only `tests/common/` may sleep, between asking and asking again.
fn tests_do_not_sleep(sources: &[Source]) -> Vec<String> {
    let calls = |text: &str, at: usize| text[at..].starts_with("sleep(") && !text[..at].ends_with('_');
    let sleeps = |source: &&Source| {
        let text = source.test_code().text;
        text.match_indices("sleep").any(|(at, _)| calls(&text, at))
    };
    let wait = |source: &&Source| source.path.starts_with("tests/common/");
    sources
        .iter()
        .filter(|source| !wait(source))
        .filter(sleeps)
        .map(|source| format!("{}: a test sleeps: wait by tests/common/wait.rs, or pause time", source.path))
        .collect()
}

fn clean(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn all() -> Vec<Source> {
    [rust::sources("src"), rust::sources("tests"), rust::sources("benches"), rust::sources("fuzz")].concat()
}

#[test]
fn modules_import_in_one_direction() {
    clean(&imports_go_one_way(&rust::sources("src")));
    let fake = [
        Source::new("src/audit/record.rs", "use crate::gateway::rbac::Permit;"),
        Source::new("src/audit/ring.rs", "use super::{chain::Head, outbox::{self, Outbox}};"),
        Source::new("src/audit/outbox/fs.rs", "fn f() { crate::audit::ring::Ring::new() }"),
        Source::new("src/audit/sink/postgres.rs", "use super::super::outbox;"),
        Source::new("src/config.rs", "use crate::{audit, cli as c};"),
        Source::new("src/audit/scribe.rs", "// crate::gateway\nuse super::{outbox, ring}; fn f() { \"crate::cli\"; }"),
    ];
    assert_eq!(imports_go_one_way(&fake).len(), 6, "{:#?}", imports_go_one_way(&fake));
}

#[test]
fn modules_import_without_a_circle() {
    clean(&imports_have_no_circle(&rust::sources("src")));
    let mut fake = vec![
        Source::new("src/lib.rs", "pub mod a;"),
        Source::new("src/a.rs", "use crate::b::Y;"),
        Source::new("src/a/x.rs", "use super::A; use crate::b::Y;"),
        Source::new("src/b.rs", "use crate::c;"),
        Source::new("src/c.rs", "use std::fmt;"),
        Source::new("src/c/z.rs", "use std::fmt;"),
    ];
    assert!(imports_have_no_circle(&fake).is_empty());
    fake[4] = Source::new("src/c.rs", "use crate::a::x::X;");
    assert_eq!(imports_have_no_circle(&fake).len(), 4, "{:#?}", imports_have_no_circle(&fake));
}

#[test]
fn redb_sql_bincode_and_backoff_are_each_named_in_one_place() {
    clean(&crates_stay_in_their_modules(&rust::sources("src")));
    let fake = [
        Source::new("src/audit/scribe.rs", "use redb::Database;"),
        Source::new("src/cli/migrate.rs", "async fn f() { sqlx::query(q); }"),
        Source::new("src/cli/audit.rs", "const Q: &str = \"\n  SELECT * FROM audit_log\";"),
        Source::new("src/audit/outbox/generation.rs", "use redb::Database; // sqlx"),
        Source::new("src/audit/query.rs", "use sqlx::PgPool; const Q: &str = r#\"SELECT 1\"#;"),
        Source::new("src/config.rs", "const HELP: &str = \"redb and sqlx, as in SELECT 1\";"),
    ];
    assert_eq!(crates_stay_in_their_modules(&fake).len(), 3, "{:#?}", crates_stay_in_their_modules(&fake));
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

#[test]
fn sources_are_small_and_named_for_what_they_hold() {
    clean(&files_are_small_and_named(&rust::sources("src")));
    let long = "//! Doc.\n".repeat(LINES_MAX);
    let with_tests = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
    let fake = [
        Source::new("src/a.rs", &with_tests),
        Source::new("src/b.rs", &format!("{long}//! More.\n")),
        Source::new("src/main.rs", &"//! Doc.\n".repeat(MAIN_LINES_MAX + 1)),
        Source::new("src/audit/mod.rs", "//! Doc."),
        Source::new("src/gateway/util.rs", "//! Doc."),
        Source::new("src/c.rs", "fn f() {}"),
    ];
    assert_eq!(files_are_small_and_named(&fake).len(), 5, "{:#?}", files_are_small_and_named(&fake));
}

#[test]
fn sources_are_ascii() {
    clean(&text_is_ascii(&rust::sources("src")));
    let fake = [
        Source::new("src/a.rs", "//! \u{2192}\n"),
        Source::new("src/b.rs", "//! Doc.\n#[cfg(test)]\nmod tests {\nconst A: &str = \"\u{e9}\"; // \u{fc}\n}"),
        Source::new("src/c.rs", "//! Doc.\n#[cfg(test)]\nmod tests {\nconst A: &str = \"\u{e9}\";\n}"),
    ];
    assert_eq!(text_is_ascii(&fake).len(), 2);
}

#[test]
fn nothing_is_ignored_and_nothing_is_left_to_do() {
    clean(&no_banned_call(&all()));
    let fake = [
        Source::new("tests/a.rs", "#[test]\n#[ignore]\nfn a() {}"),
        Source::new("src/b.rs", "//! Doc.\n#[cfg(test)]\nmod tests { fn a() { dbg!(1); } }"),
        Source::new("src/c.rs", "fn a() { todo!() }"),
        Source::new("src/d.rs", "fn a() { \"todo!\" } // dbg!"),
    ];
    assert_eq!(no_banned_call(&fake).len(), 3);
}

#[test]
fn no_test_sleeps() {
    clean(&tests_do_not_sleep(&all()));
    let fake = [
        Source::new("tests/a.rs", "fn a() { std::thread::sleep(D); }"),
        Source::new("src/b.rs", "//! Doc.\n#[cfg(test)]\nmod tests { async fn a() { tokio::time::sleep(D).await } }"),
        Source::new("src/c.rs", "async fn a() { tokio::time::sleep(D).await }"),
        Source::new("tests/common/wait.rs", "fn a() { std::thread::sleep(D); }"),
        Source::new("tests/d.rs", "fn a() { call(\"sleep(\") }"),
    ];
    assert_eq!(tests_do_not_sleep(&fake).len(), 2);
}
