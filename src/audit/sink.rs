//! Destinations of records: the [`Sink`] interface, and Postgres, which implements it.

pub mod checkpoints;
mod interface;
pub mod postgres;
mod sqlstate;

pub use interface::{CursorUpdate, Sink, SinkError};
pub use sqlstate::{ErrorClass, classify};
