//! Which module may name which, and in which modules a dependency may be named.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust::{self, Source};
use crate::{check, clean};

/// From (module and all below it) to (module and all below it): never. The reasons are in `src/lib.rs`.
const FORBIDDEN: [(&str, &str); 16] = [
    ("audit", "gateway"),
    ("audit", "upstream"),
    ("audit", "cli"),
    ("audit", "ops"),
    ("config", "gateway"),
    ("config", "upstream"),
    ("config", "cli"),
    ("config", "ops"),
    ("gateway", "cli"),
    ("gateway", "ops"),
    ("upstream", "cli"),
    ("audit::ring", "audit::outbox"),
    ("audit::outbox", "audit::ring"),
    ("audit::sink", "audit::ring"),
    ("audit::sink", "audit::outbox"),
    ("audit::outbox", "audit::sink"),
];

/// The same, for modules that the layout of `docs/design.md` separates.
const FORBIDDEN_BY_LAYOUT: [(&str, &str); 5] =
    [("upstream", "gateway"), ("auth", "gateway"), ("auth", "upstream"), ("rbac", "gateway"), ("rbac", "upstream")];

/// Modules that name nothing of the crate but themselves.
const SELF_CONTAINED: [&str; 2] = ["mcp", "evidence"];

/// The folders of `gateway`, in the order in which a request passes. A folder names only itself, folders after it, and
/// files directly in `gateway/` that are not a folder's.
const GATEWAY_FOLDERS: [&str; 6] = ["listener", "dispatch", "answer", "call", "session", "message"];

/// A crate and the only modules that may name it.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("redb", &["audit::outbox"]),
    ("sqlx", &["audit::sink", "audit::query", "audit::sql"]),
    ("bincode", &["audit::codec"]),
    ("backoff", &["retry"]),
];

/// The one module that makes statements, which are unnamed there: a pooler would mix up named ones of several clients.
const STATEMENTS: &str = "audit::sql";

/// How a string literal begins that is a statement of SQL.
const SQL: [&str; 8] =
    ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "CREATE TABLE", "ALTER TABLE", "WITH moved", "SET "];

fn in_module(module: &str, of: &str) -> bool {
    module == of || module.strip_prefix(of).is_some_and(|rest| rest.starts_with("::"))
}

/// `forbidden` has pairs of modules: the first must not name the second.
fn imports_go_one_way(sources: &[Source], forbidden: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for target in source.imports() {
            for (from, to) in forbidden {
                if in_module(&module, from) && in_module(&target, to) {
                    wrong.push(format!("{}: {module} names {target}: {from} must not know {to}", source.path));
                }
            }
        }
    }
    wrong
}

fn some_modules_name_only_themselves(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for home in SELF_CONTAINED.iter().filter(|home| in_module(&module, home)) {
            let foreign = source.imports().into_iter().filter(|target| !in_module(target, home));
            wrong.extend(foreign.map(|target| format!("{}: names {target}: {home} names only itself", source.path)));
        }
    }
    wrong
}

/// The name of the folder of `gateway` that a path is in: its second part.
fn gateway_folder(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("gateway::")?;
    Some(rest.split_once("::").map_or(rest, |(folder, _)| folder))
}

fn gateway_is_passed_in_order(sources: &[Source]) -> Vec<String> {
    let modules = modules(sources);
    let place = |path: &str| GATEWAY_FOLDERS.iter().position(|folder| gateway_folder(path) == Some(folder));
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        let Some(from) = place(&module) else { continue };
        for target in source.imports() {
            let is_leaf = gateway_folder(&target)
                .is_some_and(|name| modules.contains(&format!("gateway::{name}")) && place(&target).is_none());
            if in_module(&target, "gateway") && !is_leaf && place(&target).is_none_or(|to| to < from) {
                wrong.push(format!("{}: names {target}: {} comes earlier", source.path, GATEWAY_FOLDERS[from]));
            }
        }
    }
    wrong
}

fn modules(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().map(Source::module).filter(|module| !module.is_empty()).collect()
}

/// The innermost module of `modules` that `path` is or is in: whose file declares or re-exports what the path names.
fn owner<'a>(modules: &'a BTreeSet<String>, path: &str) -> Option<&'a String> {
    modules.iter().filter(|module| in_module(path, module)).max_by_key(|module| module.len())
}

