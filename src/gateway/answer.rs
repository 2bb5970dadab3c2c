//! Answers to requests that do not call a tool: handshakes, lists and subscriptions. Also notifications and responses,
//! which get no reply.

pub mod catalog;
pub(crate) mod handshake;
pub(crate) mod lists;
pub(crate) mod logging;
pub mod one_way;
pub(crate) mod relay;
pub(crate) mod resources;
pub mod subscriptions;
