//! Crashes, at every operation and at random ones.

use crate::common::rng::Rng;
use crate::sim_disk::{Crash, percent};
use crate::simulation::{Ending, LARGE_BYTES, Life, Simulation, Step, on_two_threads};
use gatepost::audit::record::Status;

/// Random schedules of a short run. *Chosen*: a third of a minute in a debug build; `CRASH_SCHEDULES` asks for more.
const SCHEDULES: u64 = 400;

/// Two open calls, a refusal, a full file and the next one, deliveries heard and unheard, calls open at the end.
pub fn script() -> Vec<Step> {
    use Step::{Begin, End, Refuse, Ship, ShipUnheard};
    vec![
        Begin(10),
        Begin(20),
        End(0, Status::Ok),
        Refuse,
        Ship(2),
        Begin(LARGE_BYTES),
        Begin(LARGE_BYTES),
        End(1, Status::Ok),
        End(1, Status::ToolError),
        ShipUnheard(2),
        Begin(LARGE_BYTES),
        End(1, Status::Timeout),
        Ship(100),
        Begin(30),
        Refuse,
    ]
}

/// The scripted life.
fn scripted(keeps: bool) -> Life {
    Life { steps: script(), ships_all: true, keeps, ..Life::default() }
}

/// Holds what was seen against the checks.
fn clean(simulation: &Simulation, what: &str) {
    let violations = simulation.evidence().violations();
    assert!(violations.is_empty(), "{what}:\n{violations:#?}");
}

/// Crashes the scripted life at `operation`, settles, and checks.
fn crash_scripted_at(operation: u64, crash: Crash, keeps: bool) {
    let mut simulation = Simulation::new(operation);
    let ending = simulation.live(&Life { crash_at: Some(operation), ..scripted(keeps) });
    assert!(matches!(ending, Ending::Crashed | Ending::Closed), "{ending:?}");
    simulation.crash(crash);
    simulation.settle_keeping(keeps);
    clean(&simulation, &format!("{crash:?} at operation {operation} of the script, keeping: {keeps}"));
}

/// A random life.
pub fn random_life(rng: &mut Rng, operations: u64) -> Life {
    let statuses = [Status::Ok, Status::ToolError, Status::Error, Status::Timeout, Status::Cancelled];
    let mut large = 0;
    let steps = (0..rng.index(12)).map(|_| match rng.below(10) {
        0 if large < 4 => {
            large += 1;
            Step::Begin(LARGE_BYTES)
        }
        0..4 => Step::Begin(rng.index(400)),
        4..7 => Step::End(rng.index(8), statuses[rng.index(statuses.len())]),
        7 => Step::Refuse,
        8 => Step::Ship(1 + rng.index(6)),
        _ => Step::ShipUnheard(1 + rng.index(6)),
    });
    let steps = steps.collect();
    let old_batches = [0, 1, 2, usize::MAX][rng.index(4)];
    Life {
        steps,
        old_batches,
        ships_all: percent(rng, 50),
        keeps: percent(rng, 50),
        crash_at: Some(1 + rng.below(operations)),
        ..Life::default()
    }
}

/// Up to five lives that end anyhow, most by a crash, some of them before they have begun.
fn schedule(seed: u64) {
    let mut simulation = Simulation::new(seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    for _ in 0..=rng.below(5) {
        let operations = if percent(&mut rng, 30) { 25 } else { 160 };
        simulation.live(&random_life(&mut rng, operations));
        simulation.crash(if percent(&mut rng, 25) { Crash::Kill } else { Crash::PowerLoss });
    }
    simulation.settle();
    clean(&simulation, &format!("seed {seed}; again: CRASH_SEED={seed} cargo nextest run --test crash random"));
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn a_run_is_repeated_exactly() {
    let trace = || {
        let mut simulation = Simulation::new(7);
        simulation.disk.keep_trace();
        assert_eq!(simulation.live(&scripted(false)), Ending::Closed);
        let trace = simulation.disk.trace();
        simulation.settle();
        clean(&simulation, "a life without a crash");
        assert!(trace.iter().any(|line| line.starts_with("rename")));
        assert!(
            simulation.disk.names(&simulation.outbox_dir()).len() <= 4,
            "{:?}",
            simulation.disk.names(&simulation.outbox_dir())
        );
        trace
    };
    let first = trace();
    assert_eq!(first, trace());
    assert!(first.contains(&"sync outbox-000002.redb".to_owned()), "the script fills a file");
}

#[test]
fn i2_i3_i4_i5_hold_after_a_crash_at_every_operation() {
    for keeps in [false, true] {
        let mut simulation = Simulation::new(1);
        simulation.live(&scripted(keeps));
        let (operations, syncs) = (simulation.disk.operations(), simulation.disk.syncs());
        assert!(operations > 150 && syncs.len() > 40, "{operations} operations, {} of them fsyncs", syncs.len());
        on_two_threads(1..=operations, |operation| {
            crash_scripted_at(operation, Crash::PowerLoss, keeps);
            if syncs.contains(&operation) {
                crash_scripted_at(operation, Crash::Kill, keeps);
            }
        });
    }
}

#[test]
fn i2_i3_i4_i5_hold_after_random_crashes() {
    match number("CRASH_SEED") {
        Some(seed) => schedule(seed),
        None => on_two_threads(0..number("CRASH_SCHEDULES").unwrap_or(SCHEDULES), schedule),
    }
}

#[test]
fn regress_unsynced_records_of_a_killed_gateway_are_synced() {
    use Step::{Begin, End, Refuse};
    let life = Life { steps: vec![Begin(10), Begin(20), End(0, Status::Ok), Refuse], ..Life::default() };
    let mut simulation = Simulation::new(1);
    simulation.live(&life);
    // A kill between a write and its fsync leaves what the next life sees and a power loss takes.
    let operations = simulation.disk.syncs().into_iter().flat_map(|sync| [sync - 1, sync]);
    on_two_threads(operations, |operation| {
        for seed in 0..4 {
            let mut simulation = Simulation::new(seed);
            simulation.live(&Life { crash_at: Some(operation), ..life.clone() });
            simulation.crash(Crash::Kill);
            assert_eq!(simulation.live(&Life::default()), Ending::Closed);
            simulation.crash(Crash::PowerLoss);
            simulation.settle();
            clean(&simulation, &format!("seed {seed}: a kill at operation {operation}, then a power loss"));
        }
    });
}

#[test]
fn regress_a_new_outbox_directory_survives_a_power_loss() {
    for seed in 0..8 {
        let mut simulation = Simulation::new(seed);
        assert_eq!(simulation.live(&Life { steps: vec![Step::Refuse], ..Life::default() }), Ending::Closed);
        simulation.crash(Crash::PowerLoss);
        assert!(!simulation.disk.names(&simulation.outbox_dir()).is_empty(), "seed {seed}");
        simulation.settle();
        clean(&simulation, &format!("seed {seed}: a power loss after the first life"));
    }
}
