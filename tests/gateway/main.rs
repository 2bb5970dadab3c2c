//! The gateway between its clients and its backends: transports, sessions, authentication, decisions, attacks.
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
    pub mod flood;
    pub mod gatepost;
    pub mod mcp;
    pub mod pause;
    pub mod process;
    pub mod python;
    pub mod raw_backend;
    pub mod rng;
    pub mod server;
    pub mod stdio_client;
    pub mod stored_records;
    pub mod tool_names;
    pub mod wait;
}

mod attacks;
mod auth;
mod authz;
mod backend_greetings;
mod backend_tokens;
mod catalog;
mod child_life;
mod console_sign_in;
mod conversations;
mod discovery;
mod echoed_credentials;
mod eras;
mod exchange_attacks;
mod forwarding;
mod hang_up;
mod header_files;
mod http;
mod http_backend;
mod http_backend_stub;
mod identity;
mod limits;
mod listening;
mod lists;
mod logging;
mod lost_sessions;
mod odd_streams;
mod open_web;
mod openid_provider;
mod process_limits;
mod proxy;
mod questions;
mod recorded_credentials;
mod recording;
mod refusals;
mod reload;
mod reload_auth;
mod reload_backends;
mod renewed_tokens;
mod rights;
mod rotation;
mod sessions;
mod stdio;
mod stub_issuer;
mod tls_backend;
mod token_server;
mod tool_rules;
mod traces;
mod walls;
mod withdrawn_callers;
