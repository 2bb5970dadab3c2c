//! Makes a [`Config`] from text and environment, and collects all errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::check::check;
use super::difference::Settings;
use super::error::{ConfigError, Origin};
use super::name;
use super::path::{advice, join, nearest};
use super::secrets::has_secret;
use super::sections::Config;
use super::settings_table::{Fallback, SETTINGS, SettingSpec};
use super::value_type::type_name;
use crate::file_access::{FileAccess, FileKind};

/// Largest configuration file, in bytes. *Chosen*: thousands of roles fit; a larger one is the wrong file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Variables with this prefix belong to Gatepost.
const PREFIX: &str = "GATEPOST_";

/// A validated configuration and its file.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The same, key by key.
    pub settings: Settings,
    /// The text of the file.
    pub text: String,
    /// The file as it was when it was read; `None`: there is no file.
    file: Option<(PathBuf, Metadata)>,
    /// The kind of the file.
    kind: FileKind,
}

impl Loaded {
    /// Checks the owner and the permissions of the file.
    ///
    /// # Errors
    /// Others may change it or, if it contains a secret, read it.
    pub fn check_file(&self, access: impl FnOnce(FileAccess) -> FileAccess) -> Result<(), ConfigError> {
        let Some((path, metadata)) = &self.file else { return Ok(()) };
        access(self.config.auth.files).check(path, metadata, self.kind).map_err(|error| ConfigError {
            origin: Origin::File(path.clone()),
            key: String::new(),
            message: error.reason.to_string(),
        })
    }
}

/// The state of loading: the origin of each key, and the errors found.
struct Draft {
    file: Option<PathBuf>,
    lines: BTreeMap<String, usize>,
    variables: BTreeMap<String, String>,
    errors: Vec<ConfigError>,
}

impl Config {
    /// Reads the file at `path`, if any, applies `env` to it and validates the result.
    ///
    /// # Errors
    /// All errors, in the order of the file; at least one.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<ConfigError>> {
        Self::load_whole(path, env).map(|loaded| loaded.config)
    }

    /// Does the same as [`Config::load`], and also returns the file's text and the settings key by key.
    ///
    /// # Errors
    /// All errors, in the order of the file; at least one.
    pub fn load_whole(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let Some(path) = path else { return Self::parse_whole("", None, env) };
        let unreadable =
            |message| vec![ConfigError { origin: Origin::File(path.to_owned()), key: String::new(), message }];
        let mut bytes = Vec::new();
        let metadata = std::fs::File::open(path)
            .and_then(|file| {
                let metadata = file.metadata()?;
                file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
                Ok(metadata)
            })
            .map_err(|source| unreadable(format!("cannot be read ({source}): check its path and permissions")))?;
        // I6: no more than the limit is read.
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(format!("is larger than {FILE_BYTES_MAX} bytes: is this the right file?")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| unreadable("is not UTF-8: save it as UTF-8, which TOML requires".to_owned()))?;
        let loaded = Self::parse_whole(&text, Some(path), env)?;
        Ok(Loaded { file: Some((path.to_owned(), metadata)), ..loaded })
    }

    /// Does the same as [`Config::load`] for the text of a file; `path` names it in errors.
    ///
    /// # Errors
    /// All errors, in the order of the file; at least one.
    pub fn parse(
        text: &str,
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<ConfigError>> {
        Self::parse_whole(text, path, env).map(|loaded| loaded.config)
    }

    pub(super) fn parse_whole(
        text: &str,
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let file = path.map(Path::to_owned);
        let mut draft = Draft { file, lines: BTreeMap::new(), variables: BTreeMap::new(), errors: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut errors: Vec<ConfigError> = errors.iter().map(|error| draft.syntax(text, error)).collect();
            // The first error of a line is the cause; the others follow from it.
            errors.dedup_by(|later, first| later.origin == first.origin);
            return Err(errors);
        }
        let mut tree = draft.table(document.get_ref(), "", &LineIndex::new(text));
        // What the environment adds is not in the file.
        let kind = if has_secret(&tree) { FileKind::Secret } else { FileKind::Trusted };
        draft.overlay(&mut tree, env);
        draft.walk(&mut tree, "", "");
        let settings = Settings::new(&tree);
        match Self::deserialize(Value::Table(tree)) {
            Ok(mut config) => {
                config.read_pins();
                check(&config, &mut |key, message| draft.error(key, message));
                match config.file_access() {
                    Ok(access) => config.set_file_access(access),
                    Err(message) => draft.error("server.secrets_group", message),
                }
                draft.finish(Loaded { config, settings, text: text.to_owned(), file: None, kind })
            }
            Err(source) => {
                if draft.errors.is_empty() {
                    let message = format!("cannot be interpreted: {}", source.message());
                    draft.error("", message);
                }
                Err(draft.in_order())
            }
        }
    }
}

