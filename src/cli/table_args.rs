//! The options for tables of records.

use std::str::FromStr;

use super::exit::usage;
use super::table::{Column, Kind};
use super::terminal::Terminal;
use crate::audit::record::COLUMNS;
use crate::audit::record::column::{self, ColumnType};

/// Options for tables of records.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TableArgs {
    /// Print cells whole and leave out no column, however long the lines become
    #[arg(long)]
    wide: bool,
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[arg(
        long,
        value_name = "COLUMN,...",
        value_delimiter = ',',
        help = "The columns to print, for example time,who,error_message; a name that is not one lists all"
    )]
    columns: Vec<RecordColumn>,
}

/// A column of a table of records.
#[derive(Clone, Copy, Debug)]
pub(super) enum RecordColumn {
    /// One that is made for people.
    Shown(Shown),
    /// A column of `audit_log`.
    Stored(&'static column::Column),
}

/// A column that is made for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Gateway,
    Position,
    Time,
    Who,
    Role,
    Target,
    Status,
    Latency,
    Arguments,
    Error,
}

/// The columns that are made for people, with their names for `--columns`, in the order of the usual table.
const SHOWN: [(Shown, &str, Column); 10] = [
    (Shown::Gateway, "gateway", Column::new("GATEWAY", Kind::Id)),
    (Shown::Position, "position", Column::new("EPOCH/SEQ", Kind::Fixed)),
    (Shown::Time, "time", Column::new("TIME", Kind::Time)),
    (Shown::Who, "who", Column::new("WHO", Kind::Name)),
    (Shown::Role, "role", Column { rank: 3, ..Column::new("ROLE", Kind::Name) }),
    (Shown::Target, "target", Column::new("BACKEND/TOOL", Kind::Name)),
    (Shown::Status, "status", Column::new("STATUS", Kind::Fixed)),
    (Shown::Latency, "ms", Column { rank: 4, ..Column::new("MS", Kind::Fixed) }),
    (Shown::Arguments, "arguments", Column { rank: 2, ..Column::new("ARGUMENTS", Kind::Text) }),
    (Shown::Error, "error", Column { rank: 1, ..Column::new("ERROR", Kind::Text) }),
];

impl TableArgs {
    /// Checks the options beside `--json`.
    ///
    /// # Errors
    /// Columns are chosen for records that are printed as JSON, with all their members.
    pub(super) fn check(&self, json: bool) -> anyhow::Result<()> {
        if json && !self.columns.is_empty() {
            return Err(usage("--columns is for tables: with --json every record has all its members"));
        }
        Ok(())
    }

    /// The terminal, whose width does not count for a wide table.
    pub(super) fn terminal(&self, terminal: Terminal) -> Terminal {
        if self.wide { Terminal { width: None, ..terminal } } else { terminal }
    }

    /// The columns of a table: those that were chosen, or the usual ones, with that of the gateway if there are
    /// several.
    pub(super) fn columns(&self, several_gateways: bool) -> Vec<RecordColumn> {
        if !self.columns.is_empty() {
            return self.columns.clone();
        }
        let usual = SHOWN.iter().map(|(shown, ..)| *shown);
        usual.filter(|shown| several_gateways || *shown != Shown::Gateway).map(RecordColumn::Shown).collect()
    }
}

impl RecordColumn {
    /// Its heading and its contents.
    pub(super) fn column(self) -> Column {
        match self {
            Self::Shown(shown) => {
                let found = SHOWN.iter().find(|(known, ..)| *known == shown);
                found.map_or(Column::new("", Kind::Text), |(.., column)| *column)
            }
            Self::Stored(stored) => Column::new(
                stored.name,
                match stored.column_type {
                    ColumnType::Uuid | ColumnType::Bytes32 => Kind::Id,
                    ColumnType::Timestamptz => Kind::Time,
                    ColumnType::Bigint | ColumnType::Double => Kind::Fixed,
                    ColumnType::Text | ColumnType::Json => Kind::Text,
                },
            ),
        }
    }
}

impl FromStr for RecordColumn {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let shown = SHOWN.iter().find(|(_, known, _)| *known == name).map(|(shown, ..)| Self::Shown(*shown));
        let stored = || COLUMNS.iter().find(|column| column.name == name).map(Self::Stored);
        shown.or_else(stored).ok_or_else(|| {
            let names = SHOWN.iter().map(|(_, name, _)| *name).chain(COLUMNS.iter().map(|column| column.name));
            format!("it is not a column; use {}", names.collect::<Vec<_>>().join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_column_and_others_list_them_all() {
        for name in SHOWN.iter().map(|(_, name, _)| *name).chain(COLUMNS.iter().map(|column| column.name)) {
            let column: RecordColumn = name.parse().unwrap();
            assert!(!column.column().heading.is_empty(), "{name}");
        }
        let wrong = "salt".parse::<RecordColumn>().unwrap_err();
        assert!(wrong.contains("position") && wrong.contains("salt_content"), "{wrong}");
    }
}
