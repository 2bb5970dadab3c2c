//! The command table of `README.md` against the commands of the binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::clean;

/// The commands of the table: those in its first column, and all in its code spans.
#[derive(Debug, Default)]
struct Table {
    listed: BTreeSet<String>,
    named: BTreeSet<String>,
}

impl Table {
    /// The rows whose first column begins with the binary's name.
    fn of(readme: &str) -> Self {
        let mut table = Self::default();
        for row in readme.lines().filter_map(|line| line.strip_prefix("| `gatepost ")) {
            let row = format!("`gatepost {}", row.replace("\\|", "/"));
            let (first, second) = row.split_once('|').unwrap_or((&row, ""));
            table.listed.extend(code_spans(first).into_iter().flat_map(commands));
            table.named.extend(code_spans(second).into_iter().flat_map(commands));
        }
        table
    }
}

fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// `gatepost outbox stats/list --json` is `outbox stats` and `outbox list`.
fn commands(span: &str) -> Vec<String> {
    let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '/');
    let words = span.strip_prefix("gatepost ").unwrap_or(span).split(' ');
    let words: Vec<&str> = words.take_while(is_command).filter(|word| !word.starts_with('-')).collect();
    let Some((last, before)) = words.split_last() else { return Vec::new() };
    last.split('/').map(|last| [before, &[last]].concat().join(" ")).collect()
}

/// The subcommands that `--help` of the command `path` lists.
fn subcommands(path: &[String]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_gatepost")).args(path).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.map(|line| line.split(' ').next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

/// All commands that have no subcommands, as `outbox stats`, and those that have some.
fn all_commands() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut leaves, mut groups) = (BTreeSet::new(), BTreeSet::new());
    let mut paths: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let below = subcommands(&path);
        let set = if below.is_empty() { &mut leaves } else { &mut groups };
        set.insert(path.join(" "));
        paths.extend(below.into_iter().map(|name| [path.clone(), vec![name]].concat()));
    }
    (leaves, groups)
}

fn table_lists_all_commands(table: &Table, leaves: &BTreeSet<String>, groups: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for command in leaves.iter().filter(|leaf| !table.listed.contains(*leaf) && !table.named.contains(*leaf)) {
        wrong.push(format!("README.md: the table of commands does not list `gatepost {command}`"));
    }
    for command in table.listed.iter().filter(|command| !leaves.contains(*command) && !groups.contains(*command)) {
        wrong.push(format!("README.md: the table of commands lists `gatepost {command}`, which does not exist"));
    }
    wrong
}

#[test]
fn readme_lists_the_commands() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (leaves, groups) = all_commands();
    assert!(leaves.contains("outbox stats") && groups.contains("outbox"), "{leaves:?} {groups:?}");
    clean(&table_lists_all_commands(&Table::of(&readme), &leaves, &groups));
    let fake =
        "| `gatepost outbox stats\\|list --json` | text |\n| `gatepost token`, `gatepost man [DIR]` | `token hash` |\n";
    let set = |commands: &[&str]| commands.iter().map(|command| (*command).to_owned()).collect::<BTreeSet<_>>();
    let leaves = set(&["outbox list", "outbox show", "token hash", "man"]);
    let wrong = table_lists_all_commands(&Table::of(fake), &leaves, &set(&["", "outbox", "token"]));
    assert_eq!(wrong.len(), 2, "{wrong:#?}");
}
