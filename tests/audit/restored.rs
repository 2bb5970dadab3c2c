//! A database that goes back to an earlier state gets again what the outbox keeps: I4 and I5.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{self, Commit, Keep, Opening, Reader, Segment};
use gatepost::audit::pipeline::{Pipeline, Probe};
use gatepost::audit::record::{AuditRecord, Digest, Entry, Epoch, Seq};
use gatepost::audit::scribe::Mode;
use gatepost::audit::shipper::ShipperState;
use sqlx::{Connection, PgConnection};

use crate::common::postgres::Cluster;
use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until_async};
use crate::memory_sink::Mood;
use crate::rig::{
    Rig, bytes_in, call, call_with, delivered, drained, events, many, ok, one, stop, stop_now, times_recorded,
    verify_records,
};

/// The streams that went back, as the records say: epoch, the record that was found, the one that was delivered.
fn restored(records: &[AuditRecord]) -> Vec<(u64, u64, u64)> {
    let number = |event: &serde_json::Value, key: &str| event[key].as_u64().unwrap();
    let all = events(records, "restored");
    all.iter().map(|event| (number(event, "epoch"), number(event, "seq"), number(event, "delivered_seq"))).collect()
}

/// Waits until the sink has everything again, and checks it.
async fn healed(rig: &Rig, probe: &Probe) {
    delivered(probe).await;
    until_async("nothing is forked", SOON, || async { probe.shipper() == ShipperState::Delivering }).await;
    verify_records(&rig.sink.records());
}

/// Two epochs that are delivered, the second one of a gateway that still runs.
async fn two_epochs(rig: &Rig) -> Pipeline {
    let pipeline = rig.start();
    many(&pipeline.audit(), 20).await;
    stop(pipeline).await;
    let pipeline = rig.start();
    many(&pipeline.audit(), 10).await;
    delivered(&pipeline.probe()).await;
    pipeline
}

#[tokio::test]
async fn i4_i5_database_that_goes_back_under_a_running_gateway_is_healed() {
    // Within the current epoch, within an earlier one, and to a time before anything was delivered.
    for (kept, expected) in
        [(22 + 5, vec![(2, 5, 11)]), (7, vec![(1, 7, 22), (2, 0, 11)]), (0, vec![(1, 0, 22), (2, 0, 11)])]
    {
        let rig = Rig::keeping();
        let pipeline = two_epochs(&rig).await;
        rig.sink.go_back(kept);
        one(&pipeline.audit(), "echo").await;
        let probe = pipeline.probe();
        until_async("it is delivered again", SOON, || async { rig.sink.count() >= 22 + 12 + expected.len() }).await;
        healed(&rig, &probe).await;
        assert_eq!(probe.meter().restored.get(), expected.len() as u64);
        stop(pipeline).await;
        let records = rig.sink.records();
        assert_eq!(restored(&records), expected, "from {kept} on");
        assert!(times_recorded(&records).values().all(|times| *times == 1));
        verify_records(&records);
    }
}

#[tokio::test]
async fn i4_database_that_went_back_is_healed_at_the_next_start() {
    for crashed in [false, true] {
        let mut rig = Rig::keeping();
        let pipeline = two_epochs(&rig).await;
        // A commit that has the last watermark.
        one(&pipeline.audit(), "echo").await;
        if crashed {
            let after = rig.after_crash();
            stop_now(pipeline).await;
            let last = rig.sink.records()[30].position;
            after.sink.cut_after(&last);
            rig = after;
        } else {
            stop(pipeline).await;
        }
        rig.sink.go_back(7);
        drained(&rig).await;
        let records = rig.sink.records();
        assert_eq!(restored(&records)[0], (1, 7, 22));
        assert_eq!(restored(&records)[1].0, 2);
        verify_records(&records);
        // The next start finds everything as it should be.
        drained(&rig).await;
        assert_eq!(restored(&rig.sink.records()).len(), 2);
    }
}

