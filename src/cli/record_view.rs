//! Records as text for people.

use std::fmt::Write as _;

use super::table::table;
use crate::audit::record::AuditRecord;
use crate::audit::record::COLUMNS;
use crate::escape::escape_hidden;
use crate::ops::columns::{Value, displayed};
use crate::ops::format::{indented_json, target, who};
use crate::ops::record_ref::EpochSeq;

/// The columns of a table of records. Records of several gateways have another one before them.
const HEADINGS: [&str; 9] = ["EPOCH/SEQ", "TIME", "WHO", "ROLE", "BACKEND/TOOL", "STATUS", "MS", "ARGUMENTS", "ERROR"];

/// A table with one record a row.
pub(super) fn records_table<'a>(records: impl IntoIterator<Item = &'a AuditRecord>) -> String {
    let records: Vec<_> = records.into_iter().collect();
    let mut rows: Vec<_> = records.iter().map(|record| row(record)).collect();
    let mut headings = HEADINGS.to_vec();
    let gateway = |record: &AuditRecord| record.position.gateway_id;
    if records.windows(2).any(|pair| matches!(pair, [one, other] if gateway(one) != gateway(other))) {
        headings.insert(0, "GATEWAY");
        for (row, record) in rows.iter_mut().zip(&records) {
            row.insert(0, gateway(record).to_string());
        }
    }
    table(&headings, &rows)
}

/// The rows of [`records_table`] without the headings.
pub(super) fn records_rows<'a>(records: impl IntoIterator<Item = &'a AuditRecord>) -> String {
    records_table(records).split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
}

fn row(record: &AuditRecord) -> Vec<String> {
    let entry = &record.entry;
    let call = &entry.call;
    vec![
        EpochSeq::of(record).to_string(),
        call.timestamp.to_string(),
        who(call),
        call.client_role.as_ref().map(ToString::to_string).unwrap_or_default(),
        target(call),
        entry.response_status.to_string(),
        format!("{:.1}", entry.latency_ms),
        call.request_args.clone().unwrap_or_default(),
        entry.error_message.clone().unwrap_or_default(),
    ]
}

/// The layout of the arguments in [`record_fields`]: on one line, or with one member a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    OneLine,
    Indented,
}

/// All columns of a record as lines of `name: value`, the arguments last if they are indented.
pub(super) fn record_fields(record: &AuditRecord, arguments: Arguments) -> String {
    let mut out = String::new();
    for column in &COLUMNS {
        if column.name == "request_args" && arguments == Arguments::Indented {
            continue;
        }
        match displayed(column, record) {
            Value::Null => writeln!(out, "{}: -", column.name).ok(),
            Value::Text(text) => writeln!(out, "{}: {}", column.name, escape_hidden(&text)).ok(),
            Value::Number(number) => writeln!(out, "{}: {number}", column.name).ok(),
        };
    }
    if let Some(args) = record.entry.call.request_args.as_ref().filter(|_| arguments == Arguments::Indented) {
        out.push_str("request_args:\n");
        for line in indented_json(args).lines() {
            writeln!(out, "  {line}").ok();
        }
    }
    out
}
