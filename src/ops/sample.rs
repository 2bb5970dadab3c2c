//! Records for the unit tests of this folder.

use std::time::Duration;

use uuid::Uuid;

use crate::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, PendingRecord, RequestId, Seq, Status, StreamPosition,
};

/// A record at `epoch/seq` of a call of `tool`.
pub(crate) fn record(epoch: u64, seq: u64, tool: &str) -> AuditRecord {
    let call = Call::new(RequestId::new(), "tools/call").with_target(Some("example"), Some(tool));
    let entry = Entry::new(
        call,
        Outcome::answered(Status::Ok, None, b"{}", &crate::audit::record::RecordKey::from_bytes([0; 32])),
        Duration::from_micros(1_500),
    );
    let position = StreamPosition {
        gateway_id: GatewayId(Uuid::from_u128(7)),
        epoch: Epoch(epoch),
        seq: Seq(seq),
        prev_hash: Digest::ZERO,
        hash: Digest::of(b"x"),
    };
    AuditRecord::clone(&PendingRecord::from(entry).at(position))
}
