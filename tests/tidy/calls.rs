//! Calls and attributes that are banned, and characters.

use crate::rust::{self, Source};
use crate::{all, clean};

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

/// Helpers that simulate a slow database or a slow link: their sleep is the fault that they inject.
const SIMULATORS: [&str; 2] = ["tests/audit/fault_proxy.rs", "tests/audit/memory_sink.rs"];

/// Tests wait for a state. Only `tests/common/` may sleep, between one look and the next, and the [`SIMULATORS`].
fn tests_do_not_sleep(sources: &[Source]) -> Vec<String> {
    let calls = |text: &str, at: usize| text[at..].starts_with("sleep(") && !text[..at].ends_with('_');
    let sleeps = |source: &&Source| {
        let text = source.test_code().text;
        text.match_indices("sleep").any(|(at, _)| calls(&text, at))
    };
    let wait =
        |source: &&Source| source.path.starts_with("tests/common/") || SIMULATORS.contains(&source.path.as_str());
    sources
        .iter()
        .filter(|source| !wait(source))
        .filter(sleeps)
        .map(|source| format!("{}: a test sleeps: wait by tests/common/wait.rs, or pause time", source.path))
        .collect()
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
fn no_test_is_ignored_and_no_todo_is_left() {
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
