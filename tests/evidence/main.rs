//! Evidence: the formats against files that other programs made, and against other implementations.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../common"]
mod common {
    pub mod made_log;
}

mod client;
mod command;
mod foreign;
mod policy;
mod vectors;
mod witness;
