//! The ring alone, under random operations: I6.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rig::{call_with, ok};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{Call, Entry, Epoch, GatewayId, Outcome, PendingRecord, Seq, Status};
use gatepost::audit::ring::{AdmissionError, BatchRoom, Reservation, Ring, RingLimits, Slot, WindowRead, WorkItem};
use proptest::prelude::*;
use tokio::runtime::Runtime;

const LIMITS: RingLimits = RingLimits { records: 40, bytes: 100_000 };
const GATEWAY: GatewayId = GatewayId(uuid::Uuid::nil());
const EPOCH: Epoch = Epoch(1);

/// One thing that a producer, the scribe or the shipper does.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Begin {
        bytes: usize,
    },
    End {
        which: usize,
    },
    Refuse {
        bytes: usize,
    },
    /// The scribe takes everything; it publishes it with the next operation of this kind.
    Scribe {
        stores: bool,
    },
    Deliver {
        records: usize,
    },
}

/// The ring, and the two that empty it.
struct Model {
    limits: RingLimits,
    ring: Arc<Ring>,
    runtime: Runtime,
    open: Vec<(Reservation, Call)>,
    head: Head,
    held: Option<Held>,
    delivered: Head,
    stored: Seq,
    appended: usize,
    missed: u64,
    accounted: u64,
    published: usize,
}

/// What the scribe took and has not published.
#[derive(Default)]
struct Held {
    records: Vec<Slot>,
    taken: BatchRoom,
    stores: bool,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..3_000_usize).prop_map(|bytes| Operation::Begin { bytes }),
        3 => (0..40_usize).prop_map(|which| Operation::End { which }),
        2 => (0..3_000_usize).prop_map(|bytes| Operation::Refuse { bytes }),
        3 => any::<bool>().prop_map(|stores| Operation::Scribe { stores }),
        1 => (1..20_usize).prop_map(|records| Operation::Deliver { records }),
    ]
}

fn call_of(bytes: usize) -> Call {
    call_with("echo", &format!("{:?}", "x".repeat(bytes)))
}

impl Model {
    fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            ring: Ring::new(limits, Head::START),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            open: Vec::new(),
            head: Head::START,
            held: None,
            delivered: Head::START,
            stored: Seq::ZERO,
            appended: 0,
            missed: 0,
            accounted: 0,
            published: 0,
        }
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Begin { bytes } => {
                // Every second call has its answer recorded.
                let call = call_of(bytes).with_response_room(if bytes % 2 == 0 { bytes } else { 0 });
                match self.runtime.block_on(self.ring.reserve_call(&call, Duration::ZERO)) {
                    Ok(mut reservation) => {
                        self.ring.begin(&mut reservation, &call, None).unwrap();
                        self.open.push((reservation, call));
                    }
                    Err(no_room) => {
                        assert_eq!(no_room, AdmissionError::Full);
                        self.missed += 1;
                    }
                }
            }
            Operation::End { which } => {
                if self.open.is_empty() {
                    return;
                }
                let (reservation, call) = self.open.swap_remove(which % self.open.len());
                let before = self.ring.gauge();
                // The largest outcome there is.
                let outcome = Outcome::failed(Status::Error, "\0".repeat(5_000));
                let response = (call.response_room() > 0).then(|| "\"\u{1}".repeat(5_000));
                let entry = Entry::of_call(call, outcome.with_response(response), Duration::ZERO);
                self.ring.end(reservation, entry, true, None).unwrap();
                self.appended += 1;
                // The outcome of a begun call needs no room that it did not have.
                let after = self.ring.gauge();
                assert!(after.records <= before.records && after.bytes <= before.bytes, "{before:?} {after:?}");
            }
            Operation::Refuse { bytes } => {
                let entry = Entry::new(call_of(bytes), ok(), Duration::ZERO);
                match self.runtime.block_on(self.ring.reserve_event(&entry, Duration::ZERO)) {
                    Ok(reservation) => {
                        self.ring.end(reservation, entry, false, None).unwrap();
                        self.appended += 1;
                    }
                    Err(_) => self.missed += 1,
                }
            }
            Operation::Scribe { stores } => self.scribe(stores),
            Operation::Deliver { records } => self.deliver(records),
        }
    }

    fn scribe(&mut self, stores: bool) {
        if let Some(Held { records, taken, stores }) = self.held.take() {
            if stores {
                self.stored = self.head.seq;
                self.ring.mark_stored(self.stored);
            }
            self.published += records.len();
            self.ring.publish(records, taken);
            return;
        }
        let work = self.ring.take(Some(Duration::ZERO));
        let mut records = Vec::new();
        let mut link = |record: PendingRecord| {
            let position = chain::link(GATEWAY, EPOCH, self.head, record.entry());
            self.head = Head::after(&position);
            records.push(Slot::new(record.at(position), Instant::now()));
        };
        for arrival in work.items {
            if let WorkItem::End { record, .. } = arrival {
                link(record);
            }
        }
        if let Some(missed) = work.unrecorded {
            self.accounted += missed.refused;
            self.appended += 1;
            link(Entry::new(Call::gateway_event("gap", &serde_json::json!({})), ok(), Duration::ZERO).into());
        }
        // As the scribe does: a ring that was more than half full when it looked is spilled.
        let stores = stores || self.ring.is_past_high_water(&records, &work.room);
        self.held = Some(Held { records, taken: work.room, stores });
    }

    fn deliver(&mut self, count: usize) {
        match self.ring.read_from(self.delivered.seq.next(), count, 10_000) {
            WindowRead::Records(records) => {
                assert!(!records.is_empty());
                for record in records {
                    assert_eq!(record.position.seq, self.delivered.seq.next(), "I3");
                    assert_eq!(record.position.prev_hash, self.delivered.hash);
                    self.delivered = Head::after(&record.position);
                }
            }
            // I4: only what the outbox has may be missing in the window.
            WindowRead::Older => {
                assert!(self.delivered.seq < self.stored);
                return;
            }
            WindowRead::Nothing => return,
        }
        self.ring.mark_delivered(EPOCH, self.delivered, true);
    }

    fn check(&self) {
        let gauge = self.ring.gauge();
        assert!(gauge.records <= self.limits.records && gauge.bytes <= self.limits.bytes, "{gauge:?}");
        // What is stored and still here is counted apart: it only waits, and makes room.
        let (mut cached_records, mut cached_bytes) = (0, 0);
        for seq in 1..=self.stored.0 {
            if let WindowRead::Records(records) = self.ring.read_from(Seq(seq), 1, usize::MAX) {
                cached_records += 1;
                cached_bytes += records[0].entry.size_bytes();
            }
        }
        assert_eq!((gauge.cached_records, gauge.cached_bytes), (cached_records, cached_bytes), "{gauge:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i6_the_ring_never_holds_more_than_its_limits(operations in prop::collection::vec(operation(), 1..250)) {
        let mut model = Model::new(LIMITS);
        for operation in operations {
            model.run(operation);
            model.check();
        }
        // Everything ends, and every call and every refusal is accounted for.
        while !model.open.is_empty() {
            model.run(Operation::End { which: 0 });
            model.check();
        }
        for _ in 0..3 {
            model.scribe(true);
            model.check();
        }
        model.scribe(true);
        prop_assert_eq!(model.published, model.appended);
        prop_assert_eq!(model.accounted, model.missed);
    }
}

