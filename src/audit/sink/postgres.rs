//! The Postgres sink: one function call per batch, which moves the stream's cursor and inserts the rows, or does
//! neither. It works behind a pooler that runs each transaction over another connection.
//!
//! The gateway's login may execute the functions of `migrations/0001_audit.sql` and nothing else.

mod checkpoints;
mod connection;
mod database_state;
mod delivery;
mod error;
pub mod fork;
pub mod gateways;
pub mod holds;
mod login;
mod migrations;
pub mod registrar;
mod relay;
pub mod requeue;
pub mod retire;
mod rows;
mod scram;
mod tls;
mod transaction;
pub mod trial;

pub use crate::audit::sql::Connection;
pub use connection::{Options, connect};
pub use delivery::PostgresSink;
pub use migrations::migrate;
pub use tls::certificate_end;