#[tokio::test]
async fn i4_idle_gateway_notices_that_its_database_went_back() {
    let rig = Rig::keeping();
    let pipeline = two_epochs(&rig).await;
    let probe = pipeline.probe();
    rig.sink.go_back(7);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    until_async("it is delivered again", SOON, || async { rig.sink.count() == 22 + 11 + 2 }).await;
    healed(&rig, &probe).await;
    stop(pipeline).await;
    assert_eq!(restored(&rig.sink.records()), [(1, 7, 22), (2, 0, 11)]);
}

#[tokio::test]
async fn i4_what_is_not_kept_any_more_is_a_fork_and_the_rest_waits() {
    for (kept, found) in [(10, "epoch 1"), (22 + 3, "epoch 2")] {
        let mut rig = Rig::stored();
        let pipeline = two_epochs(&rig).await;
        let probe = pipeline.probe();
        rig.sink.go_back(kept);
        one(&pipeline.audit(), "echo").await;
        until_async("it is forked", SOON, || async {
            matches!(probe.shipper(), ShipperState::Forked { error } if error.contains("epoch 2"))
        })
        .await;
        let ShipperState::Forked { error } = probe.shipper() else { panic!() };
        assert!(error.contains(found) && error.contains("are in neither outbox nor Postgres"), "{error}");
        assert!(rig.sink.records().len() == kept && probe.meter().restored.get() == 0);
        stop_now(pipeline).await;
        assert!(rig.stored_records().iter().any(|record| record.position.seq == Seq(12)), "what waits is kept");
        // Also after the next start, which has nothing of the first epoch.
        rig.config.keep = None;
        let pipeline = rig.start();
        let probe = pipeline.probe();
        until_async("it is forked", SOON, || async {
            matches!(probe.shipper(), ShipperState::Forked { error } if error.contains(found))
        })
        .await;
        stop_now(pipeline).await;
    }
}

#[tokio::test]
async fn i5_kept_record_that_differs_from_the_cursor_is_a_fork() {
    let rig = Rig::keeping();
    let pipeline = two_epochs(&rig).await;
    let (gateway_id, probe) = (pipeline.probe().stream().0, pipeline.probe());
    let count = rig.sink.count();
    let foreign = Head { seq: Seq(5), hash: Digest::of(b"foreign") };
    rig.sink.set_cursor(gateway_id, Epoch(2), foreign);
    one(&pipeline.audit(), "echo").await;
    until_async("it is forked", SOON, || async {
        matches!(probe.shipper(), ShipperState::Forked { error } if error.contains("did not write"))
    })
    .await;
    assert_eq!(rig.sink.count(), count);
    stop_now(pipeline).await;
}

#[tokio::test]
async fn i4_interrupted_redelivery_is_completed_and_recorded_once() {
    // Before anything is delivered again, and in the middle.
    for held in [2, 8] {
        let mut rig = Rig::keeping();
        rig.config.batch.records = 3;
        let pipeline = two_epochs(&rig).await;
        rig.sink.go_back(2);
        rig.sink.hold_after(held);
        one(&pipeline.audit(), "echo").await;
        let probe = pipeline.probe();
        until_async("it is found", SOON, || async { probe.meter().restored.get() == 1 }).await;
        until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
        // A commit that has the watermark of what was found.
        one(&pipeline.audit(), "echo").await;
        let crashed = rig.after_crash();
        stop_now(pipeline).await;
        crashed.sink.hold_after(usize::MAX);
        drained(&crashed).await;
        let records = crashed.sink.records();
        verify_records(&records);
        assert_eq!(restored(&records).iter().filter(|(epoch, ..)| *epoch == 1).count(), 1, "{:?}", restored(&records));
    }
}

