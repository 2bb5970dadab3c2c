//! The Postgres sink: one function call per batch, which moves the stream's cursor and inserts the rows, or does
//! neither.
//!
//! The gateway's login may execute the functions of `migrations/0001_audit.sql` and nothing else.

mod connection;
mod delivery;
mod error;
pub mod fork;
pub mod gateways;
pub mod holds;
mod migrations;
pub mod registrar;
pub mod requeue;
pub mod retire;
mod rights;
mod rows;

pub use connection::{Connection, Options, connect, connect_options};
pub use delivery::PostgresSink;
pub use migrations::migrate;
