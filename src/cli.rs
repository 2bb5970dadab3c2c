//! The subcommands, one file each.

pub mod config_check;
pub mod example_backend;
pub mod token;
