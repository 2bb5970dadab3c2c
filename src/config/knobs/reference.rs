//! The table of keys as people read it.

use std::fmt::Write as _;

use super::Fallback::{Required, Unset, Value};
use super::{KNOBS, Knob};

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
            let environment = environment(knob);
            push(&mut text, format_args!("\n### `{heading}`\n\n{environment}\n\n{head}"));
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

/// How the keys of this knob's section are set from outside of the file.
fn environment(knob: &Knob) -> String {
    match knob.variable() {
        Some(variable) => {
            let key = knob.path.rsplit('.').next().unwrap_or(knob.path);
            let prefix = variable.strip_suffix(&key.to_uppercase()).unwrap_or(&variable);
            format!("In the environment: `{prefix}` and the key in capitals, as `{variable}`.")
        }
        None => "In the file only.".to_owned(),
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all text");
}
