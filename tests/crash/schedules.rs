//! The ring under controlled schedules. Its own sources and the scribe's are compiled against shuttle's lock and
//! condition variable instead of those of the standard library, see `src/audit/sync.rs`. Before every operation on a
//! lock, a condition variable or a `Notify`, the scheduler chooses the thread that runs next. A lost wake-up is a
//! deadlock, and a deadlock fails the test.
//!
//! `SHUTTLE_ITERATIONS=100000 cargo nextest run --test crash schedules` runs more schedules. A failure prints its
//! schedule, and `SHUTTLE_REPLAY=<schedule>` runs that one again. `exhaust` runs every possible schedule.
//!
//! Not covered: the internals of Tokio's own `Notify` and `oneshot`, whose operations are one step each here, and the
//! effects of weak memory, which a ring that keeps all its state behind one lock does not have.

mod life;
#[allow(clippy::unused_self, reason = "the signatures are the outbox's")]
pub mod outbox;
#[allow(clippy::unnecessary_wraps, reason = "the signatures are the standard library's")]
pub mod sync;

use std::sync::Arc;
use std::time::Duration;

use crate::audit::ring::{
    AdmissionError, BatchRoom, Phase, Reservation, Ring, RingClosedError, RingLimits, Slot, WindowRead, WorkItem,
};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{Call, Entry, Epoch, GatewayId, Outcome, PendingRecord, RequestId, Seq, Status};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};
use sync::{Instant, Time, exhaust, explore};

/// Room for one call, or for two refusals, and for what the gateway keeps for itself.
const ONE_CALL: RingLimits = RingLimits { records: 8, bytes: 8_000 };
const EPOCH: Epoch = Epoch(1);
/// Where time stands still nobody sees how long it is.
const LONG: Duration = Duration::from_hours(1);
/// More schedules than any of the exhaustive tests has. *Chosen*: some seconds.
const MOST: usize = 200_000;

fn call() -> Call {
    Call::new(RequestId(uuid::Uuid::from_u128(1)), "tools/call").with_target(Some("example"), Some("echo"))
}

fn refusal(of: u128) -> Entry {
    let mut call = call();
    call.request_id = RequestId(uuid::Uuid::from_u128(of));
    Entry::new(call, Outcome::failed(Status::Denied, "no"), Duration::ZERO)
}

/// Holds the room of a call; waits for it for as long as it takes.
fn reserve(ring: &Arc<Ring>) -> Result<Reservation, AdmissionError> {
    block_on(ring.reserve_call(&call(), LONG))
}

fn append(ring: &Arc<Ring>, of: u128) -> Result<(), RingClosedError> {
    let entry = refusal(of);
    let Ok(reservation) = block_on(ring.reserve_event(&entry, LONG)) else { return Err(RingClosedError) };
    ring.end(reservation, entry, false, None)
}

fn after(head: &mut Head, record: PendingRecord) -> Slot {
    let position = chain::link(GatewayId(uuid::Uuid::nil()), EPOCH, *head, record.entry());
    *head = Head::after(&position);
    Slot::new(record.at(position), Instant::now())
}

/// The ids of what was taken, in order.
fn ids(arrivals: &[WorkItem]) -> Vec<u128> {
    let id = |arrival: &WorkItem| match arrival {
        WorkItem::Begin { request_id, .. } => request_id.0.as_u128(),
        WorkItem::End { record, .. } => record.entry().call.request_id.0.as_u128(),
    };
    arrivals.iter().map(id).collect()
}

/// Takes until `count` have arrived; publishes each batch, stored if `stores`. Gives them in order.
fn scribe(ring: &Arc<Ring>, count: usize, stores: bool) -> (Vec<u128>, Head) {
    let (mut all, mut head) = (Vec::new(), Head::START);
    while all.len() < count {
        let work = ring.take(None);
        all.extend(ids(&work.items));
        let records = work.items.into_iter().filter_map(|arrival| match arrival {
            WorkItem::End { record, .. } => Some(after(&mut head, record)),
            WorkItem::Begin { .. } => None,
        });
        let records: Vec<_> = records.collect();
        if stores {
            ring.mark_stored(head.seq);
        }
        ring.publish(records, work.room);
    }
    (all, head)
}

fn nothing_is_used(ring: &Ring) {
    let gauge = ring.gauge();
    assert_eq!((gauge.records, gauge.bytes), (0, 0), "{gauge:?}");
}

