//! Every manipulation that is tried, and what `audit verify` says about it: with heads from before and `--strict`, and
//! without.

use std::pin::Pin;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{AuditRecord, Epoch, GatewayId, StreamPosition, Timestamp};
use gatepost::audit::sink::postgres::registrar::{LockedRegistrar, entry};
use serde_json::{Value, json};

use super::tamper::{Tamper, altered, another, chain_from, previous, seq, set_details, stand_in};

/// What is done to the trail.
pub enum Act {
    Sql(String),
    Run(fn(&mut Tamper) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>),
}

/// What the check says.
#[derive(Clone, Copy, Debug)]
pub enum Says {
    /// Exit 1, with a fault of this kind.
    Fault(&'static str),
    /// Exit 4, and a sentence with this text names what is not proven.
    Open(&'static str),
}

/// A manipulation.
pub struct Manipulation {
    pub name: String,
    pub act: Act,
    /// With heads from before, and `--strict`.
    pub strict: Says,
    /// Without.
    pub plain: Says,
}

use Says::{Fault, Open};

/// Nothing outside the database confirms the ends.
const ENDS: Says = Open("on the word of this database alone");

/// A table of manipulations.
struct Table(Vec<Manipulation>);

impl Table {
    fn push(&mut self, name: &str, act: Act, strict: Says, plain: Says) {
        self.0.push(Manipulation { name: name.to_owned(), act, strict, plain });
    }

    /// A manipulation that is found without heads too.
    fn sql(&mut self, name: &str, kind: &'static str, sql: &str) {
        self.push(name, Act::Sql(sql.to_owned()), Fault(kind), Fault(kind));
    }

    fn run(
        &mut self,
        name: &str,
        kind: &'static str,
        act: fn(&mut Tamper) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>,
    ) {
        self.push(name, Act::Run(act), Fault(kind), Fault(kind));
    }
}

/// All of them.
pub fn manipulations() -> Vec<Manipulation> {
    let mut table = Table(Vec::new());
    deleted(&mut table);
    rewritten(&mut table);
    added(&mut table);
    columns(&mut table);
    rows_moved(&mut table);
    quarantined(&mut table);
    lost(&mut table);
    lost_by_rehash(&mut table);
    epochs(&mut table);
    own_records(&mut table);
    cursors(&mut table);
    times_and_ids(&mut table);
    tables(&mut table);
    retired(&mut table);
    table.0
}

const CLEAR_A3: &str = "DELETE FROM audit_log WHERE gateway_id = :A AND epoch = 3;
    DELETE FROM audit_stream WHERE gateway_id = :A AND epoch = 3; DELETE FROM audit_quarantine";
const CLEAR_A1_TO_3: &str = "DELETE FROM audit_log WHERE gateway_id = :A AND epoch <= 3;
    DELETE FROM audit_stream WHERE gateway_id = :A AND epoch <= 3; DELETE FROM audit_quarantine";

/// Sets the cursor of a stream to its last row.
fn fit_cursor(gateway: &str, epoch: u64) -> String {
    format!(
        "UPDATE audit_stream s SET (delivered_seq, head_hash) = (SELECT seq, hash FROM audit_log l
            WHERE l.gateway_id = s.gateway_id AND l.epoch = s.epoch ORDER BY seq DESC LIMIT 1)
        WHERE gateway_id = {gateway} AND epoch = {epoch}"
    )
}

fn deleted(table: &mut Table) {
    let one = "DELETE FROM audit_log WHERE gateway_id = :A AND epoch = ";
    table.sql("a row in the middle of a stream", "gap", &format!("{one} 1 AND seq = 5"));
    table.sql("the first row of an epoch", "gap", &format!("{one} 3 AND seq = 1"));
    table.sql("the tail of a middle epoch", "tail", &format!("{one} 6 AND seq >= 4"));
    let fitted = format!("{one} 6 AND seq >= 4; {}", fit_cursor(":A", 6));
    table.sql("the tail of a middle epoch, cursor set back", "end", &fitted);
    let fitted = format!("{one} 7 AND seq >= 6; {}", fit_cursor(":A", 7));
    table.push("the tail of the last epoch, cursor set back", Act::Sql(fitted), Fault("expected"), ENDS);
    table.sql("a middle epoch with its cursor", "epoch", CLEAR_A3);
    let left = format!("{one} 3; DELETE FROM audit_quarantine");
    table.sql("a middle epoch, cursor left", "tail", &left);
    let last = format!("{one} 7; DELETE FROM audit_stream WHERE gateway_id = :A AND epoch = 7");
    table.push("the last epoch with its cursor", Act::Sql(last), Fault("expected"), ENDS);
    let oldest = Act::Sql(CLEAR_A1_TO_3.to_owned());
    table.push("the oldest epochs with their cursors", oldest, Fault("expected"), Open("begins at epoch 4"));
    let all = "DELETE FROM audit_log WHERE gateway_id = :B; DELETE FROM audit_stream WHERE gateway_id = :B";
    table.push("all of a gateway", Act::Sql(all.to_owned()), Fault("expected"), ENDS);
    let truncate = Act::Sql("TRUNCATE audit_log, audit_stream, audit_quarantine".to_owned());
    table.push("everything", truncate, Fault("expected"), Open("there is nothing to check"));
    table.sql("audit_log alone", "gap", "TRUNCATE audit_log");
    table.sql("the rows of the last epoch, cursor left", "tail", &format!("{one} 7"));
}

/// All but row 5.
fn without_5(rows: Vec<AuditRecord>) -> Vec<AuditRecord> {
    rows.into_iter().filter(|row| seq(row).0 != 5).collect()
}

/// Row 5 altered.
fn with_5_altered(rows: Vec<AuditRecord>) -> Vec<AuditRecord> {
    rows.into_iter().map(|row| if seq(&row).0 == 5 { altered(row) } else { row }).collect()
}

/// Inserts rows before the last one.
fn before_last(mut rows: Vec<AuditRecord>, more: &[AuditRecord]) -> Vec<AuditRecord> {
    let at = rows.len() - 1;
    rows.splice(at..at, more.iter().cloned());
    rows
}

fn rewritten(table: &mut Table) {
    table.sql(
        "a row removed and later ones renumbered",
        "link",
        "DELETE FROM audit_log WHERE gateway_id = :A AND epoch = 1 AND seq = 5;
        UPDATE audit_log SET seq = seq - 1 WHERE gateway_id = :A AND epoch = 1 AND seq > 5;
        UPDATE audit_stream SET delivered_seq = delivered_seq - 1 WHERE gateway_id = :A AND epoch = 1",
    );
    table.run("the same, with hashes, cursor and gateway/closed fitted", "end", |t| {
        Box::pin(async move { t.rewrite(t.a, 1, without_5).await })
    });
    table.sql(
        "two rows swapped",
        "link",
        "UPDATE audit_log SET seq = 9 - seq WHERE gateway_id = :A AND epoch = 1 AND seq IN (4, 5)",
    );
    table.run("two rows swapped, their hashes computed", "link", |t| {
        Box::pin(async move {
            let mut rows = t.rows(t.a, 1).await;
            rows.swap(3, 4);
            let before = Head::after(&rows[2].position);
            chain_from(before, &mut rows[3..5]);
            for row in &rows[3..5] {
                t.replace(row).await;
            }
        })
    });
    table.run("a closed epoch rewritten from row 5 to its end", "end", |t| {
        Box::pin(async move { t.rewrite(t.a, 1, with_5_altered).await })
    });
    table.push(
        "everything of a gateway rewritten, with all links between epochs",
        Act::Run(|t| {
            Box::pin(async move {
                t.rewrite(t.b, 1, with_5_altered).await;
                let end = t.rows(t.b, 1).await.pop().unwrap().position;
                t.rewrite(t.b, 2, |mut rows| {
                    set_details(&mut rows[0], &previous(1, &end, true));
                    rows
                })
                .await;
            })
        }),
        Fault("expected"),
        ENDS,
    );
    table.push(
        "the last epoch rewritten from row 5 to its end",
        Act::Run(|t| Box::pin(async move { t.rewrite(t.a, 7, with_5_altered).await })),
        Fault("expected"),
        ENDS,
    );
    table.run("a closed middle epoch rewritten, one record longer", "end", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 1, |rows| {
                let more = another(&rows[1], "mallory");
                before_last(with_5_altered(rows), &[more])
            })
            .await;
        })
    });
    table.run("a crashed middle epoch rewritten, one record longer", "end", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 6, |rows| {
                let more = another(&rows[1], "mallory");
                with_5_altered(rows).into_iter().chain([more]).collect()
            })
            .await;
        })
    });
    table.run("a closed middle epoch without row 5, and with two more", "end", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 1, |rows| {
                let more = [another(&rows[1], "a"), another(&rows[2], "b")];
                before_last(without_5(rows), &more)
            })
            .await;
        })
    });
    table.run("all calls of a closed middle epoch replaced by invented ones", "end", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 1, |rows| {
                let calls = std::iter::repeat_with(|| another(&rows[1], "invented")).take(rows.len() - 1);
                [rows[0].clone()].into_iter().chain(calls).chain(rows.last().cloned()).collect()
            })
            .await;
        })
    });
    table.run("a record inserted in the middle of a closed epoch", "end", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 1, |mut rows| {
                rows.insert(5, another(&rows[1], "bob"));
                rows
            })
            .await;
        })
    });
}

