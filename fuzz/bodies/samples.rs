//! Sample records, and directories for files.

use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{
    AuditRecord, Call, Caller, Correlation, Entry, Epoch, GatewayId, Outcome, RequestId, Status,
};
use tempfile::TempDir;
use uuid::Uuid;

pub const GATEWAY: GatewayId = GatewayId(Uuid::from_u128(0x6761_7465_706f_7374));

/// A temporary directory, in memory if the machine has `/dev/shm`: the targets test bytes, not disks.
pub fn directory() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn call(number: u128, argument_bytes: usize) -> Call {
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(argument_bytes));
    Call::new(RequestId(Uuid::from_u128(number)), "tools/call")
        .with_caller(&Caller { role: Some("analyst".to_owned()), ..Caller::anonymous() })
        .with_correlation(&Correlation { rpc_id: Some("42".to_owned()), ..Correlation::default() })
        .with_target(Some("example"), Some("echo"))
        .with_arguments(
            Some(arguments.clone()),
            Some(gatepost::audit::record::RecordKey::from_bytes([0; 32]).digest(arguments.as_bytes())),
        )
}

pub fn entry(call: Call) -> Entry {
    Entry::new(
        call,
        Outcome::answered(Status::Ok, None, b"{}", &gatepost::audit::record::RecordKey::from_bytes([0; 32])),
        Duration::from_micros(1_500),
    )
}

/// The record after `head`.
pub fn linked(epoch: Epoch, head: Head, entry: Entry) -> AuditRecord {
    AuditRecord { position: chain::link(GATEWAY, epoch, head, &entry), entry }
}

/// The first `count` records of `epoch`.
pub fn records(epoch: Epoch, count: u64, argument_bytes: usize) -> Vec<AuditRecord> {
    let mut head = Head::START;
    let next = |number: u64| {
        let call = call(u128::from(epoch.0) << 64 | u128::from(number), argument_bytes);
        let record = linked(epoch, head, entry(call));
        head = Head::after(&record.position);
        record
    };
    (1..=count).map(next).collect()
}