#[tokio::test]
async fn database_that_goes_back_during_the_redelivery_is_recorded_with_what_it_had_then() {
    let rig = Rig::keeping();
    let pipeline = two_epochs(&rig).await;
    let probe = pipeline.probe();
    rig.sink.go_back(22 + 5);
    rig.sink.hold_after(22 + 5);
    one(&pipeline.audit(), "echo").await;
    until_async("it is found", SOON, || async { probe.meter().restored.get() == 1 }).await;
    rig.sink.go_back(22 + 3);
    rig.sink.hold_after(usize::MAX);
    until_async("it is delivered again", SOON, || async { rig.sink.count() == 22 + 12 + 2 }).await;
    healed(&rig, &probe).await;
    stop(pipeline).await;
    assert_eq!(restored(&rig.sink.records()), [(2, 5, 11), (2, 3, 5)]);
}

/// Calls with large arguments, until one is refused or there were so many; returns their number.
async fn large_calls(pipeline: &Pipeline, count: u64) -> u64 {
    let (audit, arguments) = (pipeline.audit(), format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000)));
    for done in 0..count {
        let Ok(receipt) = audit.begin(call_with("echo", &arguments)).await else { return done };
        receipt.finish(ok(), ()).await.unwrap().into_inner();
    }
    count
}

#[tokio::test]
async fn kept_records_count_in_no_warning_and_go_first() {
    let quota = 64 * 1024 * 1024;
    let mut rig = Rig::stored();
    rig.config.outbox_bytes_max = quota;
    rig.config.keep = Some(Keep { age: Duration::from_hours(1), bytes: quota / 4 });
    rig.config.timeouts.admission = Duration::from_millis(50);
    let pipeline = rig.start();
    let probe = pipeline.probe();
    for round in 0..7 {
        assert_eq!(large_calls(&pipeline, 100).await, 100);
        delivered(&probe).await;
        assert!(bytes_in(rig.dir.path()) <= quota / 2, "round {round}: {}", bytes_in(rig.dir.path()));
        let outbox = probe.gauge().outbox;
        assert!(outbox.used_bytes <= quota / 8, "round {round}: {outbox:?}");
    }
    let kept = probe.gauge().outbox.kept_bytes;
    assert!((quota / 8..quota / 4 + quota / 8).contains(&kept), "{kept}");
    let first = probe.reader().stats().unwrap().streams[0].first;
    assert!(first > Seq(1), "the oldest are gone");
    // In an outage, the outbox has room for as much as without them, less what smaller files cost.
    rig.sink.turn(Mood::Down);
    let taken = large_calls(&pipeline, 10_000).await;
    assert!(taken * 60_000 > quota / 2, "{taken} calls");
    until_async("all that was kept is gone", SOON, || async { probe.gauge().outbox.kept_bytes == 0 }).await;
    assert!(probe.gauge().outbox.full);
    rig.sink.turn(Mood::Healthy);
    delivered(&probe).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    verify_records(&rig.sink.records());
}

/// What an outage lets in makes no room at the cost of what the database lost.
#[tokio::test]
async fn i4_kept_records_that_the_database_lost_do_not_go_for_room() {
    let quota = 64 * 1024 * 1024;
    let mut rig = Rig::stored();
    rig.config.outbox_bytes_max = quota;
    rig.config.keep = Some(Keep { age: Duration::from_hours(1), bytes: quota / 4 });
    rig.config.timeouts.admission = Duration::from_millis(50);
    stop(rig.start()).await;
    let pipeline = rig.start();
    let probe = pipeline.probe();
    let before = large_calls(&pipeline, 100).await;
    delivered(&probe).await;
    // The first epoch is found to be missing, and waits; the second one, which has the calls, is not looked at yet.
    rig.sink.go_back(0);
    rig.sink.hold_after(0);
    one(&pipeline.audit(), "echo").await;
    until_async("it is found", SOON, || async { probe.meter().restored.get() == 1 }).await;
    let taken = large_calls(&pipeline, 10_000).await;
    assert!(taken < 10_000 && probe.gauge().outbox.full);
    rig.sink.hold_after(usize::MAX);
    delivered(&probe).await;
    until_async("nothing is forked", SOON, || async { probe.shipper() == ShipperState::Delivering }).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    let records = rig.sink.records();
    verify_records(&records);
    let calls = records.iter().filter(|record| record.entry.call.method == "tools/call").count() as u64;
    assert_eq!(calls, before + 1 + taken);
}

