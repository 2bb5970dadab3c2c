//! Answers to requests that are not calls: handshakes, lists, subscriptions, notifications, and what backends answer.

pub mod catalog;
pub mod local;
pub mod subscriptions;
