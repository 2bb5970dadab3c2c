//! Records as a gateway makes them, of a known size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::codec;
use gatepost::audit::record::{
    AuditRecord, Call, Caller, Correlation, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Seq, Status,
    StreamPosition, Timestamp,
};
use uuid::Uuid;

/// A record's size in the outbox, its frame, in bytes, as near as padding can make it. *Spec*: docs/design.md,
/// "Targets".
pub const RECORD_BYTES: usize = 730;

/// Makes calls and entries that differ in id, time, caller and tool.
#[derive(Debug)]
pub struct Maker {
    calls: Vec<Call>,
    outcome: Outcome,
    made: AtomicU64,
}

impl Maker {
    pub fn new() -> Self {
        let padding = (0..RECORD_BYTES).find(|padding| frame_bytes(&call(7, *padding)) >= RECORD_BYTES).unwrap();
        let calls = (0..97).map(|number| call(number, padding)).collect();
        Self { calls, outcome: outcome(), made: AtomicU64::new(0) }
    }

    /// Call `number`, arrived now.
    pub fn call(&self, number: usize) -> Call {
        let mut call = self.calls[number % self.calls.len()].clone();
        call.timestamp = Timestamp::now();
        call.request_id = RequestId(self.id(call.timestamp));
        call
    }

    /// Laid out as a v7, from a count: random bytes are a call of the kernel each, and nobody's claim here.
    fn id(&self, at: Timestamp) -> Uuid {
        let milliseconds = at.micros().unsigned_abs() / 1000;
        Uuid::from_u64_pair(milliseconds << 16 | 0x7000, self.made.fetch_add(1, Ordering::Relaxed) | 1 << 63)
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    /// Call `number`, ended.
    pub fn entry(&self, number: usize) -> Entry {
        Entry::new(self.call(number), self.outcome(), Duration::from_micros(1_234))
    }

    /// `count` linked records after `head`.
    pub fn records(&self, gateway_id: GatewayId, mut head: Head, count: usize) -> Vec<AuditRecord> {
        let next = |number| {
            let entry = self.entry(number);
            let position = chain::link(gateway_id, Epoch(1), head, &entry);
            head = Head::after(&position);
            AuditRecord { position, entry }
        };
        (0..count).map(next).collect()
    }

    /// The frame of `entry`, at no place.
    pub fn frame_of(entry: Entry) -> Vec<u8> {
        let (gateway_id, hash) = (GatewayId(Uuid::from_u128(1)), Digest::ZERO);
        let position = StreamPosition { gateway_id, epoch: Epoch(1), seq: Seq(1_000_000), prev_hash: hash, hash };
        let mut frame = Vec::with_capacity(RECORD_BYTES);
        codec::encode_record(&AuditRecord { position, entry }, &mut frame).unwrap();
        frame
    }

    /// One frame.
    pub fn frame(&self) -> Vec<u8> {
        frame(&self.entry(7))
    }
}

fn outcome() -> Outcome {
    Outcome::answered(
        Status::Ok,
        None,
        br#"{"content":[{"type":"text","text":"done"}]}"#,
        &gatepost::audit::record::RecordKey::from_bytes([0; 32]),
    )
}

fn call(number: usize, padding: usize) -> Call {
    let caller = Caller {
        identity: std::sync::Arc::default(),
        subject: format!("agent-{:02}@example.com", number % 97),
        role: Some("analyst".to_owned()),
        issuer: Some("https://id.example.com".to_owned()),
        token_id: None,
    };
    let addr = Some(std::net::SocketAddr::from(([10, 0, 0, 7], 50_000)).into());
    let correlation = Correlation { addr, session_id: None, rpc_id: Some("42".to_owned()) };
    let arguments = format!(r#"{{"query":"{}"}}"#, "x".repeat(padding));
    Call::new(RequestId::new(), "tools/call")
        .with_caller(&caller)
        .with_correlation(&correlation)
        .with_target(Some("orders"), Some(&format!("find_order_{:02}", number % 13)))
        .with_arguments(
            Some(arguments.clone()),
            Some(gatepost::audit::record::RecordKey::from_bytes([0; 32]).digest(arguments.as_bytes())),
        )
}

fn frame_bytes(call: &Call) -> usize {
    frame(&Entry::new(call.clone(), outcome(), Duration::from_micros(1_234))).len()
}

/// The frame of `entry` somewhere behind the millionth place, where numbers are as long as they mostly are.
fn frame(entry: &Entry) -> Vec<u8> {
    let head = Head { seq: Seq(1_000_000), ..Head::START };
    let position = chain::link(GatewayId(Uuid::from_u128(1)), Epoch(1), head, entry);
    let mut frame = Vec::new();
    codec::encode_record(&AuditRecord { position, entry: entry.clone() }, &mut frame).unwrap();
    frame
}