/// A commit that fails while the database goes back does not store what was delivered before.
#[tokio::test]
async fn i4_watermark_of_a_failed_commit_is_not_stored_after_the_database_went_back() {
    let mut rig = Rig::stored();
    rig.config.keep = Some(Keep { age: Duration::from_hours(1), bytes: 1 << 20 });
    stop(rig.start()).await;
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    rig.sink.hold_after(rig.sink.count());
    // More than is kept of delivered records, so that the watermark makes the first files superfluous.
    let before = large_calls(&pipeline, 100).await;
    rig.disk.fail();
    rig.sink.hold_after(usize::MAX);
    delivered(&probe).await;
    until_async("its watermark cannot be stored", SOON, || async { probe.meter().commits_failed.get() > 0 }).await;
    rig.sink.go_back(0);
    rig.sink.hold_after(0);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    until_async("it is found", SOON, || async { probe.meter().restored.get() == 1 }).await;
    let commits = || probe.meter().commit.snapshot().count;
    let stored = commits();
    rig.disk.heal();
    until_async("it is stored", SOON, || async { commits() > stored }).await;
    rig.sink.hold_after(usize::MAX);
    until_async("it is delivered again", SOON, || async { rig.sink.count() as u64 > before + 2 }).await;
    healed(&rig, &probe).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    let records = rig.sink.records();
    verify_records(&records);
    assert_eq!(records.iter().filter(|record| record.entry.call.method == "tools/call").count() as u64, before);
}

/// An earlier epoch was delivered again already, and is lost once more while the next one is delivered again.
#[tokio::test]
async fn i4_database_that_goes_back_twice_has_all_epochs_looked_at_again() {
    let mut rig = Rig::keeping();
    rig.config.batch.records = 3;
    stop(two_epochs(&rig).await).await;
    let pipeline = rig.start();
    let probe = pipeline.probe();
    delivered(&probe).await;
    assert_eq!(rig.sink.count(), 22 + 12 + 1);
    rig.sink.go_back(7);
    rig.sink.hold_after(22 + 3);
    one(&pipeline.audit(), "echo").await;
    until_async("the second epoch is found", SOON, || async { probe.meter().restored.get() == 2 }).await;
    until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
    rig.sink.go_back(2);
    rig.sink.hold_after(usize::MAX);
    until_async("it is delivered again", SOON, || async { rig.sink.count() == 22 + 12 + 2 + 5 }).await;
    healed(&rig, &probe).await;
    stop(pipeline).await;
    assert_eq!(restored(&rig.sink.records()), [(1, 7, 22), (2, 0, 12), (2, 0, 3), (1, 2, 22), (3, 0, 1)]);
}

/// A forked stream turns out to be lost when it is looked at again, and the running one has lost nothing.
#[tokio::test]
async fn i4_loss_that_is_found_at_a_later_look_has_all_epochs_looked_at_again() {
    let rig = Rig::keeping();
    let pipeline = rig.start();
    many(&pipeline.audit(), 20).await;
    delivered(&pipeline.probe()).await;
    let (crashed, records) = (rig.after_crash(), rig.sink.records());
    stop_now(pipeline).await;
    let rig = crashed;
    rig.sink.cut_after(&records[20].position);
    let pipeline = rig.start();
    many(&pipeline.audit(), 10).await;
    stop(pipeline).await;
    let records = rig.sink.records();
    let (first, second) = (records[6].position, records[21 + 3].position);
    // Postgres has more of the first epoch than this gateway stored.
    rig.sink.set_cursor(first.gateway_id, Epoch(1), Head { seq: Seq(100), hash: Digest::of(b"unknown") });
    let pipeline = rig.start();
    let probe = pipeline.probe();
    one(&pipeline.audit(), "echo").await;
    delivered(&probe).await;
    let is_forked = || matches!(probe.shipper(), ShipperState::Forked { error } if error.contains("epoch 1 ("));
    until_async("it is forked", SOON, || async { is_forked() }).await;
    rig.sink.forget_after(&first);
    rig.sink.forget_after(&second);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    until_async("it is delivered again", SOON, || async { rig.sink.count() == 21 + 12 + 2 + 2 }).await;
    healed(&rig, &probe).await;
    stop(pipeline).await;
    assert_eq!(restored(&rig.sink.records()), [(1, 7, 21), (2, 4, 12)]);
}