impl Draft {
    /// Adds an error of `key`, unless that key has one already, or is a section in a list with an error in it: the
    /// value refused there may be the one that is missing.
    fn error(&mut self, key: &str, message: String) {
        let within = |error: &ConfigError| key.ends_with(']') && error.key.starts_with(&format!("{key}."));
        if self.errors.iter().any(|error| (error.key == key && !key.is_empty()) || within(error)) {
            return;
        }
        let origin = self.origin(key);
        self.errors.push(ConfigError { origin, key: key.to_owned(), message });
    }

    fn origin(&self, key: &str) -> Origin {
        let mut at = key;
        loop {
            if let Some(name) = self.variables.get(at) {
                return Origin::Variable(name.clone());
            }
            if let (Some(line), file) = (self.lines.get(at), &self.file) {
                return Origin::Line { file: file.clone().unwrap_or_else(|| PathBuf::from("config")), line: *line };
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = at.get(..end).unwrap_or_default(),
                None => return self.file.clone().map_or(Origin::Default, Origin::File),
            }
        }
    }

    fn syntax(&self, text: &str, error: &toml::de::Error) -> ConfigError {
        let file = self.file.clone().unwrap_or_else(|| PathBuf::from("config"));
        let line = error.span().map_or(1, |span| LineIndex::new(text).line(span.start));
        let message = error.message().trim().replace('\n', ", ");
        ConfigError {
            origin: Origin::Line { file, line },
            key: String::new(),
            message: format!("is not valid TOML: {message}"),
        }
    }

