//! A disk that fails, forgets, fills up and rots, under the real scribe: I7, and nothing that was told is lost.

use std::collections::BTreeSet;

use crate::common::rng::Rng;
use crate::sim_disk::{Crash, Fault, percent};
use crate::simulation::{Ending, LARGE_BYTES, Life, Simulation, Step, on_two_threads};
use gatepost::audit::lost::DAMAGE_METHOD;
use gatepost::audit::record::Status;

/// Two files, refusals, calls that are open at the end; nothing is delivered, so that everything has to be kept.
fn script() -> Vec<Step> {
    use Step::{Begin, End, Refuse};
    vec![
        Begin(10),
        Begin(LARGE_BYTES),
        End(0, Status::Ok),
        Refuse,
        Begin(LARGE_BYTES),
        End(0, Status::ToolError),
        End(0, Status::Ok),
        Begin(LARGE_BYTES),
        End(0, Status::Timeout),
        Begin(30),
        Refuse,
    ]
}

fn life() -> Life {
    Life { steps: script(), ..Life::default() }
}

fn clean(simulation: &Simulation, what: &str) {
    let violations = simulation.evidence().violations();
    assert!(violations.is_empty(), "{what}:\n{violations:#?}");
}

/// How many operations the script takes on a disk that is well, and how many of them begin it.
fn operations() -> (u64, u64) {
    let mut simulation = Simulation::new(1);
    simulation.live(&Life::default());
    let closing = simulation.disk.operations();
    let mut simulation = Simulation::new(1);
    simulation.live(&life());
    (closing, simulation.disk.operations())
}

#[test]
fn i7_a_failure_at_any_operation_seals_the_file() {
    let (_, operations) = operations();
    on_two_threads(1..=operations, |operation| {
        let crash = if operation % 2 == 0 { Crash::Kill } else { Crash::PowerLoss };
        let mut simulation = Simulation::new(operation);
        let ending = simulation.live(&Life { fault: Fault::Once(operation), ..life() });
        // Only a start may be given up for one failure.
        let begun = !simulation.evidence().epochs.is_empty();
        assert_eq!(ending == Ending::Closed, begun, "{ending:?} after operation {operation} failed");
        let calls = simulation.evidence().calls.values().filter(|call| call.ended.is_some()).count();
        assert_eq!(calls, if begun { 6 } else { 0 }, "all is stored though operation {operation} failed");
        simulation.crash(crash);
        simulation.settle();
        clean(&simulation, &format!("operation {operation} failed once, then {crash:?}"));
    });
}

#[test]
fn i7_a_permanently_failing_disk_keeps_acknowledged_records() {
    let (_, operations) = operations();
    on_two_threads(1..=operations, |operation| {
        let mut simulation = Simulation::new(operation);
        simulation.live(&Life { fault: Fault::From(operation), ..life() });
        simulation.crash(Crash::PowerLoss);
        simulation.settle();
        clean(&simulation, &format!("everything failed from operation {operation} on"));
    });
}

#[test]
fn i6_a_disk_full_at_any_size_keeps_acknowledged_records() {
    let mut simulation = Simulation::new(1);
    simulation.live(&life());
    let used = simulation.disk.used();
    let (mut ended, mut full) = (BTreeSet::new(), 0);
    for capacity in (0..=used).step_by(64 * 1024) {
        let mut simulation = Simulation::new(capacity);
        let ending = simulation.live(&Life { capacity: Some(capacity), gives_up: true, ..life() });
        full += u64::from(simulation.disk.failures() > 0);
        ended.insert(ending == Ending::Closed);
        simulation.crash(Crash::PowerLoss);
        // Relief: room for everything.
        simulation.settle();
        clean(&simulation, &format!("a disk of {capacity} bytes"));
        assert_eq!(simulation.live(&life()), Ending::Closed, "with room it goes on");
    }
    assert_eq!(ended.len(), 2, "some of these disks are too small and some are not");
    assert!(full > 10, "only {full} disks were full");
}

