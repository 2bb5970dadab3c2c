//! The errors of a gateway or its pipeline as a whole.

use std::io;
use std::net::SocketAddr;

use super::exit::{BAD_USAGE, FAILED, NO_OUTBOX};
use super::output::OutputError;
use crate::audit::outbox;
use crate::counts::plural;
use crate::file_access::FileError;
use crate::gateway::fault::Fault;

/// An error that keeps a gateway or its pipeline from running, or a loss at its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatewayError {
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
    #[error("outbox directory {0}")]
    OutboxDir(#[from] FileError),
    #[error("{0}")]
    Slots(String),
    #[error("cannot listen on {address}: {source}; change {key}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot {operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("lost: {}, which only the ring had", plural(*.0 as u64, "record"))]
    Lost(usize),
}

impl GatewayError {
    /// An error with the faults of a configuration.
    pub(super) fn config(faults: &[Fault]) -> Self {
        Self::Config(faults.iter().map(ToString::to_string).collect())
    }

    /// The exit code of a gateway that ends with this error.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => BAD_USAGE,
            Self::Outbox(_) | Self::OutboxDir(_) | Self::Slots(_) => NO_OUTBOX,
            Self::Listen { .. } | Self::Io { .. } | Self::Output(_) | Self::Lost(_) => FAILED,
        }
    }
}
