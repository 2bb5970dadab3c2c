//! What the integration tests share: a throwaway Postgres, the real binary, MCP clients, and one way to wait.
//!
//! Nothing here is skipped when a tool is missing: it panics and says which script prepares the machine.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    clippy::must_use_candidate,
    missing_docs,
    reason = "tests: each test file uses a part of this"
)]

pub mod browser;
pub mod dice;
pub mod disk;
pub mod far;
pub mod faults;
pub mod gatepost;
pub mod life;
pub mod mcp;
pub mod memory_sink;
pub mod oracle;
pub mod pipeline;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod server;
pub mod sim;
pub mod tools;
pub mod trail;
pub mod wait;