fn added(table: &mut Table) {
    table.run("two calls after the end of a crashed middle epoch", "end", |t| {
        Box::pin(async move {
            let rows = t.rows(t.a, 6).await;
            t.append(vec![another(&rows[1], "eve"), another(&rows[2], "eve")], t.a, 6).await;
        })
    });
    table.run("gateway/closed after the end of a crashed middle epoch", "end", |t| {
        Box::pin(async move {
            let closed = t.rows(t.a, 7).await.pop().unwrap();
            t.append(vec![another(&closed, "gatepost")], t.a, 6).await;
        })
    });
    table.push(
        "calls and gateway/closed after the end of the last epoch",
        Act::Run(|t| {
            Box::pin(async move {
                let (call, closed) = (t.rows(t.b, 2).await.swap_remove(1), t.rows(t.b, 1).await.pop().unwrap());
                t.append(vec![another(&call, "eve"), another(&closed, "gatepost")], t.b, 2).await;
            })
        }),
        Open("2 records in 1 stream after 2/"),
        ENDS,
    );
    table.run("a call after gateway/closed", "event", |t| {
        Box::pin(async move {
            let rows = t.rows(t.a, 7).await;
            t.append(vec![another(&rows[1], "eve")], t.a, 7).await;
        })
    });
    table.push(
        "a new epoch",
        Act::Run(|t| {
            Box::pin(async move {
                let mut rows = t.rows(t.a, 7).await;
                let end = rows.last().unwrap().position;
                set_details(&mut rows[0], &previous(7, &end, true));
                for row in &mut rows {
                    row.position.epoch = Epoch(8);
                    *row = another(row, &row.entry.call.client_subject);
                }
                chain_from(Head::START, &mut rows);
                t.write(&rows).await;
            })
        }),
        Open("in 1 stream after 7/"),
        ENDS,
    );
    table.push(
        "a new gateway",
        Act::Run(|t| {
            Box::pin(async move {
                let mut rows = t.rows(t.b, 1).await;
                for row in &mut rows {
                    row.position.gateway_id = GatewayId(uuid::Uuid::from_u128(9));
                    *row = another(row, &row.entry.call.client_subject);
                }
                chain_from(Head::START, &mut rows);
                t.write(&rows).await;
            })
        }),
        Open("the gateway has no head in the file of --expect"),
        ENDS,
    );
    table.sql(
        "a cursor set back",
        "cursor",
        "UPDATE audit_stream SET delivered_seq = 3 WHERE gateway_id = :A AND epoch = 7",
    );
    table.sql(
        "a row again, an hour later",
        "duplicate",
        "CREATE TEMP TABLE x AS SELECT * FROM audit_log WHERE gateway_id = :A AND epoch = 1 AND seq = 5;
        UPDATE x SET timestamp = timestamp + interval '1 hour'; INSERT INTO audit_log TABLE x",
    );
    table.sql(
        "a row again, without the primary key",
        "duplicate",
        "ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey;
        INSERT INTO audit_log SELECT * FROM audit_log WHERE gateway_id = :A AND epoch = 1 AND seq = 5",
    );
    table.sql(
        "a row in epoch -1",
        "unreadable",
        "ALTER TABLE audit_log DROP CONSTRAINT audit_log_epoch_from_1;
        CREATE TEMP TABLE x AS SELECT * FROM audit_log WHERE gateway_id = :A AND epoch = 1 AND seq = 5;
        UPDATE x SET epoch = -1, seq = 1; INSERT INTO audit_log TABLE x",
    );
}

