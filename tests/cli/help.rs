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
    for command in subcommands(&found[0].1) {
        let text = help(&[&command]);
        let inner = subcommands(&text);
        found.push((command.clone(), text));
        found.extend(inner.into_iter().map(|inner| (format!("{command} {inner}"), help(&[&command, &inner]))));
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
fn global_options_have_a_heading_of_their_own_after_the_others() {
    let all = all();
    let readers = all.iter().filter(|(command, _)| command.starts_with("audit") || command.starts_with("outbox"));
    let mut count = 0;
    for (command, text) in readers {
        let (own, global) = text.split_once("\nGlobal options:\n").unwrap_or_else(|| panic!("{command}\n{text}"));
        for option in ["--config <FILE>", "--dir <DIR>", "--json"] {
            assert!(global.contains(option) && !own.contains(option), "{command}: {option}\n{text}");
        }
        count += 1;
    }
    assert!(count > 10, "{count}");
}
