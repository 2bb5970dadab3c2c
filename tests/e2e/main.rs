//! The real binary between real clients, real backends and a real Postgres.
//!
//! Nothing here is skipped when a tool is missing: it panics and names the script that prepares the machine.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

#[path = "../common"]
mod common {
    pub mod command;
    pub mod gatepost;
    pub mod mcp;
    pub mod newest_postgres;
    pub mod pause;
    pub mod pgbouncer;
    pub mod postgres;
    pub mod postgres_control;
    pub mod process;
    pub mod python;
    pub mod raw_backend;
    pub mod rng;
    pub mod server;
    pub mod stdio_client;
    pub mod stored_records;
    pub mod tool_names;
    pub mod trail;
    pub mod wait;
}

mod alarms;
mod audited_call;
mod backend_killed;
mod backend_tokens;
mod bridges;
mod broken_log;
mod browser;
mod browser_client;
mod clients;
mod clients_and_servers;
mod conformance;
mod console;
mod console_access;
mod console_sign_in;
mod decoders;
mod five_backends;
mod harness;
mod kill_rounds;
mod nginx;
mod outage;
mod outbox_drain;
mod poolers;
mod postgres_faults;
mod real_servers;
mod receipts;
mod reload_drill;
mod session;
mod sign_in;
mod slots;
