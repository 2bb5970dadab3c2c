//! Destinations of records: the [`Sink`] interface, and Postgres, which implements it.

mod interface;
pub mod postgres;
mod sqlstate;

pub use interface::{CursorUpdate, Sink, SinkError};
pub use sqlstate::{ErrorClass, classify};
