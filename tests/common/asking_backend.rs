//! A backend that asks the client while its tool is called.

use std::path::PathBuf;

use serde_json::Value;

use crate::common::gatepost::Setup;

/// A backend whose one tool, `ask`, says these lines before it answers: the first ones at its first call, the second
/// ones at its second call. What it is sent is in the file returned.
pub fn asking_backend(setup: &mut Setup, alias: &str, lines: [&[&str]; 2]) -> PathBuf {
    let (lines_file, heard) =
        (setup.work_dir().join(format!("{alias} says ")), setup.work_dir().join(format!("{alias} heard")));
    for (idx, lines) in lines.iter().enumerate() {
        std::fs::write(format!("{}{}", lines_file.display(), idx + 1), lines.join("\n") + "\n").unwrap();
    }
    let script = r#"
        while read -r line; do
            printf '%s\n' "$line" >> "$2"
            id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
            case "$line" in
            *'"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"a","version":"1"}}';;
            *'"tools/list"'*) result='{"tools":[{"name":"ask","inputSchema":{"type":"object"}}]}';;
            *'"tools/call"'*) calls=$((calls + 1)); cat "$1$calls"; result='{"content":[]}';;
            *) continue;;
            esac
            printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
        done"#;
    let files = [&lines_file, &heard].map(|file| file.to_str().unwrap());
    setup.backend(alias, &["/bin/sh", "-c", script, alias, files[0], files[1]]);
    heard
}

/// The messages of an event stream.
pub fn messages(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
}
