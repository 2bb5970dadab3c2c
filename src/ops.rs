//! The operator's view of a gateway: health, metrics, alarms, the console, the admin socket in the outbox directory,
//! and notifications to systemd.

pub mod admin;
pub mod alarm;
pub mod background;
pub mod columns;
pub mod console;
pub(crate) mod csv;
pub mod export_line;
pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod headline;
pub mod health;
pub mod history;
pub mod hosts;
pub mod inspect;
pub mod metrics;
pub mod page_key;
pub mod proof;
pub mod protocol;
pub mod prune;
pub mod read_log;
pub mod record_ref;
pub mod response_headers;
mod rule;
#[cfg(test)]
pub(crate) mod sample;
pub mod status;
pub mod supervisor;
pub mod time_arg;
pub mod trail;
pub mod trail_check;
pub mod watch;
