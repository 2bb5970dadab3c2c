//! The table of keys as people read it.

use std::fmt::Write as _;

use super::Fallback::{Required, Unset, Value};
use super::KNOBS;

/// The tables of `docs/configuration.md`, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    let mut section = "";
    for knob in KNOBS {
        if knob.section() != section {
            section = knob.section();
            let heading = match section.strip_suffix("[]") {
                Some(list) => format!("[[{}]]", list.replace('*', "NAME")),
                None => format!("[{}]", section.replace('*', "NAME")),
            };
            let head = "| key | takes | default | what and why |\n| --- | --- | --- | --- |";
            push(&mut text, format_args!("\n### `{heading}`\n\n{head}"));
        }
        let default = match knob.default {
            Value(value) => format!("`{value}`"),
            Unset => "unset".to_owned(),
            Required => "required".to_owned(),
        };
        let name = knob.path.rsplit('.').next().unwrap_or(knob.path);
        let range = knob.kind.range();
        push(&mut text, format_args!("| `{name}` | {range} | {default} | {} |", knob.reason));
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all text");
}
