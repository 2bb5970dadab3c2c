//! Citations: what a comment or a page names is in the repository.

use std::path::Path;

use crate::rust::Code;
use crate::{check, clean};

/// Directories of the repository; a path that begins with one is a citation.
const TOP: [&str; 9] =
    ["benches/", "docs/", "examples/", "fuzz/", "migrations/", "packaging/", "scripts/", "src/", "tests/"];

/// Documents that are not in the repository.
const FOREIGN: [&str; 3] = ["DESIGN", "FACTS", "STYLE"];

/// Directories that programs make, which git ignores.
const MADE: [&str; 2] = ["fuzz/artifacts", "fuzz/target"];

/// The files that may cite, with what of each is read: the comments of Rust sources, the whole of other files.
fn cited_texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    let mut paths: Vec<_> = TOP.map(|dir| root.join(dir)).into();
    paths.extend(
        ["README.md", "Cargo.toml", "deny.toml", "justfile", ".config/nextest.toml"].map(|file| root.join(file)),
    );
    while let Some(path) = paths.pop() {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !MADE.contains(&name.as_str()) {
                paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let text = if is_rust { Code::of(&text).comments.join("\n") } else { text };
        texts.push((name, text));
    }
    texts.sort();
    texts
}

/// The paths of the repository that `text` names.
fn paths_in(text: &str) -> Vec<&str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let words = text.split(|c: char| !is_path(c)).map(|word| word.trim_end_matches(['.', '/']));
    words.filter(|word| TOP.iter().any(|dir| word.starts_with(dir))).collect()
}

/// Whether a path has a part that stands for another, for example `fuzz/corpus/TARGET`.
fn is_placeholder(path: &str) -> bool {
    path.split('/').any(|part| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

fn cited_files_exist(texts: &[(String, String)], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, text) in texts {
        let missing = paths_in(text).into_iter().filter(|path| !is_placeholder(path) && !exists(path));
        let missing = missing.filter(|path| !MADE.iter().any(|made| path.starts_with(made)));
        wrong.extend(missing.map(|path| format!("{name}: cites {path}, which is not in the repository")));
    }
    wrong
}

/// No citation of a document that is not in the repository, or of an issue by its number.
fn no_foreign_document_is_cited(texts: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, text) in texts {
        let lines = text.lines().enumerate();
        for (idx, line) in lines.filter(|(_, line)| cites_a_section(line) || cites_an_issue(line)) {
            wrong.push(format!("{name}: line or comment {}: {}: cite a file of the repository", idx + 1, line.trim()));
        }
    }
    wrong
}

fn cites_a_section(line: &str) -> bool {
    FOREIGN.iter().any(|document| line.contains(&format!("{document} section")))
}

fn cites_an_issue(line: &str) -> bool {
    line.to_lowercase().match_indices("issue ").any(|(at, begin)| {
        line.get(at + begin.len()..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

#[test]
fn cited_files_are_in_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = cited_texts();
    let wrong = [cited_files_exist(&texts, |path| root.join(path).exists()), no_foreign_document_is_cited(&texts)];
    check("citations", &wrong.concat());
}

#[test]
fn a_citation_of_a_missing_file_is_noticed() {
    let text = |text: &str| vec![("docs/a.md".to_owned(), text.to_owned())];
    let wrong = |text: Vec<(String, String)>| cited_files_exist(&text, |path| path == "src/a.rs").len();
    assert_eq!(wrong(text("see `src/a.rs`, (src/a.rs) and src/a.rs.")), 0);
    assert_eq!(wrong(text("see `src/b.rs` or tests/c.rs:12")), 2);
    assert_eq!(wrong(text("/usr/share/docs/x, fuzz/corpus/TARGET and mysrc/b.rs")), 0);
    let cited = |line: &str| no_foreign_document_is_cited(&text(line)).len();
    clean(&no_foreign_document_is_cited(&text("a DESIGN of sections; this issue, and issues")));
    assert_eq!(cited(&format!("*Spec*: {} section 3", FOREIGN[0])), 1);
    assert_eq!(cited(&format!("see issue {}", 5)), 1);
}
