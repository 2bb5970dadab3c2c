//! All that is set, key by key: what differs between two configurations.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use super::knobs::{Fallback, KNOBS, Knob};
use super::path::join;

/// Keys, or sections, that take effect without a restart, as [`KNOBS`] writes them.
const RELOADED: [&str; 6] =
    ["roles.*", "limits", "audit.redact", "audit.on_failure", "audit.continue_for", "backends.*.calls_max"];

/// A validated configuration, with the file that it came from.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: super::Config,
    /// The same, key by key.
    pub settings: Settings,
    /// The file as it was read.
    pub text: String,
}

/// Every key that is set, with its value. Its `Debug` shows no value: some are secrets (I8).
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<String, Setting>);

/// What differs between two configurations: keys, never values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What takes effect by a reload.
    pub reloaded: Vec<String>,
    /// What takes effect at the next start.
    pub restart: Vec<String>,
}

#[derive(Clone, PartialEq)]
struct Setting {
    knob: &'static Knob,
    value: Value,
}

impl Settings {
    /// Those of a tree that was validated.
    pub(super) fn of(tree: &Table) -> Self {
        let mut settings = Self::default();
        settings.collect(tree, "", "");
        settings
    }

    /// What is different in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Difference {
        let mut difference = Difference::default();
        for (key, setting) in self.0.iter().chain(other.0.iter().filter(|(key, _)| !self.0.contains_key(*key))) {
            if self.value(key, setting.knob) == other.value(key, setting.knob) {
                continue;
            }
            let is_reloaded = RELOADED.iter().any(|path| setting.knob.path.strip_prefix(path).is_some_and(below));
            if is_reloaded { &mut difference.reloaded } else { &mut difference.restart }.push(key.clone());
        }
        difference.reloaded.sort();
        difference.restart.sort();
        difference
    }

    /// The value of a key, which may be its default.
    fn value(&self, key: &str, knob: &Knob) -> Option<Value> {
        match (self.0.get(key), knob.default) {
            (Some(setting), _) => Some(setting.value.clone()),
            (None, Fallback::Value(text)) => {
                format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"))
            }
            (None, Fallback::Unset | Fallback::Required) => None,
        }
    }

    fn collect(&mut self, table: &Table, at: &str, shape: &str) {
        let chosen = matches!(shape, "roles" | "backends");
        for (name, value) in table {
            let path = join(at, name);
            let shape = if chosen { format!("{shape}.*") } else { join(shape, name) };
            if let Some(knob) = KNOBS.iter().find(|knob| knob.path == shape) {
                self.0.insert(path, Setting { knob, value: value.clone() });
            } else if let Value::Table(table) = value {
                self.collect(table, &path, &shape);
            } else if let Value::Array(items) = value {
                for (idx, item) in items.iter().enumerate() {
                    if let Value::Table(table) = item {
                        self.collect(table, &format!("{path}[{idx}]"), &format!("{shape}[]"));
                    }
                }
            }
        }
    }
}

/// Whether the rest of a key's path, behind a section's or its own, says that it is the same or below it.
fn below(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: names only.
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn settings(text: &str, env: &[(&str, &str)]) -> Settings {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse_whole(text, Some(Path::new("g.toml")), env).unwrap().settings
    }

    const BACKEND: &str = "[backends.b]\ncommand = [\"x\"]\n";

    #[test]
    fn what_differs_is_named_by_its_key() {
        let old = settings(
            &format!(
                "{BACKEND}[roles.a]\nallow = [\"b/*\"]\n[roles.gone]\ndeny = [\"*/*\"]\n[server]\ncalls_max = 7\n"
            ),
            &[],
        );
        let new = settings(
            "[backends.b]\ncommand = [\"y\"]\ncalls_max = 3\n[roles.a]\nallow = [\"b/x\"]\n\
             [[roles.\"a b\".when]]\ntool = \"b/*\"\npointer = \"/p\"\nequals = 1\n\
             [audit]\nredact = [\"/secret\"]\nlevel = \"queued\"\n[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n",
            &[],
        );
        let difference = old.difference(&new);
        assert_eq!(
            difference.reloaded,
            [
                "audit.redact",
                "backends.b.calls_max",
                "roles.\"a b\".when[0].equals",
                "roles.\"a b\".when[0].pointer",
                "roles.\"a b\".when[0].tool",
                "roles.a.allow",
                "roles.gone.deny",
            ]
        );
        assert_eq!(difference.restart, ["audit.level", "backends.b.command", "postgres.url", "server.calls_max"]);
        assert_eq!(new.difference(&old), difference);
        let shown = format!("{new:?}{difference:?}");
        assert!(shown.contains("postgres.url") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_is_written_otherwise_and_means_the_same_does_not_differ() {
        let same = [
            (settings("", &[]), settings("# a comment\n[server]\ncalls_max = 1024\n[roles.empty]\n", &[])),
            (settings("[audit]\nredact = []\n", &[]), settings("", &[])),
            (
                settings("[log]\nfilter = \"debug\"\n", &[("GATEPOST_LOG_FILTER", "warn")]),
                settings("", &[("GATEPOST_LOG_FILTER", "warn")]),
            ),
        ];
        for (one, other) in same {
            assert_eq!(one.difference(&other), Difference::default(), "{one:?} {other:?}");
        }
    }

    #[test]
    fn every_reloaded_key_is_one() {
        for path in RELOADED {
            assert!(KNOBS.iter().any(|knob| knob.path.strip_prefix(path).is_some_and(below)), "{path}");
        }
    }
}
