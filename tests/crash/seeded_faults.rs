//! Seeded faults: deliberate faults, each put in through a trait, and the checks that must notice them.
//!
//! A suite proves something only if it fails when what it checks is broken. Each row of [`seeded_faults`] breaks one
//! promise of the disk, the sink or the gateway, and names the checks that must report it. Every check is the only one
//! that notices some row, so without that check a fault would pass unnoticed.

use std::collections::BTreeSet;

use crate::oracle::{CHECKS, LOG_CHECKS, SinkLie, VERIFY};
use crate::sim_disk::{Crash, Fault, Lie};
use crate::simulation::{LARGE_BYTES, Life, SeededFault, Simulation, Step};
use gatepost::audit::record::Status;

const STARTS: &str = "the gateway starts";
const KEPT: &str = "stored records are kept";
const TWICE: &str = "nothing is delivered twice";
const MISSING: &str = "no place is missing";
const CHAIN: &str = "the chain holds";
const ONE_RECORD: &str = "a begun call has one record";
const CURSOR: &str = "the cursor is at the last row";
const EPOCHS: &str = "epochs rise";
const SIGNED: &str = "signed trees hold";
const PLACE: &str = "an epoch names its place in the log";
const WHOLE: &str = "files stay whole";
const SEALED: &str = "a failed file is not written";
const GIVEN_UP: &str = "nothing is given up";

/// A fault, how it is let in, and the checks that notice it.
struct Row {
    name: &'static str,
    run: fn(&mut Simulation),
    noticed_by: &'static [&'static str],
}

/// Calls that begin and end, one that stays open, and a file that is filled.
fn script() -> Vec<Step> {
    use Step::{Begin, End, Refuse, Ship};
    vec![
        Begin(10),
        Begin(LARGE_BYTES),
        End(1, Status::Ok),
        Ship(2),
        Begin(LARGE_BYTES),
        End(1, Status::Ok),
        Begin(LARGE_BYTES),
        End(1, Status::Ok),
        Refuse,
        Begin(20),
        End(1, Status::Ok),
    ]
}

fn life() -> Life {
    Life { steps: script(), ..Life::default() }
}

/// The number of the last operation of `life` whose line in the trace begins so.
fn last(life: &Life, entry: &str) -> u64 {
    let mut simulation = Simulation::new(1);
    simulation.disk.keep_trace();
    simulation.live(life);
    simulation.disk.trace().iter().rposition(|done| done.starts_with(entry)).unwrap() as u64 + 1
}

/// The same for the first one.
fn first(life: &Life, entry: &str) -> u64 {
    let mut simulation = Simulation::new(1);
    simulation.disk.keep_trace();
    simulation.live(life);
    simulation.disk.trace().iter().position(|done| done == entry).unwrap() as u64 + 1
}

/// One life with this fault, a power loss, and an end in order.
fn power_loss(simulation: &mut Simulation, life: &Life) {
    simulation.live(life);
    simulation.crash(Crash::PowerLoss);
    simulation.settle();
}

fn with_sink(simulation: &mut Simulation, sink: SinkLie, life: &Life) {
    simulation.evidence().sink = sink;
    simulation.live(life);
    simulation.evidence().sink = SinkLie::None;
    simulation.crash(Crash::Kill);
    simulation.settle();
}

