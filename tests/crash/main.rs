//! The audit trail under crashes, failing disks and chosen schedules: in memory, seeded and deterministic.
//!
//! [`simulation`] runs a gateway's lives on [`sim_disk`], and [`oracle`] checks what was seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

#[path = "../common"]
mod common {
    pub mod checked;
    pub mod made_log;
    pub mod rng;
}

mod crash_points;
mod disk_faults;
mod fuzz;
mod model;
mod notary;
mod oracle;
mod schedules;
mod seeded_faults;
mod sim_disk;
mod simulation;
mod witness;

/// What the sources below name as `crate::evidence`.
use gatepost::evidence;

/// The ring and the scribe, compiled against shuttle, see [`schedules`].
#[allow(dead_code, unused_imports, reason = "each schedule uses a part of these sources")]
#[allow(clippy::new_without_default, clippy::missing_errors_doc, clippy::return_self_not_must_use)]
#[allow(clippy::unused_self, clippy::unnecessary_wraps, clippy::needless_pass_by_value)]
#[path = "../../src/audit"]
mod audit {
    pub use gatepost::audit::{chain, codec, meter, record, redact, tree};

    pub mod ring;
    pub mod scribe;

    pub use crate::schedules::{outbox, sync};
}