/// Only the note beside the outbox tells how much of an epoch was delivered. If less is there, others are looked at.
#[tokio::test]
async fn i4_noted_end_that_is_missing_has_all_epochs_looked_at() {
    let mut rig = Rig::stored();
    stop(two_epochs(&rig).await).await;
    rig.config.mode = Mode::Queued { spill_after: Duration::from_hours(1) };
    let pipeline = rig.start();
    many(&pipeline.audit(), 5).await;
    until_async("it is noted", SOON, || async { rig.note().is_some_and(|note| note["seq"] == 6) }).await;
    let (crashed, records) = (rig.after_crash(), rig.sink.records());
    stop_now(pipeline).await;
    crashed.sink.forget_after(&records[6].position);
    crashed.sink.forget_after(&records[22 + 12 + 2].position);
    // At the second start, the last epoch that was delivered is the one of the first, and it has lost nothing.
    for is_held in [false, true] {
        if is_held {
            // Before anything is delivered, and not only at a later look.
            crashed.sink.hold_after(0);
        }
        let pipeline = crashed.start();
        let probe = pipeline.probe();
        until_async("both are forked", SOON, || async {
            let (ShipperState::Forked { error } | ShipperState::Held { error }) = probe.shipper() else { return false };
            error.contains("epoch 1 (") && error.contains("epoch 3 (") && !error.contains("epoch 2 (")
        })
        .await;
        if is_held {
            stop_now(pipeline).await;
        } else {
            stop(pipeline).await;
        }
    }
}

#[tokio::test]
async fn kept_files_are_listed_and_verified_and_not_opened_at_the_next_start() {
    let rig = Rig::keeping();
    stop(two_epochs(&rig).await).await;
    let kept = rig.stored_records();
    assert_eq!(kept.len(), rig.sink.count(), "everything is kept");
    verify_records(&kept);
    let reader = Reader::offline(Arc::new(DiskFs), rig.dir.path()).unwrap();
    let report = reader.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.fault, report.records), (None, kept.len() as u64));
    let stats = reader.stats().unwrap();
    assert!(stats.streams.iter().all(|stream| stream.delivered == stream.last && stream.first == Seq(1)));
    // Damage to what is delivered and only kept is no loss.
    let file = rig.dir.path().join(&rig.generations()[0]);
    let mut bytes = std::fs::read(&file).unwrap();
    let length = bytes.len();
    bytes[length / 4..length / 2].fill(0xAA);
    std::fs::write(&file, bytes).unwrap();
    let pipeline = rig.start();
    let probe = pipeline.probe();
    healed(&rig, &probe).await;
    assert_eq!(probe.meter().oldest_age(), None);
    stop(pipeline).await;
    let records = rig.sink.records();
    assert_eq!(events(&records, "damage").len(), 0, "nothing is lost");
    verify_records(&records);
}

#[tokio::test]
async fn kept_files_go_when_their_time_is_over() {
    let mut rig = Rig::keeping();
    rig.config.keep = Some(Keep { age: Duration::from_millis(300), bytes: 1 << 29 });
    stop(two_epochs(&rig).await).await;
    let pipeline = rig.start();
    until_async("the first file is gone", SOON, || async {
        one(&pipeline.audit(), "echo").await;
        !rig.generations().contains(&"outbox-000001.redb".to_owned())
    })
    .await;
    stop(pipeline).await;
    verify_records(&rig.sink.records());
}

