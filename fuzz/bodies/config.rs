//! Parses any text as a configuration: it is accepted, or each fault is one line that says what is wrong and where.

use std::path::Path;

use gatepost::config::Config;

pub fn run(data: &[u8]) {
    // A NUL separates the file from the environment variables, one NAME=VALUE per line.
    let text = String::from_utf8_lossy(data);
    let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
    let variables: Vec<_> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("GATEPOST_{name}"), value.to_owned()))
        .collect();
    match Config::parse(file, Some(Path::new("gatepost.toml")), variables.clone()) {
        Ok(config) => {
            let again = Config::parse(file, None, variables).expect("the same text parses again");
            assert_eq!(format!("{config:?}"), format!("{again:?}"));
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "a rejected configuration has a fault");
            for fault in faults {
                let line = fault.to_string();
                assert!(!line.trim().is_empty() && !line.contains('\n'), "one line per fault: {line:?}");
            }
        }
    }
}
