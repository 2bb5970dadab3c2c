//! Evidence: the formats against files that other programs made, and against other implementations.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../common"]
mod common {
    pub mod command;
    pub mod made_log;
    pub mod python;
    pub mod s3;
    pub mod tsa;
}

mod bucket;
mod client;
mod command;
mod foreign;
mod judged;
mod policy;
mod time_stamps;
mod vectors;
mod witness;
