//! Just enough of Rust's grammar to ask a source file what it names: comments and strings are told from code, tests
//! from what is tested, and paths are resolved to modules of this crate.

use std::path::Path;

/// Where a file's tests begin, by the convention that they stand last.
const TESTS: &str = "#[cfg(test)]\nmod ";

/// A source file; `path` is relative to the repository, with `/`.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// A text taken apart.
#[derive(Debug, Default)]
pub struct Code {
    /// The code, without comments, with every string literal empty, on the lines on which it was.
    pub text: String,
    /// Each comment, with its slashes.
    pub comments: Vec<String>,
    /// The contents of the string literals, as written.
    pub strings: Vec<String>,
}

/// A function and how many lines are between the braces of its body.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub lines: usize,
}

/// All Rust files below a directory of the repository, sorted; none if there is no such directory.
pub fn sources(dir: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path: name, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// A file of `tests/`, or the tests of a module in a file of their own.
    fn is_test_file(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs")
    }

    /// What is tested.
    pub fn without_tests(&self) -> &str {
        if self.is_test_file() {
            return "";
        }
        self.text.find(TESTS).map_or(&self.text, |end| &self.text[..end])
    }

    /// What tests it, in the same file; the whole of a test file.
    pub fn tests(&self) -> &str {
        if self.is_test_file() {
            return &self.text;
        }
        self.text.find(TESTS).map_or("", |begin| &self.text[begin..])
    }

    /// The code of the file without its tests.
    pub fn code(&self) -> Code {
        Code::of(self.without_tests())
    }

    /// The code of the whole file.
    pub fn tested_code(&self) -> Code {
        Code::of(&self.text)
    }

    /// The code of the tests.
    pub fn test_code(&self) -> Code {
        Code::of(self.tests())
    }

    /// `src/audit/outbox/fs.rs` is `audit::outbox::fs`; `src/lib.rs` and `src/main.rs` are "".
    pub fn module(&self) -> String {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path).trim_end_matches(".rs").replace('/', "::");
        if ["lib", "main"].contains(&path.as_str()) { String::new() } else { path }
    }

    /// Every path of this crate that the code outside of the tests names, as `audit::ring::Ring`.
    pub fn imports(&self) -> Vec<String> {
        let module = self.module();
        let code = self.code().text;
        let mut found = Vec::new();
        for begin in ["crate::", "gatepost::", "super::", "self::"] {
            for (at, _) in code.match_indices(begin) {
                let before = code[..at].chars().next_back();
                // `pub(in crate::audit)` says who may name an item, and names none.
                let is_visibility = code[..at].ends_with("pub(in ");
                if !is_visibility && before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':')) {
                    expand("", &code[at..], &mut found);
                }
            }
        }
        found.into_iter().map(|path| resolve(&module, &path)).collect()
    }
}

/// The paths that a (possibly nested) path stands for: `a::{b, c::{self, d}}`.
fn expand(prefix: &str, text: &str, found: &mut Vec<String>) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..end]);
    let Some(rest) = text[end..].strip_prefix('{').filter(|_| path.ends_with("::")) else {
        found.push(path.trim_end_matches(':').to_owned());
        return;
    };
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                let item = rest[begin..at].trim_start();
                if !item.is_empty() {
                    expand(&path, item, found);
                }
                begin = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// A path as written in `module`, from the crate's root.
fn resolve(module: &str, path: &str) -> String {
    let mut at: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    for (idx, part) in path.split("::").enumerate() {
        match part {
            "crate" | "gatepost" if idx == 0 => at.clear(),
            "super" => drop(at.pop()),
            "self" | "" => {}
            part => at.push(part),
        }
    }
    at.join("::")
}

