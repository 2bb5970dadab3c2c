//! The Model Context Protocol.

pub mod methods;