/// A row, changed without a hash.
fn columns(table: &mut Table) {
    const CHANGED: [(&str, &str, &str); 39] = [
        ("gateway_id", ":B", "gap"),
        ("epoch", "2", "gap"),
        ("seq", "99", "gap"),
        ("prev_hash", "sha256('x')", "link"),
        ("hash", "sha256('x')", "link"),
        ("request_id", "gateway_id", "changed"),
        ("parent_id", "gateway_id", "changed"),
        ("timestamp", "\"timestamp\" + interval '1 microsecond'", "changed"),
        ("latency_ms", "latency_ms + 0.001", "changed"),
        ("method", "'tools/list'", "changed"),
        ("tool_name", "'add'", "changed"),
        ("backend_name", "'other'", "changed"),
        ("resource_uri", "'file:///x'", "changed"),
        ("client_role", "'echo'", "changed"),
        ("client_issuer", "'x'", "changed"),
        ("client_subject", "'bob'", "changed"),
        ("client_name", "'Bob'", "changed"),
        ("client_id", "'x'", "changed"),
        ("actor_subject", "'x'", "changed"),
        ("token_id", "'x'", "changed"),
        ("client_addr", "'127.0.0.1:1'", "changed"),
        ("session_id", "'x'", "changed"),
        ("rpc_id", "'x'", "changed"),
        ("context", "'{}'", "changed"),
        ("request_args", "'{\"text\":\"hellp\"}'", "changed"),
        ("request_extra", "'{}'", "changed"),
        ("params_digest", "sha256('x')", "changed"),
        ("args_digest", "sha256('x')", "changed"),
        ("response", "'{}'", "changed"),
        ("response_digest", "sha256('x')", "changed"),
        ("response_bytes", "response_bytes + 1", "changed"),
        ("error_message", "'x'", "changed"),
        ("response_status", "'error'", "changed"),
        ("decided_by", "'x'", "changed"),
        ("policy_digest", "sha256('x')", "changed"),
        ("tool_digest", "sha256('x')", "changed"),
        ("salt_who", "sha256('x')", "changed"),
        ("salt_circumstances", "sha256('x')", "changed"),
        ("salt_content", "sha256('x')", "changed"),
    ];
    let of_row = "WHERE gateway_id = :A AND epoch = 1 AND seq = 5";
    for (column, value, kind) in CHANGED {
        let sql = format!("UPDATE audit_log SET \"{column}\" = {value} {of_row}");
        table.sql(&format!("column {column} changed"), kind, &sql);
    }
    for (name, change) in [
        ("a look-alike in client_subject", "client_subject = E't\\u0435ster'"),
        ("a space in request_args", "request_args = replace(request_args::text, ':', ': ')::json"),
        ("NULL to the empty text", "error_message = ''"),
        ("an infinite time", "timestamp = 'infinity'"),
        ("another month", "timestamp = timestamp + interval '40 days'"),
    ] {
        table.sql(name, "changed", &format!("UPDATE audit_log SET {change} {of_row}"));
    }
    table.sql(
        "latency 0 to -0",
        "changed",
        "UPDATE audit_log SET latency_ms = '-0' WHERE gateway_id = :A AND epoch = 1 AND seq = :denied",
    );
    let status = format!(
        "ALTER TABLE audit_log DROP CONSTRAINT audit_log_status_known;
        UPDATE audit_log SET response_status = 'fine' {of_row}"
    );
    table.sql("an unknown status", "unreadable", &status);
}

