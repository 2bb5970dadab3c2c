//! The first line that a backend's process writes, before it becomes the backend's program.

use serde::{Deserialize, Serialize};

/// The exit code of a process that could not become the backend's program. *Spec*: POSIX shells use it for a command
/// that cannot be executed.
pub const START_ERROR_CODE: u8 = 126;

/// The report on a start, one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartReport {
    /// The process is behind its walls, and becomes the backend's program now.
    Walled {
        /// The ABI of Landlock that is enforced; 0 if the kernel has none.
        abi: u32,
    },
    /// The operator switched the walls off. The process becomes the backend's program now.
    Open,
    /// The process cannot become the backend's program, and exits. Also the second line if the last step fails.
    Failed {
        /// The reason.
        reason: String,
    },
}

impl StartReport {
    /// Reads the report from a line, if it is one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}
