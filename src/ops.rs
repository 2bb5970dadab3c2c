//! What operators see of a running gateway: health, metrics, alarms, the console, the admin socket beside the outbox, and
//! what systemd is told.

pub mod admin;
pub mod alarm;
pub mod background;
pub mod console;
pub mod health;
pub mod inspect;
pub mod metrics;
pub mod prune;
pub mod reads;
pub mod status;
pub mod supervisor;
pub mod trail;
pub mod watch;
pub(crate) mod words;