fn seeded_faults() -> Vec<Row> {
    let row = |name, noticed_by, run| Row { name, run, noticed_by };
    vec![
        row("an fsync that lies", &[KEPT], |simulation| {
            let crash_at = Some(last(&life(), "write outbox-000002"));
            power_loss(simulation, &Life { lie: Lie::FileSync, crash_at, ..life() });
        }),
        row(
            "acknowledged before the commit: an fsync that takes effect after it returned",
            &[ONE_RECORD],
            |simulation| {
                let crash_at = Some(first(&life(), "write outbox-000001.redb") + simulation.rng.below(80));
                power_loss(simulation, &Life { lie: Lie::LateFileSync, crash_at, ..life() });
            },
        ),
        row("acknowledged before the commit: told when queued", &[KEPT], |simulation| {
            let crash_at = Some(first(&life(), "write outbox-000001.redb") + simulation.rng.below(80));
            power_loss(simulation, &Life { seeded_fault: SeededFault::ToldEarly, crash_at, ..life() });
        }),
        row("renamed before it was synced", &[WHOLE], |simulation| {
            let crash_at = Some(last(&life(), "rename") + 1);
            power_loss(simulation, &Life { lie: Lie::SyncAfterRename, crash_at, ..life() });
        }),
        row("the fsync of the directory left out", &[KEPT], |simulation| {
            power_loss(simulation, &Life { lie: Lie::DirectorySync, ..life() });
        }),
        row("the fsync of the directory left out before anything was told", &[EPOCHS], |simulation| {
            simulation.live(&Life::default());
            simulation.crash(Crash::Kill);
            power_loss(simulation, &Life { lie: Lie::DirectorySync, ..Life::default() });
        }),
        row("unlinked before delivery", &[KEPT, MISSING], |simulation| {
            power_loss(simulation, &Life { lie: Lie::EarlyUnlink, ..life() });
        }),
        row("the checksum skipped: a changed record goes on", &[CHAIN], |simulation| {
            with_sink(simulation, SinkLie::Changed, &Life { ships_all: true, ..life() });
        }),
        row("a batch delivered twice", &[TWICE], |simulation| {
            with_sink(simulation, SinkLie::Twice, &Life { ships_all: true, ..life() });
        }),
        row("the cursor moved outside the statement: rows of calls are lost", &[KEPT, MISSING], |simulation| {
            with_sink(simulation, SinkLie::RowsLost, &Life { ships_all: true, ..life() });
        }),
        row("the cursor moved outside the statement: the first row is lost", &[MISSING], |simulation| {
            with_sink(simulation, SinkLie::FirstRowLost, &Life { ships_all: true, ..life() });
        }),
        row("the cursor moved outside the statement: the last row is lost", &[CURSOR], |simulation| {
            let steps = vec![Step::Begin(10), Step::Refuse];
            simulation.live(&Life { steps, ..Life::default() });
            simulation.crash(Crash::Kill);
            let old = Life { old_batches: usize::MAX, ..Life::default() };
            with_sink(simulation, SinkLie::LastRowLost, &old);
        }),
        row("the rows arrived outside the statement: the cursor stays", &[TWICE], |simulation| {
            with_sink(simulation, SinkLie::CursorStays, &life());
        }),
        row("an intent not carried at rotation", &[ONE_RECORD], |simulation| {
            simulation.live(&life());
            simulation.crash(Crash::Kill);
            simulation.live(&Life { seeded_fault: SeededFault::IntentsDropped, ..Life::default() });
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
        row("a failed fsync that nobody hears of", &[SEALED], |simulation| {
            let fault = Fault::Once(first(&life(), "sync outbox-000001.redb"));
            simulation.live(&Life { fault, lie: Lie::SwallowedFailure, ..life() });
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
        row("sealed, and no new file begun", &[GIVEN_UP], |simulation| {
            let fault = Fault::Once(first(&life(), "sync outbox-000001.redb"));
            let life = Life { fault, lie: Lie::NoSecondFile, gives_up: true, ..life() };
            simulation.live(&life);
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
        row("an epoch lost as a whole", &[VERIFY], |simulation| {
            for _ in 0..3 {
                simulation.live(&Life { ships_all: true, ..Life::default() });
                simulation.crash(Crash::Kill);
            }
            simulation.settle();
            let lost = simulation.evidence().epochs[1];
            simulation.evidence().forget(lost);
        }),
        row("the lock outlives the gateway", &[STARTS], |simulation| {
            simulation.live(&Life { seeded_fault: SeededFault::LockKept, ..life() });
            simulation.crash(Crash::Kill);
            simulation.live(&Life::default());
            simulation.unlock();
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
    ]
}

fn seeded_faults_of_the_log() -> Vec<Row> {
    let row = |name, noticed_by, run| Row { name, run, noticed_by };
    vec![
        row("a tree with another record than the one that is stored", &[SIGNED], |simulation| {
            simulation.live(&Life { seeded_fault: SeededFault::TreeChanged, ..life() });
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
        row("a log that is forgotten", &[PLACE], |simulation| {
            simulation.live(&life());
            simulation.crash(Crash::Kill);
            simulation.live(&Life { seeded_fault: SeededFault::LogForgotten, ..Life::default() });
            simulation.crash(Crash::Kill);
            simulation.settle();
        }),
    ]
}

/// What notices a row, one set a seed: what a power loss keeps is chance.
fn noticed(row: &Row) -> BTreeSet<BTreeSet<&'static str>> {
    let seeds = (0..24).map(|seed| {
        let mut simulation = Simulation::new(seed);
        (row.run)(&mut simulation);
        simulation.evidence().caught_by()
    });
    seeds.collect()
}

#[test]
fn every_seeded_fault_is_noticed_and_every_check_is_needed() {
    let mut alone = BTreeSet::new();
    for row in seeded_faults().into_iter().chain(seeded_faults_of_the_log()) {
        let noticed = noticed(&row);
        for check in row.noticed_by {
            let name = row.name;
            assert!(
                noticed.iter().any(|by| by.contains(check)),
                "{name:?} is not noticed by {check:?}, but {noticed:?}"
            );
        }
        alone.extend(noticed.into_iter().filter(|by| by.len() == 1).flatten());
    }
    // Every check is needed: some fault is noticed by that check alone.
    assert_eq!(alone, CHECKS.iter().chain(&LOG_CHECKS).map(|(name, _)| *name).chain([VERIFY]).collect());
}

#[test]
fn without_a_fault_nothing_is_noticed() {
    for ships_all in [true, false] {
        for crash in [Crash::Kill, Crash::PowerLoss] {
            let mut simulation = Simulation::new(1);
            simulation.live(&Life { ships_all, ..life() });
            simulation.crash(crash);
            simulation.settle();
            assert_eq!(simulation.evidence().violations(), []);
        }
    }
}
