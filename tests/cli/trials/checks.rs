//! The checks of `audit verify`, told apart by what they say.

use serde_json::Value;

/// The sources in which checks report faults, with the number of places where each does.
const SOURCES: [(&str, &str, usize); 6] = [
    ("checker.rs", include_str!("../../../src/audit/verify/checker.rs"), 14),
    ("epochs.rs", include_str!("../../../src/audit/verify/epochs.rs"), 5),
    ("meaning.rs", include_str!("../../../src/audit/verify/meaning.rs"), 12),
    ("missing.rs", include_str!("../../../src/audit/verify/missing.rs"), 5),
    ("report.rs", include_str!("../../../src/audit/verify/report.rs"), 6),
    ("tables.rs", include_str!("../../../src/audit/query/tables.rs"), 12),
];

/// What each check says. The first one that fits counts.
const CHECKS: [&str; 47] = [
    "both are from 1 on, so it was added",
    "a call has one record, so that the others were made up",
    "the value of ",
    "the quarantined bytes: ",
    "the quarantined bytes continue after the record",
    "the columns in audit_quarantine do not match the record in the bytes",
    "this seq has more than one record",
    "all rows of ",
    EMPTY_STREAM,
    " up to the cursor ",
    " missing at the end: epoch ",
    ": deleted rows",
    "prev_hash is not the hash of the record before it",
    "but no damage record names it: a record was replaced",
    "its contents do not match its hash",
    "is more than 5 minutes in the future",
    "is not the one in the request id",
    "has another hash: the stream was rewritten",
    "names another hash: this epoch was rewritten",
    " interrupted calls, but there are ",
    " say that the owner retired them",
    "and is missing: records up to it were removed",
    "names no previous epoch, but this is epoch ",
    " as the previous one: it was made up",
    "names its end: its rows were removed",
    ": one of the two was made up",
    "and no damage record of epoch ",
    "follows gateway/closed",
    "cannot be in this stream: the registrar",
    "the stream begins with ",
    "is not the first record of the stream",
    "gateway/closed counts ",
    "the stream has ",
    "audit_stream has no row for this stream",
    "is after the cursor, which moves with the rows",
    "audit_stream.head_hash is not the hash of the last record",
    "at which this epoch ended, as epoch ",
    ", not a ",
    " is partitioned by ",
    " inherits rows, is ",
    " is not logged",
    " has row security",
    " has the rule ",
    " has the row security policy ",
    " has the trigger ",
    " is of type ",
    " is a generated column",
];

/// A stream that has a cursor and no records says the same as one of which the end is missing.
const EMPTY_STREAM: &str = "all records up to the cursor";

/// The names of all checks that a manipulation of a database can find.
pub const NAMES: &[&str] = &CHECKS;

/// The check that found `fault`.
pub fn check_of(fault: &Value) -> &'static str {
    let what = fault["what"].as_str().unwrap();
    if what.contains(" up to the cursor ") && fault["first"] == 1 {
        return EMPTY_STREAM;
    }
    CHECKS.iter().find(|check| what.contains(**check)).unwrap_or_else(|| panic!("no check says: {fault}"))
}

/// A new check needs an entry here, and a manipulation.
#[test]
fn every_fault_in_the_sources_has_its_check() {
    for (name, source, expected) in SOURCES {
        let found = source.matches("fault(").count();
        assert_eq!(found, expected, "{name} reports faults at another number of places: see CHECKS");
    }
}