/// No module names an item of a module that it is in. What a module and its children share is in a file beside the
/// children; a re-export in the parent changes nothing.
fn children_do_not_name_their_parents(sources: &[Source]) -> Vec<String> {
    let modules = modules(sources);
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for target in source.imports() {
            if let Some(parent) =
                owner(&modules, &target).filter(|owner| **owner != module && in_module(&module, owner))
            {
                wrong.push(format!(
                    "{}: names {target} of its parent {parent}: move it to a file of its own",
                    source.path
                ));
            }
        }
    }
    wrong
}

/// No module names itself again by way of others. A module and the modules below it are one family: they may name each
/// other.
fn imports_have_no_circle(sources: &[Source]) -> Vec<String> {
    let modules = modules(sources);
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let from = source.module();
        let family = |to: &&String| in_module(&from, to) || in_module(to, &from);
        let targets = source
            .imports()
            .iter()
            .filter_map(|path| owner(&modules, path))
            .filter(|to| !family(to))
            .cloned()
            .collect();
        edges.insert(from.clone(), targets);
    }
    // A module is finished when all that it names are; what is left over at the end is on or above a circle.
    while let Some(finished) = edges.iter().find(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()) {
        edges.remove(&finished);
        for to in edges.values_mut() {
            to.remove(&finished);
        }
    }
    edges.iter().map(|(from, to)| format!("{from} names {to:?}, and these name it again, by some way")).collect()
}

fn crates_stay_in_their_modules(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let module = source.module();
        for (name, homes) in ONLY_IN {
            if source.tested_code().names_crate(name) && !homes.iter().any(|home| in_module(&module, home)) {
                wrong.push(format!("{}: names {name}, which only {homes:?} may", source.path));
            }
        }
        let code = source.tested_code();
        let makes_statement = ["sqlx::query(", "sqlx::query_as", "sqlx::query_scalar", "sqlx::query_with"];
        if module != STATEMENTS && makes_statement.iter().any(|call| code.text.contains(call)) {
            wrong.push(format!("{}: makes a statement by sqlx, which only {STATEMENTS} may", source.path));
        }
        let sql = |text: &String| SQL.iter().any(|begin| text.trim_start().starts_with(begin));
        let homes = ONLY_IN[1].1;
        if let Some(text) = source.tested_code().strings.iter().find(|text| sql(text))
            && !homes.iter().any(|home| in_module(&module, home))
        {
            wrong.push(format!("{}: {text:?} is SQL, which only {homes:?} may hold", source.path));
        }
    }
    wrong
}

#[test]
fn modules_import_in_one_direction() {
    clean(&imports_go_one_way(&rust::sources("src"), &FORBIDDEN));
    let fake = [
        Source::new("src/audit/record.rs", "use crate::gateway::rbac::Permit;"),
        Source::new("src/audit/ring.rs", "use super::{chain::Head, outbox::{self, Outbox}};"),
        Source::new("src/audit/outbox/fs.rs", "fn f() { crate::audit::ring::Ring::new() }"),
        Source::new("src/audit/sink/postgres.rs", "use super::super::outbox;"),
        Source::new("src/config.rs", "use crate::{audit, cli as c};"),
        Source::new("src/audit/scribe.rs", "// crate::gateway\nuse super::{outbox, ring}; fn f() { \"crate::cli\"; }"),
    ];
    assert_eq!(imports_go_one_way(&fake, &FORBIDDEN).len(), 6, "{:#?}", imports_go_one_way(&fake, &FORBIDDEN));
}

#[test]
fn modules_of_the_layout_import_in_one_direction() {
    let rule = "import directions of the new layout";
    let sources = rust::sources("src");
    let wrong =
        [imports_go_one_way(&sources, &FORBIDDEN_BY_LAYOUT), some_modules_name_only_themselves(&sources)].concat();
    check(rule, &wrong);
    let fake = [
        Source::new("src/upstream/answer.rs", "use crate::gateway::dispatch;"),
        Source::new("src/auth.rs", "use crate::{rbac::Permit, upstream::Answer};"),
        Source::new("src/rbac.rs", "use crate::auth::Principal; // crate::gateway"),
    ];
    assert_eq!(imports_go_one_way(&fake, &FORBIDDEN_BY_LAYOUT).len(), 2);
    let fake = [
        Source::new("src/mcp/json.rs", "use super::envelope::Id; use crate::mcp;"),
        Source::new("src/mcp/envelope.rs", "use crate::audit::record::Text;"),
        Source::new("src/auth.rs", "use crate::audit::record::Text;"),
    ];
    assert_eq!(some_modules_name_only_themselves(&fake).len(), 1);
}