fn spawn<T: Send + 'static>(ring: &Arc<Ring>, run: impl FnOnce(Arc<Ring>) -> T + Send + 'static) -> JoinHandle<T> {
    let ring = Arc::clone(ring);
    thread::spawn(move || run(ring))
}

#[test]
fn i6_a_waiting_call_is_woken_when_room_is_released() {
    exhaust(MOST, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        let held = reserve(&ring).unwrap();
        let waits = spawn(&ring, |ring| drop(reserve(&ring).unwrap()));
        drop(held);
        waits.join().unwrap();
        nothing_is_used(&ring);
    });
}

#[test]
fn i6_a_waiting_call_is_woken_by_a_smaller_outcome() {
    exhaust(MOST, || {
        // One call and a refusal do not fit, but do once the call has ended in less than the room that it had.
        let ring = Ring::new(ONE_CALL, Head::START);
        let held = reserve(&ring).unwrap();
        let waits = spawn(&ring, |ring| {
            let entry = Entry::new(call(), Outcome::failed(Status::Denied, "x".repeat(1_500)), Duration::ZERO);
            drop(block_on(ring.reserve_event(&entry, LONG)).unwrap());
        });
        let entry = Entry::new(call(), Outcome::failed(Status::Error, ""), Duration::ZERO);
        ring.end(held, entry, true, None).unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn i6_a_waiting_call_is_woken_when_entries_are_stored() {
    exhaust(MOST, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        append(&ring, 1).unwrap();
        append(&ring, 2).unwrap();
        let scribe = spawn(&ring, |ring| scribe(&ring, 2, true));
        drop(reserve(&ring).unwrap());
        assert_eq!(scribe.join().unwrap().0, [1, 2]);
    });
}

#[test]
fn i6_a_waiting_call_is_woken_when_a_record_is_delivered() {
    exhaust(MOST, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        append(&ring, 1).unwrap();
        append(&ring, 2).unwrap();
        let (_, head) = scribe(&ring, 2, false);
        let shipper = spawn(&ring, move |ring| ring.mark_delivered(EPOCH, head, true));
        drop(reserve(&ring).unwrap());
        shipper.join().unwrap();
        nothing_is_used(&ring);
    });
}

#[test]
fn i6_the_ring_never_holds_more_calls_than_fit() {
    exhaust(MOST, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        let one_at_a_time = Arc::new(std::sync::Mutex::new(()));
        let held = Arc::clone(&one_at_a_time);
        let other = spawn(&ring, move |ring| {
            let reservation = reserve(&ring).unwrap();
            let alone = held.try_lock().unwrap();
            std::hint::black_box(ring.gauge());
            drop(alone);
            drop(reservation);
        });
        let reservation = reserve(&ring).unwrap();
        let alone = one_at_a_time.try_lock().unwrap();
        std::hint::black_box(ring.gauge());
        drop(alone);
        drop(reservation);
        other.join().unwrap();
        nothing_is_used(&ring);
    });
}

#[test]
fn the_scribe_takes_every_entry_once_and_in_order() {
    exhaust(MOST, || {
        let ring = Ring::new(RingLimits { records: 100, bytes: 100_000 }, Head::START);
        let producer = spawn(&ring, |ring| {
            append(&ring, 1).unwrap();
            append(&ring, 2).unwrap();
        });
        let (all, head) = scribe(&ring, 2, false);
        producer.join().unwrap();
        assert_eq!((all, head.seq), (vec![1, 2], Seq(2)));
        ring.mark_delivered(EPOCH, head, true);
        nothing_is_used(&ring);
    });
}

#[test]
fn a_gathering_scribe_is_woken_by_its_last_entry() {
    exhaust(MOST, || {
        let ring = Ring::new(RingLimits { records: 100, bytes: 100_000 }, Head::START);
        let producer = spawn(&ring, |ring| {
            append(&ring, 1).unwrap();
            append(&ring, 2).unwrap();
        });
        assert_eq!(ring.gather(2, LONG), 2);
        assert_eq!(ids(&ring.take(None).items), [1, 2]);
        producer.join().unwrap();
    });
}

