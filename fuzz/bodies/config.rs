//! Any text as a configuration: it is understood, or each fault says in one line where and what.

use std::path::Path;

use gatepost::config::Config;

pub fn run(data: &[u8]) {
    // A line of zeros sets the file off from variables of the environment, one NAME=VALUE a line.
    let text = String::from_utf8_lossy(data);
    let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
    let variables: Vec<_> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("GATEPOST_{name}"), value.to_owned()))
        .collect();
    match Config::parse(file, Some(Path::new("gatepost.toml")), variables.clone()) {
        Ok(config) => {
            let again = Config::parse(file, None, variables).expect("the same text is understood again");
            assert_eq!(format!("{config:?}"), format!("{again:?}"));
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "a refusal has a reason");
            for fault in faults {
                let line = fault.to_string();
                assert!(!line.trim().is_empty() && !line.contains('\n'), "one line a fault: {line:?}");
            }
        }
    }
}
