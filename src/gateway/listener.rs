//! The listeners: HTTP with or without TLS, and standard input and output.

mod client;
mod cors;
pub mod http;
mod metadata;
pub mod stdio;
pub mod tls;