fn rows_moved(table: &mut Table) {
    let partition = "DO $$ DECLARE name text; BEGIN
        SELECT 'audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM') INTO name; EXECUTE format(";
    let moved = format!(
        "CREATE TEMP TABLE x AS TABLE audit_log; {partition} 'ALTER TABLE audit_log DETACH PARTITION %I', name); END $$;
        INSERT INTO audit_log TABLE x"
    );
    table.push("all rows in the default partition, unchanged", Act::Sql(moved), Open("contents are lost"), ENDS);
    table.sql("the month's partition dropped", "gap", &format!("{partition} 'DROP TABLE %I', name); END $$"));
    let detached = format!("{partition} 'ALTER TABLE audit_log DETACH PARTITION %I', name); END $$");
    table.sql("the month's partition detached", "gap", &detached);
    table.sql(
        "rows of two epochs swapped",
        "changed",
        "UPDATE audit_log SET epoch = 3 - epoch WHERE gateway_id = :A AND epoch IN (1, 2) AND seq = 5",
    );
    table.run("rows of two epochs swapped, their hashes computed", "link", |t| {
        Box::pin(async move {
            let mut rows = [t.rows(t.a, 1).await.swap_remove(4), t.rows(t.a, 2).await.swap_remove(4)];
            let positions = [rows[1].position, rows[0].position];
            for (row, position) in rows.iter_mut().zip(positions) {
                row.position = position;
                let before = Head { seq: gatepost::audit::record::Seq(4), hash: position.prev_hash };
                chain_from(before, std::slice::from_mut(row));
            }
            for row in &rows {
                t.replace(row).await;
            }
        })
    });
    let id = "'00000000-0000-4000-8000-000000000001'";
    let renamed = format!(
        "UPDATE audit_log SET gateway_id = {id} WHERE gateway_id = :B;
        UPDATE audit_stream SET gateway_id = {id} WHERE gateway_id = :B"
    );
    table.sql("a gateway renamed", "changed", &renamed);
    table.push(
        "a gateway renamed, hashes computed",
        Act::Run(|t| {
            Box::pin(async move {
                let mut end: Option<gatepost::audit::record::StreamPosition> = None;
                for epoch in [1, 2] {
                    let mut rows = t.rows(t.b, epoch).await;
                    for row in &mut rows {
                        row.position.gateway_id = GatewayId(uuid::Uuid::from_u128(9));
                    }
                    if let Some(end) = &end {
                        set_details(&mut rows[0], &previous(1, end, true));
                    }
                    chain_from(Head::START, &mut rows);
                    t.write(&rows).await;
                    end = rows.last().map(|row| row.position);
                }
                t.sql("DELETE FROM audit_log WHERE gateway_id = :B; DELETE FROM audit_stream WHERE gateway_id = :B")
                    .await;
            })
        }),
        Fault("expected"),
        ENDS,
    );
}