    /// Copies a table, and records the line of each key under its path.
    fn table(&mut self, table: &DeTable<'_>, at: &str, lines: &LineIndex) -> Table {
        let mut copy = Table::new();
        for (key, value) in table {
            let path = join(at, key.get_ref());
            self.lines.insert(path.clone(), lines.line(key.span().start));
            copy.insert(key.get_ref().to_string(), self.value(value, &path, lines));
        }
        copy
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &str, lines: &LineIndex) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            // A number that i64 cannot represent is out of every range, at the same end.
            DeValue::Integer(number) => {
                Value::Integer(
                    i64::from_str_radix(number.as_str(), number.radix())
                        .unwrap_or(if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX }),
                )
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(moment) => Value::Datetime(*moment),
            DeValue::Table(table) => Value::Table(self.table(table, path, lines)),
            DeValue::Array(items) => {
                let mut copy = Vec::new();
                for (idx, item) in items.iter().enumerate() {
                    let path = format!("{path}[{idx}]");
                    self.lines.insert(path.clone(), lines.line(item.span().start));
                    copy.push(self.value(item, &path, lines));
                }
                Value::Array(copy)
            }
        }
    }

    /// Applies the environment to the file. An empty variable unsets a key that may be unset.
    fn overlay(&mut self, tree: &mut Table, env: impl IntoIterator<Item = (String, String)>) {
        let secrets = secret_variables(tree);
        // Sorted, so that the same environment always leads to the same errors.
        for (name, text) in env.into_iter().collect::<BTreeMap<_, _>>() {
            if !name.starts_with(PREFIX) || secrets.contains(&name) {
                continue;
            }
            let spec = SETTINGS.iter().find(|spec| spec.variable().as_ref() == Some(&name));
            if spec.is_none() && is_service_link(&name, &text) {
                continue;
            }
            let Some(spec) = spec else {
                let message = format!("unknown variable: {}", variable_advice(&name));
                self.errors.push(ConfigError { origin: Origin::Variable(name), key: String::new(), message });
                continue;
            };
            self.variables.insert(spec.path.to_owned(), name);
            let Some((path, key)) = spec.path.rsplit_once('.') else { continue };
            let section = path.split('.').try_fold(&mut *tree, |table, name| {
                table.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
            });
            // A section that is not a table is reported by `walk`.
            let Some(section) = section else { continue };
            if text.is_empty() && spec.default == Fallback::Unset {
                section.remove(key);
            } else {
                section.insert(key.to_owned(), spec.value_type.parse_variable(&text));
            }
        }
    }

    /// Checks everything below `at`; `shape` is the same path as [`SETTINGS`] writes it. Invalid values are removed
    /// from the tree, so that the rest can be checked too.
    fn walk(&mut self, table: &mut Table, at: &str, shape: &str) {
        let has_chosen_names = matches!(shape, "roles" | "backends");
        for name in table.keys().cloned().collect::<Vec<_>>() {
            let path = join(at, &name);
            let shape = if has_chosen_names { format!("{shape}.*") } else { join(shape, &name) };
            let named = match at {
                "roles" => name::check_role(&name),
                "backends" => name::check_alias(&name),
                _ => Ok(()),
            };
            if let Err(message) = named {
                self.error(&path, message);
            }
            let Some(value) = table.get_mut(&name) else { continue };
            let keep = if let Some(spec) = SETTINGS.iter().find(|spec| spec.path == shape) {
                self.leaf(spec, value, &path)
            } else if SETTINGS.iter().any(|spec| spec.path.starts_with(&format!("{shape}[]."))) {
                self.tables(value, &path, &format!("{shape}[]"))
            } else if SETTINGS.iter().any(|spec| spec.path.starts_with(&format!("{shape}."))) {
                self.section(value, &path, &shape)
            } else {
                self.error(&path, format!("unknown key: {}", advice(&path, &shape)));
                false
            };
            if !keep {
                table.remove(&name);
            }
        }
    }

    fn leaf(&mut self, spec: &SettingSpec, value: &mut Value, path: &str) -> bool {
        let Err(errors) = spec.value_type.check(value) else { return true };
        for error in errors {
            let key = match (&error.item, value.is_table()) {
                (None, _) => path.to_owned(),
                (Some(item), true) => join(path, item),
                (Some(item), false) => format!("{path}[{item}]"),
            };
            self.error(&key, error.message);
        }
        if value.as_array().is_some_and(|items| items.iter().all(Value::is_str)) {
            // One invalid item does not hide errors that involve the other items.
            return true;
        }
        if spec.default == Fallback::Required {
            *value = spec.value_type.placeholder();
        }
        spec.default == Fallback::Required
    }

    fn section(&mut self, value: &mut Value, path: &str, shape: &str) -> bool {
        let found = type_name(value);
        let Value::Table(table) = value else {
            self.error(path, format!("expected a section, got {found}: write [{path}] and its keys below it"));
            return false;
        };
        self.walk(table, path, shape);
        for spec in SETTINGS.iter().filter(|spec| spec.default == Fallback::Required) {
            let Some((section, key)) = spec.path.rsplit_once('.') else { continue };
            if section == shape && !table.contains_key(key) {
                let message = format!("is missing: set it ({})", spec.value_type.range());
                self.error(&join(path, key), message);
                table.insert(key.to_owned(), spec.value_type.placeholder());
            }
        }
        true
    }

    fn tables(&mut self, value: &mut Value, path: &str, shape: &str) -> bool {
        let Value::Array(items) = value else {
            self.error(path, format!("expected a list of sections, got {}: write [[{path}]]", type_name(value)));
            return false;
        };
        let mut idx = 0;
        items.retain_mut(|item| {
            let path = format!("{path}[{idx}]");
            idx += 1;
            self.section(item, &path, shape)
        });
        true
    }

    fn finish(self, loaded: Loaded) -> Result<Loaded, Vec<ConfigError>> {
        if self.errors.is_empty() { Ok(loaded) } else { Err(self.in_order()) }
    }

    fn in_order(self) -> Vec<ConfigError> {
        let mut errors = self.errors;
        errors.sort_by_key(|error| match error.origin {
            Origin::Line { line, .. } => line,
            _ => usize::MAX,
        });
        errors
    }
}

/// The positions of a text's newlines.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(idx, _)| idx).collect())
    }

    /// The line of a byte, from 1.
    fn line(&self, byte: usize) -> usize {
        self.0.partition_point(|newline| *newline < byte) + 1
    }
}