impl Code {
    /// Takes `text` apart.
    pub fn of(text: &str) -> Self {
        let mut code = Self::default();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let length = if rest.starts_with("//") {
                let length = rest.find('\n').unwrap_or(rest.len());
                code.comments.push(rest[..length].to_owned());
                length
            } else if rest.starts_with("/*") {
                let length = block_comment(rest);
                code.comments.push(rest[..length].to_owned());
                code.keep_lines(&rest[..length]);
                length
            } else if let Some((open, close)) = raw_string(rest).filter(|_| !code.ends_in_word()) {
                let length = rest[open..].find(&close).unwrap_or(rest.len() - open);
                code.strings.push(rest[open..open + length].to_owned());
                code.text.push_str("\"\"");
                code.keep_lines(&rest[open..open + length]);
                (open + length + close.len()).min(rest.len())
            } else if c == '"' {
                let length = quoted(rest, '"');
                code.strings.push(rest[1..length].trim_end_matches('"').to_owned());
                code.text.push_str("\"\"");
                code.keep_lines(&rest[..length]);
                length
            } else if c == '\'' && is_char(rest) {
                code.text.push_str("' '");
                quoted(rest, '\'')
            } else {
                code.text.push(c);
                c.len_utf8()
            };
            rest = &rest[length..];
        }
        code
    }

    /// Returns true if the code names the crate `name` by a path or an import: `name::Item`, `use name as n`. A
    /// variable, a field, a function or a module called `name` is not the crate.
    pub fn names_crate(&self, name: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        self.text.match_indices(name).any(|(at, _)| {
            let (before, after) = (&self.text[..at], &self.text[at + name.len()..]);
            if before.ends_with(is_word) || after.starts_with(is_word) {
                return false;
            }
            // `::name` is the crate, but `module::name` and `Type<T>::name` are items.
            let root = before.strip_suffix("::").unwrap_or(before);
            let is_item = root.len() < before.len() && root.ends_with(|c| is_word(c) || c == '>');
            let is_imported = ["use", "extern crate"]
                .iter()
                .any(|keyword| root.trim_end().strip_suffix(keyword).is_some_and(|before| !before.ends_with(is_word)));
            !is_item && (after.starts_with("::") || is_imported)
        })
    }

    /// The functions that have a body, in order.
    pub fn functions(&self) -> Vec<Function> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let starts = self.text.match_indices("fn ").filter(|(at, _)| !self.text[..*at].ends_with(is_word));
        let named = starts.filter_map(|(at, begin)| {
            let rest = &self.text[at + begin.len()..];
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let body = body(rest)?;
            Some(Function { name, lines: body.lines().count().saturating_sub(2) })
        });
        named.filter(|function| !function.name.is_empty()).collect()
    }

    /// Puts the line breaks of something that was left out.
    fn keep_lines(&mut self, left_out: &str) {
        self.text.extend(left_out.matches('\n'));
    }

    fn ends_in_word(&self) -> bool {
        self.text.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

/// The body of the function whose signature `text` begins with, with its braces; `None` if it has none.
fn body(text: &str) -> Option<&str> {
    let (mut nested, mut depth, mut begin) = (0_usize, 0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' if depth == 0 => nested += 1,
            ')' | ']' if depth == 0 => nested = nested.saturating_sub(1),
            ';' if depth == 0 && nested == 0 => return None,
            '{' => {
                if depth == 0 {
                    begin = at;
                }
                depth += 1;
            }
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(&text[begin..=at]);
                }
            }
            _ => {}
        }
    }
    None
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().unwrap().len_utf8();
        }
    }
    at
}

/// The length of the opening of a raw string, and its end.
fn raw_string(text: &str) -> Option<(usize, String)> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..]
        .starts_with('"')
        .then(|| (text.len() - after.len() + hashes + 1, format!("\"{}", "#".repeat(hashes))))
}

/// The length of a quoted literal, with its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a `'` begins a character, not a lifetime.
fn is_char(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

#[test]
fn code_comments_strings_and_lifetimes_are_distinguished() {
    let text =
        r##"fn f<'a>(x: &'a str) -> char { /* a /* b */ "c" */ let _s = "d \" // e"; let _r = r#"f " g"#; '"' } // h"##;
    let code = Code::of(text);
    assert_eq!(code.text, "fn f<'a>(x: &'a str) -> char {  let _s = \"\"; let _r = \"\"; ' ' } ");
    assert_eq!(code.comments, ["/* a /* b */ \"c\" */", "// h"]);
    assert_eq!(code.strings, ["d \\\" // e", "f \" g"]);
}

#[test]
fn paths_are_resolved_to_modules_of_the_crate() {
    let text = "use super::{a, b::{self, c as d}};\nuse crate::x::Y;\nfn f() { super::super::z::g(); mycrate::no() }";
    let mut imports = Source::new("src/audit/outbox/fs.rs", text).imports();
    imports.sort();
    let wanted = ["audit::outbox::a", "audit::outbox::b", "audit::outbox::b::c", "audit::z::g", "x::Y"];
    imports.dedup();
    assert_eq!(imports, wanted);
}

#[test]
fn crates_are_distinguished_from_variables_and_modules() {
    let names = |text: &str| Code::of(text).names_crate("backoff");
    for text in [
        "use backoff;",
        "use backoff as b;",
        "use ::backoff::Backoff as _;",
        "use {std::fmt, backoff::Backoff};",
        "extern crate backoff;",
        "fn f() { let a = backoff::retry(); }",
        "#[derive(backoff::Derived)] struct A;",
    ] {
        assert!(names(text), "{text}");
    }
    for text in [
        "let mut backoff = POLICY.backoff(); backoff.next();",
        "struct A { backoff: Backoff } fn f(a: A) { a.backoff }",
        "use super::backoff::Pause; crate::backoff::f(); Vec::<u8>::backoff::<u8>()",
        "use no_backoff::A; backoff_too::f(); // backoff::retry",
        "const A: &str = \"backoff::retry\";",
    ] {
        assert!(!names(text), "{text}");
    }
}

#[test]
fn code_keeps_its_lines_and_functions_their_bodies() {
    let text = "/* a\nb */ fn f() {\n\"c\n d\";\n}\nfn g(x: [u8; 2]);\nfn h() { fn i() {\n\n} }";
    let code = Code::of(text);
    assert_eq!(code.text.lines().count(), text.lines().count());
    let functions: Vec<_> = code.functions().into_iter().map(|function| (function.name, function.lines)).collect();
    assert_eq!(functions, [("f".to_owned(), 2), ("h".to_owned(), 1), ("i".to_owned(), 1)]);
}
