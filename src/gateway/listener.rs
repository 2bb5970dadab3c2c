//! The listeners: HTTP with or without TLS, and standard input and output.

pub mod http;
pub mod stdio;
pub mod tls;
