//! Records as text for people.

use std::fmt::Write as _;

use super::output::print_error;
use super::table::{Cell, Table};
use super::table_args::{RecordColumn, Shown, TableArgs};
use super::terminal::{Terminal, Tone};
use crate::audit::record::{AuditRecord, COLUMNS, Status};
use crate::escape::escape_hidden;
use crate::ops::columns::{Value, displayed};
use crate::ops::format::{indented_json, target, who};
use crate::ops::record_ref::EpochSeq;
use crate::ops::time_arg::Zone;

/// A table with one record a row, to which later records can be added.
#[derive(Debug)]
pub(super) struct RecordsTable {
    columns: Vec<RecordColumn>,
    table: Table,
    zone: Zone,
}

impl RecordsTable {
    /// A table for records of one gateway, or of several.
    pub(super) fn new(args: &TableArgs, terminal: Terminal, several_gateways: bool) -> Self {
        let columns = args.columns(several_gateways);
        let table = Table::new(columns.iter().map(|column| column.column()).collect(), args.terminal(terminal));
        Self { columns, table, zone: terminal.zone }
    }

    /// The headings and the first records. Standard error says which columns are left out.
    pub(super) fn begin(&mut self, records: &[AuditRecord]) -> String {
        let rows = self.rows(records);
        let text = self.table.begin(rows);
        let left_out = self.table.left_out();
        if !left_out.is_empty() {
            let columns = left_out.join(", ");
            print_error(&format!("not shown in this width: {columns}; --wide prints all, --columns chooses"));
        }
        text
    }

    /// Later records.
    pub(super) fn more(&self, records: &[AuditRecord]) -> String {
        self.table.more(self.rows(records))
    }

    fn rows(&self, records: &[AuditRecord]) -> Vec<Vec<Cell>> {
        records
            .iter()
            .map(|record| self.columns.iter().map(|column| cell(*column, record, self.zone)).collect())
            .collect()
    }
}

/// A table with one record a row.
pub(super) fn records_table(records: &[AuditRecord], args: &TableArgs, terminal: Terminal) -> String {
    RecordsTable::new(args, terminal, has_several_gateways(records)).begin(records)
}

/// Returns true if the records are of several gateways.
pub(super) fn has_several_gateways(records: &[AuditRecord]) -> bool {
    let gateway = |record: &AuditRecord| record.position.gateway_id;
    records.windows(2).any(|pair| matches!(pair, [one, other] if gateway(one) != gateway(other)))
}

fn cell(column: RecordColumn, record: &AuditRecord, zone: Zone) -> Cell {
    let entry = &record.entry;
    let call = &entry.call;
    let text = match column {
        RecordColumn::Shown(Shown::Gateway) => record.position.gateway_id.to_string(),
        RecordColumn::Shown(Shown::Position) => EpochSeq::of(record).to_string(),
        RecordColumn::Shown(Shown::Time) => zone.rfc_3339(call.timestamp),
        RecordColumn::Shown(Shown::Who) => who(call),
        RecordColumn::Shown(Shown::Role) => call.client_role.as_ref().map(ToString::to_string).unwrap_or_default(),
        RecordColumn::Shown(Shown::Target) => target(call),
        RecordColumn::Shown(Shown::Status) => return Cell::new(&entry.response_status, tone(entry.response_status)),
        RecordColumn::Shown(Shown::Latency) => format!("{:.1}", entry.latency_ms),
        RecordColumn::Shown(Shown::Arguments) => call.request_args.clone().unwrap_or_default(),
        RecordColumn::Shown(Shown::Error) => entry.error_message.clone().unwrap_or_default(),
        RecordColumn::Stored(column) if column.name == "timestamp" => zone.rfc_3339(call.timestamp),
        RecordColumn::Stored(column) => match displayed(column, record) {
            Value::Null => String::new(),
            Value::Text(text) => text.into_owned(),
            Value::Number(number) => number,
        },
    };
    text.into()
}

/// The colour of a status.
fn tone(status: Status) -> Tone {
    match status {
        Status::Ok | Status::InputRequired | Status::Cancelled => Tone::Plain,
        Status::Denied | Status::Unauthenticated | Status::Malformed | Status::RateLimited => Tone::Notable,
        Status::ToolError | Status::Error | Status::Timeout | Status::Interrupted | Status::AuditUnavailable => {
            Tone::Bad
        }
    }
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
