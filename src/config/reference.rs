//! The reference of all settings for `docs/configuration.md`.

use std::fmt::Write as _;

use super::settings_table::{Fallback, SETTINGS, SettingSpec};

/// The tables of `docs/configuration.md`, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    let mut section = "";
    for spec in SETTINGS {
        if spec.section() != section {
            section = spec.section();
            let heading = match section.strip_suffix("[]") {
                Some(list) => format!("[[{}]]", list.replace('*', "NAME")),
                None => format!("[{}]", section.replace('*', "NAME")),
            };
            let head = "| key | value | default | description |\n| --- | --- | --- | --- |";
            let environment = environment(spec);
            push(&mut text, format_args!("\n### `{heading}`\n\n{environment}\n\n{head}"));
        }
        let default = match spec.default.to_toml() {
            Some(value) => format!("`{value}`"),
            None if spec.default == Fallback::Required => "required".to_owned(),
            None => "unset".to_owned(),
        };
        let name = spec.path.rsplit('.').next().unwrap_or(spec.path);
        let range = spec.value_type.range();
        push(&mut text, format_args!("| `{name}` | {range} | {default} | {} |", spec.description));
    }
    text
}

/// The environment variables that set the keys of a section.
fn environment(spec: &SettingSpec) -> String {
    match spec.variable() {
        Some(variable) => {
            let key = spec.path.rsplit('.').next().unwrap_or(spec.path);
            let prefix = variable.strip_suffix(&key.to_uppercase()).unwrap_or(&variable);
            format!("Environment variables: `{prefix}` and the key in upper case, for example `{variable}`.")
        }
        None => "Set in the file only.".to_owned(),
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}