#[test]
fn i4_a_full_disk_is_emptied_by_delivery_alone() {
    // Epoch after epoch without delivery, until a start finds too little room for its ballast.
    let mut simulation = Simulation::new(3);
    let capacity = Some(7 * 1024 * 1024);
    let mut lives = 0;
    while simulation.disk.failures() == 0 {
        simulation.crash(Crash::Kill);
        simulation.live(&Life { capacity, gives_up: true, ..life() });
        lives += 1;
        assert!(lives < 40, "the disk is never full");
    }
    // Nothing is freed from outside: the sink takes everything, and that makes the room.
    simulation.crash(Crash::PowerLoss);
    let ending = simulation.live(&Life { capacity, old_batches: usize::MAX, ships_all: true, ..life() });
    assert_eq!(ending, Ending::Closed);
    simulation.crash(Crash::Kill);
    simulation.settle();
    clean(&simulation, "delivered from a full disk");
    assert!(simulation.disk.used() < 6 * 1024 * 1024, "{} bytes are left", simulation.disk.used());
}

#[test]
fn i4_bit_rot_is_reported_and_the_gateway_starts() {
    let mut found = 0;
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed);
        let mut rng = Rng::new(seed);
        simulation.live(&life());
        simulation.crash(Crash::Kill);
        let dir = simulation.outbox_dir();
        let names: Vec<_> =
            simulation.disk.names(&dir).into_iter().filter(|name| name.starts_with("outbox-")).collect();
        let path = dir.join(&names[rng.index(names.len())]);
        let len = simulation.disk.len_of(&path);
        if percent(&mut rng, 50) {
            simulation.disk.flip(&path, rng.below(len * 8));
        } else {
            simulation.disk.truncate(&path, rng.below(len));
        }
        simulation.settle();
        let evidence = simulation.evidence();
        let told = evidence.rows.iter().any(|record| record.entry.call.method == DAMAGE_METHOD);
        let mut caught = evidence.caught_by();
        assert!(!caught.contains("the gateway starts"), "seed {seed}: {:?}", evidence.not_started);
        assert!(!caught.contains("nothing is delivered twice"), "seed {seed}");
        let missing = caught.contains("no place is missing");
        // Nobody can tell whether what stood before the oldest record that is left was delivered long ago.
        let oldest = path.ends_with(&names[0]);
        assert!(!missing || oldest, "seed {seed}, {path:?} of {len}: {:#?}", evidence.violations());
        found += usize::from(told);
        // A genuine loss is no fault, wherever all places are there.
        assert!(missing || evidence.faults().is_empty(), "seed {seed}: {:#?}", evidence.faults());
        // What is lost is told of, in the trail itself.
        caught.remove("files stay whole");
        assert!(caught.is_empty() || told, "seed {seed}: {:#?}", evidence.violations());
    }
    assert!(found > 20, "only {found} of these were found");
}

/// Two files of a dead gateway, the second of them cut to `len` bytes.
fn cut_to(len: u64, seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    simulation.live(&life());
    simulation.crash(Crash::Kill);
    simulation.disk.truncate(&simulation.outbox_dir().join("outbox-000002.redb"), len);
    simulation
}

#[test]
fn regress_records_lost_at_a_files_front_leave_no_hole() {
    let mut fronts = 0;
    for len in (8..200).step_by(8) {
        let mut simulation = cut_to(len * 1024, len);
        simulation.settle();
        let evidence = simulation.evidence();
        assert_eq!(evidence.faults(), [""; 0], "cut to {len} KiB");
        let caught = evidence.caught_by();
        assert!(!caught.contains("no place is missing"), "cut to {len} KiB: {:#?}", evidence.violations());
        fronts += usize::from(caught.contains("stored records are kept"));
    }
    assert!(fronts > 0, "no cut cost a record");
}

#[test]
fn regress_a_damaged_file_survives_a_power_loss_during_its_move() {
    let len = 100 * 1024;
    let mut opened = cut_to(len, 1);
    opened.live(&Life::default());
    // The rename over the damaged file is among the first operations.
    for operation in 1..=opened.disk.operations().min(40) {
        for seed in 2..4 {
            let mut simulation = cut_to(len, seed);
            simulation.live(&Life { crash_at: Some(operation), ..Life::default() });
            simulation.crash(Crash::PowerLoss);
            simulation.settle();
            let quarantine = simulation.outbox_dir().join("quarantine");
            let kept = simulation.disk.names(&quarantine);
            let found = kept.iter().any(|name| simulation.disk.len_of(&quarantine.join(name)) == len);
            assert!(found, "seed {seed}: after a power loss at operation {operation} it is gone: {kept:?}");
            assert!(simulation.evidence().not_started.is_empty(), "{:?}", simulation.evidence().not_started);
            let faults = simulation.evidence().faults();
            assert_eq!(faults, [""; 0], "seed {seed}: power loss at operation {operation}");
        }
    }
}
