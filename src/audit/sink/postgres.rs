//! The Postgres sink: one statement per batch, which moves the stream's cursor and inserts the rows, or does neither.

mod connection;
mod delivery;
mod error;
mod migrations;
pub mod requeue;
mod rows;

pub use connection::{Connection, Options, connect, connect_options};
pub use delivery::PostgresSink;
pub use migrations::migrate;