#[test]
fn the_shipper_is_woken_after_every_published_record() {
    explore(Time::Stands, || {
        let ring = Ring::new(RingLimits { records: 100, bytes: 100_000 }, Head::START);
        let publisher = spawn(&ring, |ring| {
            let mut head = Head::START;
            for of in 1..=2 {
                ring.publish(vec![after(&mut head, refusal(of).into())], BatchRoom::default());
            }
        });
        let mut delivered = Head::START;
        while delivered.seq < Seq(2) {
            block_on(ring.wait_for_shippable_after(delivered.seq));
            let WindowRead::Records(records) = ring.read_from(delivered.seq.next(), 10, 10_000) else {
                panic!("woken early")
            };
            for record in records {
                assert_eq!(
                    (record.position.seq, record.position.prev_hash),
                    (delivered.seq.next(), delivered.hash),
                    "I3"
                );
                delivered = Head::after(&record.position);
            }
            ring.mark_delivered(EPOCH, delivered, true);
        }
        publisher.join().unwrap();
        nothing_is_used(&ring);
    });
}

#[test]
fn a_change_of_phase_wakes_every_waiter() {
    type Wait = fn(&Arc<Ring>);
    let waits: [(Phase, Wait); 7] = [
        (Phase::Closing, |ring| assert_eq!(ring.take(None).phase, Phase::Closing)),
        (Phase::Closing, |ring| assert_eq!(ring.take(Some(LONG)).phase, Phase::Closing)),
        (Phase::Closing, |ring| assert_eq!(ring.gather(1, LONG), 0)),
        (Phase::Finished, |ring| assert_eq!(ring.pause(LONG), Phase::Finished)),
        (Phase::Closed, |ring| block_on(ring.wait_for_shippable_after(Seq::ZERO))),
        (Phase::Closing, |ring| block_on(ring.wait_for_phase(Phase::Closing))),
        (Phase::Closing, |ring| {
            // Room for one, which the other one does not give back.
            let (one, other) = (reserve(ring), reserve(ring));
            assert_eq!(one.and(other).unwrap_err(), AdmissionError::Closed);
        }),
    ];
    for (phase, wait) in waits {
        exhaust(MOST, move || {
            let ring = Ring::new(ONE_CALL, Head::START);
            let waits = spawn(&ring, move |ring| wait(&ring));
            ring.advance_phase(phase);
            waits.join().unwrap();
            nothing_is_used(&ring);
        });
    }
}

#[test]
fn a_failed_scribe_wakes_calls_waiting_for_room() {
    exhaust(MOST, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        let held = reserve(&ring).unwrap();
        let waits = spawn(&ring, |ring| assert_eq!(reserve(&ring).unwrap_err(), AdmissionError::Failed));
        ring.mark_scribe_failed();
        waits.join().unwrap();
        drop(held);
        nothing_is_used(&ring);
    });
}

#[test]
fn i3_nothing_is_appended_once_the_ring_is_closing() {
    explore(Time::Stands, || {
        let ring = Ring::new(RingLimits { records: 100, bytes: 100_000 }, Head::START);
        let producer = spawn(&ring, |ring| [append(&ring, 1), append(&ring, 2)]);
        let closer = spawn(&ring, |ring| ring.advance_phase(Phase::Closing));
        let (mut all, mut used) = (Vec::new(), Vec::new());
        loop {
            let work = ring.take(None);
            all.extend(ids(&work.items));
            used.push(work.room);
            if work.phase == Phase::Closing {
                break;
            }
        }
        let appended = producer.join().unwrap();
        closer.join().unwrap();
        assert!(ring.take(Some(Duration::ZERO)).items.is_empty(), "appended behind the closing record");
        let taken = (1..).zip(appended).filter(|(_, result)| result.is_ok()).map(|(of, _)| of);
        assert_eq!(all, taken.collect::<Vec<u128>>());
        for taken in used {
            ring.publish(Vec::new(), taken);
        }
        nothing_is_used(&ring);
    });
}

#[test]
fn i6_a_cancelled_wait_for_room_takes_no_room_and_no_wakeup() {
    explore(Time::Stands, || {
        let ring = Ring::new(ONE_CALL, Head::START);
        let producers: Vec<_> = (0..3)
            .map(|_| {
                spawn(&ring, |ring| {
                    let call = call();
                    let reserved = block_on(sync::gives_up(ring.reserve_call(&call, LONG), || sync::chance(2)));
                    drop(reserved.map(Result::unwrap));
                    drop(reserve(&ring).unwrap());
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        nothing_is_used(&ring);
    });
}