#[tokio::test]
async fn i6_the_room_for_the_largest_answer_is_reserved_when_the_call_begins() {
    let ring = Ring::new(LIMITS, Head::START);
    let call = call_of(100).with_response_room(20_000);
    let mut reservation = ring.reserve_call(&call, Duration::ZERO).await.unwrap();
    let reserved = ring.gauge().bytes;
    ring.begin(&mut reservation, &call, None).unwrap();
    let intent = call.size_bytes();
    let outcome = Outcome::failed(Status::Error, "e".repeat(5_000)).with_response(Some("x".repeat(30_000)));
    let entry = Entry::of_call(call, outcome, Duration::ZERO);
    let record = entry.size_bytes();
    assert!(record > 20_000 && intent + record <= reserved, "{intent} {record} {reserved}");
    ring.end(reservation, entry, true, None).unwrap();
    assert_eq!(ring.gauge().bytes, intent + record, "all of it is counted");
}

#[test]
fn i6_a_gap_fits_a_ring_that_filled_while_the_scribe_had_it() {
    let mut model = Model::new(RingLimits { bytes: usize::MAX / 2, ..LIMITS });
    while model.missed == 0 {
        model.run(Operation::Begin { bytes: 10 });
        // BatchRoom and published, so that nothing but the open calls' room is used.
        if model.missed == 0 {
            model.scribe(false);
            model.scribe(false);
        }
    }
    model.scribe(false);
    while model.missed == 1 {
        model.run(Operation::Refuse { bytes: 10 });
    }
    model.scribe(false);
    assert_eq!((model.accounted, model.published), (1, 1));
    model.check();
}

#[tokio::test]
async fn i6_admission_waits_for_room_then_times_out() {
    let ring = Ring::new(LIMITS, Head::START);
    let mut held = Vec::new();
    while let Ok(reservation) = ring.reserve_call(&call_of(10), Duration::ZERO).await {
        held.push(reservation);
    }
    let waited = Instant::now();
    let patience = Duration::from_millis(30);
    let refused = ring.reserve_call(&call_of(10), patience).await;
    assert_eq!(refused.unwrap_err(), AdmissionError::Full);
    assert!(waited.elapsed() >= patience);
    let call = call_of(10);
    let mut waiting = std::pin::pin!(ring.reserve_call(&call, Duration::from_secs(20)));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    held.pop();
    waiting.await.unwrap();
}

#[test]
fn intents_and_untaken_entries_do_not_count_for_high_water() {
    let mut model = Model::new(LIMITS);
    for _ in 0..12 {
        model.run(Operation::Begin { bytes: 10 });
    }
    let empty = BatchRoom::default();
    assert!(!model.ring.is_past_high_water(&[], &empty), "intents that wait for the scribe");
    let work = model.ring.take(Some(Duration::ZERO));
    assert!(!model.ring.is_past_high_water(&[], &work.room), "intents that the scribe has");
    model.ring.publish(Vec::new(), work.room);

    for _ in 0..12 {
        model.run(Operation::End { which: 0 });
    }
    assert!(!model.ring.is_past_high_water(&[], &empty), "records that wait for the scribe");
    model.scribe(false);
    let held = model.held.as_ref().unwrap();
    assert!(!model.ring.is_past_high_water(&held.records, &held.taken), "12 records of 40");
    model.scribe(false);
    for _ in 0..10 {
        model.run(Operation::Refuse { bytes: 10 });
    }
    model.scribe(false);
    let held = model.held.as_ref().unwrap();
    assert!(model.ring.is_past_high_water(&held.records, &held.taken), "22 records of 40, 10 of them new");
}
