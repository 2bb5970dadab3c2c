//! A disk that fails, forgets, fills up and rots, under the real scribe: I7, and nothing that was told is lost.

use std::collections::BTreeSet;

use crate::common::rng::Dice;
use crate::sim_disk::{Crash, Fault, percent};
use crate::simulation::{Ending, LARGE_BYTES, Life, Step, World, on_two_threads};
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

fn clean(world: &World, what: &str) {
    let violations = world.evidence().violations();
    assert!(violations.is_empty(), "{what}:\n{violations:#?}");
}

/// How many operations the script takes on a disk that is well, and how many of them begin it.
fn operations() -> (u64, u64) {
    let mut world = World::new(1);
    world.live(&Life::default());
    let closing = world.disk.operations();
    let mut world = World::new(1);
    world.live(&life());
    (closing, world.disk.operations())
}

#[test]
fn i7_a_failure_at_any_operation_seals_the_file() {
    let (_, operations) = operations();
    on_two_threads(1..=operations, |operation| {
        let crash = if operation % 2 == 0 { Crash::Kill } else { Crash::PowerLoss };
        let mut world = World::new(operation);
        let ending = world.live(&Life { fault: Fault::Once(operation), ..life() });
        // Only a start may be given up for one failure.
        let begun = !world.evidence().epochs.is_empty();
        assert_eq!(ending == Ending::Closed, begun, "{ending:?} after operation {operation} failed");
        let calls = world.evidence().calls.values().filter(|call| call.ended.is_some()).count();
        assert_eq!(calls, if begun { 6 } else { 0 }, "all is stored though operation {operation} failed");
        world.crash(crash);
        world.settle();
        clean(&world, &format!("operation {operation} failed once, then {crash:?}"));
    });
}

#[test]
fn i7_a_permanently_failing_disk_keeps_acknowledged_records() {
    let (_, operations) = operations();
    on_two_threads(1..=operations, |operation| {
        let mut world = World::new(operation);
        world.live(&Life { fault: Fault::From(operation), ..life() });
        world.crash(Crash::PowerLoss);
        world.settle();
        clean(&world, &format!("everything failed from operation {operation} on"));
    });
}

#[test]
fn i6_a_disk_full_at_any_size_keeps_acknowledged_records() {
    let mut world = World::new(1);
    world.live(&life());
    let used = world.disk.used();
    let (mut ended, mut full) = (BTreeSet::new(), 0);
    for capacity in (0..=used).step_by(64 * 1024) {
        let mut world = World::new(capacity);
        let ending = world.live(&Life { capacity: Some(capacity), gives_up: true, ..life() });
        full += u64::from(world.disk.failures() > 0);
        ended.insert(ending == Ending::Closed);
        world.crash(Crash::PowerLoss);
        // Relief: room for everything.
        world.settle();
        clean(&world, &format!("a disk of {capacity} bytes"));
        assert_eq!(world.live(&life()), Ending::Closed, "with room it goes on");
    }
    assert_eq!(ended.len(), 2, "some of these disks are too small and some are not");
    assert!(full > 10, "only {full} disks were full");
}

#[test]
fn i4_a_full_disk_is_emptied_by_delivery_alone() {
    // Epoch after epoch without delivery, until a start finds too little room for its ballast.
    let mut world = World::new(3);
    let capacity = Some(7 * 1024 * 1024);
    let mut lives = 0;
    while world.disk.failures() == 0 {
        world.crash(Crash::Kill);
        world.live(&Life { capacity, gives_up: true, ..life() });
        lives += 1;
        assert!(lives < 40, "the disk is never full");
    }
    // Nothing is freed from outside: the sink takes everything, and that makes the room.
    world.crash(Crash::PowerLoss);
    let ending = world.live(&Life { capacity, old_batches: usize::MAX, ships_all: true, ..life() });
    assert_eq!(ending, Ending::Closed);
    world.crash(Crash::Kill);
    world.settle();
    clean(&world, "delivered from a full disk");
    assert!(world.disk.used() < 6 * 1024 * 1024, "{} bytes are left", world.disk.used());
}

#[test]
fn i4_bit_rot_is_reported_and_the_gateway_starts() {
    let mut found = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        let mut dice = Dice::new(seed);
        world.live(&life());
        world.crash(Crash::Kill);
        let dir = world.outbox_dir();
        let names: Vec<_> = world.disk.names(&dir).into_iter().filter(|name| name.starts_with("outbox-")).collect();
        let path = dir.join(&names[dice.index(names.len())]);
        let len = world.disk.len_of(&path);
        if percent(&mut dice, 50) {
            world.disk.flip(&path, dice.below(len * 8));
        } else {
            world.disk.truncate(&path, dice.below(len));
        }
        world.settle();
        let evidence = world.evidence();
        let gaps = evidence.rows.iter().filter(|record| record.entry.call.method == "gateway/gap").count();
        let mut caught = evidence.caught_by();
        assert!(!caught.contains("the gateway starts"), "seed {seed}: {:?}", evidence.not_started);
        assert!(!caught.contains("nothing is delivered twice"), "seed {seed}");
        let missing = caught.contains("no place is missing");
        // Nobody can tell whether what stood before the oldest record that is left was delivered long ago.
        let oldest = path.ends_with(&names[0]);
        assert!(!missing || oldest, "seed {seed}, {path:?} of {len}: {:#?}", evidence.violations());
        found += usize::from(gaps > 0);
        // What is lost is told of, in the trail itself.
        caught.remove("files stay whole");
        assert!(caught.is_empty() || gaps > 0, "seed {seed}: {:#?}", evidence.violations());
    }
    assert!(found > 20, "only {found} of these were found");
}

/// Two files of a dead gateway, the second of them cut to `len` bytes.
fn cut_to(len: u64, seed: u64) -> World {
    let mut world = World::new(seed);
    world.live(&life());
    world.crash(Crash::Kill);
    world.disk.truncate(&world.outbox_dir().join("outbox-000002.redb"), len);
    world
}

#[test]
fn regress_records_lost_at_a_files_front_leave_no_hole() {
    let mut fronts = 0;
    for len in (8..200).step_by(8) {
        let mut world = cut_to(len * 1024, len);
        world.settle();
        let evidence = world.evidence();
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
            let mut world = cut_to(len, seed);
            world.live(&Life { crash_at: Some(operation), ..Life::default() });
            world.crash(Crash::PowerLoss);
            world.settle();
            let quarantine = world.outbox_dir().join("quarantine");
            let kept = world.disk.names(&quarantine);
            let found = kept.iter().any(|name| world.disk.len_of(&quarantine.join(name)) == len);
            assert!(found, "seed {seed}: after a power loss at operation {operation} it is gone: {kept:?}");
            assert!(world.evidence().not_started.is_empty(), "{:?}", world.evidence().not_started);
        }
    }
}