fn quarantined(table: &mut Table) {
    let first = "WHERE seq = (SELECT min(seq) FROM audit_quarantine)";
    let hidden = Open("is in audit_quarantine, where no query finds it");
    table.sql(
        "a byte of a quarantined record",
        "quarantine",
        &format!("UPDATE audit_quarantine SET frame = set_byte(frame, 60, 255 - get_byte(frame, 60)) {first}"),
    );
    let longer = format!("UPDATE audit_quarantine SET frame = frame || '\\x00' {first}");
    table.sql("a byte after a quarantined record", "quarantine", &longer);
    table.sql(
        "the request id of a quarantined record",
        "quarantine",
        &format!("UPDATE audit_quarantine SET request_id = gateway_id {first}"),
    );
    for (name, change) in [
        ("the reason of a quarantined record", "error = 'disk hiccup', sqlstate = NULL"),
        ("the time of a quarantined record", "quarantined_at = '2020-01-01'"),
    ] {
        table.push(name, Act::Sql(format!("UPDATE audit_quarantine SET {change} {first}")), hidden, hidden);
    }
    table.sql("a quarantined record removed", "gap", &format!("DELETE FROM audit_quarantine {first}"));
    table.push(
        "a quarantined record requeued by hand, unchanged",
        Act::Run(|t| {
            Box::pin(async move {
                let record = t.take_quarantined().await;
                t.insert(&[record]).await;
            })
        }),
        Open("contents are lost"),
        ENDS,
    );
    table.run("a made-up gateway that is in quarantine only", "cursor", |t| {
        Box::pin(async move {
            let mut rows = t.rows(t.b, 1).await;
            rows.truncate(1);
            rows[0].position.gateway_id = GatewayId(uuid::Uuid::from_u128(9));
            chain_from(Head::START, &mut rows);
            t.quarantine(&rows[0]).await;
        })
    });
    table.run("a quarantined record requeued by hand, changed", "changed", |t| {
        Box::pin(async move {
            let record = altered(t.take_quarantined().await);
            t.insert(&[record]).await;
        })
    });
    table.push(
        "a delivered record hidden in quarantine",
        Act::Run(|t| {
            Box::pin(async move {
                let record = t.rows(t.a, 1).await.swap_remove(4);
                t.quarantine(&record).await;
            })
        }),
        hidden,
        hidden,
    );
    table.run("a delivered record replaced by a lost one in quarantine", "lost", |t| {
        Box::pin(async move {
            let record = stand_in(&t.rows(t.a, 1).await[4]);
            t.quarantine(&record).await;
        })
    });
}

/// Turns rows into stand-ins that bear their hashes.
const LOSE: &str = "UPDATE audit_log SET method = 'gateway/gap', client_subject = 'gatepost', client_name = NULL,
    client_role = NULL, client_issuer = NULL, client_id = NULL, actor_subject = NULL, token_id = NULL,
    client_addr = NULL, session_id = NULL, rpc_id = NULL, tool_name = NULL, backend_name = NULL, resource_uri = NULL,
    context = NULL, request_extra = NULL, params_digest = NULL, args_digest = NULL, response = NULL,
    response_status = 'error', response_digest = NULL, response_bytes = NULL, latency_ms = 0, decided_by = NULL,
    policy_digest = NULL, tool_digest = NULL,
    error_message = 'the record at this place is lost: its bytes in the outbox are damaged',
    request_args = json_build_object('lost', 1, 'epoch', epoch, 'seq', seq, 'hash', encode(hash, 'hex')) WHERE ";

