//! The tables themselves: whether they are those that Gatepost made, and whether anything changes what is written to
//! them or shown of them.

use std::collections::BTreeMap;

use sqlx::Row;

use super::reading::Reading;
use super::row;
use crate::audit::record::column::COLUMNS;
use crate::audit::sql;
use crate::audit::verify::{FaultKind, Place, UnprovenKind};

/// The tables of the trail, and the kind of relation that each is.
const TABLES: [(&str, &str); 3] = [("audit_log", "p"), ("audit_stream", "r"), ("audit_quarantine", "r")];

/// The key of the partitions. *Spec*: `migrations/0001_audit.sql`.
const PARTITION_KEY: &str = "RANGE (\"timestamp\")";

/// The tables and everything that inherits from them, with what Postgres attaches to each.
const RELATIONS: &str = r"
WITH RECURSIVE tree AS (
    SELECT c.oid, c.relname::text AS root, c.relname::text AS name, 0 AS depth
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($2)
    UNION ALL
    SELECT c.oid, t.root, c.oid::regclass::text, t.depth + 1
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT t.root, t.name, t.depth, c.relkind::text, c.relispartition, c.relpersistence::text,
    c.relrowsecurity, coalesce(pg_get_partkeydef(c.oid), '') AS partition_key,
    ARRAY(SELECT r.rulename::text FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') AS rules,
    ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
    ARRAY(SELECT g.tgname::text FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal) AS triggers
FROM tree t JOIN pg_class c ON c.oid = t.oid ORDER BY t.root, t.depth, t.name";

/// The columns of `audit_log`.
const COLUMN_TYPES: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'audit_log' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Tables and views elsewhere that have the names of the trail's tables, and tables that look like partitions and are
/// none. `visible`: the schema is in the search path of this role.
const NAMESAKES: &str = r"SELECT n.nspname::text, c.relname::text, c.relkind::text,
        n.nspname::text = ANY($3) AS visible, n.nspname = $1 AS same_schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
    AND (n.nspname <> $1 AND c.relname = ANY($2) OR n.nspname = $1 AND c.relname LIKE 'audit\_log\_%') ORDER BY 1, 2";

/// The findings: faults, and parts that are not proven. Mentions do not raise the exit code.
#[derive(Debug, Default)]
pub(super) struct TableFindings {
    pub(super) faults: Vec<(FaultKind, Place, String)>,
    pub(super) unproven: Vec<(UnprovenKind, Place, String)>,
    pub(super) mentions: Vec<(UnprovenKind, Place, String)>,
}

impl TableFindings {
    fn fault(&mut self, what: String) {
        self.faults.push((FaultKind::Table, Place::ALL, what));
    }
}

/// Checks the tables.
pub(super) async fn check_tables(reading: &mut Reading<'_>) -> Result<TableFindings, sqlx::Error> {
    let mut found = TableFindings::default();
    relations(reading, &mut found).await?;
    columns(reading, &mut found).await?;
    namesakes(reading, &mut found).await?;
    Ok(found)
}

async fn relations(reading: &mut Reading<'_>, found: &mut TableFindings) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    let query = sql::query(RELATIONS).bind(&reading.schema).bind(names);
    let mut missing: BTreeMap<&str, &str> = TABLES.into_iter().collect();
    for row in query.fetch_all(&mut *reading.transaction).await? {
        let (root, name, kind): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get("relkind")?);
        let (depth, is_partition): (i32, bool) = (row.try_get("depth")?, row.try_get("relispartition")?);
        let partition_key: String = row.try_get("partition_key")?;
        if depth == 0 {
            let expected = missing.remove(root.as_str()).unwrap_or_default();
            if kind != expected {
                found.fault(format!("{name} is {}, not {}", relation(&kind), relation(expected)));
            } else if expected == "p" && partition_key != PARTITION_KEY {
                found.fault(format!("{name} is partitioned by {partition_key}, not by {PARTITION_KEY}"));
            }
        } else if root != "audit_log" || !is_partition || !matches!(kind.as_str(), "r" | "p") {
            found.fault(format!(
                "{name}, from which {root} inherits rows, is {}, and not its partition",
                relation(&kind)
            ));
        }
        if row.try_get::<String, _>("relpersistence")? != "p" {
            found.fault(format!("{name} is not logged: a crash of the server empties it"));
        }
        if row.try_get("relrowsecurity")? {
            found.fault(format!("{name} has row security: not everyone sees the rows that were checked"));
        }
        for (column, thing, effect) in [
            ("rules", "rule", "what is read or written may be something else"),
            ("policies", "row security policy", "not everyone sees the rows that were checked"),
            ("triggers", "trigger", "it can change what gateways write"),
        ] {
            for object in row.try_get::<Vec<String>, _>(column)? {
                found.fault(format!("{name} has the {thing} {object:?}: {effect}"));
            }
        }
    }
    for (name, _) in missing {
        found.fault(format!("{name} is not in the schema of the trail"));
    }
    Ok(())
}

async fn columns(reading: &mut Reading<'_>, found: &mut TableFindings) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, String, bool)> =
        sql::query_as(COLUMN_TYPES).bind(&reading.schema).fetch_all(&mut *reading.transaction).await?;
    for column in COLUMNS {
        let expected = row::type_name(column.column_type);
        match rows.iter().find(|(name, _, _)| name == column.name) {
            None => {
                let what = format!("audit_log has no column {}: nothing can be checked", column.name);
                return Err(sqlx::Error::Protocol(what));
            }
            Some((name, actual, _)) if actual != expected => {
                found.fault(format!("audit_log.{name} is of type {actual}, not {expected}"));
            }
            Some((name, _, true)) => found.fault(format!("audit_log.{name} is a generated column")),
            Some(_) => {}
        }
    }
    for (name, _, _) in rows.iter().filter(|(name, _, _)| !COLUMNS.iter().any(|column| column.name == name)) {
        let what = format!("audit_log.{name} is not a column of Gatepost: it is in no hash");
        found.mentions.push((UnprovenKind::Column, Place::ALL, what));
    }
    Ok(())
}

async fn namesakes(reading: &mut Reading<'_>, found: &mut TableFindings) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    let query = sql::query(NAMESAKES).bind(&reading.schema).bind(names).bind(&reading.search_path);
    for row in query.fetch_all(&mut *reading.transaction).await? {
        let (schema, name, kind): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (is_visible, is_same_schema): (bool, bool) = (row.try_get(3)?, row.try_get(4)?);
        let is_trail = TABLES.contains(&(name.as_str(), kind.as_str()));
        if is_same_schema {
            let what = format!("the table {name} is not a partition of audit_log: its rows are not part of the trail");
            found.mentions.push((UnprovenKind::Shadow, Place::ALL, what));
            continue;
        }
        let what = format!(
            "schema {schema:?} has {name}, {}: which of the two a program uses depends on its search_path",
            relation(&kind)
        );
        if is_visible || !is_trail {
            found.unproven.push((UnprovenKind::Shadow, Place::ALL, what));
        } else {
            found.mentions.push((UnprovenKind::Shadow, Place::ALL, what));
        }
    }
    Ok(())
}

/// A kind of relation in words.
fn relation(kind: &str) -> &'static str {
    match kind {
        "p" => "a partitioned table",
        "r" => "a table",
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        _ => "another relation",
    }
}
