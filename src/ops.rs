//! What operators see of a running gateway: health, and the admin socket beside the outbox.

pub mod admin;
pub mod alarm;
pub mod health;
pub mod inspect;
pub mod metrics;
pub mod status;
pub mod watch;
