//! The help of every command, as it is printed.

use std::process::Command;

use crate::common::gatepost::BINARY;

fn help(path: &[&str]) -> String {
    let output = Command::new(BINARY).args(path).arg("--help").output().unwrap();
    assert!(output.status.success(), "{path:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The subcommands that a help lists.
fn subcommands(help: &str) -> Vec<String> {
    let commands = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let names = commands.lines().take_while(|line| !line.is_empty());
    let names = names.filter(|line| !line.starts_with("    ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command with its help.
fn all() -> Vec<(String, String)> {
    let mut found = vec![(String::new(), help(&[]))];
    let mut next = 0;
    while let Some((command, text)) = found.get(next) {
        let inner = subcommands(text).into_iter().map(|name| format!("{command} {name}").trim_start().to_owned());
        let inner: Vec<_> = inner.collect();
        found.extend(inner.into_iter().map(|path| {
            let text = help(&path.split(' ').collect::<Vec<_>>());
            (path, text)
        }));
        next += 1;
    }
    found
}

#[test]
fn every_help_is_plain_text_in_one_form() {
    let all = all();
    assert!(all.len() > 20, "{} commands", all.len());
    for (command, text) in &all {
        assert!(!text.contains('`'), "{command}: Markdown in\n{text}");
        // The long form has a blank line between options.
        let (_, options) = text.split_once("\nOptions:\n").unwrap();
        let options = options.split("\n\n").next().unwrap();
        assert!(options.contains("-h, --help"), "{command}: the long form\n{text}");
    }
}

#[test]
fn no_line_of_help_is_longer_than_a_terminal_of_80_columns() {
    for (command, text) in all() {
        let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{command}: {long:#?}");
    }
}

#[test]
fn options_of_one_name_have_one_value_and_one_help_in_commands_that_read_records() {
    let readers = ["audit query", "audit tail", "audit export", "outbox list", "outbox tail", "outbox export"];
    let all = all();
    let filters = |command: &str| {
        let text = &all.iter().find(|(name, _)| name == command).unwrap().1;
        let (_, filters) = text.split_once("\nFilters:\n").unwrap_or_else(|| panic!("{command}\n{text}"));
        // How lines are broken depends on the other options.
        filters.split("\n\n").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let wanted = filters(readers[0]);
    for option in ["--status", "--session", "--issuer", "--gateway", "--token-id", "--addr", "--since", "--until"] {
        assert!(wanted.contains(&format!("{option} <")), "{option}\n{wanted}");
    }
    for command in readers {
        assert_eq!(filters(command), wanted, "{command}");
    }
}

#[test]
fn global_options_have_a_heading_of_their_own_after_the_others() {
    let all = all();
    let readers = all.iter().filter(|(command, _)| command.starts_with("audit") || command.starts_with("outbox"));
    let mut count = 0;
    for (command, text) in readers {
        let (own, global) = text.split_once("\nGlobal options:\n").unwrap_or_else(|| panic!("{command}\n{text}"));
        for option in ["--config <FILE>", "--env-file <FILE>", "--dir <DIR>", "--json", "--local", "--color <WHEN>"] {
            assert!(global.contains(option) && !own.contains(option), "{command}: {option}\n{text}");
        }
        count += 1;
    }
    assert!(count > 10, "{count}");
}