fn lost(table: &mut Table) {
    for (name, rows) in [
        ("a call", "gateway_id = :A AND epoch = 1 AND seq = 5"),
        ("the denied call", "gateway_id = :A AND epoch = 1 AND seq = :denied"),
        ("the interrupted call", "gateway_id = :A AND epoch = 3 AND response_status = 'interrupted'"),
        ("everything but gateway/opened", "method <> 'gateway/opened'"),
        ("gateway/closed", "gateway_id = :A AND epoch = 1 AND seq = :closed"),
        ("the record after a real lost one", "gateway_id = :A AND epoch = 4 AND seq = 4"),
    ] {
        table.sql(&format!("lost by one UPDATE: {name}"), "lost", &format!("{LOSE} {rows}"));
    }
    let opened = format!("{LOSE} gateway_id = :A AND epoch = 4 AND seq = 1; ");
    table.sql("lost: an opening record, and the epochs before it removed", "lost", &(opened.clone() + CLEAR_A1_TO_3));
    table.sql("lost: an opening record, and the epoch before it removed", "lost", &(opened + CLEAR_A3));
    let cut = format!(
        "DELETE FROM audit_log WHERE gateway_id = :A AND epoch = 6 AND seq >= 3; {}; {LOSE} gateway_id = :A AND epoch = 7
        AND seq = 1",
        fit_cursor(":A", 6)
    );
    table.sql("lost: an opening record, and the tail of the epoch before it cut", "lost", &cut);
    table.sql(
        "lost: a planted text in its details",
        "lost",
        "UPDATE audit_log SET method = 'gateway/gap', request_args = json_build_object('lost', 1, 'epoch', 77, 'seq',
        4711, 'hash', encode(hash, 'hex'), 'text', 'bob did it'), client_subject = 'bob'
        WHERE gateway_id = :A AND epoch = 1 AND seq = 5",
    );
    let capitals = LOSE.replace("encode(hash, 'hex')", "upper(encode(hash, 'hex'))");
    let capitals = format!("{capitals} gateway_id = :A AND epoch = 1 AND seq = 5");
    table.sql("lost: the hash in capitals", "lost", &capitals);
    table.sql(
        "a gap record that says nothing of a lost one",
        "changed",
        "UPDATE audit_log SET method = 'gateway/gap', request_args = '{\"refused\": 1}'
        WHERE gateway_id = :A AND epoch = 1 AND seq = 5",
    );
    let real = "WHERE gateway_id = :A AND epoch = 4 AND request_args::text LIKE '%\"lost\":1%'";
    for (name, change) in [
        ("its id", "request_id = gateway_id"),
        ("its subject", "client_subject = 'bob'"),
        ("its time", "timestamp = timestamp + interval '1 second'"),
        ("a space in its details", "request_args = replace(request_args::text, ',', ', ')::json"),
    ] {
        table.sql(&format!("a real lost record: {name}"), "lost", &format!("UPDATE audit_log SET {change} {real}"));
    }
}

fn lost_by_rehash(table: &mut Table) {
    table.run("lost: records rewritten up to a made-up lost one", "lost", |t| {
        Box::pin(async move {
            let mut rows = t.rows(t.a, 1).await;
            rows.truncate(5);
            let mut fifth = stand_in(&rows[4]);
            for row in &mut rows[1..4] {
                *row = altered(row.clone());
            }
            chain_from(Head::START, &mut rows[..4]);
            fifth.position.prev_hash = rows[3].position.hash;
            rows[4] = fifth;
            for row in &rows {
                t.replace(row).await;
            }
        })
    });
    table.run("lost: records rewritten up to a real lost one", "lost", |t| {
        Box::pin(async move {
            let rows = t.rows(t.a, 4).await;
            let at = rows.iter().position(|row| row.entry.call.method == "gateway/gap").unwrap();
            let (mut before, mut lost) = (rows[..at].to_vec(), rows[at].clone());
            before[1] = altered(before[1].clone());
            chain_from(Head::START, &mut before);
            lost.position.prev_hash = before.last().unwrap().position.hash;
            for row in before.iter().chain([&lost]) {
                t.replace(row).await;
            }
        })
    });
    table.push(
        "lost: a damage record in a rewritten last epoch that names a call",
        Act::Run(|t| {
            Box::pin(async move {
                let victim = t.rows(t.a, 1).await.swap_remove(4);
                let run = gatepost::audit::lost::LostRun {
                    epoch: victim.position.epoch,
                    first: seq(&victim),
                    last: seq(&victim),
                    prev_hash: Some(victim.position.prev_hash),
                    hash: Some(victim.position.hash),
                    timestamp: victim.entry.call.timestamp,
                };
                let damage = damage(&t.rows(t.a, 5).await, &json!([run]));
                t.rewrite(t.a, 7, |rows| before_last(rows, &[damage])).await;
                let stand_in = run.stand_in(t.a, run.first, victim.position.prev_hash);
                t.replace(&stand_in).await;
            })
        }),
        Fault("expected"),
        ENDS,
    );
}

/// The damage record among `rows`, with these runs.
fn damage(rows: &[AuditRecord], runs: &Value) -> AuditRecord {
    let found = rows.iter().find(|row| row.entry.call.method == gatepost::audit::lost::DAMAGE_METHOD);
    let mut damage = found.expect("the damage of epoch 4 is recorded in epoch 5").clone();
    damage = another(&damage, "gatepost");
    set_details(&mut damage, &json!({ "runs": runs }));
    damage
}

