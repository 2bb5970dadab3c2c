//! The commands, as an operator runs them, and what a package and the documentation promise of them.
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
    pub mod asking_backend;
    pub mod command;
    pub mod gatepost;
    pub mod made_stream;
    pub mod mcp;
    pub mod postgres;
    pub mod process;
    pub mod python;
    pub mod s3;
    pub mod stdio_client;
    pub mod tsa;
    pub mod verifier;
    pub mod wait;
}

mod audit_export;
mod audit_match;
mod audit_read;
mod audit_retire;
mod audit_verify;
mod certificate;
mod certificate_search;
mod config;
mod config_check;
mod config_found;
mod connect;
mod console_counts;
mod console_proof;
mod directory;
mod docs;
mod evidence;
mod evidence_anchors;
mod evidence_drills;
mod gateways;
mod health;
mod help;
mod kubernetes;
mod logins;
mod metrics;
mod outbox_cli;
mod outbox_prune;
mod outbox_verify;
mod output;
mod packaging;
mod proof_rows;
mod quickstart;
mod registrar_log;
mod restore_drill;
mod retire_evidence;
mod retire_locks;
mod run;
mod sandbox;
mod scale;
mod secret_files;
mod slots;
mod systemd;
mod terminal;
mod trials;
