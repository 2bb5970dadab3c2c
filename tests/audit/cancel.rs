//! Calls that are given up at every await: each that began ends in one record, and no room is kept.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, call, delivered, ok, one, statuses, stop, verify_records};
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::record::{Call, Outcome, Status};
use gatepost::audit::{Audit, UnavailableError};

/// More awaits than any of these has.
const AWAITS_MAX: usize = 20;

/// Polls `future` up to `polls` times, each time when it was woken, and drops it then.
async fn polled<F: Future>(future: F, mut polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn whole(audit: &Audit, call: Call) -> Result<(), UnavailableError> {
    let receipt = audit.begin(call).await?;
    // The backend's answer.
    tokio::task::yield_now().await;
    receipt.finish(ok(), ()).await.map(gatepost::audit::Released::into_inner)
}

async fn continued(audit: &Audit, call: Call) -> Result<(), UnavailableError> {
    let receipt = audit.begin_or_continue(call).await?;
    tokio::task::yield_now().await;
    receipt.finish(ok(), ()).await.map(gatepost::audit::Released::into_inner)
}

async fn refused(audit: &Audit, call: Call) -> Result<(), UnavailableError> {
    audit.record_once(call, Outcome::failed(Status::Denied, "no"), ()).await.map(gatepost::audit::Released::into_inner)
}

/// Nothing is open, nothing takes room, and the next call is served.
async fn is_at_rest(audit: &Audit, probe: &Probe) {
    one(audit, "next").await;
    delivered(probe).await;
    until_async("no room is taken", SOON, async || (probe.gauge().records, probe.gauge().bytes) == (0, 0)).await;
    assert!(probe.reader().intents().unwrap().is_empty(), "no intent is left open");
}

async fn ended(rig: &Rig, pipeline: Pipeline) {
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}

/// Gives `path` up at its first, second, ... await until it comes to its end.
async fn given_up_everywhere<F>(rig: Rig, path: impl AsyncFn(Audit, Call) -> F)
where
    F: Future<Output = Result<(), UnavailableError>>,
{
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let mut tried = Vec::new();
    for polls in 0..AWAITS_MAX {
        let call = call("echo");
        tried.push(call.request_id);
        if let Some(result) = polled(path(audit.clone(), call).await, polls).await {
            result.unwrap();
            break;
        }
    }
    assert!((2..AWAITS_MAX).contains(&tried.len()), "{} awaits", tried.len());
    is_at_rest(&audit, &probe).await;
    ended(&rig, pipeline).await;
    let records = rig.sink.records();
    let (never_polled, begun) = tried.split_first().unwrap();
    assert_eq!(statuses(&records, *never_polled), []);
    for id in begun {
        assert_eq!(statuses(&records, *id).len(), 1, "I2: {id}");
    }
    let last = statuses(&records, *begun.last().unwrap());
    assert!(matches!(last[..], [Status::Ok | Status::Denied]), "{last:?}");
}

fn rigs() -> [Rig; 2] {
    [Rig::stored(), Rig::queued(Duration::from_millis(200))]
}

#[tokio::test]
async fn i2_a_call_cancelled_at_any_await_has_one_record() {
    for rig in rigs() {
        given_up_everywhere(rig, async |audit, call| async move { whole(&audit, call).await }).await;
    }
}

#[tokio::test]
async fn i2_an_unaudited_call_cancelled_at_any_await_has_one_record() {
    for rig in rigs() {
        given_up_everywhere(rig, async |audit, call| async move { continued(&audit, call).await }).await;
    }
}

#[tokio::test]
async fn i2_a_refusal_cancelled_at_any_await_has_one_record() {
    // At level `queued` it has no await: whoever polls it has it.
    given_up_everywhere(Rig::stored(), async |audit, call| async move { refused(&audit, call).await }).await;
}

#[tokio::test]
async fn i2_calls_cancelled_while_the_disk_hangs_have_one_record() {
    let rig = Rig::stored();
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let receipt = audit.begin(call("open")).await.unwrap();
    let open = receipt.request_id();
    rig.disk.close_gate();
    let (begins, refuses) = (call("begins"), call("refuses"));
    let (begins_id, refuses_id) = (begins.request_id, refuses.request_id);
    assert!(polled(audit.begin(begins), 1).await.is_none(), "its intent is not stored");
    assert!(polled(refused(&audit, refuses), 1).await.is_none(), "its record is not stored");
    assert!(polled(receipt.finish(ok(), ()), 1).await.is_none(), "its record is not stored");
    rig.disk.open_gate();
    is_at_rest(&audit, &probe).await;
    ended(&rig, pipeline).await;
    let records = rig.sink.records();
    assert_eq!(statuses(&records, open), [Status::Ok], "the answer was known");
    assert_eq!(statuses(&records, begins_id), [Status::Error], "it was never forwarded");
    assert_eq!(statuses(&records, refuses_id), [Status::Denied]);
}

#[tokio::test]
async fn i6_a_call_cancelled_while_waiting_for_room_leaves_nothing() {
    let mut rig = Rig::stored();
    rig.config.ring.records = 8;
    rig.config.timeouts.admission = SOON;
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    delivered(&probe).await;
    // Seven of eight records are for calls. A call that begins needs two: its intent, which is soon stored, and its
    // record.
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(audit.begin(call("held")).await.unwrap());
    }
    let mut waited = Vec::new();
    for _ in 0..3 {
        let call = call("waits");
        waited.push(call.request_id);
        assert!(polled(audit.begin(call), 1).await.is_none(), "there is no room");
    }
    for receipt in held {
        receipt.finish(ok(), ()).await.unwrap().into_inner();
    }
    is_at_rest(&audit, &probe).await;
    ended(&rig, pipeline).await;
    for id in waited {
        assert_eq!(statuses(&rig.sink.records(), id), [], "it was neither begun nor refused");
    }
}
