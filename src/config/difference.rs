//! The difference between two configurations, key by key, and which of it a reload applies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

use super::path::join;
use super::settings_table::{SETTINGS, SettingSpec};

/// Keys, or sections, that take effect without a restart, as [`SETTINGS`] writes them.
const RELOADED: [&str; 10] = [
    "auth",
    "roles.*",
    "limits",
    "audit.redact",
    "audit.shorten",
    "audit.record_responses",
    "audit.on_failure",
    "audit.continue_for",
    "backends.*",
    "ops.console_role",
];

/// Keys of backends that take effect without making the backend anew.
const RULES_OF_BACKENDS: [&str; 5] =
    ["backends.*.calls_max", "backends.*.hide", "backends.*.rename", "backends.*.pin", "backends.*.pins_file"];

/// Every key that is set, with its value. Its `Debug` shows no values, because some are secrets (I8).
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<String, Setting>);

/// The keys that differ between two configurations, without their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that take effect by a reload.
    pub reloaded: Vec<String>,
    /// Keys that take effect at the next start.
    pub restart: Vec<String>,
    /// The backends that a reload makes anew, adds or removes.
    pub backends: BTreeSet<String>,
}

#[derive(Clone, PartialEq)]
struct Setting {
    spec: &'static SettingSpec,
    value: Value,
}

impl Settings {
    /// The settings of a validated tree.
    pub(super) fn new(tree: &Table) -> Self {
        let mut settings = Self::default();
        settings.collect(tree, "", "");
        settings
    }

    /// The keys that differ in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Difference {
        let mut difference = Difference::default();
        for (key, setting) in self.0.iter().chain(other.0.iter().filter(|(key, _)| !self.0.contains_key(*key))) {
            if self.value(key, setting.spec) == other.value(key, setting.spec) {
                continue;
            }
            let is_in =
                |paths: &[&str]| paths.iter().any(|path| setting.spec.path.strip_prefix(path).is_some_and(is_below));
            let is_reloaded = is_in(&RELOADED);
            if !is_in(&RULES_OF_BACKENDS) {
                difference.backends.extend(backend_of(key).map(str::to_owned));
            }
            if is_reloaded { &mut difference.reloaded } else { &mut difference.restart }.push(key.clone());
        }
        difference.reloaded.sort();
        difference.restart.sort();
        difference
    }

    /// The value of a key: as it is set, or its default.
    fn value(&self, key: &str, spec: &SettingSpec) -> Option<Value> {
        if let Some(setting) = self.0.get(key) {
            return Some(setting.value.clone());
        }
        let text = spec.default.to_toml()?;
        format!("v = {text}").parse::<Table>().ok()?.remove("v")
    }

    fn collect(&mut self, table: &Table, at: &str, shape: &str) {
        let has_chosen_names = matches!(shape, "roles" | "backends");
        for (name, value) in table {
            let path = join(at, name);
            let shape = if has_chosen_names { format!("{shape}.*") } else { join(shape, name) };
            if let Some(spec) = SETTINGS.iter().find(|spec| spec.path == shape) {
                self.0.insert(path, Setting { spec, value: value.clone() });
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

/// The alias in a key of a backend. An alias has no dot.
fn backend_of(key: &str) -> Option<&str> {
    key.strip_prefix("backends.")?.split('.').next()
}

/// Returns true if the rest of a path, after the path of a section or key, is that section or key itself or below it.
fn is_below(rest: &str) -> bool {
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

    use super::super::sections::Config;
    use super::*;

    fn settings(text: &str, env: &[(&str, &str)]) -> Settings {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse_whole(text, Some(Path::new("g.toml")), env).unwrap().settings
    }

    const BACKEND: &str = "[backends.b]\ncommand = [\"x\"]\n";

    #[test]
    fn differences_are_named_by_key() {
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
                "backends.b.command",
                "roles.\"a b\".when[0].equals",
                "roles.\"a b\".when[0].pointer",
                "roles.\"a b\".when[0].tool",
                "roles.a.allow",
                "roles.gone.deny",
            ]
        );
        assert_eq!(difference.restart, ["audit.level", "postgres.url", "server.calls_max"]);
        assert_eq!(difference.backends, BTreeSet::from(["b".to_owned()]));
        assert_eq!(new.difference(&old), difference);
        let shown = format!("{new:?}{difference:?}");
        assert!(shown.contains("postgres.url") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn backends_are_made_anew_unless_only_their_rules_differ() {
        let other = "[backends.other]\nurl = \"https://h/mcp\"\n";
        let old = settings(&format!("{BACKEND}{other}"), &[]);
        let rules = settings(
            &format!("[backends.b]\ncommand = [\"x\"]\ncalls_max = 3\nhide = [\"t\"]\npin = \"alarm\"\n{other}"),
            &[],
        );
        assert_eq!(old.difference(&rules).backends, BTreeSet::new());
        assert_eq!(old.difference(&settings(BACKEND, &[])).backends, BTreeSet::from(["other".to_owned()]));
    }

    #[test]
    fn equal_settings_written_differently_do_not_differ() {
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
    fn every_reloaded_key_exists() {
        for path in RELOADED {
            assert!(SETTINGS.iter().any(|spec| spec.path.strip_prefix(path).is_some_and(is_below)), "{path}");
        }
    }
}
