//! `backends.NAME.pin` and `pins_file`: the definitions of tools that an operator has accepted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::audit::record::Digest;

/// Largest file of pins, in bytes. *Chosen*: a hundred thousand tools.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The consequence if the definition of a tool is not the accepted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// A change is recorded.
    #[default]
    Record,
    /// It also raises an alarm.
    Alarm,
    /// The tool can also not be called, and is not listed.
    Refuse,
}

/// The accepted definitions: tool, and SHA-256 digest of its definition.
pub type Pins = BTreeMap<String, Digest>;

/// Reads a file of pins. A file that does not exist has none.
///
/// # Errors
/// The fault of the file.
pub fn read_pins(path: &Path) -> Result<Pins, String> {
    let read = |text: &mut String| File::open(path)?.take(FILE_BYTES_MAX).read_to_string(text);
    let mut text = String::new();
    match read(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pins::new()),
        Err(error) => return Err(format!("{} cannot be read ({error})", path.display())),
    }
    serde_json::from_str(&text).map_err(|error| {
        format!("{} has no pins ({error}): write it with `gatepost audit pins accept`", path.display())
    })
}

/// Writes a file of pins in place of the old one, whole or not at all.
///
/// # Errors
/// The file cannot be written; the old one is unchanged.
pub fn write_pins(path: &Path, pins: &Pins) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(serde_json::to_string_pretty(pins)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
