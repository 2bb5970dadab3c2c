//! The lines of an export: a record as a JSON object with the columns in their order, in which arguments and answers
//! are JSON values and not texts that contain JSON.
//!
//! Each JSON value has exactly the bytes that were recorded, so that the record's hash can be computed from the line. A
//! value with line breaks between its tokens is written without them; its bytes are then in `NAME_exact`, as a text. So
//! is a JSON `null`, to differ from SQL's.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::audit::chain;
use crate::audit::record::column::{Column, ColumnType, Group};
use crate::audit::record::{AuditRecord, COLUMNS};

/// The member that says why a record is in quarantine.
const QUARANTINED: &str = "quarantined";

/// The end of the name of a member with the exact bytes of a JSON value.
const EXACT: &str = "_exact";

/// The line of a record, with its line break.
///
/// # Errors
/// The record cannot be written as JSON; never seen.
pub fn export_line(record: &AuditRecord, quarantined: Option<&str>) -> serde_json::Result<String> {
    let mut line = members(record, |_| true)?;
    if let Some(reason) = quarantined {
        line = format!("{line},\"{QUARANTINED}\":{}", Value::from(reason));
    }
    Ok(format!("{{{line}}}\n"))
}

/// The part of a record that a line of a certificate shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All columns.
    Whole,
    /// The caller and the open columns, with the commitments to the other groups.
    Who,
    /// Its hash.
    Hash,
}

/// The line of the record with this index in a certificate: docs/evidence.md, "Certificates".
///
/// # Errors
/// As for [`export_line`].
pub fn certificate_line(index: u64, record: &AuditRecord, shown: Shown) -> serde_json::Result<String> {
    let columns = match shown {
        Shown::Whole => members(record, |_| true)?,
        Shown::Hash => members(record, |column| column.name == "hash")?,
        Shown::Who => {
            let is_shown = |column: &Column| match column.group {
                Group::Open | Group::Who => true,
                Group::Circumstances | Group::Content => false,
                Group::Chain => matches!(column.name, "prev_hash" | "hash" | "salt_who"),
            };
            let mut line = members(record, is_shown)?;
            for (group, digest) in chain::commitments(&record.position, &record.entry) {
                let name = match group {
                    Group::Circumstances => "circumstances",
                    Group::Content => "content",
                    Group::Who | Group::Open | Group::Chain => continue,
                };
                line = format!("{line},\"commitment_{name}\":\"{digest}\"");
            }
            line
        }
    };
    Ok(format!("{{\"index\":{index},{columns}}}\n"))
}

/// The members of the line of a record, without those of other columns.
fn members(record: &AuditRecord, is_shown: impl Fn(&Column) -> bool) -> serde_json::Result<String> {
    let values = serde_json::to_value(record)?;
    let (mut line, mut exact) = (String::new(), String::new());
    for column in COLUMNS.iter().filter(|column| is_shown(column)) {
        let value = values.get(column.name).unwrap_or(&Value::Null);
        line.push_str(if line.is_empty() { "\"" } else { ",\"" });
        line.push_str(column.name);
        line.push_str("\":");
        match (column.column_type, value) {
            (ColumnType::Json, Value::String(text)) if text == "null" || text.contains(['\n', '\r']) => {
                // Line breaks are only between tokens: within a JSON text they are escaped.
                line.push_str(&text.replace(['\n', '\r'], " "));
                exact = format!("{exact},\"{}{EXACT}\":{value}", column.name);
            }
            (ColumnType::Json, Value::String(text)) => line.push_str(text),
            _ => line.push_str(&value.to_string()),
        }
    }
    Ok(line + &exact)
}

/// The record of a line. Each value must be spelled as an export spells it: other programs read a UUID in
/// upper case or a second 60 in other ways, or not at all.
///
/// # Errors
/// It is not a line of an export.
pub fn parse_export_line(line: &str) -> serde_json::Result<AuditRecord> {
    let mut members: BTreeMap<&str, &RawValue> = serde_json::from_str(line)?;
    members.remove(QUARANTINED);
    let mut values = serde_json::Map::new();
    for column in &COLUMNS {
        let Some(raw) = members.remove(column.name) else { continue };
        let exact = members.remove(format!("{}{EXACT}", column.name).as_str());
        let value = match (column.column_type, exact) {
            (ColumnType::Json, Some(exact)) => serde_json::from_str(exact.get())?,
            (ColumnType::Json, None) if raw.get() != "null" => Value::from(raw.get()),
            _ => serde_json::from_str(raw.get())?,
        };
        values.insert(column.name.to_owned(), value);
    }
    if let Some(unknown) = members.keys().next() {
        return Err(serde_json::Error::custom(format!("{unknown:?} is not a column")));
    }
    let record: AuditRecord = serde_json::from_value(Value::Object(values.clone()))?;
    let written = serde_json::to_value(&record)?;
    let is_written_so = |(name, value): (&String, &Value)| written.get(name).unwrap_or(&Value::Null) == value;
    match values.iter().find(|(name, value)| !is_written_so((name, value))) {
        Some((name, _)) => Err(serde_json::Error::custom(format!("{name} is not spelled as in an export"))),
        None => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn a_line_has_json_values_and_is_read_back_with_every_byte() {
        for args in [r#"{"b":1.50,"a":"\u00e9 \n","b":2}"#, "{\"a\":\n 1,\r\n\"b\":[ ]}", "null", "[]"] {
            let mut record = sample::record(1, 2, "echo");
            record.entry.call.request_args = Some(args.to_owned());
            record.position = chain::link(
                record.position.gateway_id,
                record.position.epoch,
                chain::Head { seq: crate::audit::record::Seq(1), hash: record.position.prev_hash },
                &record.entry,
            );
            let line = export_line(&record, Some("23514: no")).unwrap();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let json: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["request_args"], serde_json::from_str::<Value>(args).unwrap());
            assert_eq!(json["quarantined"], "23514: no");
            let read = parse_export_line(&line).unwrap();
            assert_eq!(read, record);
            assert!(chain::hash_matches(&read.position, &read.entry));
        }
        assert!(parse_export_line("{}").is_err());
    }
}
