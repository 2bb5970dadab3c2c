//! From text and environment to a [`Config`], with every fault found on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::knobs::{Fallback, KNOBS, Knob};
use super::path::{join, nearest, nearest_key};
use super::settings::{Loaded, Settings};
use super::{Config, Fault, Origin, check, kind};

/// Largest configuration file, in bytes. *Chosen*: thousands of roles fit; anything larger is the wrong file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Variables with this prefix belong to Gatepost.
const PREFIX: &str = "GATEPOST_";

/// What has been read so far: the values, where each was written, and what is wrong.
struct Draft {
    file: Option<PathBuf>,
    lines: BTreeMap<String, usize>,
    variables: BTreeMap<String, String>,
    faults: Vec<Fault>,
}

impl Config {
    /// Reads the file at `path`, if any, lays `env` over it and validates the whole.
    ///
    /// # Errors
    /// Every fault found, in the order of the file; at least one.
    pub fn load(path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<Fault>> {
        Self::load_whole(path, env).map(|loaded| loaded.config)
    }

    /// The same, with the file's text and what is set key by key.
    ///
    /// # Errors
    /// Every fault found, in the order of the file; at least one.
    pub fn load_whole(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Vec<Fault>> {
        let Some(path) = path else { return Self::parse_whole("", None, env) };
        let unreadable = |message| vec![Fault { origin: Origin::File(path.to_owned()), key: String::new(), message }];
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|source| unreadable(format!("cannot be read ({source}): name an existing, readable file")))?;
        // I6: a file is read to its limit and no further.
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(format!("is larger than {FILE_BYTES_MAX} bytes: is this the right file?")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| unreadable("is no UTF-8 text: save it as UTF-8, as TOML demands".to_owned()))?;
        Self::parse_whole(&text, Some(path), env)
    }

    /// The same for text that is at hand; `path` names it in faults.
    ///
    /// # Errors
    /// Every fault found, in the order of the file; at least one.
    pub fn parse(
        text: &str,
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Fault>> {
        Self::parse_whole(text, path, env).map(|loaded| loaded.config)
    }

    pub(super) fn parse_whole(
        text: &str,
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Vec<Fault>> {
        let file = path.map(Path::to_owned);
        let mut draft = Draft { file, lines: BTreeMap::new(), variables: BTreeMap::new(), faults: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut faults: Vec<Fault> = errors.iter().map(|error| draft.syntax(text, error)).collect();
            // The first error of a line explains it; the others follow from it.
            faults.dedup_by(|later, first| later.origin == first.origin);
            return Err(faults);
        }
        let mut tree = draft.table(document.get_ref(), "", &LineIndex::new(text));
        draft.overlay(&mut tree, env);
        draft.walk(&mut tree, "", "");
        let settings = Settings::of(&tree);
        match Self::deserialize(Value::Table(tree)) {
            Ok(config) => {
                check::together(&config, &mut |key, message| draft.fault(key, message));
                draft.finish(Loaded { config, settings, text: text.to_owned() })
            }
            Err(source) => {
                if draft.faults.is_empty() {
                    let message = format!("is not understood: {}", source.message());
                    draft.fault("", message);
                }
                Err(draft.in_order())
            }
        }
    }
}

impl Draft {
    /// Adds a fault of `key`, unless that key has one already, or is a section of a list with a fault in it: what was
    /// refused there may be what is missing.
    fn fault(&mut self, key: &str, message: String) {
        let within = |fault: &Fault| key.ends_with(']') && fault.key.starts_with(&format!("{key}."));
        if self.faults.iter().any(|fault| (fault.key == key && !key.is_empty()) || within(fault)) {
            return;
        }
        let origin = self.origin(key);
        self.faults.push(Fault { origin, key: key.to_owned(), message });
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

    fn syntax(&self, text: &str, error: &toml::de::Error) -> Fault {
        let file = self.file.clone().unwrap_or_else(|| PathBuf::from("config"));
        let line = error.span().map_or(1, |span| LineIndex::new(text).line(span.start));
        let message = error.message().trim().replace('\n', ", ");
        Fault { origin: Origin::Line { file, line }, key: String::new(), message: format!("is no TOML: {message}") }
    }

    /// An owned copy of a table; the line of everything in it is noted under its path.
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
            // What i64 does not hold is out of every range, at the same end.
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

    /// Lays the environment over the file. An empty variable unsets a key that may be unset.
    fn overlay(&mut self, tree: &mut Table, env: impl IntoIterator<Item = (String, String)>) {
        let secrets = secret_variables(tree);
        // Sorted, so that the same environment always gives the same faults.
        for (name, text) in env.into_iter().collect::<BTreeMap<_, _>>() {
            if !name.starts_with(PREFIX) || secrets.contains(&name) {
                continue;
            }
            let Some(knob) = KNOBS.iter().find(|knob| knob.variable().as_ref() == Some(&name)) else {
                let nearest = nearest(&name, KNOBS.iter().filter_map(Knob::variable));
                let message = format!("unknown variable: did you mean {nearest}?");
                self.faults.push(Fault { origin: Origin::Variable(name), key: String::new(), message });
                continue;
            };
            self.variables.insert(knob.path.to_owned(), name);
            let Some((path, key)) = knob.path.rsplit_once('.') else { continue };
            let section = path.split('.').try_fold(&mut *tree, |table, name| {
                table.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
            });
            // A section that is no table is a fault of its own.
            let Some(section) = section else { continue };
            if text.is_empty() && knob.default == Fallback::Unset {
                section.remove(key);
            } else {
                section.insert(key.to_owned(), knob.kind.read(&text));
            }
        }
    }

    /// Checks everything below `at`; `shape` is the same path as [`KNOBS`] writes it. What is wrong is taken out of
    /// the tree, so that the rest can be checked too.
    fn walk(&mut self, table: &mut Table, at: &str, shape: &str) {
        let chosen = matches!(shape, "roles" | "backends");
        for name in table.keys().cloned().collect::<Vec<_>>() {
            let path = join(at, &name);
            let shape = if chosen { format!("{shape}.*") } else { join(shape, &name) };
            if chosen && let Err(message) = check::name(at, &name) {
                self.fault(&path, message);
            }
            let Some(value) = table.get_mut(&name) else { continue };
            let keep = if let Some(knob) = KNOBS.iter().find(|knob| knob.path == shape) {
                self.leaf(knob, value, &path)
            } else if KNOBS.iter().any(|knob| knob.path.starts_with(&format!("{shape}[]."))) {
                self.tables(value, &path, &format!("{shape}[]"))
            } else if KNOBS.iter().any(|knob| knob.path.starts_with(&format!("{shape}."))) {
                self.section(value, &path, &shape)
            } else {
                let nearest = nearest_key(&path, &shape);
                self.fault(&path, format!("unknown key: did you mean {nearest}?"));
                false
            };
            if !keep {
                table.remove(&name);
            }
        }
    }

    fn leaf(&mut self, knob: &Knob, value: &mut Value, path: &str) -> bool {
        let Err(wrong) = knob.kind.check(value) else { return true };
        for wrong in wrong {
            let key = match (&wrong.item, value.is_table()) {
                (None, _) => path.to_owned(),
                (Some(item), true) => join(path, item),
                (Some(item), false) => format!("{path}[{item}]"),
            };
            self.fault(&key, wrong.message);
        }
        if value.as_array().is_some_and(|items| items.iter().all(Value::is_str)) {
            // One bad item does not hide what else is wrong with the list.
            return true;
        }
        if knob.default == Fallback::Required {
            *value = knob.kind.placeholder();
        }
        knob.default == Fallback::Required
    }

    fn section(&mut self, value: &mut Value, path: &str, shape: &str) -> bool {
        let found = kind::found(value);
        let Value::Table(table) = value else {
            self.fault(path, format!("is a section, not {found}: write [{path}] and its keys below it"));
            return false;
        };
        self.walk(table, path, shape);
        for knob in KNOBS.iter().filter(|knob| knob.default == Fallback::Required) {
            let Some((section, key)) = knob.path.rsplit_once('.') else { continue };
            if section == shape && !table.contains_key(key) {
                let message = format!("is missing: set it ({})", knob.kind.range());
                self.fault(&join(path, key), message);
                table.insert(key.to_owned(), knob.kind.placeholder());
            }
        }
        true
    }

    fn tables(&mut self, value: &mut Value, path: &str, shape: &str) -> bool {
        let Value::Array(items) = value else {
            self.fault(path, format!("is a list of sections, not {}: write [[{path}]]", kind::found(value)));
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

    fn finish(self, loaded: Loaded) -> Result<Loaded, Vec<Fault>> {
        if self.faults.is_empty() { Ok(loaded) } else { Err(self.in_order()) }
    }

    fn in_order(self) -> Vec<Fault> {
        let mut faults = self.faults;
        faults.sort_by_key(|fault| match fault.origin {
            Origin::Line { line, .. } => line,
            _ => usize::MAX,
        });
        faults
    }
}

/// Where the lines of a text begin.
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

/// The variables that hold secrets of keys: these may begin with the prefix.
fn secret_variables(tree: &Table) -> BTreeSet<String> {
    let keys = tree.get("auth").and_then(|auth| auth.get("keys")).and_then(Value::as_array);
    let names = keys.into_iter().flatten().filter_map(|key| key.get("secret_env")?.as_str());
    names.map(str::to_owned).collect()
}
