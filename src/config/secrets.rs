//! Secrets in the text of a configuration file.

use toml::{Table, Value};
use url::Url;

use crate::postgres_url::PostgresUrl;

/// Parts of the names of environment variables whose values are secrets.
const SECRET_NAMES: [&str; 7] = ["TOKEN", "SECRET", "KEY", "PASS", "CREDENTIAL", "COOKIE", "DSN"];

/// Returns true if the file contains a secret: a password of Postgres, the URL of a webhook, or a variable of a stdio
/// backend whose name or value looks like one.
pub(super) fn has_secret(file: &Table) -> bool {
    let text = |section: &str, key: &str| file.get(section)?.as_table()?.get(key)?.as_str();
    let backends = file.get("backends").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let variables = backends.filter_map(|backend| backend.as_table()?.get("env")?.as_table()).flatten();
    ["url", "reader_url"].iter().any(|key| text("postgres", key).is_some_and(has_login_password))
        || text("alarms", "webhook_url").is_some()
        || text("telemetry", "otlp_endpoint").is_some_and(has_password)
        || variables.into_iter().any(|(name, value)| is_secret(name, value))
}

/// A URL that cannot be read may contain one.
fn has_login_password(url: &str) -> bool {
    PostgresUrl::parse(url).map_or(true, |url| url.password.is_some())
}

fn has_password(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
}

fn is_secret(name: &str, value: &Value) -> bool {
    is_secret_name(name) || value.as_str().is_some_and(has_password)
}

/// Returns true if the name of a variable says that its value is a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_where_they_may_be() {
        for (text, found) in [
            ("", false),
            ("[postgres]\nurl = \"postgres://u@h/d\"", false),
            ("[postgres]\nurl = \"postgres://u:p@h/d\"", true),
            ("[postgres]\nreader_url = \"postgres://u:p@h/d\"", true),
            ("[postgres]\nurl = \"postgres://u@h/d?password=p\"", true),
            ("[alarms]\nwebhook_url = \"https://h/x\"", true),
            ("[backends.a]\ncommand = [\"x\"]\nenv = { LANG = \"C\" }", false),
            ("[backends.a]\nenv = { github_token = \"x\" }", true),
            ("[backends.a]\n[backends.b]\nenv = { API_KEY = \"x\" }", true),
            ("[backends.a]\nenv = { DB = \"mysql://u:p@h/d\" }", true),
            ("backends = 3\n[postgres]\nurl = 3", false),
        ] {
            assert_eq!(has_secret(&text.parse().unwrap()), found, "{text}");
        }
    }
}
