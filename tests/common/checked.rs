//! The checks of `gatepost audit verify` on records in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gatepost::audit::chain::Head;
use gatepost::audit::record::{AuditRecord, GatewayId, RequestId, Timestamp};
use gatepost::audit::verify::{
    Checker, Cursor, Expect, Heads, Options, Origin, Place, Report, Statements, StreamId, TrailRecord,
};

/// The options of a check at the time `now`.
pub fn options(expect: Expect, now: Timestamp) -> Options {
    Options {
        findings_max: 1000,
        now,
        settle: Duration::ZERO,
        expect,
        vouched: false,
        replica: false,
        live: Vec::new(),
    }
}

/// Checks `records`, which are in the order of (gateway, epoch, seq), as if they were in Postgres.
pub fn check(
    records: &[AuditRecord],
    cursors: &BTreeMap<StreamId, Head>,
    registrar: Option<GatewayId>,
    heads: Heads,
    options: Options,
) -> Report {
    let mut statements = Statements::default();
    if let Some(registrar) = registrar {
        statements.set_registrar(registrar);
    }
    for record in records {
        statements.add(record);
    }
    let mut checker = Checker::new(Origin::Postgres, options, statements, heads);
    let streams: BTreeSet<StreamId> =
        records.iter().map(|record| (record.position.gateway_id, record.position.epoch)).collect();
    for stream in streams {
        checker.add_stream(stream);
    }
    for (stream, head) in cursors {
        checker.add_cursor(*stream, Cursor { head: *head, begun_at: None, delivered_at: None });
    }
    checker.expect_records(records.len() as u64);
    checker.begin();
    for AuditRecord { position, entry } in records {
        checker.check(&TrailRecord { position: *position, content: Ok(entry.clone()), quarantined: false });
    }
    let candidates = checker.repeated_candidates().unwrap().to_vec();
    for (gateway_id, id) in candidates {
        if places(records, gateway_id, id) > 1 {
            checker.repeated_id(Place::gateway(gateway_id), "repeated".to_owned());
        }
    }
    checker.finish()
}

/// The last position of each stream, as its cursor.
pub fn ends(records: &[AuditRecord]) -> BTreeMap<StreamId, Head> {
    let end = |record: &AuditRecord| {
        let position = &record.position;
        ((position.gateway_id, position.epoch), Head::after(position))
    };
    records.iter().map(end).collect()
}

/// The number of places at which a gateway has this request id.
fn places(records: &[AuditRecord], gateway_id: GatewayId, id: RequestId) -> usize {
    let has = |record: &&AuditRecord| record.position.gateway_id == gateway_id && record.entry.call.request_id == id;
    let places = records.iter().filter(has).map(|record| (record.position.epoch, record.position.seq));
    places.collect::<BTreeSet<_>>().len()
}
