//! The checks of `gatepost audit verify` on records in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gatepost::audit::chain::Head;
use gatepost::audit::record::{AuditRecord, GatewayId, RequestId, Timestamp};
use gatepost::audit::verify::{
    Checker, Cursor, Expect, Heads, Options, Origin, Place, Report, Statements, StreamId, TrailRecord,
};

/// Checks `records`, which are in the order of (gateway, epoch, seq), as if they were in Postgres at the time `now`.
pub fn check(
    records: &[AuditRecord],
    cursors: &BTreeMap<StreamId, Head>,
    registrar: Option<GatewayId>,
    (heads, expect): (Heads, Expect),
    now: Timestamp,
) -> Report {
    let mut statements = Statements::default();
    if let Some(registrar) = registrar {
        statements.set_registrar(registrar);
    }
    for record in records {
        statements.add(record);
    }
    let options =
        Options { findings_max: 1000, now, settle: Duration::ZERO, expect, vouched: false, replica: false, live: None };
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

/// The number of places at which a gateway has this request id.
fn places(records: &[AuditRecord], gateway_id: GatewayId, id: RequestId) -> usize {
    let has = |record: &&AuditRecord| record.position.gateway_id == gateway_id && record.entry.call.request_id == id;
    let places = records.iter().filter(has).map(|record| (record.position.epoch, record.position.seq));
    places.collect::<BTreeSet<_>>().len()
}
