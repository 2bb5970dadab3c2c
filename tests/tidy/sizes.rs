//! Sizes of files, functions and comment lines, and names of files.

use std::path::Path;

use crate::rust::{self, Source};
use crate::{all, check, clean};

/// Names that say nothing of what a module holds.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "types", "helpers", "misc", "shared"];

/// Most lines of a source file without its tests. *Chosen*: what one reads in a sitting.
const LINES_MAX: usize = 500;
/// The same for `src/main.rs`, which only wires.
const MAIN_LINES_MAX: usize = 150;

/// Most lines of a function's body. *Chosen*: one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Most columns of a comment. *Chosen*: `max_width` of `rustfmt.toml`, which does not wrap comments.
const COLUMNS_MAX: usize = 120;

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

fn comments_are_narrow(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let comments = source.tested_code().comments;
        let ends: Vec<&str> = comments.iter().flat_map(|comment| comment.lines()).map(str::trim).collect();
        for (idx, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && ends.iter().any(|end| !end.is_empty() && line.trim_end().ends_with(end)) {
                wrong.push(format!("{}:{}: {columns} columns, limit {COLUMNS_MAX}", source.path, idx + 1));
            }
        }
    }
    wrong
}

fn functions_are_short(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let long = source.code().functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
        wrong.extend(long.map(|function| {
            let (name, lines, path) = (function.name, function.lines, &source.path);
            format!("{path}: the body of {name} has {lines} lines, limit {FUNCTION_LINES_MAX}: split it")
        }));
    }
    wrong
}

#[test]
fn sources_are_small_and_well_named() {
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
fn comments_fit_into_120_columns() {
    check("comment width", &comments_are_narrow(&all()));
    let (long, url) = ("x ".repeat(70), "y".repeat(130));
    let fake = [
        Source::new("src/a.rs", &format!("/// {long}\nfn f() {{}} // {long}\nconst A: &str = \"// {long}\";")),
        Source::new("tests/a.rs", &format!("//! Short.\n\n/* {url} */")),
        Source::new("src/b.rs", &format!("/// {}", "x".repeat(COLUMNS_MAX - 4))),
    ];
    assert_eq!(comments_are_narrow(&fake).len(), 3, "{:#?}", comments_are_narrow(&fake));
}

#[test]
fn functions_fit_on_a_screen() {
    check("function length", &functions_are_short(&rust::sources("src")));
    let body = "    f();\n".repeat(FUNCTION_LINES_MAX);
    let fake = [
        Source::new("src/a.rs", &format!("fn a(x: [u8; 4]) -> Vec<u8> {{\n{body}}}\nfn b() {{\n{body}    f();\n}}")),
        Source::new("src/b.rs", &format!("trait T {{ fn c(&self);\nfn d() {{\n/* {{\n{body}*/ let f: fn() = g; }} }}")),
        Source::new("src/c.rs", &format!("fn e() {{}}\n#[cfg(test)]\nmod tests {{\nfn f() {{\n{body}{body}}}\n}}")),
    ];
    assert_eq!(functions_are_short(&fake).len(), 2, "{:#?}", functions_are_short(&fake));
}