/// Advice on an unknown variable. All begin alike, so only the rest is compared.
fn variable_advice(name: &str) -> String {
    let rest = |variable: &str| variable.strip_prefix(PREFIX).unwrap_or(variable).to_owned();
    let known = SETTINGS.iter().filter_map(SettingSpec::variable).map(|variable| rest(&variable));
    nearest(&rest(name), known).map_or_else(
        || format!("a setting is {PREFIX}SECTION_KEY, for example {PREFIX}SERVER_LISTEN; unset it if it is not one"),
        |nearest| format!("did you mean {PREFIX}{nearest}?"),
    )
}

/// Returns true for a variable by which Kubernetes tells a container of a Service whose name begins with the prefix:
/// `GATEPOST_SERVICE_HOST` and `GATEPOST_PORT=tcp://10.0.0.1:8808`. *Spec*: Kubernetes, "Accessing the Service",
/// environment variables. One that a person has set by mistake has another value.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_url = |text: &str| {
        let parts = text.split_once("://").and_then(|(protocol, rest)| Some((protocol, rest.rsplit_once(':')?)));
        parts.is_some_and(|(protocol, (host, port))| PROTOCOLS.contains(&protocol) && is_address(host) && is_port(port))
    };
    if name.ends_with("_SERVICE_HOST") {
        return is_address(value);
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port(value);
    }
    if name.ends_with("_PORT") && is_url(value) {
        return true;
    }
    // `_PORT_8808_TCP`, and the same with `_PROTO`, `_PORT` or `_ADDR`.
    let Some((_, rest)) = name.rsplit_once("_PORT_").filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return false;
    };
    let rest = rest.to_ascii_lowercase();
    let mut parts = rest.split('_');
    let is_named = parts.next().is_some_and(is_port) && parts.next().is_some_and(|part| PROTOCOLS.contains(&part));
    is_named
        && match (parts.next(), parts.next()) {
            (None, None) => is_url(value),
            (Some("proto"), None) => PROTOCOLS.contains(&value),
            (Some("port"), None) => is_port(value),
            (Some("addr"), None) => is_address(value),
            _ => false,
        }
}

/// The variables that contain secrets of keys: these may have the prefix too.
fn secret_variables(tree: &Table) -> BTreeSet<String> {
    let keys = tree.get("auth").and_then(|auth| auth.get("keys")).and_then(Value::as_array);
    let names = keys.into_iter().flatten().filter_map(|key| key.get("secret_env")?.as_str());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_makes_for_services_are_known_by_their_form() {
        for (name, value) in [
            ("GATEPOST_SERVICE_HOST", "10.96.0.12"),
            ("GATEPOST_SERVICE_HOST", "fd00::12"),
            ("GATEPOST_SERVICE_PORT", "8808"),
            ("GATEPOST_SERVICE_PORT_MCP", "8808"),
            ("GATEPOST_PORT", "tcp://10.96.0.12:8808"),
            ("GATEPOST_PORT", "tcp://[fd00::12]:8808"),
            ("GATEPOST_PORT_8808_TCP", "tcp://10.96.0.12:8808"),
            ("GATEPOST_PORT_8808_TCP_PROTO", "tcp"),
            ("GATEPOST_PORT_8808_TCP_PORT", "8808"),
            ("GATEPOST_PORT_8808_TCP_ADDR", "10.96.0.12"),
            ("GATEPOST_OPS_METRICS_PORT_53_UDP", "udp://10.96.0.12:53"),
            ("GATEPOST_OPS_SERVICE_HOST", "10.96.0.13"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
            let env = [(name.to_owned(), value.to_owned())];
            assert!(Config::parse("", None, env).is_ok(), "{name}={value} is left alone");
        }
        // What a person has set by mistake is an error.
        for (name, value) in [
            ("GATEPOST_PORT", "8808"),
            ("GATEPOST_PORT", "http://gate.example:8808"),
            ("GATEPOST_SERVICE_HOST", "gate.example"),
            ("GATEPOST_SERVICE_PORT", "https"),
            ("GATEPOST_PORT_8808_TCP_ADDR", "x"),
            ("GATEPOST_PORT_X_TCP", "tcp://10.96.0.12:8808"),
            ("GATEPOST_PORT_8808_HTTP", "tcp://10.96.0.12:8808"),
            ("GATEPOST_SERVER_LISTN", "127.0.0.1:8808"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