#[test]
fn folders_of_gateway_import_in_the_order_of_a_request() {
    check("folder order", &gateway_is_passed_in_order(&rust::sources("src")));
    let fake = [
        Source::new("src/gateway.rs", "use listener::http; use crate::gateway::dispatch;"),
        Source::new("src/gateway/fault.rs", ""),
        Source::new("src/gateway/listener/http.rs", "use crate::gateway::{dispatch::post, fault::Fault};"),
        Source::new("src/gateway/answer/lists.rs", "use super::super::message::reply; use super::handshake;"),
        Source::new("src/gateway/call/limits.rs", "use crate::gateway::dispatch::post;"),
        Source::new("src/gateway/session.rs", "use super::call;"),
        Source::new("src/gateway/message/reply.rs", "use crate::gateway::Core; use crate::audit::Audit;"),
    ];
    assert_eq!(gateway_is_passed_in_order(&fake).len(), 3, "{:#?}", gateway_is_passed_in_order(&fake));
}

#[test]
fn modules_do_not_import_from_the_modules_that_they_are_in() {
    check("upward imports", &children_do_not_name_their_parents(&rust::sources("src")));
    let fake = [
        Source::new("src/lib.rs", "pub mod a;"),
        Source::new("src/a.rs", "pub use x::X; use crate::a::y;"),
        Source::new("src/a/x.rs", "use super::y::Y; use super::y; use self::z::Z;"),
        Source::new("src/a/x/z.rs", "use super::X;"),
        Source::new("src/a/y.rs", "use crate::a::{X, x}; use crate::Root;"),
        Source::new("src/a/w.rs", "use super::*;"),
        Source::new("src/a/v.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\nuse super::*; use crate::a::X;\n}"),
    ];
    assert_eq!(children_do_not_name_their_parents(&fake).len(), 3, "{:#?}", children_do_not_name_their_parents(&fake));
}

#[test]
fn modules_import_without_a_circle() {
    clean(&imports_have_no_circle(&rust::sources("src")));
    let mut fake = vec![
        Source::new("src/lib.rs", "pub mod a;"),
        Source::new("src/a.rs", "use crate::b::Y;"),
        Source::new("src/a/x.rs", "use super::A; use crate::b::Y;"),
        Source::new("src/b.rs", "use crate::c;"),
        Source::new("src/c.rs", "use std::fmt;"),
        Source::new("src/c/z.rs", "use std::fmt;"),
    ];
    assert!(imports_have_no_circle(&fake).is_empty());
    fake[4] = Source::new("src/c.rs", "use crate::a::x::X;");
    assert_eq!(imports_have_no_circle(&fake).len(), 4, "{:#?}", imports_have_no_circle(&fake));
}

#[test]
fn redb_sql_bincode_and_backoff_are_each_named_in_one_place() {
    clean(&crates_stay_in_their_modules(&rust::sources("src")));
    let fake = [
        Source::new("src/audit/scribe.rs", "use redb::Database;"),
        Source::new("src/cli/migrate.rs", "async fn f() { sqlx::query(q); }"),
        Source::new("src/cli/audit.rs", "const Q: &str = \"\n  SELECT * FROM audit_log\";"),
        Source::new("src/audit/outbox/generation.rs", "use redb::Database; // sqlx"),
        Source::new("src/audit/query.rs", "use sqlx::PgPool; const Q: &str = r#\"SELECT 1\"#;"),
        Source::new("src/audit/query/row.rs", "async fn f() { sqlx::query(q); sqlx::raw_sql(q); }"),
        Source::new("src/config.rs", "const HELP: &str = \"redb and sqlx, as in SELECT 1\";"),
        Source::new("src/upstream/link.rs", "fn f() { let mut backoff = POLICY.backoff(); g(backoff.next()); }"),
        Source::new("src/upstream/poll.rs", "fn f() { backoff::ExponentialBackoff::default(); }"),
    ];
    assert_eq!(crates_stay_in_their_modules(&fake).len(), 6, "{:#?}", crates_stay_in_their_modules(&fake));
}
