//! The subcommands, one file each.

pub mod example_backend;