fn epochs(table: &mut Table) {
    table.run("an opening record names no previous epoch, and all before it is removed", "epoch", |t| {
        Box::pin(async move {
            let none = json!({
                "previous_epoch": null, "previous_seq": null, "previous_hash": null, "previous_closed": null,
            });
            t.rewrite(t.a, 7, |mut rows| {
                set_details(&mut rows[0], &none);
                rows
            })
            .await;
            t.sql(
                "DELETE FROM audit_log WHERE gateway_id = :A AND epoch < 7;
                DELETE FROM audit_stream WHERE gateway_id = :A AND epoch < 7; DELETE FROM audit_quarantine",
            )
            .await;
        })
    });
    table.run("an epoch removed, and the next one names the one before it", "epoch", |t| {
        Box::pin(async move {
            let end = t.rows(t.a, 5).await.pop().unwrap().position;
            t.rewrite(t.a, 7, |mut rows| {
                set_details(&mut rows[0], &previous(5, &end, true));
                rows
            })
            .await;
            t.sql(
                "DELETE FROM audit_log WHERE gateway_id = :A AND epoch = 6;
                DELETE FROM audit_stream WHERE gateway_id = :A AND epoch = 6",
            )
            .await;
        })
    });
    table.run("an epoch that the next one does not name", "epoch", |t| {
        Box::pin(async move {
            let end = t.rows(t.a, 5).await.pop().unwrap().position;
            t.rewrite(t.a, 7, |mut rows| {
                set_details(&mut rows[0], &previous(5, &end, true));
                rows
            })
            .await;
        })
    });
    table.sql(
        "an opening record says that a crashed epoch was closed",
        "changed",
        "UPDATE audit_log SET request_args = replace(request_args::text, '\"previous_closed\":false',
        '\"previous_closed\":true')::json WHERE gateway_id = :A AND epoch = 7 AND seq = 1",
    );
    let backup = "DELETE FROM audit_log WHERE (gateway_id, epoch) IN ((:A, 6), (:A, 7), (:B, 2));
        DELETE FROM audit_stream WHERE (gateway_id, epoch) IN ((:A, 6), (:A, 7), (:B, 2))";
    table.push("an older backup", Act::Sql(backup.to_owned()), Fault("expected"), ENDS);
    let later = format!(
        "DELETE FROM audit_log WHERE gateway_id = :A AND (epoch = 6 OR epoch = 5 AND seq > 4);
        DELETE FROM audit_stream WHERE gateway_id = :A AND epoch = 6; {}",
        fit_cursor(":A", 5)
    );
    table.sql("an older backup, and a later epoch delivered to it", "epoch", &later);
}

/// What the gateway's own records say about their streams.
fn own_records(table: &mut Table) {
    table.run("another record format", "format", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                set_details(&mut rows[0], &json!({ "format": 9 }));
                rows
            })
            .await;
        })
    });
    table.run("another number of interrupted calls", "count", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                set_details(&mut rows[0], &json!({ "interrupted": 3 }));
                rows
            })
            .await;
        })
    });
    table.run("gateway/opened in the middle of the last epoch", "event", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                rows.insert(3, another(&rows[0], "gatepost"));
                rows
            })
            .await;
        })
    });
    table.run("the first epoch names one before it", "epoch", |t| {
        Box::pin(async move {
            t.rewrite(t.b, 1, |mut rows| {
                let end = rows[3].position;
                set_details(&mut rows[0], &previous(2, &end, true));
                rows
            })
            .await;
            let end = t.rows(t.b, 1).await.pop().unwrap().position;
            t.rewrite(t.b, 2, |mut rows| {
                set_details(&mut rows[0], &previous(1, &end, true));
                rows
            })
            .await;
        })
    });
    table.run("a decision in the stream of a gateway", "event", |t| {
        Box::pin(async move {
            let mut decision = another(&t.rows(t.a, 1).await[1], "owner");
            decision.entry.call.method = "trail/accepted".into();
            t.append(vec![decision], t.b, 2).await;
        })
    });
    table.run("another count in the last gateway/closed", "count", |t| {
        Box::pin(async move {
            let mut rows = t.rows(t.a, 7).await;
            let [.., before, closed] = &mut rows[..] else { panic!("A/7 has records") };
            set_details(closed, &json!({ "records": 3 }));
            let StreamPosition { gateway_id, epoch, .. } = before.position;
            closed.position = chain::link(gateway_id, epoch, Head::after(&before.position), &closed.entry);
            t.write(&rows).await;
        })
    });
    table.run("the last epoch without its opening record", "event", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                rows.remove(0);
                rows
            })
            .await;
        })
    });
}

