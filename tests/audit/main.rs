//! The audit trail from a call to Postgres, in process, on disks, sinks and servers that fail.
//!
//! [`rig`] starts a pipeline on [`fault_disk`] with [`memory_sink`] or a real Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

#[path = "../common"]
mod common {
    pub mod checked;
    pub mod command;
    pub mod pgbouncer;
    pub mod postgres;
    pub mod postgres_control;
    pub mod process;
    pub mod python;
    pub mod rng;
    pub mod stored_records;
    pub mod trail;
    pub mod verifier;
    pub mod wait;
}

mod audit_cli;
mod audit_verify;
mod cancel;
mod checkpoints;
mod columns;
mod connections;
mod damage;
mod evidence_generator;
mod fault_disk;
mod fault_proxy;
mod fork;
mod full;
mod isolation;
mod losses;
mod memory_sink;
mod outbox;
mod outbox_requeue;
mod outbox_verify;
mod partitions;
mod pipeline;
mod poison;
mod poolers;
mod postgres_tls;
mod proxy;
mod prune;
mod queued;
mod restored;
mod rig;
mod ring;
mod rot;
mod shipper;
mod verify_generator;

/// The binary under test, for commands on a trail.
const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");