/// The records of an idle gateway go too, although they are in the newest file.
#[test]
fn newest_file_is_replaced_when_the_time_of_its_records_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut opening = Opening::open(Arc::new(DiskFs), dir.path(), None).unwrap();
    opening.keep = Some(Keep { age: Duration::ZERO, bytes: 1 << 20 });
    let entry = Entry::new(call("echo"), ok(), Duration::ZERO);
    let position = chain::link(opening.gateway_id, opening.epoch, Head::START, &entry);
    let (epoch, head) = (opening.epoch, Head::after(&position));
    let mut segment = Segment::begin(epoch, position.seq, 0);
    segment.push(&AuditRecord { position, entry }).unwrap();
    let first = Commit { segments: &[segment], head: Some(head), ..Commit::default() };
    let mut outbox = opening.begin(&first, 1 << 30).unwrap();
    let stored = |outbox: &outbox::Outbox| outbox.reader().stats().unwrap().streams.len();
    outbox.expire();
    assert_eq!(stored(&outbox), 1, "I4: it is not delivered");
    outbox.commit(&Commit { delivered: &[(epoch, head)], ..Commit::default() }).unwrap();
    assert_eq!((stored(&outbox), outbox.space().used_bytes), (1, 0), "it is kept, and does not count");
    outbox.expire();
    assert_eq!(stored(&outbox), 0);
    assert!(!dir.path().join("outbox-000001.redb").exists() && dir.path().join("outbox-000002.redb").exists());
}

#[tokio::test]
async fn queued_records_are_kept_in_groups_after_their_delivery() {
    let mut rig = Rig::queued(Duration::from_hours(1));
    rig.config.keep = Rig::keeping().config.keep;
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    delivered(&probe).await;
    let commits = || probe.meter().commit.snapshot().count;
    let before = commits();
    let begun = std::time::Instant::now();
    many(&audit, 500).await;
    let all_kept = async || stored_records(probe.reader()).len() == 501;
    until_async("all is kept", SOON, || async { all_kept().await }).await;
    let (made, seconds) = (commits() - before, begun.elapsed().as_secs());
    assert!(made <= 2 + 2 * seconds, "{made} commits in {seconds} s, with those of watermarks");
    rig.sink.go_back(100);
    one(&audit, "echo").await;
    until_async("it is delivered again", SOON, || async { rig.sink.count() == 503 }).await;
    healed(&rig, &probe).await;
    assert_eq!(stop(pipeline).await.lost, 0);
    assert_eq!(restored(&rig.sink.records()), [(1, 100, 501)]);
}

#[tokio::test]
async fn queued_records_that_are_not_kept_are_named_by_the_alarm() {
    let rig = Rig::queued(Duration::from_hours(1));
    let pipeline = rig.start();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    many(&audit, 20).await;
    delivered(&probe).await;
    rig.sink.go_back(15);
    one(&audit, "echo").await;
    until_async("it is forked", SOON, || async {
        matches!(probe.shipper(), ShipperState::Forked { error } if error.contains("records 16 to 21 are in neither"))
    })
    .await;
    stop_now(pipeline).await;
}

/// A schema that is dropped while the gateway runs is made anew, and gets everything that is kept.
#[tokio::test]
async fn i4_database_that_is_made_anew_is_filled_from_what_is_kept() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::keeping();
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let mut ids = many(&audit, 20).await;
    delivered(&probe).await;
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&mut owner).await.unwrap();
    ids.extend(many(&audit, 5).await);
    until_async("it is delivered again", SOON, || async {
        let mut reader = PgConnection::connect(&database.url).await.unwrap();
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_log").fetch_one(&mut reader).await;
        count.unwrap_or(0) == 27
    })
    .await;
    assert_eq!(probe.shipper(), ShipperState::Delivering);
    stop(pipeline).await;
    let known: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT request_id FROM audit_log").fetch_all(&mut owner).await.unwrap();
    assert!(ids.iter().all(|id| known.contains(&id.0)));
}
