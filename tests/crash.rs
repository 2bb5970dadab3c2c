//! Crashes, at every operation and at random ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use common::life::{Ending, LARGE_BYTES, Life, Step, World};
use gatepost::audit::record::Status;

fn script() -> Vec<Step> {
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

#[test]
fn a_dry_run_is_in_order() {
    let mut world = World::new(1);
    world.disk.keep_trace();
    let begun = std::time::Instant::now();
    let ending = world.live(&Life { steps: script(), ships_all: true, ..Life::default() });
    assert_eq!(ending, Ending::Closed);
    println!("{:?} ops {} syncs {}", begun.elapsed(), world.disk.operations(), world.disk.syncs().len());
    println!("{}", world.disk.trace().join("\n"));
    world.settle();
    println!("{:?}", begun.elapsed());
    let evidence = world.evidence();
    println!("{} rows {:?}", evidence.rows.len(), evidence.calls);
    assert_eq!(evidence.violations(), []);
}