fn cursors(table: &mut Table) {
    for (column, says) in [("begun_at", "audit_stream.begun_at is"), ("delivered_at", "audit_stream.delivered_at is")] {
        let sql = format!("UPDATE audit_stream SET {column} = '2020-01-01' WHERE gateway_id = :A");
        table.push(&format!("{column} of a cursor"), Act::Sql(sql), Open(says), Open(says));
    }
    let empty = Open("has a cursor and no records");
    let sql = "INSERT INTO audit_stream (gateway_id, epoch) VALUES (:A, 9)";
    table.push("the cursor of an epoch that never was", Act::Sql(sql.to_owned()), empty, empty);
    let of_last = "WHERE gateway_id = :A AND epoch = 7";
    table.sql("the hash at a cursor", "cursor", &format!("UPDATE audit_stream SET head_hash = sha256('x') {of_last}"));
    table.sql("a cursor removed", "cursor", &format!("DELETE FROM audit_stream {of_last}"));
    table.sql(
        "a cursor moved beyond the last record",
        "tail",
        &format!("UPDATE audit_stream SET delivered_seq = delivered_seq + 1 {of_last}"),
    );
}

fn times_and_ids(table: &mut Table) {
    table.run("two records with one request id in the last epoch", "repeated", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                rows[3].entry.call.request_id = rows[2].entry.call.request_id;
                rows
            })
            .await;
        })
    });
    table.run("a time of long ago in the last epoch", "time", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                rows[3].entry.call.timestamp = Timestamp::from_micros(0);
                rows
            })
            .await;
        })
    });
    table.run("a time in the future in the last epoch", "time", |t| {
        Box::pin(async move {
            t.rewrite(t.a, 7, |mut rows| {
                let later = Timestamp::now().micros() + 600_000_000;
                rows[3].entry.call.timestamp = Timestamp::from_micros(later);
                rows
            })
            .await;
        })
    });
}

/// Rows that are deleted, and a decision that says that they were retired.
fn retired(table: &mut Table) {
    table.run("a forged retirement", "retired", |t| {
        Box::pin(async move {
            let rows = t.rows(t.a, 1).await;
            let (first, last) = (rows[2].position, rows[4].position);
            let details = json!({
                "kind": "retired", "gateway": t.a, "epoch": 1, "first": first.seq, "last": last.seq, "reason": "x",
                "by": "x", "uid": 0, "before": "2026-01", "records": 3, "export": null, "heads": first.hash,
                "runs": [{
                    "first": first.seq, "last": last.seq, "before": first.prev_hash, "first_hash": first.hash,
                    "last_hash": last.hash,
                }],
            });
            t.sql("DELETE FROM audit_log WHERE gateway_id = :A AND epoch = 1 AND seq BETWEEN 3 AND 5").await;
            let mut registrar = LockedRegistrar::lock(&mut t.connection).await.unwrap();
            registrar.append(entry("trail/retired", "x", &details).unwrap()).await.unwrap();
            registrar.commit().await.unwrap();
        })
    });
}

fn tables(table: &mut Table) {
    for (name, sql) in [
        ("a rule", "CREATE RULE hide AS ON INSERT TO audit_log DO INSTEAD NOTHING"),
        (
            "a trigger",
            "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER hide BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION hide()",
        ),
        (
            "a row security policy",
            "ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
            CREATE POLICY hide ON audit_log USING (response_status <> 'denied')",
        ),
        ("row security without a policy", "ALTER TABLE audit_stream ENABLE ROW LEVEL SECURITY"),
        ("a policy that is not in force yet", "CREATE POLICY later ON audit_quarantine USING (false)"),
        ("a column of another type", "ALTER TABLE audit_log ALTER COLUMN tool_name TYPE varchar"),
        (
            "a generated column",
            "ALTER TABLE audit_log DROP COLUMN actor_subject;
            ALTER TABLE audit_log ADD COLUMN actor_subject text GENERATED ALWAYS AS (NULL::text) STORED",
        ),
        (
            "a table partitioned by epoch",
            "ALTER TABLE audit_log RENAME TO kept;
            CREATE TABLE audit_log (LIKE kept INCLUDING DEFAULTS) PARTITION BY RANGE (epoch);
            CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT;
            INSERT INTO audit_log TABLE kept; DROP TABLE kept",
        ),
        ("a table that the cursors inherit from", "CREATE TABLE more () INHERITS (audit_stream)"),
        ("an unlogged table", "ALTER TABLE audit_quarantine SET UNLOGGED"),
        (
            "a view in place of the cursors",
            "ALTER TABLE audit_stream RENAME TO kept; CREATE VIEW audit_stream AS TABLE kept",
        ),
        (
            "a plain table in place of the partitioned one",
            "ALTER TABLE audit_log RENAME TO kept; CREATE TABLE audit_log AS TABLE kept",
        ),
    ] {
        table.sql(name, "table", sql);
    }
    let shadow = Open("which of the two a program uses depends on its search_path");
    let sql = "CREATE SCHEMA elsewhere; CREATE VIEW elsewhere.audit_log AS TABLE audit_log".to_owned();
    table.push("a view of the same name in another schema", Act::Sql(sql), shadow, shadow);
}
